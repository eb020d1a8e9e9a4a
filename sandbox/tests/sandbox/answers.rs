//! Where calls about owners are answered by process 1: its answers are the kernel's, whatever way a file is named, reach no
//! further than the asker's own calls do, and end with it.

#![allow(unsafe_code)]

use crate::world::{PATH, World, chain, run_in};
use crate::{Case, lifecycle};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Exit, IdMapping, Mount, Options, Overlay, RunSpec, Sandbox, Security};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

pub(crate) const CASES: &[Case] = &[
    ("answers_whatever_way_a_file_is_named", paths),
    ("answers_in_a_changed_root", roots),
    ("answers_in_other_mounts", other_mounts),
    ("answers_to_users_who_make_files", makers),
    (
        "answers_do_not_lead_out_by_the_first_process",
        first_process,
    ),
    ("answers_do_not_lead_out_by_exchanged_paths", exchanged),
    ("answers_go_to_what_is_recorded", recorded),
    ("answers_to_64_threads", storm),
    ("answers_whose_askers_are_gone", gone),
    ("answers_end_with_the_first_process", first_process_killed),
    ("answers_wait_for_the_first_process", first_process_stopped),
    ("answers_without_a_listener", without),
];

#[track_caller]
fn says(world: &World, probe: &str, expected: &str) {
    let outcome = world.run(&world.sh(&format!("/probe --probe {probe}")));
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    // The profile of a container around it may be older than fchmodat2.
    let text = text.replace("mode 38 20:20 0644", "mode 0 20:20 0600");
    assert_eq!(text, expected, "{probe}");
}

fn paths(world: &World) {
    says(
        world,
        "answer-paths",
        "absolute 0 1:1\nrelative 0 2:2\nfolder's descriptor 0 3:3\ndescriptor 0 4:4\nempty path 0 5:5\n\
         found only 0 6:6\nlink 0 7:7\nlink itself 0 7:7\nfound link 0 7:7\ndots 0 9:9\n/proc/self/fd 0 10:10\n\
         /proc/thread-self/fd 0 11:11\n/dev/fd 0 12:12\nby a link to /proc/self 0 13:13\nbelow /proc 0 14:14\n\
         by the working folder 0 15:15\nby the root 0 16:16\nslashes 0 17:17\nof another process 0 18:18\nlongest name 0 19:19\n\
         longest path 0 20:20\ntoo long 36 20:20\nno file 2 20:20\nnot a folder 20 20:20\na link to itself 40 20:20\n\
         bad address 14 20:20\nbad descriptor 9 20:20\nname too long 36 20:20\nmode 0 20:20 0600\nby two openings 0 21:21\n\
         deleted folder 0 22:22\nin a deleted folder 2\nnew in a deleted folder 2\nabove a deleted folder 0 23:23\n",
    );
}

fn roots(world: &World) {
    says(
        world,
        "answer-roots",
        "absolute 0 1:1\nabove 0 2:2\nlink 0 3:3\nrelative 0 4:4\nfolder outside 0 5:5\nno /proc 2\n\
         outside: in 4:4 out 5:5 same name 0:0\n",
    );
}

/// A command that may mount sees its files by its own mounts.
fn other_mounts(world: &World) {
    let mut spec = world.sh(
        "mkdir /a /b; touch /a/f /b/f; unshare -m sh -c 'mount -o bind /a /b; chown 5:6 /b/f; cd /b; chown 7 f; \
         touch /b/new; chown 8:8 /b/new; stat -c %u:%g /a/f /b/f /b/new'; stat -c %u:%g /a/f /b/f /a/new",
    );
    spec.insecure = true;
    let outcome = world.run(&spec);
    assert_eq!(
        format!("{}{}", outcome.stdout, outcome.stderr),
        "7:6\n7:6\n8:8\n7:6\n0:0\n8:8\n"
    );
    spec.insecure = false;
    spec.root = world.root(&[]);
    spec.security = Security {
        cap_add: vec!["SYS_ADMIN".to_owned()],
        ..Security::default()
    };
    assert_eq!(world.run(&spec).stdout, "7:6\n7:6\n8:8\n7:6\n0:0\n8:8\n");
}

fn makers(world: &World) {
    says(
        world,
        "answer-makers",
        "openat2 1000:1000\nbeneath 18\nin its root 1000:1000\nno links 40\nunnamed 1000:1000\nunnamed by a link 1000:1000\n\
         folder 1000:1000\npipe 1000:1000\nlink 1000:1000\nthere already 17\nby /proc/self/fd 1000:1000\nby /proc/self/cwd 1000:1000\n\
         folder as a file 21\nlongest name 1000:1000\nname too long 36\n",
    );
}

