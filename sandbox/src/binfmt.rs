//! Programs of other architectures: a binfmt_misc of the build's own user namespace that hands them to an emulator.
//!
//! Linux 6.7 and newer mount binfmt_misc inside a user namespace; what is registered there counts for processes of that
//! namespace and of those below it, and for nobody else. The kernel opens the emulator when it is registered (flag F), so
//! that no root file system needs to hold it. Which emulator is to be trusted is the caller's decision.

use crate::fail::{Failure, Stage};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Where `e_machine` lies in an ELF header, in bytes.
const MACHINE_AT: usize = 18;
/// Which of the bytes before `e_machine` decide: all but the ABI that the program names (7) and whether it is position
/// independent (`ET_EXEC` or `ET_DYN`, which differ in one bit).
const OS_ABI_AT: usize = 7;

/// How programs of an architecture begin, and what QEMU calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    /// As image platforms name it.
    pub architecture: &'static str,
    /// QEMU's name: its emulator of user programs is `qemu-NAME`.
    pub qemu: &'static str,
    wide: bool,
    big_endian: bool,
    /// `e_machine`.
    number: u16,
}

const fn machine(
    architecture: &'static str,
    qemu: &'static str,
    wide: bool,
    big_endian: bool,
    number: u16,
) -> Machine {
    Machine {
        architecture,
        qemu,
        wide,
        big_endian,
        number,
    }
}

/// The architectures that images come for. Of two with equal headers (32-bit and n32 mips) the former.
const MACHINES: [Machine; 13] = [
    machine("386", "i386", false, false, 3),
    machine("amd64", "x86_64", true, false, 62),
    machine("arm", "arm", false, false, 40),
    machine("arm64", "aarch64", true, false, 183),
    machine("loong64", "loongarch64", true, false, 258),
    machine("mips", "mips", false, true, 8),
    machine("mipsle", "mipsel", false, false, 8),
    machine("mips64", "mips64", true, true, 8),
    machine("mips64le", "mips64el", true, false, 8),
    machine("ppc64", "ppc64", true, true, 21),
    machine("ppc64le", "ppc64le", true, false, 21),
    machine("riscv64", "riscv64", true, false, 243),
    machine("s390x", "s390x", true, true, 22),
];

impl Machine {
    /// The one of an architecture.
    #[must_use]
    pub fn of(architecture: &str) -> Option<Self> {
        MACHINES
            .into_iter()
            .find(|machine| machine.architecture == architecture)
    }

    /// The one that a program is for, by its first bytes; `None` for what is no ELF file, or for an unknown machine.
    #[must_use]
    pub fn of_program(start: &[u8]) -> Option<Self> {
        MACHINES.into_iter().find(|machine| machine.made(start))
    }

    /// Whether a program that begins so is for this machine.
    fn made(self, start: &[u8]) -> bool {
        let (magic, mask) = self.magic();
        start.len() >= magic.len()
            && (magic.iter().zip(mask).zip(start))
                .all(|((magic, mask), byte)| byte & mask == *magic)
    }

    /// What a program's first bytes are, and which of their bits decide.
    fn magic(self) -> ([u8; MACHINE_AT + 2], [u8; MACHINE_AT + 2]) {
        let mut magic = [0; MACHINE_AT + 2];
        magic[..4].copy_from_slice(b"\x7fELF");
        magic[4] = 1 + u8::from(self.wide);
        magic[5] = 1 + u8::from(self.big_endian);
        magic[6] = 1;
        let half = |number: u16| {
            if self.big_endian {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            }
        };
        magic[MACHINE_AT - 2..MACHINE_AT].copy_from_slice(&half(2));
        magic[MACHINE_AT..].copy_from_slice(&half(self.number));
        let mut mask = [0xff; MACHINE_AT + 2];
        mask[OS_ABI_AT] = 0;
        mask[MACHINE_AT - 2..MACHINE_AT].copy_from_slice(&half(0xfffe));
        (magic, mask)
    }
}

