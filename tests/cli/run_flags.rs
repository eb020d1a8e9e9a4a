//! RUN itself: forms, environment, heredocs, networks, privileges, devices, limits, volumes, hosts.

use crate::support::{Project, able, is_root};
use std::fs;
use std::process::Command;

#[test]
fn ru01_forms_of_commands() {
    let project = Project::new(
        "FROM busybox\nRUN echo $((1+1)) > /shell\nRUN [\"/bin/sh\", \"-c\", \"echo exec > /exec\"]\n\
         SHELL [\"/bin/sh\", \"-xc\"]\nRUN echo traced\nRUN [\"touch\", \"$HOME\"]\n",
    );
    let run = project.build(&["-o", "out"]).ok();
    assert!(run.stderr.contains("+ echo traced"), "{}", run.stderr);
    for (file, text) in [("shell", "2\n"), ("exec", "exec\n"), ("$HOME", "")] {
        assert_eq!(
            fs::read_to_string(project.path("out").join(file)).unwrap(),
            text
        );
    }
    for (command, says) in [
        (
            "exit 3",
            "process \"/bin/sh -c exit 3\" did not complete successfully: exit code: 3",
        ),
        (
            "[\"nothing\"]",
            "process \"nothing\" did not complete successfully: exit code: 127",
        ),
        (
            "kill -9 $$",
            "process \"/bin/sh -c kill -9 $$\" did not complete successfully: exit code: 137",
        ),
    ] {
        let project = Project::new(&format!("FROM busybox\nRUN {command}\n"));
        project.build(&[]).fails(1, &[says, "Dockerfile:2"]);
    }
}

#[test]
fn ru02_arguments_are_in_the_environment() {
    let project = Project::new(
        "FROM busybox\nARG ONE=1\nARG TWO=2\nENV TWO=env\nARG THREE\nARG FOUR\n\
         RUN [ \"$ONE-$TWO-$THREE-${FOUR-none}\" = given-env-3-none ]\n",
    );
    project
        .build(&[
            "--build-arg",
            "ONE=given",
            "--build-arg",
            "TWO=given",
            "--build-arg",
            "THREE=3",
        ])
        .ok();
}

#[test]
fn ru03_heredocs() {
    let project = Project::new(
        "FROM busybox\nENV who=world\n\
         RUN <<EOF\necho \"hello $who\" > /1\necho $who >> /1\nEOF\n\
         RUN <<-EOF\n\techo tab > /2\n\tEOF\n\
         RUN <<'EOF'\necho '$who' > /3\nEOF\n\
         RUN <<EOF cat > /4\nliteral $who\nEOF\n\
         RUN <<A cat > /5 && <<B cat > /6\na\nA\nb\nB\n\
         RUN sh <<EOF\necho piped > /7\nEOF\n\
         RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" > \"/8\" }\nEOF\n\
         SHELL [\"/bin/busybox\", \"awk\"]\nRUN <<EOF\nBEGIN { print \"shell\" > \"/9\" }\nEOF\n",
    );
    project.build(&["-o", "out"]).ok();
    for (file, text) in [
        ("1", "hello world\nworld\n"),
        ("2", "tab\n"),
        ("3", "$who\n"),
        ("4", "literal world\n"),
        ("5", "a\n"),
        ("6", "b\n"),
        ("7", "piped\n"),
        ("8", "awk\n"),
        ("9", "shell\n"),
    ] {
        let found = fs::read_to_string(project.path("out").join(file)).unwrap();
        assert_eq!(found, text, "{file}");
    }
}

/// RU13, CLI:network, CLI:allow.
#[test]
fn ru13_networks() {
    let project = Project::new(
        "FROM busybox\nRUN ls /sys/class/net > /default\nRUN --network=none ls /sys/class/net > /none\n\
         RUN --network=default ls /sys/class/net > /again\n",
    );
    let host = |entry: &str| fs::metadata(format!("/sys/class/net/{entry}")).is_ok();
    project.build(&["-o", "out"]).ok();
    let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
    assert_eq!(read("none"), "lo\n");
    assert_eq!(read("default"), read("again"));
    assert!(!host("eth0") || read("default").contains("eth0"));
    project.build(&["--network", "none", "-o", "out"]).ok();
    assert_eq!(
        (read("default"), read("again")),
        ("lo\n".into(), "lo\n".into())
    );

    let asks = Project::new("FROM busybox\nRUN true\nRUN --network=host true\n");
    asks.build(&[]).fails(
        1,
        &[
            "network.host is not allowed",
            "Dockerfile:3",
            "--allow network.host",
        ],
    );
    asks.build(&["--allow", "network.host"]).ok();
    asks.build(&["--network", "host"]).ok();
    asks.build(&["--allow", "network.hosts"])
        .fails(2, &["unknown entitlement network.hosts"]);
}

