//! RUN for platforms that the machine emulates.

use crate::support::Project;
use std::path::Path;

const OTHER: [&str; 2] = ["--platform", "linux/arm64"];

/// Whether the machine can emulate arm64 for a build; said loudly where it cannot.
pub(crate) fn can_emulate() -> bool {
    let reason = if std::env::consts::ARCH == "aarch64" {
        "this machine is arm64"
    } else if !Path::new("/usr/bin/qemu-aarch64-static").exists() {
        "QEMU is not installed (package qemu-user-static)"
    } else if !kernel_registers_for_builds() {
        "the kernel is older than 6.7"
    } else {
        return true;
    };
    eprintln!("SKIPPED: emulated builds: {reason}");
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!ci || reason.contains("kernel"), "{reason}");
    false
}

fn kernel_registers_for_builds() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

fn is_emulated(text: &str) -> bool {
    text.contains("emulated")
}

#[test]
fn mp12_commands_of_other_platforms_are_emulated() {
    if !can_emulate() {
        return;
    }
    let project = Project::new(
        "FROM busybox\n\
         RUN uname -m | tee /machine\n\
         RUN <<EOF\n\
         echo in a heredoc on $(uname -m)\n\
         EOF\n\
         RUN <<EOF\n\
         #!/bin/sh\n\
         echo in a script on $(uname -m)\n\
         EOF\n\
         SHELL [\"/bin/ash\", \"-ec\"]\n\
         RUN echo by $0 on $(uname -m)\n\
         RUN [\"uname\", \"-m\"]\n\
         USER 1000\n\
         RUN echo user $(id -u) on $(uname -m)\n",
    );
    let run = project.build(&OTHER).ok();
    for text in [
        "in a heredoc on aarch64",
        "in a script on aarch64",
        "by /bin/ash on aarch64",
        "user 1000 on aarch64",
        "emulated by qemu-aarch64 (arm64)",
    ] {
        assert!(run.stderr.contains(text), "{text} in {}", run.stderr);
    }
    // The other platform beside it, in one build.
    let both = project
        .build(&["--no-cache", "--platform", "linux/amd64,linux/arm64"])
        .ok();
    for text in ["by /bin/ash on x86_64", "by /bin/ash on aarch64"] {
        assert!(both.stderr.contains(text), "{text} in {}", both.stderr);
    }
    let layout = project.valid_layout("layout", &[&OTHER[..], &["-t", "x"]].concat());
    let tree = testkit::merged_tree(&layout, "latest@linux/arm64").unwrap();
    assert_eq!(tree["machine"].size, "aarch64\n".len() as u64);
}

#[test]
fn mp12_emulators_end_with_the_build() {
    if !can_emulate() {
        return;
    }
    // A failed command is its own error, not one of the platform.
    let project = Project::new("FROM busybox\nRUN exit 7\n");
    let run = project
        .build(&OTHER)
        .fails(1, &["exit code: 7", "Dockerfile:2"]);
    assert!(
        !run.stderr.contains("cannot run programs"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("1 step was emulated by"),
        "{}",
        run.stderr
    );
    let handlers = std::fs::read_dir("/proc/sys/fs/binfmt_misc");
    for entry in handlers.into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        assert!(
            !text.contains("interpreter /usr/bin/qemu-aarch64-static\nflags: POCF"),
            "{text}"
        );
    }
}

#[test]
fn mp12_cross_compiling_needs_no_emulator() {
    let project = Project::new(
        "FROM --platform=$BUILDPLATFORM busybox AS build\n\
         ARG TARGETARCH TARGETPLATFORM BUILDPLATFORM\n\
         RUN echo $TARGETARCH $TARGETPLATFORM $BUILDPLATFORM > /made\n\
         FROM busybox\n\
         COPY --from=build /made /made\n",
    );
    let mut command = project.build_command(&OTHER);
    command.env("PATH", project.path("nothing"));
    let run = project.run(command).ok();
    assert!(!is_emulated(&run.stderr), "{}", run.stderr);
}

#[test]
fn mp14_emulated_steps_are_named_at_the_end() {
    if !can_emulate() {
        return;
    }
    let project = Project::new(
        "FROM busybox\nRUN sleep 0.3; echo one\nRUN echo two\nFROM busybox\nCOPY --from=0 /etc/passwd /x\nRUN echo three\n",
    );
    let run = project.build(&OTHER).ok();
    let last = run.stderr.lines().last().unwrap();
    let told = last
        .strip_prefix("WARNING: 3 steps were emulated by qemu-aarch64 (arm64): ")
        .unwrap_or_else(|| panic!("{}", run.stderr));
    let (time, names) = told.split_once(": ").unwrap();
    let seconds: Vec<f64> = time
        .split(" of ")
        .map(|part| part.strip_suffix(" s").unwrap().parse().unwrap())
        .collect();
    assert!(seconds[0] >= 0.3 && seconds[0] <= seconds[1], "{told}");
    for name in ["RUN sleep 0.3; echo one", "RUN echo two", "RUN echo three"] {
        assert!(names.contains(name), "{told}");
    }
    // Nothing ran, nothing is told.
    let cached = project.build(&OTHER).ok();
    assert!(!is_emulated(&cached.stderr), "{}", cached.stderr);

    let with =
        |mode: &str| project.build(&[&OTHER[..], &["--no-cache", "--progress", mode]].concat());
    let json = with("rawjson").ok();
    let last: serde_json::Value =
        serde_json::from_str(json.stderr.lines().last().unwrap()).unwrap();
    assert!(last["warnings"][0]["short"].is_string(), "{}", json.stderr);
    let tty = with("tty").ok();
    assert!(
        tty.stderr
            .lines()
            .last()
            .unwrap()
            .contains("WARNING: 3 steps were emulated"),
        "{}",
        tty.stderr
    );
    assert_eq!(with("quiet").ok().stderr, "");
}
