//! Programs of another architecture, run by an emulator that only the build knows.

use crate::Case;
use crate::world::{World, chain, run_in};
use sandbox::{Emulator, Exit, IdMapping, Machine, Options, RunSpec, Sandbox, runs_natively};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const CASES: &[Case] = &[
    ("emulators_run_programs_of_the_build", run_programs),
    ("emulators_keep_set_uid_bits", keep_set_uid_bits),
    ("emulators_are_unknown_elsewhere", are_unknown_elsewhere),
    ("emulators_that_cannot_be_opened", cannot_be_opened),
    ("emulated_commands_are_filtered", are_filtered),
];

/// For aarch64: ends with the effective user id as its exit code.
const GETEUID: [u32; 4] = [0xd280_15e8, 0xd400_0001, 0xd280_0ba8, 0xd400_0001];

/// A static program of these instructions.
fn program(code: &[u32]) -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + 4 * code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let halves = |numbers: &[u16], bytes: &mut Vec<u8>| {
        for number in numbers {
            bytes.extend(number.to_le_bytes());
        }
    };
    halves(&[2, 183, 1, 0], &mut bytes);
    for number in [AT + HEADERS, 64, 0] {
        bytes.extend(number.to_le_bytes());
    }
    halves(&[0, 0, 64, 56, 1, 0, 0, 0], &mut bytes);
    // PT_LOAD, readable and executable.
    halves(&[1, 0, 5, 0], &mut bytes);
    for number in [0, AT, AT, size, size, 0x1000] {
        bytes.extend(number.to_le_bytes());
    }
    for instruction in code {
        bytes.extend(instruction.to_le_bytes());
    }
    bytes
}

/// QEMU for arm64; what is missing to test with it otherwise.
fn emulator() -> Result<Emulator, &'static str> {
    if runs_natively("arm64") {
        return Err("this machine runs arm64 programs by itself");
    }
    let interpreter = PathBuf::from("/usr/bin/qemu-aarch64-static");
    if !interpreter.exists() {
        return Err("QEMU is not installed (package qemu-user-static)");
    }
    Ok(Emulator {
        architecture: "arm64".to_owned(),
        interpreter,
        keeps_name: true,
    })
}

/// A sandbox of its own with the emulator; `None` where that cannot be, which is said, and on CI a failure.
fn emulating(world: &World) -> Option<Sandbox> {
    let sandbox = start(world);
    let reason = match emulator() {
        Ok(emulator) => match sandbox.emulate(&[emulator]) {
            Ok(()) => return Some(sandbox),
            Err(error) => chain(&error),
        },
        Err(reason) => reason.to_owned(),
    };
    let counts = crate::skip("programs of other architectures", &reason);
    assert_eq!(counts.failed, 0);
    None
}

fn start(world: &World) -> Sandbox {
    Sandbox::start(&Options {
        stores: vec![world.store()],
        ..Options::default()
    })
    .unwrap()
}

