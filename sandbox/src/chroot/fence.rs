//! System calls that lead out of a changed root, or to what lies outside of it: denied by a filter of its own, which
//! stands besides the profile and stays when the profile is none.
//!
//! Everything else passes: what a command may do otherwise is the profile's business.

use libc::sock_filter;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// CLONE_NEW* of clone(2), without the one for time.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const FILE_TYPE: u32 = 0o170_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
/// A whiteout is a device node.
const RENAME_WHITEOUT: u32 = 1 << 2;
/// ioctls that type into a terminal or its console.
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];
/// Every process there is, and the first one.
const EVERYBODY: u32 = u32::MAX;

/// What happens to a call.
#[derive(Clone, Copy)]
enum Rule {
    /// Fails with this errno.
    Fail(i32),
    /// An argument, by its index, must be zero: the calling process itself.
    OnItself(u32),
    /// The first argument is one of these, the second zero: the calling process or its group.
    OnItselfAs([u32; 2]),
    /// An argument has none of these bits.
    Without(u32, u32),
    /// An argument is a mode of no device.
    NoDevice(u32),
    /// An argument is none of these.
    NoneOf(u32, [u32; 2]),
}

use Rule::{Fail, NoDevice, NoneOf, OnItself, OnItselfAs, Without};

const DENIED: Rule = Fail(libc::EPERM);
const UNKNOWN: Rule = Fail(libc::ENOSYS);

/// Calls with one number on every architecture.
const COMMON: &[(u32, Rule)] = &[
    (425, DENIED),  // io_uring_setup
    (426, DENIED),  // io_uring_enter
    (427, DENIED),  // io_uring_register
    (428, DENIED),  // open_tree
    (429, DENIED),  // move_mount
    (430, DENIED),  // fsopen
    (431, DENIED),  // fsconfig
    (432, DENIED),  // fsmount
    (433, DENIED),  // fspick
    (435, UNKNOWN), // clone3: its flags are behind a pointer
    (438, DENIED),  // pidfd_getfd
    (440, DENIED),  // process_madvise
    (442, DENIED),  // mount_setattr
    (443, DENIED),  // quotactl_fd
    (467, DENIED),  // open_tree_attr
];

