//! Several processes on one store: races, kill -9, other user ids, a full disk. Children are this test binary itself.

use crate::{
    Fixture, digest, files_below, grow_tree, image, is_empty_dir, is_root, meta, tree_is_whole,
};
use oci_spec::image::Digest;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use store::{Error, LayerMeta, StagedLayer, Store};

const ROLE: &str = "KILN_STORE_TEST_ROLE";
const ROOT: &str = "KILN_STORE_TEST_ROOT";

fn child(role: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "processes::child_process",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for the child's word that it has begun.
fn wait_ready(child: &mut Child) {
    let out = BufReader::new(child.stdout.take().unwrap());
    let ready = out
        .lines()
        .map_while(Result::ok)
        .any(|l| l.contains("ready"));
    assert!(ready, "the child process ended early");
}

#[test]
#[ignore = "the body of child processes that other tests start"]
fn child_process() {
    let (Ok(role), Ok(root)) = (std::env::var(ROLE), std::env::var(ROOT)) else {
        return;
    };
    let store = Store::open(Path::new(&root)).unwrap();
    println!("ready");
    std::io::stdout().flush().unwrap();
    match role.as_str() {
        "race" => {
            for byte in 0..25 {
                put_everything(&store, byte);
            }
        }
        "until-killed" => {
            for byte in (0..=255).cycle() {
                put_everything(&store, byte);
            }
        }
        "hold" => {
            let scratch = store.scratch().unwrap();
            grow_tree(scratch.path());
            std::thread::sleep(Duration::from_secs(600));
        }
        "leftovers" => {
            let leftovers = store.leftovers();
            assert_eq!(leftovers.len(), 1, "{leftovers:?}");
            assert!(leftovers[0].join("theirs/file").is_file());
        }
        "foreign-tree" => foreign_tree(&store),
        other => panic!("unknown role {other}"),
    }
}

/// One of everything, the same in every process.
fn put_everything(store: &Store, byte: u8) {
    let scratch = store.scratch().unwrap();
    let mut writer = store.blob_writer().unwrap();
    for _ in 0..20 {
        writer.write_all(&[byte; 5000]).unwrap();
    }
    let (diff_id, size) = writer.commit(None).unwrap();
    let tree = scratch.path().join("tree");
    grow_tree(&tree);
    let index = scratch.path().join("index");
    fs::write(&index, vec![byte; 3000]).unwrap();
    let meta = LayerMeta {
        identity: Some(format!("{byte:08x}")),
        size: Some(size),
        ..meta(&diff_id)
    };
    let staged = StagedLayer {
        tar: None,
        tree: Some(tree),
        index: Some(index),
    };
    store.put_layer(&meta, staged).unwrap();
    store
        .put_record(&[byte; 32], &vec![byte; 2000], &[diff_id])
        .unwrap();
    let manifest = format!("{{\"number\":{byte}}}");
    store
        .tag(&image(store, &format!("name{byte}"), manifest.as_bytes()))
        .unwrap();
    let mut cache = store.stat_cache(Path::new("/context")).unwrap();
    for ino in 0..100 {
        let key = store::StatKey {
            dev: u64::from(byte),
            ino,
            size: 1,
            mtime_ns: 1,
            ctime_ns: 1,
        };
        cache.insert(key, [byte; 32]);
    }
    cache.save().unwrap();
}

/// Everything visible is whole. Returns how many records there are.
fn check_whole(store: &Store) -> usize {
    for path in files_below(&store.root().join("blobs")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let digest = Digest::try_from(format!("sha256:{name}")).unwrap();
        store.open_blob(&digest).unwrap().finish().unwrap();
    }
    for entry in fs::read_dir(store.root().join("layers/sha256")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let digest = Digest::try_from(format!("sha256:{name}")).unwrap();
        if let Some(tree) = store.layer_tree(&digest) {
            assert!(tree_is_whole(&tree));
        }
        if let Some(index) = store.layer_index(&digest) {
            assert_eq!(fs::metadata(index).unwrap().len(), 3000);
        }
    }
    let mut records = 0;
    for byte in 0..=255u8 {
        let Some(payload) = store.record(&[byte; 32]).unwrap() else {
            continue;
        };
        records += 1;
        assert_eq!(payload, vec![byte; 2000]);
        // A record is written after what it points at.
        let layer = store.layer_by_identity(&format!("{byte:08x}")).unwrap();
        let layer = layer.expect("a record without its layer");
        assert!(store.layer(&layer).unwrap().is_some());
        assert!(store.layer_tree(&layer).is_some());
        assert!(store.blob_size(&layer).is_some());
    }
    let files = files_below(&store.root().join("refs")).len();
    assert_eq!(store.references().unwrap().len(), files);
    records
}

#[test]
fn processes_that_put_the_same_things_agree() {
    let fixture = Fixture::new();
    let children: Vec<_> = (0..3)
        .map(|_| child("race", &fixture.root()).spawn().unwrap())
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
    }
    let store = fixture.reopen();
    assert_eq!(check_whole(&store), 25);
    assert_eq!(store.references().unwrap().len(), 25);
    drop(fixture.store);
    assert!(is_empty_dir(&fixture.dir.path().join("store/scratch")));
    assert!(store.leftovers().is_empty());
}

