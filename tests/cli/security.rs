//! What RUN steps may do: capabilities, profiles of system calls, privileges.

use crate::support::Project;
use std::fs;

/// The sets of a command as root, by their numbers.
const SHOW: &str =
    "FROM busybox\nRUN grep -E '^(Cap|NoNew)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '\n";

/// CLI:cap-add, CLI:cap-drop.
#[test]
fn capabilities_are_added_and_dropped() {
    for (flags, expected) in [
        (&[][..], "00000000a80425fb"),
        (&["--cap-add", "sys_time"], "00000000aa0425fb"),
        (
            &["--cap-add=CAP_SYS_TIME,cap_sys_admin"],
            "00000000aa2425fb",
        ),
        (
            &["--cap-drop", "chown", "--cap-drop", "MKNOD"],
            "00000000a00425fa",
        ),
        (&["--cap-drop", "all"], "0000000000000000"),
        (
            &["--cap-drop", "ALL", "--cap-add", "chown"],
            "0000000000000001",
        ),
    ] {
        let project = Project::new(SHOW);
        let run = project
            .build(&[flags, &["--progress", "plain"]].concat())
            .ok();
        let says = format!(
            "CapInh:0000000000000000 CapPrm:{expected} CapEff:{expected} CapBnd:{expected} CapAmb:0000000000000000 NoNewPrivs:0"
        );
        assert!(run.stderr.contains(&says), "{flags:?}: {}", run.stderr);
    }
    let project = Project::new(
        "FROM busybox\nUSER 1\nRUN grep -E '^Cap' /proc/self/status | tr -d '\\t' | tr '\\n' ' '\n",
    );
    if crate::support::is_root() {
        let run = project
            .build(&["--cap-add", "sys_time", "--progress", "plain"])
            .ok();
        let says = "CapPrm:0000000000000000 CapEff:0000000000000000 CapBnd:00000000aa0425fb";
        assert!(run.stderr.contains(says), "{}", run.stderr);
    }
    let project = Project::new(SHOW);
    for (flags, says) in [
        (
            &["--cap-add", "fly"][..],
            "invalid value \"fly\" for '--cap-add': unknown capability",
        ),
        (
            &["--cap-add", "all", "--cap-drop", "all"],
            "dropping all of them",
        ),
        (
            &["--cap-add", "bpf", "--cap-drop", "BPF"],
            "\"BPF\" cannot be dropped and added",
        ),
    ] {
        project.build(flags).fails(2, &[says]);
    }
}

/// HS02: the host's folder of the same name sees nothing of it.
#[test]
fn links_of_an_image_lead_into_it() {
    let project = Project::on_disk("");
    let host = project.path("host");
    fs::create_dir(&host).unwrap();
    let target = host.to_str().unwrap();
    project.write("f", "x");
    project.write(
        "Dockerfile",
        format!(
            "FROM busybox\nRUN ln -s {target} /absolute && ln -s ../../../../../../../../{target} /up && mkdir -p {target}\n\
             COPY f /absolute/copied\nCOPY f /up/too/\nADD f /up/added\nWORKDIR /absolute/work\nRUN touch here\nWORKDIR /up/far\nRUN touch there /up/run\n"
        ),
    );
    project.build(&["-o", "out"]).ok();
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    let inside = project.path("out").join(target.trim_start_matches('/'));
    for path in ["copied", "too/f", "added", "work/here", "far/there", "run"] {
        assert!(inside.join(path).exists(), "{path}");
    }
}

/// A capability opens the system calls that belong to it.
#[test]
fn added_capabilities_open_their_system_calls() {
    let project = Project::new(
        "FROM busybox\nRUN mkdir -p /mnt && mount -t tmpfs none /mnt && touch /mnt/inside && unshare -m true\n",
    );
    project
        .build(&[])
        .fails(1, &["did not complete successfully"]);
    project.build(&["--cap-add", "SYS_ADMIN"]).ok();
}

