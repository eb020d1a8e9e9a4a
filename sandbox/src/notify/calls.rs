//! The calls that have to do with owners and identities, by machine and number.

use super::{ARCH_AARCH64, ARCH_ARM, ARCH_I386, ARCH_X86_64, Notification};
use crate::seccomp::{Watch, When};

/// What is asked for, wherever its arguments lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// One of the ids of the caller.
    GetId(Which),
    /// All three of a user or group.
    GetIds(Side),
    GetGroups,
    /// setuid, setgid: one id.
    Set(Side),
    /// setreuid, setregid.
    SetTwo(Side),
    /// setresuid, setresgid.
    SetThree(Side),
    SetFs(Side),
    SetGroups,
    Chown(At),
    Stat(At, Form),
    Open(At),
    /// creat.
    Create,
    /// openat2.
    OpenHow,
    MakeFolder(At),
    MakeNode(At),
    Symlink(At),
    Execute(At),
    /// chroot, and what gives a process other mounts.
    ChangeRoot,
    /// prctl(PR_SET_TIMERSLACK), where the identity of a thread is kept.
    SetTimerSlack,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    User,
    Group,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    Uid,
    EffectiveUid,
    Gid,
    EffectiveGid,
}

/// How a call names its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// A path.
    Path,
    /// A path of which the last link is not followed.
    Link,
    /// A descriptor.
    Descriptor,
    /// A folder's descriptor and a path.
    Folder,
}

/// The structure that a call of the stat family fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Native,
    /// `struct stat` of 32-bit programs, with ids of 16 bits.
    Compat,
    /// `struct stat64` of 32-bit programs.
    Compat64,
    Statx,
}

/// A call and the width of its ids: 32-bit programs have old calls with ids of 16 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) call: Call,
    pub(super) short: bool,
}

type Row = (u32, Call, When);

const ALWAYS: When = When::Always;
/// O_CREAT, and the bit that makes O_TMPFILE of O_DIRECTORY.
const CREATING: u32 = 0o100 | 0o20_000_000;
const PR_SET_TIMERSLACK: u32 = 29;
const SLACK: When = When::Masked {
    argument: 0,
    mask: u32::MAX,
    values: &[PR_SET_TIMERSLACK],
};

/// CLONE_NEWNS.
const MOUNTS: When = When::Bits {
    argument: 0,
    bits: 0x2_0000,
};

const fn creating(argument: u8) -> When {
    When::Bits {
        argument,
        bits: CREATING,
    }
}

/// The watched calls of a machine whose native programs these are.
pub(super) fn watch() -> Watch {
    let rows = |rows: &[Row]| {
        rows.iter()
            .map(|(number, _, when)| (*number, *when))
            .collect()
    };
    Watch {
        native: rows(native()),
        compat: [
            SHORT,
            LONG,
            if cfg!(target_arch = "x86_64") {
                I386
            } else {
                ARM
            },
        ]
        .into_iter()
        .flat_map(|part| part.iter().map(|(number, _, when)| (*number, *when)))
        .collect(),
    }
}

/// The call of a notification.
pub(super) fn known(notification: &Notification) -> Option<Known> {
    let find = |rows: &[Row], short| {
        rows.iter()
            .find(|(number, _, _)| *number == notification.number)
            .map(|(_, call, _)| Known { call: *call, short })
    };
    match notification.arch {
        ARCH_X86_64 => find(X86_64, false),
        ARCH_AARCH64 => find(AARCH64, false),
        ARCH_I386 => find(SHORT, true)
            .or_else(|| find(LONG, false))
            .or_else(|| find(I386, false)),
        ARCH_ARM => find(SHORT, true)
            .or_else(|| find(LONG, false))
            .or_else(|| find(ARM, false)),
        _ => None,
    }
}

fn native() -> &'static [Row] {
    if cfg!(target_arch = "x86_64") {
        X86_64
    } else {
        AARCH64
    }
}

