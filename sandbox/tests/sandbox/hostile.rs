//! Commands that try to get out, or at what is not theirs.

use crate::world::{World, chain};
use sandbox::{Exit, IdMapping, Mount, Network, Seccomp, Security};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(crate) const CASES: &[crate::Case] = &[
    ("hostile::denied_calls", syscalls),
    ("hostile::no_new_namespaces", namespaces),
    ("hostile::sockets_of_the_kernel", sockets),
    ("hostile::the_first_process_is_out_of_reach", processes),
    ("hostile::chroot_twice", chroot),
    ("hostile::device_nodes_do_not_open", devices),
    ("hostile::kernel_settings_are_read_only", settings),
    ("hostile::masks_stay", masks),
    ("hostile::host_processes_are_out_of_sight", host_processes),
    ("hostile::writes_through_links_stay_inside", links),
    ("hostile::system_folders_as_links", system_folders_as_links),
    ("hostile::terminal", terminal),
    ("hostile::file_capabilities", file_capabilities),
    #[cfg(target_arch = "x86_64")]
    ("hostile::programs_of_32_bits", programs_of_32_bits),
    #[cfg(target_arch = "x86_64")]
    ("hostile::calls_by_32_bit_numbers", compat_calls),
    ("hostile::keys_of_the_caller", keys),
    ("hostile::capabilities_and_profiles", profiles),
    ("hostile::no_new_privileges", no_new_privileges),
];

const EPERM: &str = "1";
const ENOSYS: &str = "38";

fn probe(world: &World, name: &str) -> Vec<(String, String)> {
    let text = world.run(&world.probe(name)).ok();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// HS15, HS18, HS19.
fn syscalls(world: &World) {
    let answers = probe(world, "syscalls");
    assert!(answers.len() >= 18, "{answers:?}");
    for (name, errno) in answers {
        let expected = if name == "newer" || name == "x32" {
            ENOSYS
        } else {
            EPERM
        };
        assert_eq!(errno, expected, "{name}");
    }
}

/// HS13, HS14.
fn namespaces(world: &World) {
    let answers = probe(world, "namespaces");
    assert_eq!(answers.len(), 16, "{answers:?}");
    for (name, errno) in answers {
        assert_eq!(
            errno,
            if name == "clone3" { ENOSYS } else { EPERM },
            "{name}"
        );
    }
    for script in [
        "mount -t tmpfs x /tmp",
        "mount -o bind / /tmp",
        "umount /proc",
        "umount -l /",
        "mount -o remount,rw /proc/sys",
    ] {
        let outcome = world.run(&world.sh(script));
        assert_ne!(outcome.exit, Exit::Code(0), "{script}");
    }
}

/// HS19.
fn sockets(world: &World) {
    let answers = probe(world, "sockets");
    let expected = [
        ("AF_ALG", EPERM),
        ("AF_VSOCK", EPERM),
        ("AF_UNIX", "0"),
        ("AF_INET", "0"),
    ];
    assert_eq!(
        answers,
        expected.map(|(name, errno)| (name.to_owned(), errno.to_owned()))
    );
}

/// HS16, HS17.
fn processes(world: &World) {
    for (name, value) in probe(world, "processes") {
        match name.as_str() {
            "environ" => assert_eq!(value, "PATH"),
            "fds" => assert_eq!(value, "4", "0 to 2 and the listing itself"),
            // Process 1 of a pid namespace gets only signals it handles, and it handles none.
            name if name.starts_with("kill-1") => assert_eq!(value, "0"),
            name => assert!(value == EPERM || value == "13", "{name} {value}"),
        }
    }
}

/// HS22.
fn chroot(world: &World) {
    let names = world.run(&world.probe("chroot")).ok();
    assert_eq!(names, "bin dev etc jail lib lib64 probe proc sys tmp usr\n");
}

/// HS12.
fn devices(world: &World) {
    let outcome = world.run(&world.sh(
        "for d in / /dev /dev/shm /tmp /m; do mknod $d/mem c 1 9 && head -c 1 $d/mem && echo \"$d opened\"; mknod $d/loop b 7 0 && head -c 1 $d/loop && echo \"$d opened\"; done; head -c 1 /dev/zero | wc -c",
    ));
    assert_eq!(outcome.stdout, "1\n", "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("not permitted") || outcome.stderr.contains("denied"),
        "{}",
        outcome.stderr
    );
}

/// HS10.
fn settings(world: &World) {
    let core_pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for network in [Network::None, Network::Host] {
        let mut spec = world.sh(
            "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/vm/drop_caches /sys/power/state \
             /sys/kernel/mm/ksm/run /proc/irq/default_smp_affinity /proc/sys/net/ipv4/ip_forward; do if [ -e $f ]; then echo h > $f && echo \"$f written\"; fi; done; true",
        );
        spec.network = network;
        assert_eq!(world.run(&spec).ok(), "", "{network:?}");
        let mut spec = world.sh("mkdir /sys/fs/cgroup/x && echo made; touch /sys/x && echo made; for d in /sys/fs/cgroup/*; do mkdir $d/x && echo made; done; true");
        spec.network = network;
        assert_eq!(world.run(&spec).ok(), "", "{network:?}");
    }
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        core_pattern
    );
}

