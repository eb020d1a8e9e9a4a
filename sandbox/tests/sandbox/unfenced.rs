//! Commands without namespaces on a kernel without Landlock: refused, unless they are asked for by name.

#![allow(unsafe_code)]

use crate::world::{World, chain, run_in};
use sandbox::{Isolation, Network, Options, Overlay, RunSpec, Sandbox};
use std::process::{Command, ExitCode, Stdio};

pub(crate) const CASES: &[crate::Case] = &[
    ("chroot::without_landlock_it_is_refused", refused),
    ("chroot::without_landlock_it_is_told", told),
];

/// Body of `--unfenced STORE WORK ISOLATION`: runs a command where neither namespaces nor Landlock are to be had.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let [store, work, isolation] = args else {
        return ExitCode::FAILURE;
    };
    forbid(&[
        (libc::SYS_landlock_create_ruleset, libc::ENOSYS),
        (libc::SYS_unshare, libc::EPERM),
    ]);
    let isolation = match isolation.as_str() {
        "auto" => Isolation::Auto,
        _ => Isolation::Chroot,
    };
    let folder = |name: &str| {
        let path = format!("{work}/{name}");
        std::fs::create_dir(&path).unwrap();
        path.into()
    };
    let sandbox = Sandbox::start(&Options {
        stores: vec![store.into()],
        isolation,
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
    let script =
        "kill -URG -1 || echo refused; kill -URG 1 || echo refused; setsid sleep 300 & echo end";
    let spec = RunSpec {
        root: Overlay {
            lowers: vec![format!("{store}/base").into()],
            upper: Some((folder("upper"), folder("work"))),
        },
        args: ["sh", "-c", script].map(str::to_owned).into(),
        env: vec![
            ("PATH".to_owned(), "/bin".to_owned()),
            ("MARK".to_owned(), mark()),
        ],
        network: Network::Host,
        ..RunSpec::default()
    };
    match run_in(&sandbox, &spec) {
        Ok(outcome) => println!("{} left: {}", outcome.stdout, left()),
        Err(error) => println!("error: {}", chain(&error)),
    }
    ExitCode::SUCCESS
}

fn mark() -> String {
    format!("unfenced{}", std::process::id())
}

fn left() -> usize {
    let mark = format!("MARK={}", mark());
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read(entry.path().join("environ")).is_ok_and(|bytes| {
                bytes
                    .windows(mark.len())
                    .any(|part| part == mark.as_bytes())
            })
        })
        .count()
}

/// Makes calls fail in this process and its children.
fn forbid(calls: &[(libc::c_long, i32)]) {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![step(0x20, 0, 0, 0)];
    for (number, errno) in calls {
        filter.push(step(0x15, 0, 1, *number as u32));
        filter.push(step(0x06, 0, 0, 0x0005_0000 | *errno as u32));
    }
    filter.push(step(0x06, 0, 0, 0x7fff_0000));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_mut_ptr(),
    };
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the program points at as many initialised instructions as it says.
    let loaded = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) };
    assert_eq!(loaded, 0);
}

fn start(world: &World, isolation: &str) -> String {
    let work = world.folder();
    let output = Command::new("/proc/self/exe")
        .arg("--unfenced")
        .args([&world.store(), &work])
        .arg(isolation)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(world: &World) {
    let text = start(world, "auto");
    assert!(text.starts_with("error: "), "{text}");
    assert!(
        text.contains("fence commands in with Landlock") && text.contains("--isolation=chroot"),
        "{text}"
    );
}

fn told(world: &World) {
    let text = start(world, "chroot");
    assert!(text.contains("NOT FENCED IN"), "{text}");
    assert!(text.contains("refused\nrefused\nend\n left: 0"), "{text}");
}