/// Process 1 can read the links of its own descriptors, some of which lead out of the root; nobody else can, by it neither.
fn first_process(world: &World) {
    let marks = "for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \
        ln -s /proc/self/fd/$i /tmp/l$i; ln -s /proc/1/fd/$i /tmp/m$i; \
        for by in /tmp/l$i /tmp/m$i /proc/1/fd/$i /proc/1/task/1/fd/$i /proc/1/cwd /proc/1/root; do \
        for up in .. ../.. ../../.. ../../../..; do touch $by/$up/stray$i; mkdir $by/$up/strays$i; chown 33:42 $by/$up/base; done; \
        chown 33:42 $by; done; done; chown 5:6 /proc/1/exe; chmod 777 /tmp";
    let as_user = format!("/probe --probe as 1000 1001 sh -c '{marks}'; rm /tmp/?[0-9]*; ");
    let outcome = world.run(&world.sh(&format!("({as_user} {marks}) >/dev/null 2>&1; echo end")));
    assert_eq!(outcome.stdout, "end\n", "{}", outcome.stderr);
    assert_eq!(strays(world.outside()), Vec::<String>::new());
    let mut value = [0; 32];
    for path in [world.base().as_path(), Path::new("/proc/self/exe")] {
        let marked = rustix::fs::getxattr(path, sandbox::OWNER_ATTRIBUTE, &mut value);
        assert!(marked.is_err(), "{}", path.display());
    }
}

/// Files that a command made outside of the folders which its root may be in.
fn strays(outside: &Path) -> Vec<String> {
    let found = Command::new("find")
        .arg(outside)
        .args(["-name", "stray*", "-not", "-path"])
        .arg(format!("{}/store/f*/*", outside.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&found.stdout);
    text.lines().map(str::to_owned).collect()
}

fn exchanged(world: &World) {
    says(world, "answer-exchanged", "all inside\n");
    assert_eq!(strays(world.outside()), Vec::<String>::new());
}

fn recorded(world: &World) {
    says(world, "answer-recorded", "0:0\n1:1 or 0:0\n");
}

fn storm(world: &World) {
    says(world, "answer-storm", "6400 right, 0 wrong\n");
}

fn gone(world: &World) {
    says(world, "answer-gone", "all gone\n5:6\n");
}

/// Process 1 of the run whose command has this mark, as the host numbers it.
fn first_process_of(mark: &str) -> i32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let marked = format!("MARK={mark}");
    for process in processes {
        let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
        let environment = read("environ");
        if !environment
            .split(|byte| *byte == 0)
            .any(|text| text == marked.as_bytes())
        {
            continue;
        }
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
        };
        // The command itself is the second process of its namespace.
        if field("NSpid:")
            .and_then(|ids| ids.last().cloned())
            .as_deref()
            == Some("2")
        {
            return field("PPid:").unwrap()[0].parse().unwrap();
        }
    }
    panic!("no command has the mark {mark}");
}

/// A command that says `ready` in a folder of the host and goes on when `go` is there.
fn waiting(world: &World, mark: &str, script: &str) -> (RunSpec, std::path::PathBuf) {
    let shared = world.folder();
    let mut spec = world.sh(&format!(
        "touch /shared/ready; while [ ! -e /shared/go ]; do sleep 0.01; done; {script}"
    ));
    spec.env.push(("MARK".to_owned(), mark.to_owned()));
    spec.mounts = vec![Mount::Bind {
        source: shared.clone(),
        subpath: String::new(),
        target: "/shared".to_owned(),
        readonly: false,
        nosuid: true,
        noexec: true,
        owner: None,
    }];
    (spec, shared)
}

fn await_file(path: &Path) {
    while !path.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn first_process_killed(world: &World) {
    let mark = lifecycle::mark();
    let (spec, shared) = waiting(world, &mark, "chown 5:6 /tmp");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.try_run(&spec));
        await_file(&shared.join("ready"));
        kill_process(
            Pid::from_raw(first_process_of(&mark)).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        let ended = run.join().unwrap();
        if let Ok(outcome) = &ended {
            assert_eq!(outcome.exit, Exit::Signal(libc::SIGKILL), "{outcome:?}");
        }
    });
    lifecycle::await_none("processes", || lifecycle::processes_with(&mark));
    // The next command of the build is none the wiser.
    assert_eq!(world.run(&world.sh("echo on")).ok(), "on\n");
}