/// HS11.
fn masks(world: &World) {
    let script = "cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | tr -d '\\n'; \
                  umount /proc/keys; umount -l /sys/firmware; mount -o remount,rw /proc/sys; mount -o remount,bind,rw /sys; cat /proc/keys /proc/timer_list | wc -c";
    for uid in [0, 1000] {
        let mut spec = world.sh(script);
        if uid != 0 && world.is(IdMapping::Single) {
            continue;
        }
        spec.uid = uid;
        assert_eq!(world.run(&spec).ok(), "0\n0\n");
    }
}

/// HS16.
fn host_processes(world: &World) {
    let mut sleeper = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let script = format!(
        "kill -9 {}; ls -d /proc/[0-9]* | wc -l; kill -9 -1; echo survived",
        sleeper.id()
    );
    let outcome = world.run(&world.sh(&script));
    assert!(
        sleeper.try_wait().unwrap().is_none(),
        "the host's process lives"
    );
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(
        outcome.stdout.starts_with("3\n") || outcome.stdout.starts_with("4\n"),
        "{outcome:?}"
    );
    let again = world.run(&world.sh("echo next")).ok();
    assert_eq!(again, "next\n");
}

/// HS01.
fn links(world: &World) {
    let host = world.outside().join("host-folder");
    std::fs::create_dir_all(&host).unwrap();
    let absolute = format!("etc/absolute -> {}", host.display());
    let up = format!("etc/up -> ../../../../../../../..{}", host.display());
    let layer = world.layer(&[&absolute, &up, "etc/proc -> /proc/1/root"]);
    let mut spec = world.sh(&format!(
        "for l in absolute up proc; do echo x > /etc/$l/escaped; done; mkdir -p {0}; for l in absolute up; do echo x > /etc/$l/escaped; done; ls {0}",
        host.display()
    ));
    spec.root.lowers.insert(0, layer);
    assert_eq!(
        world.run(&spec).ok(),
        "escaped\n",
        "links lead into the root"
    );
    assert!(!host.join("escaped").exists());
    assert!(!Path::new("/escaped").exists());
}

/// With such links the masks of `/proc` would land elsewhere.
fn system_folders_as_links(world: &World) {
    for entry in [
        "proc -> /tmp",
        "proc -> /nowhere/x",
        "dev -> /proc/self",
        "sys -> proc",
        "dev -> /dev",
        "proc",
    ] {
        let mut spec = world.sh("true");
        spec.root.lowers.insert(0, world.layer(&[entry]));
        let error = chain(&world.try_run(&spec).unwrap_err());
        let name = entry.split(' ').next().unwrap();
        assert!(error.contains(&format!("/{name}")), "{entry}: {error}");
    }
}

fn terminal(world: &World) {
    const ENXIO: i32 = 6;
    assert_eq!(
        world.run(&world.probe("terminal")).ok(),
        format!("Some({ENXIO})\n")
    );
}

/// HS21.
fn file_capabilities(world: &World) {
    if world.is(IdMapping::Single) {
        return;
    }
    let mut spec =
        world.sh("cp /probe /tmp/probe; chmod 755 /tmp/probe; /probe --probe capability");
    let upper = spec.root.upper.as_ref().unwrap().0.clone();
    assert_eq!(world.run(&spec).ok(), "Ok(())\n");
    spec = world.spec(&["/tmp/probe", "--probe", "privileges"]);
    spec.root.lowers.insert(0, upper);
    (spec.uid, spec.gid) = (1000, 1000);
    assert_eq!(world.run(&spec).ok(), "CapEff:\t0000000000002000");
}

/// HS18: the same calls by their other numbers.
#[cfg(target_arch = "x86_64")]
fn compat_calls(world: &World) {
    let outcome = world.run(&world.probe("compat"));
    if outcome.exit == Exit::Signal(libc::SIGSEGV) || outcome.exit == Exit::Code(139) {
        println!("this kernel runs no calls of 32 bits");
        return;
    }
    let text = outcome.ok();
    let answers: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert_eq!(answers.len(), 22, "{text}");
    for (name, errno) in answers {
        let expected = match name {
            "getpid" => "0",
            "clone3" | "newer" => ENOSYS,
            _ => EPERM,
        };
        assert_eq!(errno, expected, "{name}");
    }
}