/// RU13: a listener of the host is reached with its network, and not without one.
#[test]
fn ru13_the_network_of_the_host() {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.map(|mut stream| stream.write_all(b"foo\n"));
        }
    });
    let project = Project::new(&format!(
        "FROM busybox\nRUN nc 127.0.0.1 {port} | grep foo\nRUN --network=none ! nc -z 127.0.0.1 {port}\n"
    ));
    project.build(&["--network", "host"]).ok();
}

/// RU14, CLI:allow. (A filter may be there all the same: one that forbids nothing, by which device nodes are made.)
#[test]
fn ru14_privileges() {
    let project = Project::new(
        "FROM busybox\n\
         RUN --security=insecure [ \"$(printf '%x' $(( $(grep CapBnd /proc/self/status | cut -f 2 | sed 's#^#0x#') & 0x3fffffffff)))\" = 3fffffffff ]\n\
         RUN --security=insecure mkdir /m && mount -t tmpfs x /m && umount /m\n\
         RUN --security=insecure ! grep -E ' /(proc/sys|proc/kcore|sys/firmware) ' /proc/mounts && grep -E ' /sys [a-z]+ rw' /proc/mounts\n\
         RUN [ \"$(grep CapBnd /proc/self/status)\" = \"$(printf 'CapBnd:\\t00000000a80425fb')\" ]\n\
         RUN --security=sandbox grep -E '^Seccomp:.2' /proc/self/status && ! mount -t tmpfs x /m && [ ! -e /dev/fuse ]\n",
    );
    project.build(&[]).fails(
        1,
        &[
            "security.insecure is not allowed",
            "Dockerfile:2",
            "--allow security.insecure",
        ],
    );
    project.build(&["--allow", "security.insecure"]).ok();
    let devices = ["fuse", "loop-control"]
        .into_iter()
        .filter(|name| fs::metadata(format!("/dev/{name}")).is_ok());
    for device in devices {
        let project = Project::new(&format!(
            "FROM busybox\nRUN [ ! -e /dev/{device} ]\nRUN --security=insecure [ -c /dev/{device} ]\n"
        ));
        project.build(&["--allow", "security.insecure"]).ok();
    }
}

const DEVICES: &str = "\
cdiVersion: \"0.6.0\"
kind: \"vendor1.com/device\"
devices:
- name: foo
  containerEdits:
    env:
    - FOO=injected
    deviceNodes:
    - path: /dev/vendor/zero
      hostPath: /dev/zero
    mounts:
    - {hostPath: HOST, containerPath: /opt/vendor, options: [ro]}
- name: hooked
  containerEdits:
    hooks: [{hookName: createContainer, path: /bin/true}]
";

