//! Builds that are ended from outside: nothing of them runs on, nothing stays mounted, and the next build is sound.

use crate::support::{Project, Started, unique, wait_until};
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

/// Processes whose command line or environment has this text.
fn processes(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == std::process::id().to_string() {
            continue;
        }
        for part in ["cmdline", "environ"] {
            let content = fs::read(entry.path().join(part)).unwrap_or_default();
            if String::from_utf8_lossy(&content).contains(marker) {
                found.push(format!("{pid} {}", String::from_utf8_lossy(&content)));
                break;
            }
        }
    }
    found
}

/// No process and no mount of a build is left, within a short time.
#[track_caller]
fn nothing_left(project: &Project, marker: &str) {
    let gone = wait_until(Duration::from_secs(5), || processes(marker).is_empty());
    assert!(gone, "{:?}", processes(marker));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let store = project.store();
    assert!(!mounts.contains(store.to_str().unwrap()), "{mounts}");
}

/// What is in the store's folder for unfinished work.
fn unfinished(project: &Project) -> usize {
    fs::read_dir(project.store().join("scratch")).map_or(0, Iterator::count)
}

/// A context whose RUN waits, with a child in a session of its own that ignores SIGTERM.
fn waiting(marker: &str) -> Project {
    Project::new(&format!(
        "FROM busybox\nENV E2E={marker}\n\
         RUN setsid sh -c \"trap '' TERM INT HUP; sleep 100; sleep 100\" & \\\n\
         \x20   echo wai\"\"ting; sleep 100\n\
         COPY f /f\n"
    ))
}

fn start(project: &Project, marker: &str, args: &[&str]) -> Started {
    let mut command = project.build_command(args);
    command.env("E2E_MARKER", marker);
    project.start(command)
}

#[test]
fn kill_during_run() {
    let marker = unique("kill-run");
    let project = waiting(&marker);
    project.write("f", "x");
    let mut build = start(&project, &marker, &["-t", "x"]);
    build.wait_for("waiting");
    assert!(processes(&marker).len() >= 3, "{:?}", processes(&marker));
    build.signal(Signal::KILL);
    assert_eq!(build.finish().status, 137);
    nothing_left(&project, &marker);

    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo quick > /q\nCOPY f /f\n",
    );
    project.valid_layout("out", &[]);
    assert_eq!(unfinished(&project), 0);
    assert!(project.images().is_empty());
}

#[test]
fn signals_during_run_end_the_build_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let marker = unique("signal-run");
        let project = waiting(&marker);
        project.write("f", "x");
        let args = ["-t", "x", "-o", "type=oci,dest=out.tar", "--iidfile", "id"];
        let mut build = start(&project, &marker, &args);
        build.wait_for("waiting");
        build.signal(signal);
        build.finish().fails(130, &["interrupted"]);
        nothing_left(&project, &marker);
        assert_eq!(unfinished(&project), 0);
        assert!(!project.path("out.tar").exists() && !project.path("id").exists());
        assert!(project.images().is_empty());
    }
}

/// A context that makes layers of 200 MB: one from a file, and one in a RUN where that is asked for.
fn large(run: &str) -> Project {
    let project = Project::on_disk(&format!("FROM busybox\n{run}COPY big /big\n"));
    // Blocks of random bytes: as large compressed, and quick to make.
    let mut block = vec![0; 1 << 20];
    let mut random = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut block).unwrap();
    project.write("big", block.repeat(200));
    project
}

#[test]
fn kill_while_layers_are_made() {
    let marker = unique("kill-layer");
    let project = large(&format!(
        "ENV E2E={marker}\nRUN echo fil\"\"ling; head -c 200000000 /dev/zero > /made\n"
    ));
    let mut ended = 0;
    for delay in [0, 70, 150, 250, 400] {
        let mut build = start(&project, &marker, &["-t", "x", "--no-cache"]);
        build.wait_for("filling");
        std::thread::sleep(Duration::from_millis(delay));
        build.signal(Signal::KILL);
        ended += usize::from(build.finish().status == 137);
        nothing_left(&project, &marker);
    }
    assert!(
        ended >= 2,
        "only {ended} builds were killed before they ended"
    );
    let out = project.valid_layout("out", &["--no-cache", "-t", "x"]);
    let tree = testkit::merged_tree(&out, "latest").unwrap();
    assert_eq!(tree["made"].size, 200_000_000);
    assert_eq!(tree["big"].size, 200 << 20);
    assert_eq!(unfinished(&project), 0);
}

#[test]
fn kill_during_export() {
    let marker = unique("kill-export");
    let project = large("");
    project.build(&[]).ok();
    let mut ended = 0;
    for (signal, status) in [(Signal::KILL, 137), (Signal::INT, 130)] {
        for (kind, delay) in [("oci,tar=false", 0), ("docker", 10), ("docker", 100)] {
            let output = format!("type={kind},dest=out");
            let mut build = start(&project, &marker, &["-o", &output, "--iidfile", "id"]);
            build.wait_for("exporting");
            std::thread::sleep(Duration::from_millis(delay));
            build.signal(signal);
            let run = build.finish();
            nothing_left(&project, &marker);
            let out = project.path("out");
            if run.status == status {
                ended += 1;
                assert!(!out.is_file(), "half an archive");
                assert!(!out.join("index.json").exists(), "half a layout");
                assert!(!project.path("id").exists());
            } else {
                // Many processors are done before the signal comes.
                run.ok();
            }
            let _ = fs::remove_dir_all(&out);
            let _ = fs::remove_file(&out);
            let _ = fs::remove_file(project.path("id"));
        }
    }
    assert!(ended > 0, "all builds ended before they were stopped");
    project.valid_layout("out", &[]);
    assert_eq!(unfinished(&project), 0);
}

#[test]
fn builds_share_a_store() {
    let marker = unique("together");
    let project =
        Project::new("FROM busybox\nRUN echo one > /1; sleep 0.3\nCOPY f /f\nRUN echo two > /2\n");
    project.write("f", "x");
    let builds: Vec<_> = (0..4)
        .map(|n| {
            let id = format!("id{n}");
            start(
                &project,
                &marker,
                &["--iidfile", &id, "-t", &format!("x{n}")],
            )
        })
        .collect();
    for build in builds {
        build.finish().ok();
    }
    nothing_left(&project, &marker);
    assert_eq!(project.images().len(), 4);
    project.valid_layout("out", &[]);
}

/// Nobody answers the fetch of a Git repository: its program and that one's helpers end with the build.
#[test]
fn kill_while_a_repository_is_fetched() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = server.local_addr().unwrap().to_string();
    let project = Project::new("FROM scratch\n");
    let url = format!("http://{host}/x.git");
    let mut command = project.command(&["build", "--progress", "plain"]);
    command.arg(&url);
    let build = project.start(command);
    let helper = |process: &String| process.contains("git-remote-http");
    let fetching = wait_until(Duration::from_secs(20), || {
        processes(&host).iter().any(helper)
    });
    assert!(fetching, "{:?}", processes(&host));
    build.signal(Signal::KILL);
    assert_eq!(build.finish().status, 137);
    nothing_left(&project, &host);
}