/// Calls by their numbers of an architecture.
macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        struct Numbers { $($name: u32),* }
    };
}
calls! {
    add_key, bpf, chroot, clone, fanotify_init, ioctl, ioprio_set, kcmp, keyctl, kill, mknodat, mount,
    open_by_handle_at, perf_event_open, pivot_root, prlimit64, process_vm_readv, process_vm_writev, ptrace, quotactl,
    renameat2, request_key, sched_setaffinity, sched_setattr, sched_setparam, sched_setscheduler, setns, setpriority,
    umount2, unshare, userfaultfd,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn native() -> Numbers {
    let number = |number: libc::c_long| number as u32;
    Numbers {
        add_key: number(libc::SYS_add_key),
        bpf: number(libc::SYS_bpf),
        chroot: number(libc::SYS_chroot),
        clone: number(libc::SYS_clone),
        fanotify_init: number(libc::SYS_fanotify_init),
        ioctl: number(libc::SYS_ioctl),
        ioprio_set: number(libc::SYS_ioprio_set),
        kcmp: number(libc::SYS_kcmp),
        keyctl: number(libc::SYS_keyctl),
        kill: number(libc::SYS_kill),
        mknodat: number(libc::SYS_mknodat),
        mount: number(libc::SYS_mount),
        open_by_handle_at: number(libc::SYS_open_by_handle_at),
        perf_event_open: number(libc::SYS_perf_event_open),
        pivot_root: number(libc::SYS_pivot_root),
        prlimit64: number(libc::SYS_prlimit64),
        process_vm_readv: number(libc::SYS_process_vm_readv),
        process_vm_writev: number(libc::SYS_process_vm_writev),
        ptrace: number(libc::SYS_ptrace),
        quotactl: number(libc::SYS_quotactl),
        renameat2: number(libc::SYS_renameat2),
        request_key: number(libc::SYS_request_key),
        sched_setaffinity: number(libc::SYS_sched_setaffinity),
        sched_setattr: number(libc::SYS_sched_setattr),
        sched_setparam: number(libc::SYS_sched_setparam),
        sched_setscheduler: number(libc::SYS_sched_setscheduler),
        setns: number(libc::SYS_setns),
        setpriority: number(libc::SYS_setpriority),
        umount2: number(libc::SYS_umount2),
        unshare: number(libc::SYS_unshare),
        userfaultfd: number(libc::SYS_userfaultfd),
    }
}

#[cfg(any(target_arch = "x86_64", test))]
const I386: Numbers = Numbers {
    add_key: 286,
    bpf: 357,
    chroot: 61,
    clone: 120,
    fanotify_init: 338,
    ioctl: 54,
    ioprio_set: 289,
    kcmp: 349,
    keyctl: 288,
    kill: 37,
    mknodat: 297,
    mount: 21,
    open_by_handle_at: 342,
    perf_event_open: 336,
    pivot_root: 217,
    prlimit64: 340,
    process_vm_readv: 347,
    process_vm_writev: 348,
    ptrace: 26,
    quotactl: 131,
    renameat2: 353,
    request_key: 287,
    sched_setaffinity: 241,
    sched_setattr: 351,
    sched_setparam: 154,
    sched_setscheduler: 156,
    setns: 346,
    setpriority: 97,
    umount2: 52,
    unshare: 310,
    userfaultfd: 374,
};

#[cfg(any(target_arch = "aarch64", test))]
const ARM: Numbers = Numbers {
    add_key: 309,
    bpf: 386,
    chroot: 61,
    clone: 120,
    fanotify_init: 367,
    ioctl: 54,
    ioprio_set: 314,
    kcmp: 378,
    keyctl: 311,
    kill: 37,
    mknodat: 324,
    mount: 21,
    open_by_handle_at: 371,
    perf_event_open: 364,
    pivot_root: 218,
    prlimit64: 369,
    process_vm_readv: 376,
    process_vm_writev: 377,
    ptrace: 26,
    quotactl: 131,
    renameat2: 382,
    request_key: 310,
    sched_setaffinity: 241,
    sched_setattr: 380,
    sched_setparam: 154,
    sched_setscheduler: 156,
    setns: 375,
    setpriority: 97,
    umount2: 52,
    unshare: 337,
    userfaultfd: 388,
};

/// One architecture: its audit number, its calls, and those that only it has.
struct Architecture {
    audit: u32,
    calls: Numbers,
    more: &'static [(u32, Rule)],
    /// Numbers from here on are another ABI's.
    beyond: Option<u32>,
}

#[cfg(target_arch = "x86_64")]
fn architectures() -> [Architecture; 2] {
    [
        Architecture {
            audit: 0xc000_003e,
            calls: native(),
            more: &[(133, NoDevice(1))],
            beyond: Some(0x4000_0000),
        },
        i386(),
    ]
}

#[cfg(any(target_arch = "x86_64", test))]
fn i386() -> Architecture {
    Architecture {
        audit: 0x4000_0003,
        calls: I386,
        // umount and mknod.
        more: &[(22, DENIED), (14, NoDevice(1))],
        beyond: None,
    }
}

#[cfg(target_arch = "aarch64")]
fn architectures() -> [Architecture; 2] {
    [
        Architecture {
            audit: 0xc000_00b7,
            calls: native(),
            more: &[],
            beyond: None,
        },
        Architecture {
            audit: 0x4000_0028,
            calls: ARM,
            more: &[(14, NoDevice(1))],
            beyond: None,
        },
    ]
}

/// The filter. Where signals reach processes outside, those to everybody are denied: shutting down is not meant for them.
pub(crate) fn filter(signals_stay_inside: bool) -> Vec<sock_filter> {
    let mut program = vec![step(LOAD, ARCH, 0, 0)];
    for architecture in architectures() {
        let section = section(&architecture, signals_stay_inside);
        // A section may be longer than a conditional jump reaches.
        let skipped = u32::try_from(section.len()).expect("BUG: a filter has at most 4096 steps");
        program.push(step(JUMP_IF_EQUAL, architecture.audit, 1, 0));
        program.push(step(0x05, skipped, 0, 0));
        program.extend(section);
    }
    program.push(step(RETURN, KILL_PROCESS, 0, 0));
    program
}

fn section(architecture: &Architecture, signals_stay_inside: bool) -> Vec<sock_filter> {
    let mut section = vec![step(LOAD, NUMBER, 0, 0)];
    if let Some(beyond) = architecture.beyond {
        section.push(step(JUMP_IF_AT_LEAST, beyond, 0, 1));
        section.push(fail(libc::ENOSYS));
    }
    let own = rules(&architecture.calls);
    let signals = (architecture.calls.kill, NoneOf(0, [EVERYBODY, 1]));
    let signals = (!signals_stay_inside).then_some(signals);
    for (number, rule) in COMMON
        .iter()
        .chain(architecture.more)
        .chain(&own)
        .chain(&signals)
    {
        let body = body(*rule);
        let skipped = u8::try_from(body.len()).expect("BUG: a rule has few steps");
        section.push(step(JUMP_IF_EQUAL, *number, 0, skipped));
        section.extend(body);
    }
    section.push(step(RETURN, ALLOW, 0, 0));
    section
}

fn rules(calls: &Numbers) -> Vec<(u32, Rule)> {
    vec![
        (calls.add_key, DENIED),
        (calls.bpf, DENIED),
        (calls.chroot, DENIED),
        (calls.clone, Without(0, NEW_NAMESPACES)),
        (calls.fanotify_init, DENIED),
        (calls.ioctl, NoneOf(1, TERMINAL_INPUT)),
        (calls.ioprio_set, OnItselfAs([1, 2])),
        (calls.kcmp, DENIED),
        (calls.keyctl, DENIED),
        (calls.mknodat, NoDevice(2)),
        (calls.mount, DENIED),
        (calls.open_by_handle_at, DENIED),
        (calls.perf_event_open, DENIED),
        (calls.pivot_root, DENIED),
        (calls.prlimit64, OnItself(0)),
        (calls.process_vm_readv, DENIED),
        (calls.process_vm_writev, DENIED),
        (calls.ptrace, DENIED),
        (calls.quotactl, DENIED),
        (calls.renameat2, Without(4, RENAME_WHITEOUT)),
        (calls.request_key, DENIED),
        (calls.sched_setaffinity, OnItself(0)),
        (calls.sched_setattr, OnItself(0)),
        (calls.sched_setparam, OnItself(0)),
        (calls.sched_setscheduler, OnItself(0)),
        (calls.setns, DENIED),
        (calls.setpriority, OnItselfAs([0, 1])),
        (calls.umount2, DENIED),
        (calls.unshare, DENIED),
        (calls.userfaultfd, DENIED),
    ]
}

/// Steps of a rule, with the call's number in the accumulator; every path of them ends.
fn body(rule: Rule) -> Vec<sock_filter> {
    let denied = fail(libc::EPERM);
    let allowed = step(RETURN, ALLOW, 0, 0);
    match rule {
        Fail(errno) => vec![fail(errno)],
        OnItself(argument) => vec![
            load(argument),
            step(JUMP_IF_EQUAL, 0, 0, 1),
            allowed,
            denied,
        ],
        OnItselfAs([one, other]) => vec![
            load(0),
            step(JUMP_IF_EQUAL, one, 1, 0),
            step(JUMP_IF_EQUAL, other, 0, 3),
            load(1),
            step(JUMP_IF_EQUAL, 0, 0, 1),
            allowed,
            denied,
        ],
        Without(argument, bits) => vec![
            load(argument),
            step(JUMP_IF_BITS, bits, 1, 0),
            allowed,
            denied,
        ],
        NoDevice(argument) => vec![
            load(argument),
            step(AND, FILE_TYPE, 0, 0),
            step(JUMP_IF_EQUAL, CHARACTER_DEVICE, 2, 0),
            step(JUMP_IF_EQUAL, BLOCK_DEVICE, 1, 0),
            allowed,
            denied,
        ],
        NoneOf(argument, [one, other]) => vec![
            load(argument),
            step(JUMP_IF_EQUAL, one, 2, 0),
            step(JUMP_IF_EQUAL, other, 1, 0),
            allowed,
            denied,
        ],
    }
}

/// Loads the lower half of an argument, which is all that the kernel looks at in those that are checked here.
fn load(argument: u32) -> sock_filter {
    let half = if cfg!(target_endian = "little") { 0 } else { 4 };
    step(LOAD, FIRST_ARGUMENT + 8 * argument + half, 0, 0)
}

fn fail(errno: i32) -> sock_filter {
    step(RETURN, ERRNO | errno.cast_unsigned(), 0, 0)
}

fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a section as the kernel would.
    fn run(program: &[sock_filter], data: &[u32; 16]) -> u32 {
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            at += 1;
            match code {
                LOAD => accumulator = data[k as usize / 4],
                AND => accumulator &= k,
                JUMP_IF_EQUAL => at += jump(accumulator == k),
                JUMP_IF_AT_LEAST => at += jump(accumulator >= k),
                JUMP_IF_BITS => at += jump(accumulator & k != 0),
                0x05 => at += k as usize,
                RETURN => return k,
                code => panic!("unknown code {code:#x}"),
            }
        }
    }

    /// What becomes of a call with these lower halves of its arguments.
    fn verdict(program: &[sock_filter], arch: u32, number: u32, arguments: [u32; 5]) -> u32 {
        let mut data = [0; 16];
        (data[0], data[1]) = (number, arch);
        for (index, argument) in arguments.into_iter().enumerate() {
            data[4 + 2 * index] = argument;
        }
        run(program, &data)
    }

    const EPERM: u32 = ERRNO | 1;
    const ENOSYS: u32 = ERRNO | 38;

    #[test]
    fn what_leads_out_is_denied_and_the_rest_is_not() {
        let program = filter(true);
        assert!(program.len() < 600, "{}", program.len());
        for architecture in architectures() {
            let calls = &architecture.calls;
            let of = |number, arguments| verdict(&program, architecture.audit, number, arguments);
            for number in [
                calls.chroot,
                calls.mount,
                calls.ptrace,
                calls.setns,
                calls.unshare,
                425,
                438,
            ] {
                assert_eq!(of(number, [0; 5]), EPERM, "{number}");
            }
            assert_eq!(of(435, [0; 5]), ENOSYS);
            for (number, arguments, expected) in [
                (calls.clone, [0x1000_0011, 0, 0, 0, 0], EPERM),
                (calls.clone, [0x0000_0011, 0, 0, 0, 0], ALLOW),
                (calls.prlimit64, [0, 7, 1, 1, 0], ALLOW),
                (calls.prlimit64, [77, 0, 1, 1, 0], EPERM),
                (calls.setpriority, [0, 0, 5, 0, 0], ALLOW),
                (calls.setpriority, [0, 77, 5, 0, 0], EPERM),
                (calls.setpriority, [2, 0, 5, 0, 0], EPERM),
                (calls.ioprio_set, [1, 0, 5, 0, 0], ALLOW),
                (calls.ioprio_set, [3, 0, 5, 0, 0], EPERM),
                (calls.mknodat, [9, 9, 0o010_644, 0, 0], ALLOW),
                (calls.mknodat, [9, 9, 0o100_644, 0, 0], ALLOW),
                (calls.mknodat, [9, 9, 0o020_644, 0x103, 0], EPERM),
                (calls.mknodat, [9, 9, 0o060_644, 0, 0], EPERM),
                (calls.renameat2, [9, 9, 9, 9, 1], ALLOW),
                (calls.renameat2, [9, 9, 9, 9, 4], EPERM),
                (calls.ioctl, [0, 0x5412, 0, 0, 0], EPERM),
                (calls.ioctl, [0, 0x5401, 0, 0, 0], ALLOW),
                (calls.kill, [EVERYBODY, 9, 0, 0, 0], ALLOW),
            ] {
                assert_eq!(of(number, arguments), expected, "{number} {arguments:x?}");
            }
            assert_eq!(of(3, [0; 5]), ALLOW);
        }
        assert_eq!(verdict(&program, 0x1234, 3, [0; 5]), KILL_PROCESS);
    }

    #[test]
    fn without_scopes_nobody_signals_everybody() {
        let program = filter(false);
        for architecture in architectures() {
            let kill = |target| {
                verdict(
                    &program,
                    architecture.audit,
                    architecture.calls.kill,
                    [target, 9, 0, 0, 0],
                )
            };
            assert_eq!(
                (kill(EVERYBODY), kill(1), kill(0), kill(4711)),
                (EPERM, EPERM, ALLOW, ALLOW)
            );
        }
    }

    /// The numbers of 32-bit programs, against what the profile's tables say of those that it allows.
    #[test]
    fn numbers_of_32_bits() {
        assert_eq!(
            (I386.chroot, I386.ptrace, I386.mknodat, I386.prlimit64),
            (61, 26, 297, 340)
        );
        assert_eq!(
            (ARM.chroot, ARM.ptrace, ARM.mknodat, ARM.prlimit64),
            (61, 26, 324, 369)
        );
        assert_eq!(i386().audit, 0x4000_0003);
    }
}