/// A root with arm64 programs.
fn foreign(world: &World, args: &[&str]) -> RunSpec {
    let layer = world.layer(&["foreign/"]);
    let folder = layer.join("foreign");
    unpack_busybox(&folder);
    for applet in ["sh", "cat", "uname", "id", "chown", "mkdir"] {
        symlink("busybox", folder.join(applet)).unwrap();
    }
    for (name, mode) in [("plain", 0o755), ("set-uid", 0o4755)] {
        std::fs::write(folder.join(name), program(&GETEUID)).unwrap();
        std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut spec = world.spec(args);
    spec.root = world.root(&[layer]);
    spec.env = vec![("PATH".to_owned(), "/foreign".to_owned())];
    spec
}

/// The busybox of arm64 out of the base that ships.
fn unpack_busybox(folder: &Path) {
    let blobs =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/images/busybox/blobs/sha256");
    let arm64 = std::fs::read_dir(blobs).unwrap().flatten().find(|blob| {
        let unpacked = Command::new("tar")
            .args(["-xzf", blob.path().to_str().unwrap(), "-C"])
            .arg(folder)
            .args(["--strip-components=1", "bin/["])
            .output()
            .unwrap();
        unpacked.status.success()
            && std::fs::read(folder.join("["))
                .is_ok_and(|start| Machine::of_program(&start) == Machine::of("arm64"))
    });
    assert!(arm64.is_some(), "no busybox for arm64");
    std::fs::rename(folder.join("["), folder.join("busybox")).unwrap();
}

fn run_programs(world: &World) {
    let refused = world.run(&foreign(world, &["uname", "-m"]));
    if emulator().is_ok() {
        assert_eq!(refused.exit, Exit::Code(126));
        assert!(refused.stderr.contains("exec format error"), "{refused:?}");
    }
    let Some(sandbox) = emulating(world) else {
        return;
    };
    let run = |args: &[&str]| run_in(&sandbox, &foreign(world, args)).unwrap();
    assert_eq!(run(&["uname", "-m"]).ok(), "aarch64\n");
    assert_eq!(run(&["/foreign/plain"]).exit, Exit::Code(0));
    // Shells, scripts, and what they start; the name by which a program was called stays.
    let script = "mkdir /made && printf '#!/foreign/sh\\nuname -m; cat /proc/self/cmdline' > /made/x \
                  && busybox chmod 755 /made/x && /made/x && exit 9";
    let outcome = run(&["sh", "-c", script]);
    assert_eq!(outcome.exit, Exit::Code(9), "{outcome:?}");
    assert_eq!(outcome.stdout, "aarch64\ncat\0/proc/self/cmdline\0");
    // Programs of this machine still run, in the same root too.
    assert_eq!(run(&["/bin/echo", "native"]).ok(), "native\n");
    let killed = run(&["sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.exit, Exit::Signal(9), "{killed:?}");
}

fn keep_set_uid_bits(world: &World) {
    let Some(sandbox) = emulating(world) else {
        return;
    };
    if world.is(IdMapping::Single) {
        return;
    }
    for (name, effective) in [("/foreign/plain", 7), ("/foreign/set-uid", 0)] {
        let mut spec = foreign(world, &[name]);
        (spec.uid, spec.gid) = (7, 7);
        let outcome = run_in(&sandbox, &spec).unwrap();
        // Unpacked here, the file belongs to whoever runs the test, who is the namespace's root.
        assert_eq!(outcome.exit, Exit::Code(effective), "{name} {outcome:?}");
    }
}

fn are_unknown_elsewhere(world: &World) {
    let listed = || {
        let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc");
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        names
    };
    let before = listed();
    if before
        .iter()
        .any(|name| name.to_string_lossy().contains("aarch64"))
    {
        return;
    }
    let Some(sandbox) = emulating(world) else {
        return;
    };
    let spec = foreign(world, &["/foreign/plain"]);
    assert_eq!(run_in(&sandbox, &spec).unwrap().exit, Exit::Code(0));
    let program = spec.root.lowers[0].join("foreign/plain");
    let refused = Command::new(&program).status().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOEXEC));
    assert_eq!(
        world.run(&foreign(world, &["/foreign/plain"])).exit,
        Exit::Code(126)
    );
    assert_eq!(listed(), before);
    // With the build everything is gone.
    drop(sandbox);
    let refused = run_in(&start(world), &foreign(world, &["/foreign/plain"]));
    assert_eq!(refused.unwrap().exit, Exit::Code(126));
}

fn cannot_be_opened(world: &World) {
    if emulating(world).is_none() {
        return;
    }
    let missing = Emulator {
        architecture: "riscv64".to_owned(),
        interpreter: "/nowhere/qemu-riscv64".into(),
        keeps_name: false,
    };
    let error = start(world).emulate(&[missing]).unwrap_err();
    let text = chain(&error);
    assert!(text.contains("register /nowhere/qemu-riscv64"), "{text}");
    assert!(text.contains("No such file"), "{text}");
}

/// What a command may not do it cannot have done by its emulator.
fn are_filtered(world: &World) {
    let Some(sandbox) = emulating(world) else {
        return;
    };
    let script = "busybox mount -t tmpfs x /made 2>&1; busybox unshare -U true 2>&1; busybox mount -t binfmt_misc x /tmp 2>&1; \
                  busybox ls /proc/sys/fs/binfmt_misc 2>&1; exit 0";
    let outcome = run_in(&sandbox, &foreign(world, &["sh", "-c", script])).unwrap();
    let text = outcome.ok();
    assert!(text.contains("unshare"), "{text}");
    for line in text.lines() {
        let refused = ["not permitted", "denied", "No such file"];
        assert!(refused.iter().any(|reason| line.contains(reason)), "{text}");
    }
}
