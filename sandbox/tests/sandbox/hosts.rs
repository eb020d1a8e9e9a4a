//! Hosts that lack something: what works all the same, and what is said when it does not.

#![allow(unsafe_code)]

use crate::world::{World, chain, run_in};
use rustix::mount::{MountFlags, UnmountFlags};
use sandbox::{Options, Overlay, RunSpec, Sandbox};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

pub(crate) const CASES: &[crate::Case] = &[
    ("hosts::missing_store", missing_store),
    ("hosts::several_stores", several_stores),
    ("hosts::file_system_without_id_maps", no_id_maps),
    ("hosts::root_of_a_user_namespace", nested_root),
    ("hosts::user_namespaces_are_off", no_namespaces),
    ("hosts::older_system_calls", older_calls),
    ("hosts::the_marker_typed_by_hand", typed_marker),
];

/// Body of `--start LAYER UPPER WORK [older]`: starts a sandbox in whatever surroundings and runs a command over the layer.
pub(crate) fn start(args: &[String]) -> ExitCode {
    let [layer, upper, work, rest @ ..] = args else {
        return ExitCode::FAILURE;
    };
    if !rest.is_empty() {
        hide_newer_calls();
    }
    let store = Path::new(layer).parent().unwrap().to_owned();
    let sandbox = match Sandbox::start(&Options {
        stores: vec![store],
        ..Options::default()
    }) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            println!("error: {}", chain(&error));
            return ExitCode::SUCCESS;
        }
    };
    println!("{:?} {:?}", sandbox.id_mapping(), sandbox.notes());
    let spec = RunSpec {
        root: Overlay {
            lowers: vec![layer.into()],
            upper: Some((upper.into(), work.into())),
        },
        args: [
            "/bin/sh",
            "-c",
            "id -u; touch /new; cat /etc/passwd | wc -l",
        ]
        .map(str::to_owned)
        .into(),
        cwd: "/".to_owned(),
        ..RunSpec::default()
    };
    match run_in(&sandbox, &spec) {
        Ok(outcome) => println!("{outcome:?}"),
        Err(error) => println!("error: {}", chain(&error)),
    }
    ExitCode::SUCCESS
}

/// Makes this process and its children see a kernel without clone3 (before 5.3, or Docker's older profile) and with an
/// overlay that takes no descriptors (before 6.13).
fn hide_newer_calls() {
    const FSCONFIG_SET_FD: u32 = 5;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let filter = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, libc::SYS_clone3 as u32),
        instruction(0x06, 0, 0, 0x0005_0000 | libc::ENOSYS as u32),
        instruction(0x15, 0, 3, libc::SYS_fsconfig as u32),
        instruction(0x20, 0, 0, 24),
        instruction(0x15, 0, 1, FSCONFIG_SET_FD),
        instruction(0x06, 0, 0, 0x0005_0000 | libc::EINVAL as u32),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the program points at its instructions, which the kernel copies.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(result, 0);
}