#[test]
fn processes_may_create_the_store_at_the_same_time() {
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let mut children: Vec<_> = (0..4)
            .map(|_| child("race", &root).spawn().unwrap())
            .collect();
        for child in &mut children {
            wait_ready(child);
        }
        for mut child in children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        check_whole(&Store::open(&root).unwrap());
    }
}

#[test]
fn kill_9_leaves_nothing_half_written_and_the_next_open_sweeps() {
    let fixture = Fixture::new();
    let root = fixture.root();
    drop(fixture.store);
    let mut swept = 0;
    for round in 0..15u64 {
        let mut child = child("until-killed", &root).spawn().unwrap();
        wait_ready(&mut child);
        std::thread::sleep(Duration::from_millis(3 + round * 5 % 37));
        child.kill().unwrap();
        child.wait().unwrap();
        swept += fs::read_dir(root.join("scratch")).unwrap().count();
        let store = Store::open(&root).unwrap();
        assert!(is_empty_dir(&root.join("scratch")));
        check_whole(&store);
    }
    assert!(swept >= 5, "only {swept} folders were left by 15 kills");
    assert!(check_whole(&Store::open(&root).unwrap()) > 0);
}

#[test]
fn scratch_of_a_live_process_is_left_alone_and_swept_after_its_death() {
    let fixture = Fixture::new();
    let mut child = child("hold", &fixture.root()).spawn().unwrap();
    wait_ready(&mut child);
    let folder = loop {
        let found = fs::read_dir(fixture.root().join("scratch"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| tree_is_whole(path));
        if let Some(found) = found {
            break found;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    fixture.reopen();
    assert!(tree_is_whole(&folder));
    child.kill().unwrap();
    child.wait().unwrap();
    fixture.reopen();
    assert!(!folder.exists());
}

fn skip_unless_root() -> bool {
    if !is_root() {
        eprintln!("SKIPPED: this test needs root (mount, other user ids)");
    }
    !is_root()
}

/// A folder and a binary that user 65534 can use; `None` when the binary is out of its reach.
fn as_nobody(role: &str, root: &Path) -> Option<std::process::Output> {
    let copy = root.parent().unwrap().join("test-binary");
    if !copy.exists() {
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let original = child(role, root);
    let mut command = Command::new(&copy);
    command.args(original.get_args());
    command.env(ROLE, role).env(ROOT, root);
    match command.uid(65534).gid(65534).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: cannot run as another user: {error}");
            None
        }
    }
}

fn open_to_all() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

#[test]
fn files_of_other_ids_stay_listed_as_leftovers() {
    if skip_unless_root() {
        return;
    }
    let dir = open_to_all();
    let root = dir.path().join("store");
    drop(Store::open(&root).unwrap());
    for folder in files_and_folders(&root) {
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
    }
    let dead = root.join("scratch/dead");
    fs::create_dir_all(dead.join("theirs")).unwrap();
    fs::write(dead.join("theirs/file"), "x").unwrap();
    std::os::unix::fs::chown(&dead, Some(65534), Some(65534)).unwrap();
    for _ in 0..2 {
        let Some(output) = as_nobody("leftovers", &root) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
    }
    let store = Store::open(&root).unwrap();
    for path in store.leftovers() {
        store::remove_tree(&path).unwrap();
    }
    assert!(store.leftovers().is_empty());
}

fn files_and_folders(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() {
            let entries = fs::read_dir(&found[at]).unwrap();
            let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            found.extend(paths);
        }
        at += 1;
    }
    found
}

#[test]
fn a_tree_of_another_id_moves_with_its_wrapper() {
    if skip_unless_root() {
        return;
    }
    let dir = open_to_all();
    let root = dir.path().join("store");
    drop(Store::open(&root).unwrap());
    let wrapper = root.join("logs/wrapper");
    grow_tree(&wrapper.join("root"));
    for path in files_and_folders(&root) {
        if !path.starts_with(wrapper.join("root")) {
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        }
    }
    let Some(output) = as_nobody("foreign-tree", &root) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
}

fn foreign_tree(store: &Store) {
    let scratch = store.scratch().unwrap();
    let wrapper = scratch.path().join("wrapper");
    fs::rename(store.logs().join("wrapper"), &wrapper).unwrap();
    let staged = StagedLayer {
        tree: Some(wrapper.join("root")),
        ..StagedLayer::default()
    };
    store.put_layer(&meta(&digest(1)), staged).unwrap();
    assert!(tree_is_whole(&store.layer_tree(&digest(1)).unwrap()));
}

/// Unmounts when the test ends, however it ends.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn small() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "kiln-test"])
            .arg(dir.path())
            .status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: cannot mount a tmpfs");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_the_store_sound() {
    if skip_unless_root() {
        return;
    }
    let Some(mounted) = Mounted::small() else {
        return;
    };
    let store = Store::open(mounted.0.path()).unwrap();
    let first = store.put_blob(&[1; 1000]).unwrap();
    let mut writer = store.blob_writer().unwrap();
    let written = (0..100).try_for_each(|_| writer.write_all(&[7; 50_000]));
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    drop(writer);

    let error = store.put_blob(&vec![2; 1 << 20]).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    let error = store.put_record(&[1; 32], &vec![2; 1 << 20], &[]);
    assert!(error.unwrap_err().is_disk_full());
    assert_eq!(store.record(&[1; 32]).unwrap(), None);

    // What a full disk still allows, and that the failed writes gave their space back.
    assert_eq!(store.read_blob(&first, 1000).unwrap(), [1; 1000]);
    store.put_blob(&vec![3; 100_000]).unwrap();
    let files = files_below(mounted.0.path()).len();
    // And the lease of this process, and the file that it touches things under.
    assert_eq!(files, 6, "version, lock and two blobs");
}

#[test]
fn opening_waits_for_no_build() {
    let fixture = Fixture::new();
    let mut child = child("hold", &fixture.root()).spawn().unwrap();
    wait_ready(&mut child);
    fixture.reopen().put_blob(b"meanwhile").unwrap();
    let alone = fixture.store.alone(|| Ok(()));
    assert!(matches!(alone, Err(Error::Busy { .. })));
    // Pruning takes nothing that the other process may use.
    let report = fixture
        .store
        .prune(&store::PruneOptions::default(), &store::remove_tree);
    assert_eq!(report.unwrap().removed, [""; 0]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_new_store_is_opened_by_many_at_once() {
    const OPENERS: usize = 6;
    for _ in 0..300 {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        // Whether they are threads or processes: each has locks of its own.
        let barrier = std::sync::Barrier::new(OPENERS);
        std::thread::scope(|scope| {
            let open = || {
                barrier.wait();
                Store::open(&root).map(|store| store.put_record(&[7; 32], b"x", &[]))
            };
            let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(open)).collect();
            for opener in openers {
                opener.join().unwrap().unwrap().unwrap();
            }
        });
    }
}