#[test]
fn profiles_of_system_calls() {
    let project = Project::new("FROM busybox\nRUN mkdir /made; test ! -e /made\n");
    project.build(&[]).fails(1, &[]);
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(project.path("profile.json"), profile).unwrap();
    let path = project.path("profile.json");
    let option = format!("seccomp={}", path.display());
    let run = project
        .build(&["--security-opt", &option, "--progress", "plain"])
        .ok();
    assert!(
        run.stderr.contains("No space left on device"),
        "{}",
        run.stderr
    );

    let wrong = profile.replace("SCMP_ACT_ERRNO", "ERRNO");
    fs::write(&path, wrong).unwrap();
    let says = format!(
        "the seccomp profile {} is not valid: syscalls[0].action: unknown action \"ERRNO\"",
        path.display()
    );
    project
        .build(&["--security-opt", &option])
        .fails(1, &[&says]);
    let absent = project.path("absent.json");
    let option = format!("seccomp={}", absent.display());
    let says = format!(
        "could not read the seccomp profile {}: No such file or directory",
        absent.display()
    );
    project
        .build(&["--security-opt", &option])
        .fails(1, &[&says]);
}

/// CLI:security-opt.
#[test]
fn security_options() {
    let project = Project::new("FROM busybox\nRUN grep -E '^(Seccomp|NoNew)' /proc/self/status\n");
    for (options, says) in [
        (&[][..], ["NoNewPrivs:\t0", "Seccomp:\t2"]),
        (
            &["--security-opt", "seccomp=unconfined"],
            ["NoNewPrivs:\t0", "Seccomp:\t"],
        ),
        (
            &["--security-opt", "no-new-privileges"],
            ["NoNewPrivs:\t1", "Seccomp:\t2"],
        ),
        (
            &["--security-opt", "label=disable"],
            ["NoNewPrivs:\t0", "Seccomp:\t2"],
        ),
    ] {
        let flags = [options, &["--progress", "plain", "--no-cache"]].concat();
        let run = project.build(&flags).ok();
        for text in says {
            assert!(run.stderr.contains(text), "{options:?}: {}", run.stderr);
        }
    }
    for (option, says) in [
        ("label=type:x", "labels of SELinux are not supported"),
        ("apparmor=mine", "profiles of AppArmor are not supported"),
        ("magic", "for '--security-opt'"),
    ] {
        project.build(&["--security-opt", option]).fails(2, &[says]);
    }
}

/// HS12: made by root, recorded, of no use.
#[test]
fn device_nodes_are_in_the_layer() {
    let project = Project::new(
        "FROM busybox\nRUN mknod /null c 1 3 && mknod -m 640 /disk b 8 17 && chown 3:4 /disk && mknod /gone c 1 9\n\
         RUN ! cat /null && mknod /usr/more c 10 200 && rm /gone && mknod /gone c 1 7 && mv /gone /moved && stat -c '%F %t:%T %u' /disk\n",
    );
    let run = project.build(&["-o", "type=tar,dest=out.tar", "--progress", "plain"]);
    if !crate::support::is_root() {
        run.fails(1, &["Operation not permitted"]);
        return;
    }
    let run = run.ok();
    assert!(
        run.stderr.contains("block special file 8:11 3"),
        "{}",
        run.stderr
    );
    let listed = std::process::Command::new("tar")
        .args(["--numeric-owner", "-tvf"])
        .arg(project.path("out.tar"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let found: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|fields: &Vec<&str>| ["1,3", "1,7", "1,9", "8,17", "10,200"].contains(&fields[2]))
        .collect();
    let found: Vec<String> = found
        .iter()
        .map(|fields| format!("{} {} {} {}", fields[0], fields[1], fields[2], fields[5]))
        .collect();
    assert_eq!(
        found,
        [
            "brw-r----- 3/4 8,17 disk",
            "crw-r--r-- 0/0 1,7 moved",
            "crw-r--r-- 0/0 1,3 null",
            "crw-r--r-- 0/0 10,200 usr/more"
        ]
    );
}