fn folders(world: &World) -> [String; 3] {
    [world.base(), world.folder(), world.folder()].map(|path| path.to_str().unwrap().to_owned())
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn missing_store(_: &World) {
    if !is_root() {
        return;
    }
    let error = Sandbox::start(&Options {
        stores: vec!["/no/such/store".into()],
        ..Options::default()
    })
    .unwrap_err();
    assert!(
        chain(&error).contains("/no/such/store"),
        "{}",
        chain(&error)
    );
}

/// Two stores below one folder that only its owner may pass, one of them twice, by a link and by a folder inside.
fn several_stores(world: &World) {
    let closed = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = closed.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let stores: Vec<PathBuf> = vec![
        make("one"),
        make("deep/two"),
        make("one/inner"),
        world.store(),
    ];
    std::os::unix::fs::symlink("deep/two", closed.path().join("link")).unwrap();
    let sandbox = Sandbox::start(&Options {
        stores: stores.clone(),
        ..Options::default()
    })
    .unwrap();
    for store in &stores {
        let request = store.to_str().unwrap().as_bytes();
        assert_eq!(
            sandbox.task("ids", request, &[]).unwrap(),
            b"0 0 0",
            "{}",
            store.display()
        );
    }
    let root = |name: &str| {
        let [upper, work] = ["upper", "work"].map(|part| make(&format!("{name}/{part}")));
        Overlay {
            lowers: vec![world.base()],
            upper: Some((upper, work)),
        }
    };
    for name in ["one", "deep/two", "one/inner"] {
        let spec = RunSpec {
            root: root(name),
            ..world.sh("touch /here")
        };
        run_in(&sandbox, &spec).unwrap().ok();
        assert!(closed.path().join(name).join("upper/here").exists());
        sandbox
            .task(
                "remove",
                closed.path().join(name).to_str().unwrap().as_bytes(),
                &[],
            )
            .unwrap();
    }
}

/// Unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn no_id_maps(world: &World) {
    if !is_root() {
        return;
    }
    let ramfs = world.outside().join("ramfs");
    std::fs::create_dir(&ramfs).unwrap();
    rustix::mount::mount("ramfs", &ramfs, "ramfs", MountFlags::empty(), None).unwrap();
    let ramfs = Mounted(ramfs);
    let sandbox = Sandbox::start(&Options {
        stores: vec![ramfs.0.clone(), world.store()],
        ..Options::default()
    })
    .unwrap();
    assert!(
        sandbox.notes()[0].contains("id-mapped mounts are not possible"),
        "{:?}",
        sandbox.notes()
    );
    let mut spec =
        world.sh("id -u; touch /new; chown 33 /new; cat /marker; grep CapEff /proc/self/status");
    std::fs::write(ramfs.0.join("marker"), "of the ramfs\n").unwrap();
    spec.root.lowers.insert(0, ramfs.0.clone());
    let expected = "0\nof the ramfs\nCapEff:\t00000000a80425fb\n";
    assert_eq!(run_in(&sandbox, &spec).unwrap().ok(), expected);
    let stat = std::fs::metadata(spec.root.upper.unwrap().0.join("new")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&stat),
        33,
        "container ids on disk"
    );
}

pub(crate) fn unshare(flags: &str, script: &str, world: &World) -> Option<String> {
    let mut command = Command::new("unshare");
    command
        .args([flags, "sh", "-c", script, "sh"])
        .args(folders(world))
        .env("SELF", std::fs::read_link("/proc/self/exe").unwrap());
    let made = Command::new("unshare")
        .args(["-r", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !made {
        println!("unshare (package util-linux) is missing or may not make a user namespace");
        return None;
    }
    Some(output(&mut command))
}

fn nested_root(world: &World) {
    if let Some(text) = unshare("-r", "exec $SELF --start \"$@\"", world) {
        assert!(
            text.starts_with("Single") && text.contains(r#"stdout: "0\n2\n""#),
            "{text}"
        );
    }
}

fn no_namespaces(world: &World) {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec $SELF --start \"$@\"";
    if let Some(text) = unshare("-r", script, world) {
        assert!(
            text.contains("isolation: chroot: could not make a user namespace"),
            "{text}"
        );
        assert!(text.contains("sysctl user.max_user_namespaces"), "{text}");
    }
}

fn older_calls(world: &World) {
    let text = output(
        Command::new("/proc/self/exe")
            .arg("--start")
            .args(folders(world))
            .arg("older"),
    );
    // Set-uid programs do not work under a filter without privileges, so a user gets the own id only.
    assert!(text.contains(r#"stdout: "0\n2\n", stderr: """#), "{text}");
    if !is_root() {
        assert!(text.starts_with("Single"), "{text}");
    }
}

fn typed_marker(_: &World) {
    let output = Command::new("/proc/self/exe")
        .arg("--sandbox-helper--")
        .output()
        .unwrap();
    assert_eq!(
        (
            output.status.code(),
            output.stdout.len(),
            output.stderr.len()
        ),
        (Some(2), 0, 0)
    );
}