/// HS15: also for a command that may ask for keys, the caller's are out of reach.
fn keys(world: &World) {
    const ENOKEY: i32 = 126;
    // The keyring is the thread's that starts the sandbox, and its helper inherits it.
    let store = world.store();
    std::thread::scope(|scope| {
        let body = || {
            if !crate::probes::remember_key() {
                println!("this kernel has no keyrings");
                return;
            }
            let options = sandbox::Options {
                stores: vec![store],
                ..sandbox::Options::default()
            };
            let sandbox = sandbox::Sandbox::start(&options).unwrap();
            let mut spec = world.probe("keyring");
            spec.insecure = true;
            let outcome = crate::world::run_in(&sandbox, &spec).unwrap();
            assert_eq!(outcome.stdout, format!("search {ENOKEY}\n"));
        };
        scope.spawn(body).join().unwrap();
    });
}

/// HS20: settings change what a command may call, and nothing else.
fn profiles(world: &World) {
    let run = |security: &Security, script: &str| {
        let mut spec = world.sh(script);
        spec.security = security.clone();
        world.run(&spec)
    };
    let add = |name: &str| Security {
        cap_add: vec![name.to_owned()],
        ..Security::default()
    };
    let mount = "mkdir /m && mount -t tmpfs x /m && umount /m && unshare -m true && echo done";
    assert_ne!(run(&Security::default(), mount).exit, Exit::Code(0));
    assert_ne!(run(&add("SYS_TIME"), mount).exit, Exit::Code(0));
    assert_eq!(run(&add("SYS_ADMIN"), mount).ok(), "done\n");
    // The kernel knows better than the filter.
    let text = run(&add("SYS_TIME"), "date -s @0 2>&1").stdout;
    assert!(text.contains("not permitted"), "{text}");
    let profile = |text: &str| Security {
        seccomp: Seccomp::Profile(text.to_owned()),
        ..Security::default()
    };
    let denies = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
            {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    let outcome = run(&denies, "mkdir /m; hostname new; echo $?");
    assert!(outcome.stderr.contains("mkdir"), "{outcome:?}");
    assert_eq!(outcome.stdout, "159\n", "killed by SIGSYS");
    let error = chain(
        &world
            .try_run(&{
                let mut spec = world.sh("true");
                spec.security =
                    profile(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [7]}]}"#);
                spec
            })
            .unwrap_err(),
    );
    assert!(
        error.contains("syscalls[0].names[0]: expected a string"),
        "{error}"
    );
    // Masks and a read-only root of settings stay with any of them.
    let unconfined = Security {
        seccomp: Seccomp::Unconfined,
        ..Security::default()
    };
    for security in [unconfined, add("ALL")] {
        let outcome = run(
            &security,
            "echo x > /proc/sys/kernel/core_pattern; cat /proc/keys /proc/timer_list | wc -c",
        );
        assert_eq!(outcome.stdout, "0\n", "{outcome:?}");
    }
}

/// HS21: only where it is asked for.
fn no_new_privileges(world: &World) {
    for wanted in [false, true] {
        let mut spec = world.sh("grep NoNewPrivs /proc/self/status");
        spec.security.no_new_privileges = wanted;
        let expected = format!("NoNewPrivs:\t{}\n", u8::from(wanted));
        assert_eq!(world.run(&spec).ok(), expected);
    }
}

/// A program of 32 bits: prints `i386` and ends with 3, by the old system call gate.
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits(world: &World) {
    const CODE: &[u8] = &[
        0xb8, 4, 0, 0, 0, // mov eax, 4 (write)
        0xbb, 1, 0, 0, 0, // mov ebx, 1
        0xb9, 0x76, 0x80, 0x04, 0x08, // mov ecx, text
        0xba, 5, 0, 0, 0, // mov edx, 5
        0xcd, 0x80, // int 0x80
        0xb8, 1, 0, 0, 0, // mov eax, 1 (exit)
        0xbb, 3, 0, 0, 0, // mov ebx, 3
        0xcd, 0x80, // int 0x80
    ];
    let mut program =
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0\x54\x80\x04\x08\x34\0\0\0"
            .to_vec();
    program.extend(b"\0\0\0\0\0\0\0\0\x34\0\x20\0\x01\0\0\0\0\0\0\0");
    program.extend(
        b"\x01\0\0\0\0\0\0\0\0\x80\x04\x08\0\x80\x04\x08\x7b\0\0\0\x7b\0\0\0\x05\0\0\0\0\x10\0\0",
    );
    program.extend(CODE);
    program.extend(b"i386\n");
    assert_eq!(program.len(), 0x7b);
    let path = world.folder().join("program");
    std::fs::write(&path, &program).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    if std::process::Command::new(&path).output().is_err() {
        println!("this kernel runs no programs of 32 bits");
        return;
    }
    let mut spec = world.spec(&["/program"]);
    spec.mounts = vec![Mount::File {
        target: "/program".into(),
        data: program,
        mode: 0o755,
        uid: 0,
        gid: 0,
    }];
    let outcome = world.run(&spec);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exit),
        ("i386\n", Exit::Code(3))
    );
}