/// Whether programs of an architecture run on this machine without an emulator. 386 does on amd64; arm on arm64 where the
/// processor still has the 32-bit instructions, which the kernel is asked.
#[must_use]
pub fn runs_natively(architecture: &str) -> bool {
    match (std::env::consts::ARCH, architecture) {
        ("x86_64", "amd64" | "386")
        | ("x86", "386")
        | ("aarch64", "arm64")
        | ("arm", "arm")
        | ("loongarch64", "loong64")
        | ("riscv64", "riscv64")
        | ("s390x", "s390x") => true,
        ("aarch64", "arm") => crate::sys::has_32_bit_programs(),
        ("powerpc64", other) if cfg!(target_endian = "little") => other == "ppc64le",
        ("powerpc64", other) => other == "ppc64",
        _ => false,
    }
}

/// A program that runs those of another architecture.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Emulator {
    /// As image platforms name it.
    pub architecture: String,
    /// A statically linked program.
    pub interpreter: PathBuf,
    /// It understands that its arguments hold the name by which the program was called (QEMU 6.0 and newer).
    pub keeps_name: bool,
}

impl Emulator {
    /// The line that registers it with binfmt_misc; `None` for an unknown architecture.
    ///
    /// F: opened now. C, with which comes O: set-uid programs of the image have their rights, and files that may be run and
    /// not read are run. That gives nothing that the same program would not have on its own machine, and nothing at all
    /// outside of the user namespace. P: the program sees the name by which it was called.
    #[must_use]
    pub fn registration(&self) -> Option<Vec<u8>> {
        let machine = Machine::of(&self.architecture)?;
        let (magic, mask) = machine.magic();
        let interpreter = self.interpreter.as_os_str().as_bytes();
        let between = *b":|;,".iter().find(|byte| !interpreter.contains(byte))?;
        let escaped = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "\\x{byte:02x}");
                text
            })
        };
        let name = format!("qemu-{}", machine.qemu);
        let (magic, mask) = (escaped(&magic), escaped(&mask));
        let flags = if self.keeps_name { "FCP" } else { "FC" };
        let fields = [
            b"",
            name.as_bytes(),
            b"M",
            b"",
            magic.as_bytes(),
            mask.as_bytes(),
            interpreter,
            flags.as_bytes(),
        ];
        Some(fields.join(&between))
    }
}

/// Mounts binfmt_misc for this process's user namespace and registers the emulators there. They are gone with the mount.
pub(crate) fn register(emulators: &[Emulator]) -> Result<OwnedFd, Failure> {
    let mount = mount().stage("mount binfmt_misc in the user namespace")?;
    for emulator in emulators {
        let stage = || format!("register {}", emulator.interpreter.display());
        let line = emulator
            .registration()
            .ok_or(Errno::INVAL)
            .stage_with(stage)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let register =
            rustix::fs::openat(&mount, "register", flags, Mode::empty()).stage_with(stage)?;
        match rustix::io::write(&register, &line) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::new(stage(), errno)),
        }
    }
    Ok(mount)
}

fn mount() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_those_that_qemu_documents() {
        let line = |architecture: &str, interpreter: &str, keeps_name| {
            let emulator = Emulator {
                architecture: architecture.to_owned(),
                interpreter: interpreter.into(),
                keeps_name,
            };
            emulator
                .registration()
                .map(|line| String::from_utf8(line).unwrap())
        };
        assert_eq!(
            line("arm64", "/usr/bin/qemu-aarch64-static", true).unwrap(),
            ":qemu-aarch64:M::\
             \\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /usr/bin/qemu-aarch64-static:FCP"
        );
        assert_eq!(
            line("s390x", "/opt/a:b/qemu", false).unwrap(),
            "|qemu-s390x|M||\
             \\x7f\\x45\\x4c\\x46\\x02\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x16|\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff|\
             /opt/a:b/qemu|FC"
        );
        assert_eq!(line("wasm", "/x", true), None);
    }

    #[test]
    fn programs_say_what_they_are_for() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let machine = Machine::of_program(&own).unwrap();
        assert!(runs_natively(machine.architecture), "{machine:?}");
        for machine in MACHINES {
            let (mut start, _) = machine.magic();
            assert_eq!(Machine::of_program(&start), Some(machine));
            // Position independent, of another ABI.
            start[if machine.big_endian { 17 } else { 16 }] = 3;
            start[OS_ABI_AT] = 3;
            assert_eq!(Machine::of_program(&start), Some(machine));
        }
        for other in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01"] {
            assert_eq!(Machine::of_program(other), None);
        }
    }
}
