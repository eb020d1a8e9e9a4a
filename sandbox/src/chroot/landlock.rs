//! Landlock: a fence around a folder that whatever a process does, and all it starts, cannot leave.
//!
//! Attributes of files (mode, owner, times) are not covered by it, in any version; what keeps those safe is that no path
//! leads out of a changed root which cannot be changed again.

#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;

const MAKE_CHARACTER_DEVICE: u64 = 1 << 6;
const MAKE_BLOCK_DEVICE: u64 = 1 << 11;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const CONTROL_DEVICE: u64 = 1 << 15;
/// What the first version knows: from executing to making links.
const FIRST: u64 = (1 << 13) - 1;
const SCOPE_ABSTRACT_SOCKETS: u64 = 1;
const SCOPE_SIGNALS: u64 = 1 << 1;
/// The first version that keeps signals and abstract sockets inside (Linux 6.12).
const SCOPES: u32 = 6;

const QUERY_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// `struct landlock_ruleset_attr` of version 6.
#[repr(C)]
struct RulesetAttr {
    fs: u64,
    net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed: u64,
    parent: i32,
}

/// The version of this kernel, 0 where there is none or it is off.
pub(crate) fn version() -> u32 {
    let none = std::ptr::null::<RulesetAttr>();
    // SAFETY: with this flag the kernel reads no attributes and answers with a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, QUERY_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Whether signals and abstract sockets stay inside a fence of that version.
pub(crate) fn scopes_signals(version: u32) -> bool {
    version >= SCOPES
}

/// What a version can forbid among file operations.
fn handled(version: u32) -> u64 {
    let mut handled = FIRST;
    for (first, right) in [(2, REFER), (3, TRUNCATE), (5, CONTROL_DEVICE)] {
        if version >= first {
            handled |= right;
        }
    }
    handled
}

/// Forbids this process and all it starts, for good, everything on files that are not beneath a root (but to reach
/// them and to change their attributes), devices to be made anywhere, devices to be controlled outside of `devices`,
/// and, where the kernel can, signals and abstract sockets to processes outside. Needs `no_new_privs`. Nothing is done
/// in version 0.
pub(crate) fn restrict(
    version: u32,
    root: BorrowedFd<'_>,
    devices: BorrowedFd<'_>,
) -> Result<(), Errno> {
    if version == 0 {
        return Ok(());
    }
    let handled = handled(version);
    let ruleset = create(version, handled)?;
    let everything = handled & !(MAKE_CHARACTER_DEVICE | MAKE_BLOCK_DEVICE | CONTROL_DEVICE);
    allow(&ruleset, root, everything)?;
    if handled & CONTROL_DEVICE != 0 {
        allow(&ruleset, devices, CONTROL_DEVICE)?;
    }
    // SAFETY: the ruleset is open, and flags are none.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
        .map(drop)
}

fn create(version: u32, fs: u64) -> Result<OwnedFd, Errno> {
    let scoped = if scopes_signals(version) {
        SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS
    } else {
        0
    };
    let attr = RulesetAttr { fs, net: 0, scoped };
    // A kernel takes a longer structure than its own when what it does not know is zero.
    // SAFETY: the attributes are initialised and as long as said.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0,
        )
    })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: a new descriptor that nothing else owns; it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn allow(ruleset: &OwnedFd, parent: BorrowedFd<'_>, allowed: u64) -> Result<(), Errno> {
    let attr = PathBeneathAttr {
        allowed,
        parent: parent.as_raw_fd(),
    };
    // SAFETY: the rule is initialised and of the type that is named; both descriptors are open.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_fd().as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const attr,
            0,
        )
    })
    .map(drop)
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_adds_its_rights() {
        let added: Vec<u64> = (1..=8)
            .map(|version| handled(version) & !handled(version - 1))
            .collect();
        assert_eq!(
            added,
            [0, REFER, TRUNCATE, 0, CONTROL_DEVICE, 0, 0, 0],
            "from the second on"
        );
        assert_eq!(handled(1), 0x1fff);
        assert!(!scopes_signals(5) && scopes_signals(6) && scopes_signals(9));
    }
}
