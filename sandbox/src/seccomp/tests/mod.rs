//! Golden and behaviour tests of the filter: the compiled program is run over tables of calls.

mod profiles;

use super::calls::{self, Arch};
use super::policy::{Answer, Policy, Section};
use super::{Filter, Watch, When, capability, default, emit};
use rustix::thread::CapabilitySet;

const KILL: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const ARM: u32 = 0x4000_0028;
const I386: u32 = 0x4000_0003;
#[cfg(target_arch = "x86_64")]
const X86_64: u32 = 0xc000_003e;

/// Runs a filter as the kernel does, and returns its answer and the number of instructions it took.
fn simulate(
    filter: &[libc::sock_filter],
    arch: u32,
    number: u32,
    arguments: [u64; 6],
) -> (u32, usize) {
    let mut data = [0_u8; 64];
    data[0..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (place, argument) in data[16..].chunks_exact_mut(8).zip(arguments) {
        place.copy_from_slice(&argument.to_ne_bytes());
    }
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1..=filter.len() {
        let instruction = filter[at];
        at += 1;
        let jump = |condition: bool| {
            usize::from(if condition {
                instruction.jt
            } else {
                instruction.jf
            })
        };
        match instruction.code {
            0x20 => {
                let offset = instruction.k as usize;
                accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x05 => at += instruction.k as usize,
            0x15 => at += jump(accumulator == instruction.k),
            0x25 => at += jump(accumulator > instruction.k),
            0x35 => at += jump(accumulator >= instruction.k),
            0x54 => accumulator &= instruction.k,
            0x06 => return (instruction.k, steps),
            code => panic!("unknown instruction {code:#x}"),
        }
    }
    panic!("the filter does not end");
}

fn answer(filter: &[libc::sock_filter], arch: u32, number: u32, argument: u64) -> u32 {
    simulate(filter, arch, number, [argument, 0, 0, 0, 0, 0]).0
}

/// The default profile for an architecture, on any machine.
fn policy(arch: Arch, capabilities: CapabilitySet) -> Policy {
    let machine = match arch {
        Arch::X86_64 | Arch::X86 | Arch::X32 => Arch::X86_64,
        Arch::Aarch64 | Arch::Arm => Arch::Aarch64,
    };
    let mut policy = default::policy(machine, capabilities);
    policy.architectures = vec![arch];
    policy
}

fn sections(capabilities: CapabilitySet, architectures: &[Arch]) -> Vec<Section> {
    architectures
        .iter()
        .flat_map(|arch| policy(*arch, capabilities).sections(|_, _| {}))
        .collect()
}

fn compile(architectures: &[Arch]) -> Vec<libc::sock_filter> {
    let sections = sections(capability::DEFAULT, architectures);
    emit::compile(&sections, Answer::KILL_PROCESS)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn golden_answers_on_x86_64() {
    let filter = Filter::docker_default();
    let allowed = [
        ("read", libc::SYS_read),
        ("openat2", libc::SYS_openat2),
        ("execve", libc::SYS_execve),
        ("chroot", libc::SYS_chroot),
        ("ptrace", libc::SYS_ptrace),
        ("mknodat", libc::SYS_mknodat),
        ("setresuid", libc::SYS_setresuid),
        ("seccomp", libc::SYS_seccomp),
        ("faccessat2", libc::SYS_faccessat2),
        ("arch_prctl", libc::SYS_arch_prctl),
        ("io_pgetevents", 333),
        ("removexattrat", 466),
        ("statmount", 457),
    ];
    let denied = [
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("kexec_load", libc::SYS_kexec_load),
        ("init_module", libc::SYS_init_module),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("fsopen", libc::SYS_fsopen),
        ("open_tree", libc::SYS_open_tree),
        ("move_mount", libc::SYS_move_mount),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("swapon", libc::SYS_swapon),
        ("reboot", libc::SYS_reboot),
        ("settimeofday", libc::SYS_settimeofday),
        ("sethostname", libc::SYS_sethostname),
        ("syslog", libc::SYS_syslog),
        ("acct", libc::SYS_acct),
        ("quotactl", libc::SYS_quotactl),
        ("mbind", libc::SYS_mbind),
        ("process_madvise", libc::SYS_process_madvise),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("kcmp", libc::SYS_kcmp),
        ("iopl", libc::SYS_iopl),
    ];
    let newer = [
        ("clone3", libc::SYS_clone3),
        ("open_tree_attr", 467),
        ("far future", 5000),
        ("unassigned", 400),
        ("x32 read", 0x4000_0000),
    ];
    for (table, expected) in [
        (&allowed[..], ALLOW),
        (&denied[..], EPERM),
        (&newer[..], ENOSYS),
    ] {
        for (name, number) in table {
            let number = u32::try_from(*number).unwrap();
            assert_eq!(
                answer(filter.instructions(), X86_64, number, 0),
                expected,
                "{name}"
            );
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn arguments_decide() {
    let filter = Filter::docker_default();
    let (clone, socket, personality) = (56, 41, 135);
    let thread = 0x003d_0f00;
    for (name, arch, number, argument, expected) in [
        ("fork", X86_64, clone, 0x11, ALLOW),
        ("thread", X86_64, clone, thread, ALLOW),
        ("new user namespace", X86_64, clone, 0x1000_0011, EPERM),
        ("new mount namespace", X86_64, clone, 0x0002_0011, EPERM),
        ("new cgroup namespace", X86_64, clone, 0x0200_0011, EPERM),
        ("all namespaces", X86_64, clone, 0x7e02_0011, EPERM),
        ("AF_UNIX", X86_64, socket, 1, ALLOW),
        ("AF_INET6", X86_64, socket, 10, ALLOW),
        ("AF_NETLINK", X86_64, socket, 16, ALLOW),
        ("AF_ALG", X86_64, socket, 38, EPERM),
        (
            "AF_ALG with noise above",
            X86_64,
            socket,
            0x1_0000_0026,
            EPERM,
        ),
        ("AF_NFC", X86_64, socket, 39, ALLOW),
        ("AF_VSOCK", X86_64, socket, 40, EPERM),
        ("AF_XDP", X86_64, socket, 44, ALLOW),
        ("query", X86_64, personality, 0xffff_ffff, ALLOW),
        ("PER_LINUX", X86_64, personality, 0, ALLOW),
        ("PER_LINUX32", X86_64, personality, 8, ALLOW),
        ("UNAME26", X86_64, personality, 0x2_0000, ALLOW),
        ("UNAME26 of 32 bits", X86_64, personality, 0x2_0008, ALLOW),
        ("ADDR_NO_RANDOMIZE", X86_64, personality, 0x4_0000, EPERM),
        ("i386 fork", I386, 120, 0x11, ALLOW),
        ("i386 namespace", I386, 120, 0x1000_0011, EPERM),
        ("i386 AF_ALG", I386, 359, 38, EPERM),
    ] {
        assert_eq!(
            answer(filter.instructions(), arch, number, argument),
            expected,
            "{name}"
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_supervisor_is_asked_about_what_is_watched_and_allowed() {
    const NOTIFY: u32 = 0x7fc0_0000;
    let devices = When::Masked {
        argument: 0,
        mask: 0o170_000,
        values: &[0o020_000, 0o060_000],
    };
    let create = When::Bits {
        argument: 0,
        bits: 0o100,
    };
    let (chown, mknod, open, mount) = (92, 133, 2, 165);
    let filter = Filter::docker_default_with(&Watch {
        native: vec![
            (chown, When::Always),
            (mknod, devices),
            (open, create),
            (mount, When::Always),
        ],
        compat: vec![(182, When::Always)],
    });
    for (name, arch, number, argument, expected) in [
        ("chown", X86_64, chown, 0, NOTIFY),
        ("fchown", X86_64, 93, 0, ALLOW),
        ("character device", X86_64, mknod, 0o020_666, NOTIFY),
        ("block device", X86_64, mknod, 0o060_600, NOTIFY),
        ("fifo", X86_64, mknod, 0o010_666, ALLOW),
        ("regular file", X86_64, mknod, 0, ALLOW),
        ("creating", X86_64, open, 0o1101, NOTIFY),
        ("only opening", X86_64, open, 0o1001, ALLOW),
        ("denied all the same", X86_64, mount, 0, EPERM),
        ("i386 chown", I386, 182, 0, NOTIFY),
        ("i386 number of the other table", I386, chown, 0, ALLOW),
    ] {
        let got = answer(filter.instructions(), arch, number, argument);
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn golden_answers_for_32_bit_programs() {
    let filter = compile(&[Arch::X86, Arch::Arm]);
    for (name, arch, number, expected) in [
        ("i386 exit", I386, 1, ALLOW),
        ("i386 open", I386, 5, ALLOW),
        ("i386 socketcall", I386, 102, ALLOW),
        ("i386 mmap2", I386, 192, ALLOW),
        ("i386 set_thread_area", I386, 243, ALLOW),
        ("i386 clock_gettime64", I386, 403, ALLOW),
        ("i386 futex_time64", I386, 422, ALLOW),
        ("i386 mount", I386, 21, EPERM),
        ("i386 umount", I386, 22, EPERM),
        ("i386 unshare", I386, 310, EPERM),
        ("i386 keyctl", I386, 288, EPERM),
        ("i386 bpf", I386, 357, EPERM),
        ("i386 io_uring_setup", I386, 425, EPERM),
        ("i386 clone3", I386, 435, ENOSYS),
        ("i386 newer", I386, 470, ENOSYS),
        ("arm exit", ARM, 1, ALLOW),
        ("arm cacheflush", ARM, 983_042, ALLOW),
        ("arm set_tls", ARM, 983_045, ALLOW),
        ("arm usr26", ARM, 983_043, ENOSYS),
        ("arm mount", ARM, 21, EPERM),
        ("arm newer", ARM, 470, ENOSYS),
        ("another architecture", 0xc000_00f3, 63, KILL),
    ] {
        assert_eq!(answer(&filter, arch, number, 0), expected, "{name}");
    }
}

#[test]
fn every_number_gets_its_own_answer() {
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm] {
        let filter = compile(&[arch]);
        let names: Vec<&str> = include_str!("../calls.txt")
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let rules = policy(arch, capability::DEFAULT).rules;
        let mut slowest = 0;
        for name in names {
            let Some(number) = calls::number(name, arch) else {
                continue;
            };
            let (answer, steps) = simulate(&filter, arch.audit(), number, [0; 6]);
            slowest = slowest.max(steps);
            let expected = match rules.iter().find(|(known, _)| known == name) {
                Some((_, rule)) if rule.tests.is_empty() => rule.answer.0,
                // Zero is a personality, no family that is denied, and no namespace.
                Some(_) => ALLOW,
                None if number > 466 && number < calls::PRIVATE => ENOSYS,
                None if number > calls::PRIVATE => ENOSYS,
                None => EPERM,
            };
            assert_eq!(answer, expected, "{name} on {arch:?}");
        }
        assert!(slowest < 40, "{slowest} instructions for one call");
        assert!(filter.len() < 1000, "{} instructions", filter.len());
    }
}

#[test]
fn capabilities_open_what_belongs_to_them() {
    let with = |capability| {
        let sections = sections(capability::DEFAULT | capability, &[Arch::X86_64]);
        emit::compile(&sections, Answer::KILL_PROCESS)
    };
    let audit = Arch::X86_64.audit();
    for (capability, name, argument) in [
        (CapabilitySet::SYS_ADMIN, "mount", 0),
        (CapabilitySet::SYS_ADMIN, "unshare", 0),
        (CapabilitySet::SYS_ADMIN, "setns", 0),
        (CapabilitySet::SYS_ADMIN, "clone", 0x1000_0011),
        (CapabilitySet::SYS_ADMIN, "clone3", 0),
        (CapabilitySet::SYS_ADMIN, "bpf", 0),
        (CapabilitySet::SYS_ADMIN, "syslog", 0),
        (CapabilitySet::SYS_ADMIN, "lsm_list_modules", 0),
        (CapabilitySet::SYS_PTRACE, "kcmp", 0),
        (CapabilitySet::SYS_PTRACE, "pidfd_getfd", 0),
        (CapabilitySet::SYS_PTRACE, "process_madvise", 0),
        (CapabilitySet::SYS_MODULE, "init_module", 0),
        (CapabilitySet::SYS_MODULE, "finit_module", 0),
        (CapabilitySet::SYS_BOOT, "reboot", 0),
        (CapabilitySet::SYS_PACCT, "acct", 0),
        (CapabilitySet::SYS_RAWIO, "iopl", 0),
        (CapabilitySet::SYS_TIME, "settimeofday", 0),
        (CapabilitySet::SYS_TIME, "clock_settime", 0),
        (CapabilitySet::SYS_TTY_CONFIG, "vhangup", 0),
        (CapabilitySet::SYS_NICE, "mbind", 0),
        (CapabilitySet::SYSLOG, "syslog", 0),
        (CapabilitySet::BPF, "bpf", 0),
        (CapabilitySet::PERFMON, "perf_event_open", 0),
        (CapabilitySet::DAC_READ_SEARCH, "open_by_handle_at", 0),
    ] {
        let number = calls::number(name, Arch::X86_64).unwrap();
        let without = answer(&with(CapabilitySet::empty()), audit, number, argument);
        assert!(without == EPERM || without == ENOSYS, "{name}");
        let got = answer(&with(capability), audit, number, argument);
        assert_eq!(got, ALLOW, "{name} with {capability:?}");
    }
    let all = with(CapabilitySet::all());
    for name in [
        "keyctl",
        "add_key",
        "request_key",
        "io_uring_setup",
        "userfaultfd",
        "kexec_load",
        "swapon",
        "pivot_root",
    ] {
        let number = calls::number(name, Arch::X86_64).unwrap();
        assert_eq!(answer(&all, audit, number, 0), EPERM, "{name}");
    }
    let none = sections(CapabilitySet::empty(), &[Arch::X86_64]);
    let none = emit::compile(&none, Answer::KILL_PROCESS);
    assert_eq!(answer(&none, audit, 161, 0), EPERM, "chroot");
}

#[test]
fn the_table_has_the_numbers_of_the_c_library() {
    for (name, number) in [
        ("read", libc::SYS_read),
        ("clone", libc::SYS_clone),
        ("socket", libc::SYS_socket),
        ("personality", libc::SYS_personality),
        ("execve", libc::SYS_execve),
        ("mknodat", libc::SYS_mknodat),
        ("openat2", libc::SYS_openat2),
        ("statx", libc::SYS_statx),
        ("clone3", libc::SYS_clone3),
        ("futex_waitv", libc::SYS_futex_waitv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("unshare", libc::SYS_unshare),
    ] {
        let known = calls::number(name, Arch::NATIVE[0]).map(i64::from);
        assert_eq!(known, Some(number), "{name}");
    }
    assert_eq!(calls::number("execve", Arch::X32), Some(0x4000_0208));
    assert_eq!(calls::number("read", Arch::X32), Some(0x4000_0000));
    let mut names = std::collections::BTreeSet::new();
    for line in include_str!("../calls.txt").lines() {
        let name = line.split(' ').next().unwrap();
        assert!(name == "#" || names.insert(name), "{name} twice");
    }
    // The others are of machines that are not here.
    for (name, _) in policy(Arch::Arm, CapabilitySet::all()).rules {
        assert!(calls::is_known(&name) || name == "riscv_hwprobe", "{name}");
    }
}