const X86_64: &[Row] = &[
    (2, Call::Open(At::Path), creating(1)),
    (4, Call::Stat(At::Path, Form::Native), ALWAYS),
    (5, Call::Stat(At::Descriptor, Form::Native), ALWAYS),
    (6, Call::Stat(At::Link, Form::Native), ALWAYS),
    (56, Call::ChangeRoot, MOUNTS),
    (59, Call::Execute(At::Path), ALWAYS),
    (83, Call::MakeFolder(At::Path), ALWAYS),
    (85, Call::Create, ALWAYS),
    (88, Call::Symlink(At::Path), ALWAYS),
    (92, Call::Chown(At::Path), ALWAYS),
    (93, Call::Chown(At::Descriptor), ALWAYS),
    (94, Call::Chown(At::Link), ALWAYS),
    (102, Call::GetId(Which::Uid), ALWAYS),
    (104, Call::GetId(Which::Gid), ALWAYS),
    (105, Call::Set(Side::User), ALWAYS),
    (106, Call::Set(Side::Group), ALWAYS),
    (107, Call::GetId(Which::EffectiveUid), ALWAYS),
    (108, Call::GetId(Which::EffectiveGid), ALWAYS),
    (113, Call::SetTwo(Side::User), ALWAYS),
    (114, Call::SetTwo(Side::Group), ALWAYS),
    (115, Call::GetGroups, ALWAYS),
    (116, Call::SetGroups, ALWAYS),
    (117, Call::SetThree(Side::User), ALWAYS),
    (118, Call::GetIds(Side::User), ALWAYS),
    (119, Call::SetThree(Side::Group), ALWAYS),
    (120, Call::GetIds(Side::Group), ALWAYS),
    (122, Call::SetFs(Side::User), ALWAYS),
    (123, Call::SetFs(Side::Group), ALWAYS),
    (133, Call::MakeNode(At::Path), ALWAYS),
    (155, Call::ChangeRoot, ALWAYS),
    (157, Call::SetTimerSlack, SLACK),
    (161, Call::ChangeRoot, ALWAYS),
    (257, Call::Open(At::Folder), creating(2)),
    (258, Call::MakeFolder(At::Folder), ALWAYS),
    (259, Call::MakeNode(At::Folder), ALWAYS),
    (260, Call::Chown(At::Folder), ALWAYS),
    (262, Call::Stat(At::Folder, Form::Native), ALWAYS),
    (266, Call::Symlink(At::Folder), ALWAYS),
    (272, Call::ChangeRoot, MOUNTS),
    (308, Call::ChangeRoot, ALWAYS),
    (322, Call::Execute(At::Folder), ALWAYS),
    (332, Call::Stat(At::Folder, Form::Statx), ALWAYS),
    (435, Call::ChangeRoot, ALWAYS),
    (437, Call::OpenHow, ALWAYS),
];

const AARCH64: &[Row] = &[
    (33, Call::MakeNode(At::Folder), ALWAYS),
    (34, Call::MakeFolder(At::Folder), ALWAYS),
    (36, Call::Symlink(At::Folder), ALWAYS),
    (41, Call::ChangeRoot, ALWAYS),
    (51, Call::ChangeRoot, ALWAYS),
    (54, Call::Chown(At::Folder), ALWAYS),
    (55, Call::Chown(At::Descriptor), ALWAYS),
    (56, Call::Open(At::Folder), creating(2)),
    (79, Call::Stat(At::Folder, Form::Native), ALWAYS),
    (80, Call::Stat(At::Descriptor, Form::Native), ALWAYS),
    (97, Call::ChangeRoot, MOUNTS),
    (143, Call::SetTwo(Side::Group), ALWAYS),
    (144, Call::Set(Side::Group), ALWAYS),
    (145, Call::SetTwo(Side::User), ALWAYS),
    (146, Call::Set(Side::User), ALWAYS),
    (147, Call::SetThree(Side::User), ALWAYS),
    (148, Call::GetIds(Side::User), ALWAYS),
    (149, Call::SetThree(Side::Group), ALWAYS),
    (150, Call::GetIds(Side::Group), ALWAYS),
    (151, Call::SetFs(Side::User), ALWAYS),
    (152, Call::SetFs(Side::Group), ALWAYS),
    (158, Call::GetGroups, ALWAYS),
    (159, Call::SetGroups, ALWAYS),
    (167, Call::SetTimerSlack, SLACK),
    (174, Call::GetId(Which::Uid), ALWAYS),
    (175, Call::GetId(Which::EffectiveUid), ALWAYS),
    (176, Call::GetId(Which::Gid), ALWAYS),
    (177, Call::GetId(Which::EffectiveGid), ALWAYS),
    (220, Call::ChangeRoot, MOUNTS),
    (221, Call::Execute(At::Path), ALWAYS),
    (268, Call::ChangeRoot, ALWAYS),
    (281, Call::Execute(At::Folder), ALWAYS),
    (291, Call::Stat(At::Folder, Form::Statx), ALWAYS),
    (435, Call::ChangeRoot, ALWAYS),
    (437, Call::OpenHow, ALWAYS),
];

