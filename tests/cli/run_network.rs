//! The network of RUN: its modes, its resolver, the host by name, proxies, and authorities that commands trust.

use crate::support::{Project, able, certificate};
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;

/// Whether a build gets a network of its own here.
fn is_private() -> bool {
    let programs = ["pasta", "slirp4netns"];
    let has_program = programs
        .iter()
        .any(|program| Path::new("/usr/bin").join(program).exists());
    let device = fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open("/dev/net/tun");
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let is_online = routes.lines().skip(1).any(|line| !line.starts_with("lo\t"));
    able(
        has_program && device.is_ok() && is_online,
        "pasta or slirp4netns, /dev/net/tun and a route",
    )
}

fn listener() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.map(|mut stream| stream.write_all(b"local service\n"));
        }
    });
    port
}

/// RU13, RU18, CLI:network, CLI:add-host: what listens on the host's loopback is reached by its name only, and only when
/// that is asked for.
#[test]
fn ru13_the_host_from_a_private_network() {
    if !is_private() {
        return;
    }
    let port = listener();
    let project = Project::new(&format!(
        "FROM busybox\nRUN sleep 1 | nc -w 2 127.0.0.1 {port} > /local || true\n\
         RUN sleep 1 | nc -w 2 machine {port} > /named || true\nRUN cat /etc/hosts > /hosts\n"
    ));
    let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
    project.build(&["-o", "out"]).ok();
    assert_eq!(
        (read("local"), read("named")),
        (String::new(), String::new())
    );
    project
        .build(&["-o", "out", "--add-host", "machine;other=host-gateway"])
        .ok();
    assert_eq!(read("local"), "");
    assert_eq!(read("named"), "local service\n", "{}", read("hosts"));
    let hosts = read("hosts");
    let of = |name: &str| {
        let line = hosts.lines().find(|line| line.ends_with(name)).unwrap();
        line.split('\t').next().unwrap().to_owned()
    };
    assert_eq!(of("machine"), of("other"));
    project
        .build(&[
            "-o",
            "out",
            "--network",
            "host",
            "--add-host",
            "machine:host-gateway",
        ])
        .ok();
    assert_eq!(read("local"), "local service\n");
    assert_eq!(read("named"), "local service\n");
}

/// RU13, CLI:network.
#[test]
fn ru13_programs_and_modes() {
    let project = Project::new("FROM busybox\nRUN ls /sys/class/net > /devices\n");
    for bad in ["bridge", "ns:/run/netns/x", "loud"] {
        let says = format!("network mode \"{bad}\" is not supported");
        project.build(&["--network", bad]).fails(2, &[&says]);
    }
    let without_programs = |network: &str| {
        let mut command = project.build_command(&["--network", network]);
        command.env("PATH", "/nowhere");
        project.run(command)
    };
    without_programs("pasta").fails(
        1,
        &[
            "could not find pasta",
            "pasta (package passt) is not installed",
        ],
    );
    without_programs("none").ok();
    let run = without_programs("private").ok();
    let said = run
        .stderr
        .matches("commands use the host's network")
        .count();
    let is_offline = run.stderr.contains("this machine has no network");
    assert!(said == 1 || is_offline, "{}", run.stderr);
    if is_private() && Path::new("/usr/bin/slirp4netns").exists() {
        project
            .build(&["--network", "slirp4netns", "--no-cache", "-o", "out"])
            .ok();
        let devices = fs::read_to_string(project.path("out/devices")).unwrap();
        assert_eq!(devices, "lo\ntap0\n");
    }
}

/// RU13: the resolver's settings.
#[test]
fn ru13_resolver() {
    let project = Project::new("FROM busybox\nRUN cat /etc/resolv.conf > /seen\n");
    let seen = |args: &[&str]| {
        project
            .build(&[args, &["--no-cache", "-o", "out"]].concat())
            .ok();
        let out = project.path("out");
        assert!(!out.join("etc/resolv.conf").exists(), "left behind");
        fs::read_to_string(out.join("seen")).unwrap()
    };
    let given = [
        "--dns",
        "192.0.2.1",
        "--dns=::1",
        "--dns-search",
        "a.b",
        "--dns-option",
        "ndots:3",
    ];
    let expected = "nameserver 192.0.2.1\nnameserver ::1\nsearch a.b\noptions ndots:3\n";
    assert!(seen(&given).starts_with(expected));
    assert!(seen(&[&given[..], &["--network", "none"]].concat()).starts_with(expected));
    let none = seen(&["--network", "none"]);
    assert!(
        none.contains("nameserver ") && !none.contains(" 127."),
        "{none}"
    );
    let own = Project::new(
        "FROM busybox\nCOPY --chmod=644 conf /etc/resolv.conf\nRUN grep image /etc/resolv.conf\n",
    );
    own.write("conf", "# of the image\n");
    own.build(&["--dns", "none"]).ok();
    own.build(&["--no-cache"]).fails(1, &["exit code: 1"]);
    project.build(&["--dns", "x"]).fails(2, &["'--dns'"]);
}

