//! Layers through real runs: unpacked, changed by a command, captured, exported; as the user that runs this, and when
//! that is root also as a user with subordinate ids and as one without. Identities must be equal.
//!
//! Not the usual harness: the sandbox re-executes this program, and its hook must come first in `main`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::layer::{self, Compression};
use executor::snapshot::{Snapshot, View};
use executor::space::Space;
use executor::tree::{FileTree as _, Kind};
use layer_support::{TarMaker, gzip, sha256};
use oci_spec::image::{Descriptor, Digest, MediaType};
use sandbox::{Exit, IdMapping, Network, Overlay, RunSpec};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use store::Store;

/// Users to become, and whether they have subordinate ids.
const USERS: [(&str, bool); 2] = [("kilntest", true), ("kilnbare", false)];

fn main() -> ExitCode {
    sandbox::init_if_child(executor::TASKS);
    if std::env::args().any(|arg| arg == "--list") {
        println!("layers_through_runs: test");
        return ExitCode::SUCCESS;
    }
    let own = match scenario() {
        Ok(identity) => identity,
        Err(reason) => return skip(&reason),
    };
    println!("identity {own}");
    if std::env::args().any(|arg| arg == "--child") || !layer_support::is_root() {
        return ExitCode::SUCCESS;
    }
    for (user, ranges) in USERS {
        match as_user(user, ranges) {
            // A single id keeps the owners, but not all that the base of this test has.
            Ok(identity) if ranges && identity != own => {
                println!("FAILED: as {user} the layer has the identity {identity}");
                return ExitCode::FAILURE;
            }
            Ok(_) => println!("ok as {user}"),
            Err(Failed::Here(reason)) => {
                println!("FAILED: as {user}: {reason}");
                return ExitCode::FAILURE;
            }
            Err(Failed::Missing(reason)) => {
                if skip(&reason) == ExitCode::FAILURE {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn skip(reason: &str) -> ExitCode {
    println!("SKIPPED: {reason}");
    if std::env::var("CI").as_deref() == Ok("true") {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

const COMMAND: &str = "set -e
rm /etc/issue
rm -r /opt/app; mkdir /opt/app; echo new > /opt/app/b
echo secret > /hidden; chmod 600 /hidden
mkfifo /fifo; ln -s /etc /link; echo one > /a; ln /a /z
mkdir -p /deep/er; chmod 1777 /deep; chmod 500 /deep/er
touch /etc/passwd
chown 33:34 /hidden; chown -h 1000:1000 /link
";

const CHECK: &str = "set -e
test ! -e /etc/issue
test $(ls /opt/app) = b
test $(stat -c %a /hidden) = 600
test /a -ef /z
test -p /fifo
test $(stat -c %a /deep) = 1777
test $(cat /hidden) = secret
test $(stat -c %u:%g /hidden) = 33:34
";

/// A link of a lower layer shows its owner where it has one of its own on the disk.
const CHECK_LINK: &str = "test $(stat -c %u /link) = 1000\n";

/// The whole way of a layer; its identity, or why it cannot be gone here.
fn scenario() -> Result<String, String> {
    let busybox = fs::read("/bin/busybox")
        .map_err(|e| format!("/bin/busybox (package busybox-static): {e}"))?;
    let folder = tempfile::tempdir().unwrap();
    let space = Space::new(Store::open(&folder.path().join("store")).unwrap());
    let mapping = space
        .sandbox()
        .map_err(|e| executor::error::chain(&e))?
        .id_mapping();
    let base = base(&space, &busybox);
    let written = run(
        &space,
        &folder.path().join("store/first"),
        std::slice::from_ref(&base),
        COMMAND,
    );
    let written = layer::capture(
        &space,
        &written,
        &Snapshot {
            layers: vec![base.clone()],
        },
    )
    .unwrap();
    let layers = [base, written.diff_id.clone()];
    let check = if mapping == IdMapping::Single {
        CHECK.to_owned()
    } else {
        format!("{CHECK}{CHECK_LINK}")
    };
    run(&space, &folder.path().join("store/second"), &layers, &check);
    // Overlay's work folders are of no use to an ordinary user outside of the namespace.
    for run in ["store/first", "store/second"] {
        space.remove_tree(&folder.path().join(run)).unwrap();
    }
    // What the indexes say.
    let files: Vec<_> = layers
        .iter()
        .map(|l| layer::content(&space, l).unwrap())
        .collect();
    let view = View::load(&files).unwrap();
    let hidden = view.entry(b"hidden").unwrap().unwrap();
    assert_eq!((hidden.uid, hidden.gid, hidden.mode), (33, 34, 0o600));
    assert_eq!(view.read(b"hidden", 99).unwrap().unwrap(), b"secret\n");
    assert_eq!(
        view.entry(b"etc/passwd").unwrap().unwrap().uid,
        5,
        "the owner of the base stays"
    );
    assert_eq!(view.link_id(b"a"), view.link_id(b"z"));
    assert!(matches!(
        view.entry(b"fifo").unwrap().unwrap().kind,
        Kind::Fifo
    ));
    assert_eq!(view.list(b"opt/app").unwrap(), [b"b"]);
    exported(&space, &written.diff_id);
    let clamped = layer::clamp_times(&space, &written.diff_id, 1).unwrap();
    let meta = space.store().layer(&clamped).unwrap().unwrap();
    assert_eq!(meta.identity.as_ref(), Some(&written.identity));
    // Trees of other ids go too.
    for layer in &layers {
        let tree = layer::tree(&space, layer).unwrap();
        space.remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
    Ok(written.identity)
}

/// The blob is the layer: what comes out of it has the diff_id.
fn exported(space: &Space, diff_id: &Digest) {
    let blob = layer::blob(space, diff_id, Compression::Gzip(6), false).unwrap();
    let packed = File::open(space.store().blob_path(blob.digest())).unwrap();
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(packed)
        .read_to_end(&mut tar)
        .unwrap();
    assert_eq!(sha256(&tar), *diff_id);
}

fn base(space: &Space, busybox: &[u8]) -> Digest {
    let owned = |maker: TarMaker| maker.pax(&[("uid", b"5"), ("gid", b"6")]);
    let mut maker = TarMaker::new().dir("bin");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    maker
        .builder
        .append_data(&mut header, "bin/busybox", busybox)
        .unwrap();
    for name in [
        "sh", "rm", "mkdir", "chmod", "mkfifo", "ln", "touch", "stat", "chown", "test", "[", "ls",
        "cat",
    ] {
        maker = maker.hardlink(&format!("bin/{name}"), "bin/busybox");
    }
    maker = maker
        .dir("etc")
        .file("etc/issue", "x")
        .dir("opt")
        .dir("opt/app")
        .file("opt/app/a", "a")
        .dir("var");
    let tar = owned(owned(maker).file("etc/passwd", "root:x:0:0::/:/bin/sh\n"))
        .file("var/own", "")
        .end();
    let blob = gzip(&tar);
    let digest = space.store().put_blob(&blob).unwrap();
    let descriptor = Descriptor::new(MediaType::ImageLayerGzip, blob.len() as u64, digest);
    let diff_id = sha256(&tar);
    layer::register_blob(space, &diff_id, &descriptor).unwrap();
    diff_id
}

/// Runs a script over layers; its upper directory.
fn run(space: &Space, place: &Path, layers: &[Digest], script: &str) -> std::path::PathBuf {
    let (upper, work) = (place.join("upper"), place.join("work"));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
    let lowers = layers
        .iter()
        .rev()
        .map(|l| layer::tree(space, l).unwrap())
        .collect();
    let spec = RunSpec {
        root: Overlay {
            lowers,
            upper: Some((upper.clone(), work)),
        },
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: "/".to_owned(),
        network: Network::None,
        hostname: "test".to_owned(),
        ..RunSpec::default()
    };
    let log = tempfile::tempfile().unwrap();
    let exit = space
        .sandbox()
        .unwrap()
        .run(&spec, log.as_fd(), log.as_fd())
        .unwrap()
        .wait()
        .unwrap();
    let mut text = String::new();
    std::io::Seek::rewind(&mut &log).unwrap();
    (&log).read_to_string(&mut text).unwrap();
    assert_eq!(exit, Exit::Code(0), "{text}");
    upper
}

enum Failed {
    /// There is no such user, or no way to become it.
    Missing(String),
    /// The test failed.
    Here(String),
}

/// Runs this program as another user, made for it when it does not exist.
fn as_user(user: &str, ranges: bool) -> Result<String, Failed> {
    let known = |file: &str| {
        fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .any(|l| l.starts_with(&format!("{user}:")))
    };
    let missing = |reason: std::io::Error| Failed::Missing(format!("all as {user}: {reason}"));
    let made = !known("/etc/passwd");
    if made {
        let options = [
            "--no-create-home",
            "-K",
            "SUB_UID_COUNT=0",
            "-K",
            "SUB_GID_COUNT=0",
            user,
        ];
        Command::new("useradd")
            .args(options)
            .status()
            .map_err(missing)?;
    }
    if ranges && !known("/etc/subuid") {
        let options = [
            "--add-subuids",
            "700000000-700065535",
            "--add-subgids",
            "700000000-700065535",
            user,
        ];
        Command::new("usermod")
            .args(options)
            .status()
            .map_err(missing)?;
    }
    let folder = tempfile::tempdir().map_err(missing)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).map_err(missing)?;
    let program = folder.path().join("layer-users");
    fs::copy("/proc/self/exe", &program).map_err(missing)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(missing)?;
    let output = Command::new("setpriv")
        .args([
            &format!("--reuid={user}"),
            &format!("--regid={user}"),
            "--init-groups",
            "--reset-env",
        ])
        .arg(&program)
        .arg("--child")
        .current_dir("/")
        .stderr(Stdio::inherit())
        .output()
        .map_err(missing)?;
    if made {
        drop(Command::new("userdel").arg(user).status());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(reason) = text.lines().find_map(|line| line.strip_prefix("SKIPPED: ")) {
        return Err(Failed::Missing(format!("all as {user}: {reason}")));
    }
    let identity = text
        .lines()
        .find_map(|line| line.strip_prefix("identity "))
        .map(str::to_owned);
    identity.ok_or_else(|| Failed::Here(format!("{}: {text}", output.status)))
}