/// Old calls of 32-bit programs with ids of 16 bits, on i386 and ARM alike.
const SHORT: &[Row] = &[
    (16, Call::Chown(At::Link), ALWAYS),
    (23, Call::Set(Side::User), ALWAYS),
    (24, Call::GetId(Which::Uid), ALWAYS),
    (46, Call::Set(Side::Group), ALWAYS),
    (47, Call::GetId(Which::Gid), ALWAYS),
    (49, Call::GetId(Which::EffectiveUid), ALWAYS),
    (50, Call::GetId(Which::EffectiveGid), ALWAYS),
    (70, Call::SetTwo(Side::User), ALWAYS),
    (71, Call::SetTwo(Side::Group), ALWAYS),
    (80, Call::GetGroups, ALWAYS),
    (81, Call::SetGroups, ALWAYS),
    (95, Call::Chown(At::Descriptor), ALWAYS),
    (138, Call::SetFs(Side::User), ALWAYS),
    (139, Call::SetFs(Side::Group), ALWAYS),
    (164, Call::SetThree(Side::User), ALWAYS),
    (165, Call::GetIds(Side::User), ALWAYS),
    (170, Call::SetThree(Side::Group), ALWAYS),
    (171, Call::GetIds(Side::Group), ALWAYS),
    (182, Call::Chown(At::Path), ALWAYS),
];

/// Calls of 32-bit programs that i386 and ARM number alike.
const LONG: &[Row] = &[
    (5, Call::Open(At::Path), creating(1)),
    (8, Call::Create, ALWAYS),
    (11, Call::Execute(At::Path), ALWAYS),
    (14, Call::MakeNode(At::Path), ALWAYS),
    (39, Call::MakeFolder(At::Path), ALWAYS),
    (61, Call::ChangeRoot, ALWAYS),
    (83, Call::Symlink(At::Path), ALWAYS),
    (106, Call::Stat(At::Path, Form::Compat), ALWAYS),
    (107, Call::Stat(At::Link, Form::Compat), ALWAYS),
    (108, Call::Stat(At::Descriptor, Form::Compat), ALWAYS),
    (120, Call::ChangeRoot, MOUNTS),
    (172, Call::SetTimerSlack, SLACK),
    (195, Call::Stat(At::Path, Form::Compat64), ALWAYS),
    (196, Call::Stat(At::Link, Form::Compat64), ALWAYS),
    (197, Call::Stat(At::Descriptor, Form::Compat64), ALWAYS),
    (198, Call::Chown(At::Link), ALWAYS),
    (199, Call::GetId(Which::Uid), ALWAYS),
    (200, Call::GetId(Which::Gid), ALWAYS),
    (201, Call::GetId(Which::EffectiveUid), ALWAYS),
    (202, Call::GetId(Which::EffectiveGid), ALWAYS),
    (203, Call::SetTwo(Side::User), ALWAYS),
    (204, Call::SetTwo(Side::Group), ALWAYS),
    (205, Call::GetGroups, ALWAYS),
    (206, Call::SetGroups, ALWAYS),
    (207, Call::Chown(At::Descriptor), ALWAYS),
    (208, Call::SetThree(Side::User), ALWAYS),
    (209, Call::GetIds(Side::User), ALWAYS),
    (210, Call::SetThree(Side::Group), ALWAYS),
    (211, Call::GetIds(Side::Group), ALWAYS),
    (212, Call::Chown(At::Path), ALWAYS),
    (213, Call::Set(Side::User), ALWAYS),
    (214, Call::Set(Side::Group), ALWAYS),
    (215, Call::SetFs(Side::User), ALWAYS),
    (216, Call::SetFs(Side::Group), ALWAYS),
    (435, Call::ChangeRoot, ALWAYS),
    (437, Call::OpenHow, ALWAYS),
];

