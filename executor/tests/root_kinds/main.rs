//! Every kind of root that this machine has gives the same layer for the same step: a table of steps and random changes, as
//! the user that runs this and, when that is root, as a user with subordinate ids.
//!
//! Not the usual harness: the sandbox re-executes this program, and its hook must come first in `main`. Arguments: words
//! that a step's name must contain.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../layer_support/mod.rs"]
mod layer_support;
mod probes;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use steps::ByFuse;
use world::World;

/// The user with subordinate ids that the tests become.
const USER: &str = "kilntest";

/// Gives a mount namespace of its own a `/dev/fuse` that anybody may open, as udev makes it, where the machine has one.
const OPEN_DEVICE: &str = "set -e
    if [ -c /dev/fuse ]; then
        mount -t tmpfs device \"$0\"
        mknod -m 666 \"$0/fuse\" c 10 229
        mount --bind \"$0/fuse\" /dev/fuse
    fi
    exec \"$@\"";

/// Digest or failure of each step, by `KIND STEP`.
type Results = BTreeMap<String, String>;

fn main() -> ExitCode {
    sandbox::init_if_child(executor::TASKS);
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--probe") => return probes::main(&args[1..]),
        Some("--list") => {
            println!("root_kinds: test");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let words: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let mut failed = false;
    let mut results = Results::new();
    let temporary = tempfile::tempdir().unwrap();
    failed |= !all_kinds(temporary.path(), "", &words, &mut results);
    let is_child = args.iter().any(|arg| arg == "--child");
    if layer_support::is_root() && !is_child {
        failed |= !on_reflinks(&words, &mut results);
        match as_user(&words) {
            Ok(more) => {
                for (name, digest) in more {
                    results.insert(format!("{USER} {name}"), digest);
                }
            }
            Err(reason) => failed |= !skip(&format!("as {USER}: {reason}")),
        }
    }
    if is_child {
        for (name, digest) in &results {
            println!("result {name} {digest}");
        }
        return if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    failed |= !compare(&results);
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What cannot be tested here is said; on CI it is a failure.
fn skip(reason: &str) -> bool {
    println!("SKIPPED: {reason}");
    std::env::var("CI").as_deref() != Ok("true")
}

/// All steps with every kind that works in a folder; false when one fails that must not.
fn all_kinds(folder: &Path, place: &str, words: &[&str], results: &mut Results) -> bool {
    let mut fine = true;
    for kind in ["overlay", "fuse-overlayfs", "reflink", "copy", "chroot"] {
        // Few disks can; there is one made for it. Without namespaces only root can build.
        if kind == "reflink" && place.is_empty() || kind == "chroot" && !layer_support::is_root() {
            continue;
        }
        let world = match World::new(&folder.join(kind), kind) {
            Ok(world) => world,
            Err(reason) => {
                fine &= skip(&format!("{place}{kind}: {reason}"));
                continue;
            }
        };
        let started = std::time::Instant::now();
        for (name, script) in steps::all() {
            if !words.iter().all(|word| name.contains(word)) {
                continue;
            }
            let by_fuse = match kind {
                "fuse-overlayfs" => steps::by_fuse(&name),
                _ => None,
            };
            let result = match by_fuse {
                Some(ByFuse::Other) => continue,
                _ => world.step(&script),
            };
            match by_fuse {
                Some(ByFuse::Refused(words)) if result.contains(words) => continue,
                Some(ByFuse::SameOrFails) if !result.starts_with("sha256:") => continue,
                _ => {}
            }
            results.insert(format!("{place}{kind} {name}"), result);
        }
        println!("{place}{kind}: {} ms", started.elapsed().as_millis());
        world.remove();
    }
    fine
}

/// A file system that shares blocks, in a file of this machine's.
fn on_reflinks(words: &[&str], results: &mut Results) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("image"), folder.path().join("mounted"));
    fs::create_dir(&at).unwrap();
    fs::File::create(&image).unwrap().set_len(8 << 30).unwrap();
    let run = |program: &str, args: &[&std::ffi::OsStr]| {
        let output = Command::new(program)
            .args(args)
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    };
    let made = run("mkfs.xfs", &["-q".as_ref(), image.as_os_str()]).and_then(|()| {
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_os_str(),
                at.as_os_str(),
            ],
        )
    });
    if let Err(reason) = made {
        return skip(&format!("reflinks: no file system for them: {reason}"));
    }
    let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        all_kinds(&at, "xfs-", words, results)
    }));
    run("umount", &[at.as_os_str()]).unwrap();
    fine.unwrap()
}