fn first_process_stopped(world: &World) {
    let mark = lifecycle::mark();
    let script = "touch /tmp/f; chown 5:6 /tmp/f; stat -c %u:%g /tmp/f";
    let (spec, shared) = waiting(world, &mark, script);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.run(&spec));
        await_file(&shared.join("ready"));
        let first = Pid::from_raw(first_process_of(&mark)).unwrap();
        kill_process(first, Signal::STOP).unwrap();
        std::fs::write(shared.join("go"), "").unwrap();
        // The command cannot end before it has answers, if it needs any.
        std::thread::sleep(std::time::Duration::from_millis(20));
        kill_process(first, Signal::CONT).unwrap();
        assert_eq!(run.join().unwrap().ok(), "5:6\n");
    });
}

/// Where something keeps calls from being answered, that is said, and no owner is lost without a word.
fn without(world: &World) {
    if !world.is(IdMapping::Single) {
        return;
    }
    for what in ["listener", "read", "write", "ioctl"] {
        let output = Command::new("/proc/self/exe")
            .args(["--unlistened", what])
            .args([&world.store(), &world.folder()])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains(
                "only one user id is available, and the owners that commands ask for are lost"
            ),
            "{what}: {text}"
        );
        assert!(text.contains("records false\n"), "{what}: {text}");
        // Neither does a command go on that believes to have given a file away.
        assert!(
            text.contains("chown: /tmp/f: Invalid argument\nexit Code(1)\n"),
            "{what}: {text}"
        );
        assert!(
            text.contains("user error: ") && text.contains("not mapped"),
            "{what}: {text}"
        );
    }
}

/// Body of `--unlistened WHAT STORE WORK`: runs commands where one call of those that answering takes fails.
pub(crate) fn unlistened(args: &[String]) -> ExitCode {
    let [what, store, work] = args else {
        return ExitCode::FAILURE;
    };
    let listener = u32::try_from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap();
    // SECCOMP_IOCTL_NOTIF_RECV.
    let receive = 0xc050_2100;
    let (number, tested, errno) = match what.as_str() {
        "listener" => (libc::SYS_seccomp, Some((1, listener)), libc::EBUSY),
        "read" => (libc::SYS_process_vm_readv, None, libc::EPERM),
        "write" => (libc::SYS_process_vm_writev, None, libc::EPERM),
        _ => (libc::SYS_ioctl, Some((1, receive)), libc::ENOTTY),
    };
    forbid(number, tested, errno);
    let sandbox = Sandbox::start(&Options {
        stores: vec![store.into()],
        ..Options::default()
    });
    let sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(error) => {
            println!("error: {}", chain(&error));
            return ExitCode::SUCCESS;
        }
    };
    println!("{}", sandbox.notes().join("\n"));
    println!("records {}", sandbox.records_owners());
    let folder = |name: &str| {
        let path = format!("{work}/{name}");
        std::fs::create_dir(&path).unwrap();
        path.into()
    };
    let mut spec = RunSpec {
        root: Overlay {
            lowers: vec![format!("{store}/base").into()],
            upper: Some((folder("upper"), folder("work"))),
        },
        args: ["sh", "-c", "touch /tmp/f; chown 33:42 /tmp/f"]
            .map(str::to_owned)
            .into(),
        env: vec![("PATH".to_owned(), PATH.to_owned())],
        ..RunSpec::default()
    };
    let outcome = run_in(&sandbox, &spec).unwrap();
    println!("{}exit {:?}", outcome.stderr, outcome.exit);
    spec.uid = 1000;
    spec.root.upper = Some((folder("upper2"), folder("work2")));
    match run_in(&sandbox, &spec) {
        Ok(outcome) => println!("user {outcome:?}"),
        Err(error) => println!("user error: {}", chain(&error)),
    }
    ExitCode::SUCCESS
}

/// Makes a call fail in this process and its children, where bits are set in the lower half of an argument if that is said.
fn forbid(number: libc::c_long, tested: Option<(u32, u32)>, errno: i32) {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![
        step(0x20, 0, 0, 0),
        step(0x15, 1, 0, u32::try_from(number).unwrap()),
        step(0x06, 0, 0, 0x7fff_0000),
    ];
    match tested {
        // All bits of a request.
        Some((argument, value)) if value > 0xffff => filter.extend([
            step(0x20, 0, 0, 16 + 8 * argument),
            step(0x15, 1, 0, value),
            step(0x06, 0, 0, 0x7fff_0000),
        ]),
        Some((argument, bits)) => filter.extend([
            step(0x20, 0, 0, 16 + 8 * argument),
            step(0x45, 1, 0, bits),
            step(0x06, 0, 0, 0x7fff_0000),
        ]),
        None => {}
    }
    filter.push(step(0x06, 0, 0, 0x0005_0000 | errno.cast_unsigned()));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_mut_ptr(),
    };
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the program points at as many initialised instructions as it says.
    let loaded = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) };
    assert_eq!(loaded, 0);
}