/// RU15, CLI:allow: BuildKit's testDeviceRunEnv, and what else a device brings.
/// HS24.
#[test]
fn ru15_devices() {
    let project = Project::new(
        "FROM busybox AS base\nENV FOO=image\n\
         RUN --device=vendor1.com/device=foo,required --device=vendor2.com/device=bar \\\n\
         \x20   env | sort | tee /foo.env && [ $(head -c 3 /dev/vendor/zero | wc -c) = 3 ] && cat /opt/vendor/f\n\
         RUN [ \"$FOO\" = image ] && [ ! -e /dev/vendor ] && [ ! -e /opt ]\n\
         FROM scratch\nCOPY --from=base /foo.env /\n",
    );
    let host = project.write("../lib/f", "library\n");
    let host = host.parent().unwrap().canonicalize().unwrap();
    let mut folders = vec![project.path("."), host.clone()];
    folders.extend(host.parent().map(Into::into));
    for folder in folders {
        open_to_all(&folder);
    }
    let spec = DEVICES.replace("HOST", host.to_str().unwrap());
    fs::create_dir(project.path("cdi")).unwrap();
    fs::write(project.path("cdi/vendor1.yaml"), spec).unwrap();
    let build = |args: &[&str]| {
        let fixed = ["--cdi-spec-dir", "cdi", "-o", "out"];
        project.build(&[&fixed[..], args].concat())
    };
    build(&[]).fails(
        1,
        &[
            "device vendor1.com/device=foo is requested by the build but not allowed",
            "Dockerfile:3",
            "--allow device",
        ],
    );
    let built = build(&["--allow", "device"]).ok();
    assert!(
        built
            .stderr
            .contains("optional device \"vendor2.com/device=bar\" is not registered"),
        "{}",
        built.stderr
    );
    let env = fs::read_to_string(project.path("out/foo.env")).unwrap();
    assert!(env.lines().any(|line| line == "FOO=injected"), "{env}");
    build(&["--no-cache", "--allow", "device=vendor1.com/device=foo"]).ok();
    let empty = project.build(&["--allow", "device", "--cdi-spec-dir", "context"]);
    empty.fails(
        1,
        &["required device \"vendor1.com/device=foo\" is not registered"],
    );
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --device=vendor1.com/device=hooked true\n",
    );
    build(&["--allow", "device"]).fails(1, &["needs a hook of the container runtime", "/bin/true"]);
    project.write("Dockerfile", "FROM busybox\nRUN --device=foo true\n");
    build(&["--allow", "device"]).fails(1, &["invalid device \"foo\""]);
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// RU16, CLI:no-cache, CLI:no-cache-filter.
#[test]
fn ru16_without_the_cache() {
    let project = Project::new(
        "FROM busybox AS one\nRUN echo one\nFROM busybox AS two\nRUN echo two\nCOPY --from=one /etc/passwd /p\n",
    );
    project.build(&[]).ok();
    for (args, one, two) in [
        (&[][..], "CACHED", "CACHED"),
        (&["--no-cache"], "DONE", "DONE"),
        (&["--no-cache-filter", "one"], "DONE", "CACHED"),
        (&["--no-cache-filter", "two"], "CACHED", "DONE"),
        (&["--no-cache-filter", "one,two"], "DONE", "DONE"),
    ] {
        let run = project.build(args).ok();
        assert_eq!(run.step("RUN echo one"), one, "{args:?}");
        assert_eq!(run.step("RUN echo two"), two, "{args:?}");
    }
}

