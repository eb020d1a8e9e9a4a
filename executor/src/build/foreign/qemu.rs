//! QEMU's emulators of user programs, looked for in PATH. Only what is safe to hand to the kernel is taken: statically
//! linked, since no image has its libraries, and where nobody but its owner can put another in its place.

use planner::platform::Platform;
use sandbox::{Emulator, Machine};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where programs are looked for when the request does not say.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first QEMU that understands that the name of a program stands beside it.
const KEEPS_NAMES: u32 = 6;
/// Bytes of a program that are looked at; headers lie at its start.
const START: u64 = 4096;
/// `PT_INTERP`: the program header that names a loader.
const INTERPRETER: u32 = 3;

/// The emulator of a platform, or what is missing.
pub(super) fn find(platform: &Platform, search_path: &str) -> Result<Emulator, String> {
    let machine = Machine::of(&platform.architecture).filter(|_| platform.os == "linux");
    let machine = machine.ok_or("there is no emulator for them")?;
    let search_path = if search_path.is_empty() {
        SEARCH_PATH
    } else {
        search_path
    };
    let names = ["-static", ""].map(|end| format!("qemu-{}{end}", machine.qemu));
    let mut refused = None;
    for folder in search_path
        .split(':')
        .filter(|folder| folder.starts_with('/'))
    {
        for name in &names {
            let Ok(path) = Path::new(folder).join(name).canonicalize() else {
                continue;
            };
            match check(&path) {
                Ok(()) => {
                    return Ok(Emulator {
                        architecture: platform.architecture.clone(),
                        keeps_name: version(&path).is_some_and(|major| major >= KEEPS_NAMES),
                        interpreter: path,
                    });
                }
                Err(reason) => {
                    refused.get_or_insert(format!("{} {reason}", path.display()));
                }
            }
        }
    }
    let [name, _] = names;
    Err(match refused {
        Some(reason) => {
            format!("{reason}: install a static QEMU (Debian: package qemu-user-static)")
        }
        None => format!(
            "binfmt_misc has no handler for them, and QEMU is not installed: there is no {name} in PATH (Debian: package qemu-user-static)"
        ),
    })
}

fn check(path: &Path) -> Result<(), &'static str> {
    let mode = |path: &Path| {
        path.metadata()
            .map_or(0, |found| found.permissions().mode())
    };
    if !path.is_file() || mode(path) & 0o111 == 0 {
        return Err("is no program");
    }
    if path.ancestors().any(|place| mode(place) & 0o002 != 0) {
        return Err("is not used, since anybody may write there");
    }
    let mut start = Vec::new();
    let opened =
        std::fs::File::open(path).and_then(|file| file.take(START).read_to_end(&mut start));
    if opened.is_err() {
        return Err("cannot be read");
    }
    match Machine::of_program(&start) {
        Some(machine) if sandbox::runs_natively(machine.architecture) => {}
        _ => return Err("is no program of this machine"),
    }
    match is_static(&start) {
        Some(true) => Ok(()),
        _ => Err("is not statically linked, and images do not have its libraries"),
    }
}

/// Whether a program of this machine names no loader; `None` for headers that lie elsewhere or nowhere.
fn is_static(start: &[u8]) -> Option<bool> {
    let half = |at: usize| Some(u16::from_ne_bytes(*start.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_ne_bytes(*start.get(at..)?.first_chunk()?));
    let wide = *start.get(4)? == 2;
    let (first, size, count) = if wide {
        let first = u64::from_ne_bytes(*start.get(32..)?.first_chunk()?);
        (usize::try_from(first).ok()?, half(54)?, half(56)?)
    } else {
        (usize::try_from(word(28)?).ok()?, half(42)?, half(44)?)
    };
    for index in 0..usize::from(count) {
        let at = index.checked_mul(size.into())?.checked_add(first)?;
        if word(at)? == INTERPRETER {
            return Some(false);
        }
    }
    Some(true)
}

/// The major version that a QEMU tells of itself.
fn version(path: &PathBuf) -> Option<u32> {
    let mut command = Command::new(path);
    command
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    sandbox::end_with_caller(&mut command);
    let output = command.output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

fn major(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once(" version ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::Scratch;

    #[test]
    fn versions() {
        for (text, expected) in [
            (
                "qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n",
                Some(7),
            ),
            ("qemu-arm version 10.0.2", Some(10)),
            ("qemu-arm", None),
            ("x version y", None),
        ] {
            assert_eq!(major(text), expected, "{text}");
        }
    }

    #[test]
    fn mp13_what_is_no_emulator() {
        let other = if cfg!(target_arch = "aarch64") {
            "amd64"
        } else {
            "arm64"
        };
        let platform: Platform = format!("linux/{other}").parse().unwrap();
        let name = format!("qemu-{}", Machine::of(other).unwrap().qemu);
        let scratch = Scratch::new();
        let told = |path: &str| find(&platform, path).unwrap_err();
        let folder = scratch.path().display().to_string();
        assert!(
            told(&folder).contains("QEMU is not installed"),
            "{}",
            told(&folder)
        );
        scratch.write(&name, "#!/bin/sh\n").unwrap();
        assert!(told(&folder).contains("is no program"), "{}", told(&folder));
        assert!(told("relative:").contains("not installed"));
        let windows: Platform = "windows/amd64".parse().unwrap();
        assert!(find(&windows, "/usr/bin").is_err());
        assert!(find(&"linux/wasm".parse().unwrap(), "/usr/bin").is_err());
        // A program that names its loader, and one that does not.
        assert_eq!(is_static(b"\x7fELF"), None);
        let mut program = vec![0_u8; 200];
        program[4] = 2;
        program[32] = 64;
        program[54] = 56;
        program[56] = 2;
        assert_eq!(is_static(&program), Some(true));
        program[64 + 56..64 + 60].copy_from_slice(&INTERPRETER.to_ne_bytes());
        assert_eq!(is_static(&program), Some(false));
    }
}