/// A proxy that only the host reaches is said to be out of reach, without its password.
#[test]
fn ru13_proxies_on_loopback() {
    if !is_private() {
        return;
    }
    let project = Project::new("FROM busybox\nRUN true\nRUN test -n \"$http_proxy\"\n");
    let proxy = "http_proxy=http://user:hush@localhost:3128";
    let args = ["--build-arg", proxy, "--progress", "plain"];
    let run = project.build(&args).ok();
    assert_eq!(
        run.stderr.matches("names a proxy on this machine").count(),
        1,
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("hush"));
    let run = project
        .build(&[&args[..], &["--network", "host", "--no-cache"]].concat())
        .ok();
    assert!(!run.stderr.contains("names a proxy"), "{}", run.stderr);
}

/// `--ca`: trusted by commands in every place that the image has, and nowhere in what they make.
#[test]
fn authorities_of_the_company() {
    let project = Project::new(
        "FROM busybox\n\
         COPY bundle /etc/ssl/certs/ca-certificates.crt\n\
         RUN ln -s certs/ca-certificates.crt /etc/ssl/cert.pem && chmod 750 /etc/ssl && chown 3:4 /etc/ssl\n\
         RUN grep -c BEGIN /etc/ssl/cert.pem /etc/ssl/certs/ca-certificates.crt \"$SSL_CERT_FILE\" > /counts; env | grep CERT > /env\n\
         RUN echo more >> /etc/ssl/cert.pem && chmod 600 /etc/ssl/certs/ca-certificates.crt\n\
         RUN cp /etc/ssl/cert.pem /tmp/new && cp /etc/ssl/cert.pem /copy && echo new > /tmp/new && mv -f /tmp/new /etc/ssl/certs/ca-certificates.crt\n\
         RUN grep -c BEGIN /etc/ssl/cert.pem >> /counts; rm /etc/ssl/certs/ca-certificates.crt && cp /copy /etc/ssl/cert.crt && stat -c %a:%u:%g /etc/ssl > /folder\n\
         ENV SSL_CERT_FILE=/mine\nRUN [ \"$SSL_CERT_FILE\" = /mine ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ]\n",
    );
    let (image, company) = (certificate(1), certificate(2));
    project.write("bundle", &image);
    let ca = project.write("ca.pem", format!("comment\n{company}"));
    let ca = ca.to_str().unwrap();
    project
        .build(&["--ca", ca, "-t", "trusting", "-o", "out"])
        .ok();
    let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
    assert_eq!(
        read("counts"),
        "/etc/ssl/cert.pem:2\n/etc/ssl/certs/ca-certificates.crt:2\n/run/kiln/ca-certificates.crt:2\n1\n"
    );
    assert!(
        read("env").contains("NODE_EXTRA_CA_CERTS=/run/kiln/ca-certificates.crt\n")
            || read("env").contains("SSL_CERT_FILE")
    );
    assert_eq!(read("folder"), "750:3:4\n");
    // A copy that a command makes elsewhere is its own business.
    assert!(read("copy").contains(&company));
    assert!(!project.path("out/run/kiln").exists());

    let keeps = Project::new(
        "FROM busybox\nCOPY bundle /etc/ssl/certs/ca-certificates.crt\n\
         RUN echo more >> /etc/ssl/certs/ca-certificates.crt\nRUN chmod 600 /etc/ssl/certs/ca-certificates.crt\n\
         RUN touch /etc/ssl/certs/other\n\
         COPY ca.pem /own.crt\n\
         RUN cat /own.crt > /tmp/new && echo >> /tmp/new && cat /own.crt >> /tmp/new && mv /tmp/new /etc/ssl/certs/ca-certificates.crt\n",
    );
    keeps.write("bundle", &image);
    let ca = keeps.write("ca.pem", &company);
    let ca = ca.to_str().unwrap();
    keeps.build(&["--ca", ca, "-o", "with"]).ok();
    let tagged = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--no-cache"];
    let bundle = fs::read_to_string(keeps.path("with/etc/ssl/certs/ca-certificates.crt")).unwrap();
    // What the image trusts by itself stays, although it is the same.
    assert_eq!(bundle, format!("{company}\n{company}"));
    // Not part of any key.
    let run = keeps.build(&["-o", "without"]).ok();
    assert!(run.step("echo more").contains("CACHED"), "{}", run.stderr);
    keeps
        .build(&[&tagged[..], &["--ca", ca, "-t", "with"]].concat())
        .ok();
    keeps
        .build(&[&tagged[..], &["-t", "without"]].concat())
        .ok();
    let layers = |name| {
        let format = ["inspect", "--format", "{{json .RootFS.Layers}}", name];
        keeps.kiln(&format).ok().text().to_owned()
    };
    assert_eq!(layers("with"), layers("without"));
    let bad = keeps.write(
        "no.pem",
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    );
    keeps
        .build(&["--ca", bad.to_str().unwrap()])
        .fails(1, &["no.pem as --ca: certificate 1 is not a certificate"]);
    keeps
        .build(&["--ca", "nowhere.pem"])
        .fails(1, &["nowhere.pem"]);
}
