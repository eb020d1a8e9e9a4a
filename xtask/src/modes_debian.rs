//! `cargo xtask modes-debian [--kiln FILE] [--work DIR] [MODE..]`: a compiler is installed with apt on a Debian base, and a
//! program compiled, stripped and given file capabilities, in every mode that RUN has. All modes must give the same merged
//! tree: names, types, modes, owners, links, attributes, contents. Needs root, mmdebstrap and a mirror of Debian packages.

use crate::accounts::User;
use crate::conformance::bases;
use crate::shell;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask modes-debian [--kiln FILE] [--work DIR] [MODE..]";
const DOCKERFILE: &str = r#"FROM scratch AS base
ADD debian.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
FROM base
RUN apt-get update && apt-get install -y gcc libcap2-bin
RUN printf '#include <stdio.h>\nint main(void) { return puts("it runs") < 0; }\n' > /p.c && gcc -g -o /usr/local/bin/p /p.c
RUN strip /usr/local/bin/p && setcap cap_net_bind_service+ep /usr/local/bin/p && getcap /usr/local/bin/p
RUN p | grep 'it runs'
"#;
/// What tells that there is no way to a mirror.
const NO_MIRROR: [&str; 4] = [
    "Temporary failure resolving",
    "Could not connect to",
    "Could not resolve",
    "Unable to connect to",
];
/// Files that tell the time of the build, or in which order a folder was read.
const VARYING: [&str; 4] = [
    "var/log/",
    "var/cache/apt/",
    "var/cache/ldconfig/",
    "var/cache/debconf/",
];
/// Docker's capabilities, without namespaces.
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,\
    +net_bind_service,+sys_chroot,+kill,+audit_write";
/// Covers a part of `/proc`, so that no new one can be mounted below.
const COVERED: &str = "mount --bind /dev/null /proc/interrupts && exec \"$@\"";

/// A way to build.
struct Mode {
    name: &'static str,
    /// Index of the user; root without.
    user: Option<usize>,
    prefix: &'static [&'static str],
    flags: &'static [&'static str],
}

const MODES: [Mode; 7] = [
    mode("full", None, &["--isolation=full"]),
    mode("copy", None, &["--isolation=full", "--sandbox-root=copy"]),
    mode("user", Some(0), &["--isolation=full"]),
    mode(
        "user-copy",
        Some(0),
        &["--isolation=full", "--sandbox-root=copy"],
    ),
    mode("bare-user", Some(1), &["--isolation=full"]),
    Mode {
        prefix: &["unshare", "--mount", "sh", "-c", COVERED, "sh"],
        ..mode("nested", None, &["--isolation=nested"])
    },
    Mode {
        prefix: &["setpriv", "--bounding-set", CAPABILITIES, "--inh-caps=-all"],
        ..mode("chroot", None, &["--isolation=chroot", "--network=host"])
    },
];

const fn mode(name: &'static str, user: Option<usize>, flags: &'static [&'static str]) -> Mode {
    Mode {
        name,
        user,
        prefix: &[],
        flags,
    }
}

/// Path to all that is compared of it.
type Tree = BTreeMap<String, String>;

/// Runs it.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut kiln, mut work, mut wanted) = (None, std::env::temp_dir(), Vec::new());
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--kiln" => kiln = Some(PathBuf::from(rest.next().ok_or(USAGE)?)),
            "--work" => work = PathBuf::from(rest.next().ok_or(USAGE)?),
            name if MODES.iter().any(|mode| mode.name == name) => wanted.push(name),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let kiln = kiln.map_or_else(shell::build_static, Ok)?;
    let folder = prepared(&work, &kiln)?;
    let mut first: Option<(&str, Tree)> = None;
    let mut wrong = Vec::new();
    let chosen = |mode: &&Mode| wanted.is_empty() || wanted.contains(&mode.name);
    let users = if MODES.iter().filter(chosen).any(|mode| mode.user.is_some()) {
        let made = [("kilndeb", true), ("kilndeb1", false)].map(User::new);
        made.into_iter().collect::<Result<Vec<_>, _>>()?
    } else {
        Vec::new()
    };
    for mode in MODES.iter().filter(chosen) {
        let started = Instant::now();
        let tree = match build(mode, folder.path(), &users)? {
            Ok(tree) => tree,
            Err(said) if NO_MIRROR.iter().any(|text| said.contains(text)) => {
                return no_mirror(mode.name, &said);
            }
            Err(said) => {
                println!("{}: FAILED", mode.name);
                wrong.push(format!("{}:\n{said}", mode.name));
                continue;
            }
        };
        let seconds = started.elapsed().as_secs();
        println!("{}: {} files, {seconds} s", mode.name, tree.len());
        match &first {
            None => first = Some((mode.name, tree)),
            Some((name, expected)) => {
                let found = differences(expected, &tree);
                if !found.is_empty() {
                    wrong.push(format!(
                        "{} is not {name}:\n{}",
                        mode.name,
                        found.join("\n")
                    ));
                }
            }
        }
    }
    if wrong.is_empty() {
        println!("all trees are the same");
        return Ok(());
    }
    Err(wrong.join("\n"))
}

