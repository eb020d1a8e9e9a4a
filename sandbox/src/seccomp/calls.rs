//! Names and numbers of Linux's system calls, for the architectures that commands may have.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Name, then numbers; what the columns are is said in the file.
const TABLE: &str = include_str!("calls.txt");
/// Bit that an x32 program's calls carry beside their numbers.
pub(super) const X32_BIT: u32 = 0x4000_0000;
/// From here on ARM has calls of its own, apart from all others.
pub(super) const PRIVATE: u32 = 0x000f_0000;

/// An architecture as seccomp profiles name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    /// This machine's own, and those of 32-bit programs on it.
    pub(super) const NATIVE: [Self; 2] = if cfg!(target_arch = "x86_64") {
        [Self::X86_64, Self::X86]
    } else {
        [Self::Aarch64, Self::Arm]
    };

    /// By its name in a profile; `None` for those that are of no use here.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "SCMP_ARCH_X86_64" => Some(Self::X86_64),
            "SCMP_ARCH_X86" => Some(Self::X86),
            "SCMP_ARCH_X32" => Some(Self::X32),
            "SCMP_ARCH_AARCH64" => Some(Self::Aarch64),
            "SCMP_ARCH_ARM" => Some(Self::Arm),
            _ => None,
        }
    }

    /// Its name in a profile.
    pub(super) fn profile_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// `AUDIT_ARCH_*`; x32 shares that of its 64-bit machine.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits.
    pub(super) fn is_wide(self) -> bool {
        !matches!(self, Self::X86 | Self::Arm)
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::Aarch64 => 2,
            Self::Arm => 3,
            Self::X32 => 4,
        }
    }
}

static CALLS: LazyLock<BTreeMap<&'static str, [Option<u32>; 5]>> =
    LazyLock::new(|| TABLE.lines().filter_map(line).collect());

fn line(line: &'static str) -> Option<(&'static str, [Option<u32>; 5])> {
    if line.starts_with('#') {
        return None;
    }
    let mut words = line.split(' ');
    let name = words.next()?;
    let numbers: Vec<Option<u32>> = words.map(|word| word.parse().ok()).collect();
    Some((
        name,
        match numbers[..] {
            [all] => [all; 5],
            [x86_64, x86, aarch64, arm] => [x86_64, x86, aarch64, arm, x86_64],
            [x86_64, x86, aarch64, arm, x32] => [x86_64, x86, aarch64, arm, x32],
            _ => panic!("BUG: a line of the table has {} numbers", numbers.len()),
        },
    ))
}

/// Number of a call, with the bit of x32. `None` where the architecture lacks it or the name is not known.
pub(super) fn number(name: &str, arch: Arch) -> Option<u32> {
    let number = CALLS.get(name)?[arch.column()]?;
    Some(if arch == Arch::X32 {
        number | X32_BIT
    } else {
        number
    })
}

/// Whether any architecture here has a call of this name.
#[cfg(test)]
pub(super) fn is_known(name: &str) -> bool {
    CALLS.contains_key(name)
}

/// All numbers of an architecture, without the bit of x32, in no order.
pub(super) fn numbers(arch: Arch) -> impl Iterator<Item = u32> {
    CALLS
        .values()
        .filter_map(move |numbers| numbers[arch.column()])
}