/// Every step must have one result.
fn compare(results: &Results) -> bool {
    let mut steps: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (name, digest) in results {
        let (kind, step) = name.rsplit_once(' ').unwrap();
        steps.entry(step).or_default().push((kind, digest));
    }
    let mut fine = true;
    for (step, digests) in &steps {
        let (_, first) = digests[0];
        let same =
            digests.iter().all(|(_, digest)| *digest == first) && first.starts_with("sha256:");
        println!(
            "test {step} ({} kinds) ... {}",
            digests.len(),
            if same { "ok" } else { "FAILED" }
        );
        if !same {
            fine = false;
            for (kind, digest) in digests {
                println!("    {kind}: {digest}");
            }
        }
    }
    println!("{} steps compared", steps.len());
    fine && !steps.is_empty()
}

/// The program as the user, with a device of fuse that it may open.
fn child(folder: &Path, program: &Path, words: &[&str]) -> Result<Output, String> {
    let device = folder.join("device");
    fs::create_dir(&device).unwrap();
    Command::new("unshare")
        .args(["--mount", "sh", "-c", OPEN_DEVICE])
        .arg(&device)
        .arg("setpriv")
        .args([
            &format!("--reuid={USER}"),
            &format!("--regid={USER}"),
            "--init-groups",
        ])
        .arg(program)
        .arg("--child")
        .args(words)
        .current_dir("/")
        .env_remove("HOME")
        .env_remove("TMPDIR")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("setpriv: {error}"))
}

/// Runs this program as a user with subordinate ids, made for it when it does not exist.
fn as_user(words: &[&str]) -> Result<Results, String> {
    let known = |file: &str| {
        fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .any(|line| line.starts_with(&format!("{USER}:")))
    };
    let run = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .status()
            .map_err(|error| format!("{program}: {error}"))
    };
    let made = !known("/etc/passwd");
    if made {
        run(
            "useradd",
            &[
                "--no-create-home",
                "-K",
                "SUB_UID_COUNT=0",
                "-K",
                "SUB_GID_COUNT=0",
                USER,
            ],
        )?;
    }
    if !known("/etc/subuid") {
        run(
            "usermod",
            &[
                "--add-subuids",
                "700000000-700065535",
                "--add-subgids",
                "700000000-700065535",
                USER,
            ],
        )?;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("root-kinds");
    fs::copy("/proc/self/exe", &program).unwrap();
    for path in [folder.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = child(folder.path(), &program, words);
    if made {
        run("userdel", &[USER])?;
    }
    let output = output?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut results = Results::new();
    for line in text.lines() {
        match line.strip_prefix("result ") {
            Some(result) => {
                let (name, digest) = split_result(result);
                results.insert(name.to_owned(), digest.to_owned());
            }
            None => println!("{USER}: {line}"),
        }
    }
    if output.status.success() {
        Ok(results)
    } else {
        Err(output.status.to_string())
    }
}

/// `KIND STEP DIGEST`, where a digest may be a sentence.
fn split_result(result: &str) -> (&str, &str) {
    let kind = result.find(' ').unwrap();
    let step = kind + 1 + result[kind + 1..].find(' ').unwrap();
    (&result[..step], &result[step + 1..])
}