const I386: &[Row] = &[
    (217, Call::ChangeRoot, ALWAYS),
    (295, Call::Open(At::Folder), creating(2)),
    (296, Call::MakeFolder(At::Folder), ALWAYS),
    (297, Call::MakeNode(At::Folder), ALWAYS),
    (298, Call::Chown(At::Folder), ALWAYS),
    (300, Call::Stat(At::Folder, Form::Compat64), ALWAYS),
    (304, Call::Symlink(At::Folder), ALWAYS),
    (310, Call::ChangeRoot, MOUNTS),
    (346, Call::ChangeRoot, ALWAYS),
    (358, Call::Execute(At::Folder), ALWAYS),
    (383, Call::Stat(At::Folder, Form::Statx), ALWAYS),
];

const ARM: &[Row] = &[
    (218, Call::ChangeRoot, ALWAYS),
    (322, Call::Open(At::Folder), creating(2)),
    (323, Call::MakeFolder(At::Folder), ALWAYS),
    (324, Call::MakeNode(At::Folder), ALWAYS),
    (325, Call::Chown(At::Folder), ALWAYS),
    (327, Call::Stat(At::Folder, Form::Compat64), ALWAYS),
    (331, Call::Symlink(At::Folder), ALWAYS),
    (337, Call::ChangeRoot, MOUNTS),
    (375, Call::ChangeRoot, ALWAYS),
    (387, Call::Execute(At::Folder), ALWAYS),
    (397, Call::Stat(At::Folder, Form::Statx), ALWAYS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_once() {
        for rows in [
            X86_64.to_vec(),
            AARCH64.to_vec(),
            [SHORT, LONG, I386].concat(),
            [SHORT, LONG, ARM].concat(),
        ] {
            let mut numbers: Vec<u32> = rows.iter().map(|(number, _, _)| *number).collect();
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), count);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn numbers_are_the_c_librarys() {
        for (call, number) in [
            (Call::Open(At::Path), libc::SYS_open),
            (Call::Create, libc::SYS_creat),
            (Call::Open(At::Folder), libc::SYS_openat),
            (Call::OpenHow, libc::SYS_openat2),
            (Call::Stat(At::Folder, Form::Statx), libc::SYS_statx),
            (Call::Stat(At::Folder, Form::Native), libc::SYS_newfstatat),
            (Call::Stat(At::Link, Form::Native), libc::SYS_lstat),
            (Call::Chown(At::Folder), libc::SYS_fchownat),
            (Call::Chown(At::Descriptor), libc::SYS_fchown),
            (Call::SetThree(Side::Group), libc::SYS_setresgid),
            (Call::GetIds(Side::User), libc::SYS_getresuid),
            (Call::SetTwo(Side::User), libc::SYS_setreuid),
            (Call::SetFs(Side::Group), libc::SYS_setfsgid),
            (Call::GetGroups, libc::SYS_getgroups),
            (Call::SetGroups, libc::SYS_setgroups),
            (Call::MakeNode(At::Folder), libc::SYS_mknodat),
            (Call::MakeFolder(At::Folder), libc::SYS_mkdirat),
            (Call::Symlink(At::Folder), libc::SYS_symlinkat),
            (Call::Execute(At::Folder), libc::SYS_execveat),
            (Call::ChangeRoot, libc::SYS_chroot),
            (Call::ChangeRoot, libc::SYS_pivot_root),
            (Call::ChangeRoot, libc::SYS_clone),
            (Call::ChangeRoot, libc::SYS_clone3),
            (Call::ChangeRoot, libc::SYS_unshare),
            (Call::ChangeRoot, libc::SYS_setns),
            (Call::SetTimerSlack, libc::SYS_prctl),
        ] {
            let found = X86_64.iter().find(|row| i64::from(row.0) == number);
            assert_eq!(found.map(|row| row.1), Some(call), "{number}");
        }
    }
}
