//! The default profile: what commands may call, by moby's rules (github.com/moby/profiles/seccomp v0.2.3).
//!
//! Calls that are known and not allowed fail with EPERM, calls newer than the profile with ENOSYS, so that C libraries fall
//! back to what they know. Where the kernel looks at the lower half of an argument only, so do the tests here.

use super::calls::Arch;
use super::policy::{Answer, Compare, Policy, Rule, Test};
use rustix::thread::CapabilitySet;

/// What every command may call.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close
    close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
    getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname
    getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get
    ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64
    madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
    mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe
    rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
    set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt
    shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
    statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// On machines of one kind, for the 32-bit programs there as well.
const ON_X86_64: &str = "arch_prctl modify_ldt";
const ON_AARCH64: &str =
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// With a capability.
const BY_CAPABILITY: [(CapabilitySet, &str); 13] = [
    (CapabilitySet::DAC_READ_SEARCH, "open_by_handle_at"),
    (
        CapabilitySet::SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (CapabilitySet::SYS_BOOT, "reboot"),
    (CapabilitySet::SYS_CHROOT, "chroot"),
    (
        CapabilitySet::SYS_MODULE,
        "delete_module init_module finit_module",
    ),
    (CapabilitySet::SYS_PACCT, "acct"),
    (
        CapabilitySet::SYS_PTRACE,
        "kcmp pidfd_getfd process_madvise",
    ),
    (CapabilitySet::SYS_RAWIO, "iopl ioperm"),
    (
        CapabilitySet::SYS_TIME,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (CapabilitySet::SYS_TTY_CONFIG, "vhangup"),
    (
        CapabilitySet::SYS_NICE,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (CapabilitySet::SYSLOG, "syslog"),
    (CapabilitySet::BPF, "bpf"),
];
/// The same for a capability that came late.
const WITH_PERFMON: (CapabilitySet, &str) = (CapabilitySet::PERFMON, "perf_event_open");

/// CLONE_NEW* bits of clone(2): cgroup, uts, ipc, user, pid, net, and mount namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// Personalities of personality(2): Linux, 32-bit Linux, each with the old uname, and the question for the current one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Address families that reach the kernel's crypto interface and the hypervisor: AF_ALG, AF_VSOCK.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The profile of a command with these capabilities on a machine of this architecture.
pub(super) fn policy(native: Arch, capabilities: CapabilitySet) -> Policy {
    let of_machine = if native == Arch::X86_64 {
        ON_X86_64
    } else {
        ON_AARCH64
    };
    let by_capability = BY_CAPABILITY
        .into_iter()
        .chain([WITH_PERFMON])
        .filter(|(capability, _)| capabilities.contains(*capability))
        .map(|(_, names)| names);
    let mut rules: Vec<(String, Rule)> = [ALWAYS, of_machine]
        .into_iter()
        .chain(by_capability)
        .flat_map(str::split_whitespace)
        .map(|name| (name.to_owned(), rule(Answer::ALLOW, None)))
        .collect();
    let mut conditional = |name: &str, compare| {
        rules.push((name.to_owned(), rule(Answer::ALLOW, Some(compare))));
    };
    conditional("socket", Compare::Less(AF_ALG));
    conditional("socket", Compare::Equal(AF_ALG + 1));
    conditional("socket", Compare::Greater(AF_VSOCK));
    for personality in PERSONALITIES {
        conditional("personality", Compare::Equal(personality));
    }
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        let plain = Compare::Masked {
            mask: NEW_NAMESPACES,
            value: 0,
        };
        conditional("clone", plain);
        // Its flags are behind a pointer; C libraries use clone when it is missing.
        rules.push(("clone3".to_owned(), rule(Answer::ENOSYS, None)));
    }
    Policy {
        architectures: Arch::NATIVE.to_vec(),
        rules,
        default: Answer::EPERM,
        newer: Answer::ENOSYS,
        unassigned: Some(Answer::ENOSYS),
        foreign: Answer::KILL_PROCESS,
    }
}

fn rule(answer: Answer, compare: Option<Compare>) -> Rule {
    let test = compare.map(|compare| Test {
        argument: 0,
        compare,
        low: true,
    });
    Rule {
        tests: test.into_iter().collect(),
        answer,
    }
}