/// RU18, CLI:add-host.
#[test]
fn ru18_host_names() {
    let project = Project::new(
        "FROM busybox\nRUN hostname > /name; cat /etc/hosts > /hosts-of-run; ! touch /etc/hosts\n",
    );
    let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
    project.build(&["-o", "out"]).ok();
    assert_eq!(read("name"), "buildkitsandbox\n");
    assert_eq!(
        read("hosts-of-run"),
        "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    );
    let args = [
        "-o",
        "out",
        "--build-arg",
        "BUILDKIT_SANDBOX_HOSTNAME=testbox",
    ];
    let hosts = [
        "--add-host",
        "db:10.1.2.3",
        "--add-host",
        "six=[fe80::1]",
        "--add-host",
        "me:host-gateway",
    ];
    project.build(&[&args[..], &hosts].concat()).ok();
    assert_eq!(read("name"), "testbox\n");
    let text = read("hosts-of-run");
    for line in [
        "127.0.0.1\tlocalhost testbox",
        "10.1.2.3\tdb",
        "fe80::1\tsix",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let of_the_host = text.lines().find_map(|line| line.strip_suffix("\tme"));
    let of_the_host = of_the_host.map(str::parse::<std::net::IpAddr>);
    assert!(matches!(of_the_host, Some(Ok(_))), "{text}");
    project
        .build(&["--add-host", "db:nowhere"])
        .fails(2, &["is not an IP address"]);
}

/// RU19, CLI:shm-size, CLI:ulimit.
#[test]
fn ru19_limits() {
    let project = Project::new(
        "FROM busybox AS base\nRUN mount | grep /dev/shm > /shmsize\n\
         RUN ulimit -Sn > /soft; ulimit -Hn > /hard; ulimit -Hc > /core\n",
    );
    let args = [
        "--shm-size",
        "134217728",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "-o",
        "out",
    ];
    project.build(&args).ok();
    let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
    assert!(
        read("shmsize").contains("size=131072k"),
        "{}",
        read("shmsize")
    );
    assert_eq!(
        (read("soft"), read("hard")),
        ("100\n".into(), "200\n".into())
    );
    assert_eq!(read("core"), "0\n");
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let most = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    if let Some(most) = most
        .split_whitespace()
        .nth(4)
        .and_then(|most| most.parse::<u64>().ok())
    {
        let above = format!("nofile={}", most + 1);
        project.build(&["--ulimit", &above]).fails(
            1,
            &[
                "set the limit nofile=",
                &format!("above the hard limit of whoever runs the build, {most}"),
            ],
        );
    }
    project
        .build(&["--ulimit", "files=1"])
        .fails(2, &["invalid ulimit type: files"]);
}

/// RU20: proxies reach commands, and neither keys nor the image.
#[test]
fn ru20_proxies() {
    let project = Project::new(
        "FROM busybox\nRUN echo \"proxy $http_proxy $HTTPS_PROXY\"\nRUN env | grep -vi proxy > /env\n",
    );
    let args = [
        "--build-arg",
        "http_proxy=http://one:1",
        "--build-arg",
        "HTTPS_PROXY=http://two:2",
    ];
    let run = project
        .build(&[&args[..], &["-t", "x", "-o", "type=image"]].concat())
        .ok();
    assert!(
        run.stderr.contains("proxy http://one:1 http://two:2"),
        "{}",
        run.stderr
    );
    let again = project
        .build(&["--build-arg", "http_proxy=http://other:1"])
        .ok();
    assert_eq!(again.step("RUN echo"), "CACHED");
    let history = project.kiln(&["history", "--no-trunc", "x"]).ok();
    let config = project.kiln(&["inspect", "--raw", "x"]).ok();
    for text in [history.text(), config.text()] {
        assert!(
            !text.contains("http://one") && !text.contains("http://two"),
            "{text}"
        );
    }
}

#[test]
fn ru21_the_entry_point_of_the_base_does_not_matter() {
    let project = Project::new(
        "FROM busybox AS base\nENTRYPOINT [\"/nosuchcmd\"]\nCMD [\"neither\"]\n\
         FROM base\nRUN [\"ls\"]\nRUN true\n",
    );
    project.build(&[]).ok();
}

/// Volumes of Buildah (`-v`): what they show, what they write, what they leave.
#[test]
fn volumes() {
    let project = Project::new(
        "FROM busybox\nUSER 7:8\n\
         RUN [ \"$(cat /v/in/f)\" = host ] && [ \"$(cat /file)\" = one ]\n\
         USER 0\nRUN echo $MARK; echo new > /v/new || echo ro > /result\n",
    );
    let f = project.write("../volume/in/f", "host\n");
    let volume = project.path("volume").canonicalize().unwrap();
    let file = project.write("../one.txt", "one\n").canonicalize().unwrap();
    for folder in [&volume, f.parent().unwrap()] {
        open_to_all(folder);
    }
    let file = format!("{}:/file:ro", file.display());
    let with = |options: &str| {
        let volume = format!("{}:/v{options}", volume.display());
        project.build(&["-v", &volume, "-v", &file, "-o", "out"])
    };
    let new = volume.join("new");
    with(":ro").ok();
    assert!(project.path("out/result").exists() && !new.exists());
    fs::remove_dir_all(project.path("out")).unwrap();
    with(":O").ok();
    assert!(!project.path("out/result").exists() && !new.exists());
    with(":z,noexec").ok();
    assert_eq!(fs::read_to_string(&new).unwrap(), "new\n");
    assert!(!project.path("out/v").exists() && !project.path("out/file").exists());
    // The content is in no key; paths and options are.
    fs::write(volume.join("in/f"), "other\n").unwrap();
    assert_eq!(with(":z,noexec").ok().step("RUN echo"), "CACHED");
    fs::write(volume.join("in/f"), "host\n").unwrap();
    with("").ok();
    project
        .build(&["-v", "relative:/v"])
        .fails(2, &["must be an absolute path \"relative\""]);
    project
        .build(&["-v", "/:relative"])
        .fails(2, &["must be an absolute path \"relative\""]);
    project
        .build(&["-v", "/not/there:/v"])
        .fails(1, &["could not use the volume /not/there"]);
    assert!(
        volume.join("in/f").exists(),
        "the host's files are still there"
    );
}

/// Option `U` gives the host's files to the user of the command.
#[test]
fn volumes_are_given() {
    use std::os::unix::fs::MetadataExt as _;
    if !able(is_root(), "root, to give files away") {
        return;
    }
    let project = Project::new(
        "FROM busybox\nUSER 7:8\nRUN [ $(stat -c %u /v/in/f) = 7 ] && echo x > /v/new\n",
    );
    project.write("../volume/in/f", "host\n");
    std::os::unix::fs::symlink("/etc/passwd", project.path("volume/link")).unwrap();
    let before = fs::metadata("/etc/passwd").unwrap().uid();
    let volume = format!(
        "{}:/v:U",
        project.path("volume").canonicalize().unwrap().display()
    );
    project.build(&["-v", &volume]).ok();
    for name in ["in/f", "in", "new", ""] {
        let meta = fs::metadata(project.path("volume").join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (7, 8), "{name}");
    }
    assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), before);
    let removed = Command::new("rm")
        .arg("-rf")
        .arg(project.path("volume"))
        .status();
    assert!(removed.unwrap().success());
}