/// A folder that all users can read: the program and the context.
fn prepared(work: &Path, kiln: &Path) -> Result<tempfile::TempDir, String> {
    let failed = |error: std::io::Error| format!("could not prepare the build: {error}");
    let tar = bases::debian_tar()?;
    let folder = tempfile::Builder::new()
        .prefix("kiln-modes")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(work)
        .map_err(failed)?;
    let context = folder.path().join("context");
    std::fs::create_dir(&context).map_err(failed)?;
    std::fs::copy(tar, context.join("debian.tar")).map_err(failed)?;
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).map_err(failed)?;
    std::fs::copy(kiln, folder.path().join("kiln")).map_err(failed)?;
    Ok(folder)
}

/// Builds in a store of its own, which is removed; what was said when the build failed.
fn build(mode: &Mode, folder: &Path, users: &[User]) -> Result<Result<Tree, String>, String> {
    let failed = |error: std::io::Error| format!("could not build in mode {}: {error}", mode.name);
    let home = folder.join(mode.name);
    std::fs::create_dir(&home).map_err(failed)?;
    let mut words: Vec<&str> = Vec::new();
    if let Some(user) = mode.user.and_then(|index| users.get(index)) {
        let id = user.id.parse().ok();
        std::os::unix::fs::chown(&home, id, id).map_err(failed)?;
        words.extend([
            "setpriv",
            "--reuid",
            &user.id,
            "--regid",
            &user.id,
            "--clear-groups",
        ]);
    }
    words.extend(mode.prefix);
    let store = format!("KILN_ROOT={}", home.join("store").display());
    let output = format!("--output=type=tar,dest={}", home.join("tree.tar").display());
    let environment = format!("HOME={}", home.display());
    let kiln = folder.join("kiln").display().to_string();
    words.extend([
        "env",
        &environment,
        &store,
        &kiln,
        "build",
        "--progress=plain",
        &output,
    ]);
    words.extend(mode.flags);
    let result: Output = Command::new(words[0])
        .args(&words[1..])
        .arg(folder.join("context"))
        .current_dir(&home)
        .output()
        .map_err(failed)?;
    let tree = if result.status.success() {
        Ok(read(&home.join("tree.tar")).map_err(failed)?)
    } else {
        Err(String::from_utf8_lossy(&result.stderr).into_owned())
    };
    std::fs::remove_dir_all(&home).map_err(failed)?;
    Ok(tree)
}

/// Nothing can be said without packages; on CI that is a failure.
fn no_mirror(mode: &str, said: &str) -> Result<(), String> {
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| NO_MIRROR.iter().any(|text| line.contains(text)))
        .take(3)
        .collect();
    let text = format!(
        "SKIPPED: NO MIRROR OF DEBIAN PACKAGES CAN BE REACHED ({mode}); nothing more was compared:\n{}",
        lines.join("\n")
    );
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        return Err(text);
    }
    println!("{text}");
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Tree> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut tree = Tree::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let header = entry.header();
        let mut text = format!(
            "{:?} {:o} {}:{}",
            header.entry_type(),
            header.mode()?,
            header.uid()?,
            header.gid()?
        );
        if let Some(target) = entry.link_name()? {
            text.push_str(&format!(" -> {}", target.display()));
        }
        if let Some(records) = entry.pax_extensions()? {
            for record in records.flatten() {
                let key = record.key().unwrap_or_default();
                if key.starts_with("SCHILY.xattr.") {
                    text.push_str(&format!(" {key}={:?}", record.value_bytes()));
                }
            }
        }
        if !VARYING.iter().any(|prefix| path.starts_with(prefix)) {
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 1 << 16];
            loop {
                let length = entry.read(&mut buffer)?;
                if length == 0 {
                    break;
                }
                hasher.update(&buffer[..length]);
            }
            let digest: Vec<String> = hasher
                .finalize()
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            text.push_str(&format!(" {}", digest.concat()));
        }
        tree.insert(path, text);
    }
    Ok(tree)
}

fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    let all: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differ = |path: &&&String| expected.get(**path) != found.get(**path);
    let say = |path: &&String| {
        let of = |tree: &Tree| {
            tree.get(*path)
                .cloned()
                .unwrap_or_else(|| "missing".to_owned())
        };
        format!("  {path}: {} instead of {}", of(found), of(expected))
    };
    all.iter().filter(differ).map(say).collect()
}
