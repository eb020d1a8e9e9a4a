//! Capture of an overlay's upper directory: what a command changed becomes a layer, and nothing else does.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::layer::{self, Written};
use executor::snapshot::{Snapshot, View};
use executor::tree::{Entry, FileTree, Kind};
use layer_support::{Scratch, TarMaker, gzip};
use oci_spec::image::Digest;
use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A mounted overlay; unmounted when dropped.
struct Overlay {
    upper: PathBuf,
    merged: PathBuf,
}

impl Overlay {
    /// Over unpacked layers, base first.
    fn mount(scratch: &Scratch, name: &str, layers: &[Digest]) -> Self {
        let folder = scratch.space.store().root().join("scratch").join(name);
        let (upper, work, merged) = (
            folder.join("upper"),
            folder.join("work"),
            folder.join("merged"),
        );
        for dir in [&upper, &work, &merged] {
            fs::create_dir_all(dir).unwrap();
        }
        // The kernel takes a folder once; a layer that is in the stack twice counts at its topmost place.
        let mut seen = std::collections::HashSet::new();
        let lowers: Vec<String> = layers
            .iter()
            .rev()
            .filter(|l| seen.insert((*l).clone()))
            .map(|l| {
                layer::tree(&scratch.space, l)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},userxattr",
            lowers.join(":"),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).unwrap();
        mount(
            "overlay",
            &merged,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self { upper, merged }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.merged, UnmountFlags::DETACH);
    }
}

/// Everything that a layer says about a tree, times left out; hard links by their first path.
type Shown = BTreeMap<String, String>;

fn show_folder(root: &Path) -> Shown {
    let mut shown = Shown::new();
    let mut groups: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    let mut paths = Vec::new();
    while let Some(dir) = pending.pop() {
        for item in fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            paths.push(item.path());
            if item.file_type().unwrap().is_dir() {
                pending.push(item.path());
            }
        }
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .escape_ascii()
            .to_string();
        let what = match meta.mode() & 0o170_000 {
            0o040_000 => "dir".to_owned(),
            0o120_000 => format!("link {}", fs::read_link(&path).unwrap().display()),
            0o100_000 => format!("file {}", blake3::hash(&fs::read(&path).unwrap())),
            0o010_000 => "fifo".to_owned(),
            0o020_000 => format!("char {}", meta.rdev()),
            other => format!("{other:o}"),
        };
        if meta.nlink() > 1 && !meta.is_dir() {
            groups
                .entry((meta.dev(), meta.ino()))
                .or_default()
                .push(name.clone());
        }
        shown.insert(
            name,
            format!(
                "{what} {:o} {}:{}",
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid()
            ),
        );
    }
    mark_groups(&mut shown, groups);
    shown
}

/// Marks paths of one file by the first of them.
fn mark_groups(shown: &mut Shown, groups: BTreeMap<(u64, u64), Vec<String>>) {
    for mut group in groups.into_values().filter(|group| group.len() > 1) {
        group.sort();
        for path in &group {
            shown
                .get_mut(path)
                .unwrap()
                .push_str(&format!(" = {}", group[0]));
        }
    }
}

fn show_view(view: &View) -> Shown {
    let mut shown = Shown::new();
    let mut groups: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    let mut pending = vec![Vec::new()];
    while let Some(dir) = pending.pop() {
        for (name, entry) in view.children(&dir).unwrap() {
            let path = if dir.is_empty() {
                name.clone()
            } else {
                [dir.as_slice(), b"/", &name].concat()
            };
            assert_eq!(entry.path, path);
            let what = match &entry.kind {
                Kind::Directory => "dir".to_owned(),
                Kind::Symlink { target } => format!("link {}", String::from_utf8_lossy(target)),
                Kind::File { .. } => {
                    let mut content = Vec::new();
                    view.open(&path).unwrap().read_to_end(&mut content).unwrap();
                    assert_eq!(
                        view.digest(&path).unwrap(),
                        *blake3::hash(&content).as_bytes()
                    );
                    format!("file {}", blake3::hash(&content))
                }
                Kind::Fifo => "fifo".to_owned(),
                Kind::Char { major, minor } => {
                    format!("char {}", rustix::fs::makedev(*major, *minor))
                }
                other => format!("{other:?}"),
            };
            let shown_path = path.escape_ascii().to_string();
            if let Some(id) = view
                .link_id(&path)
                .filter(|_| entry.kind != Kind::Directory)
            {
                groups.entry(id).or_default().push(shown_path.clone());
            }
            if entry.kind == Kind::Directory {
                pending.push(path);
            }
            shown.insert(
                shown_path,
                format!("{what} {:o} {}:{}", entry.mode, entry.uid, entry.gid),
            );
        }
    }
    mark_groups(&mut shown, groups);
    shown
}

fn view(scratch: &Scratch, layers: &[Digest]) -> View {
    let files: Vec<_> = layers
        .iter()
        .map(|l| layer::readable(&scratch.space, l).unwrap())
        .collect();
    View::load(&files).unwrap()
}

fn base(scratch: &Scratch) -> Digest {
    let tar = TarMaker::new()
        .dir("etc")
        .file("etc/issue", "Debian")
        .file("etc/passwd", "root")
        .dir("opt")
        .dir("opt/app")
        .file("opt/app/a", "1")
        .file("opt/app/b", "2")
        .dir("opt/app/sub")
        .file("opt/app/sub/c", "3")
        .file("opt/app/sub/d", "4")
        .file("swap", "file")
        .dir("swapdir")
        .file("swapdir/x", "x")
        .file("one", "same")
        .hardlink("two", "one")
        .symlink("lib", "usr/lib")
        .dir("usr")
        .dir("usr/lib")
        .end();
    scratch.register(&tar, &gzip(&tar))
}

fn write(path: PathBuf, content: &str) {
    fs::write(path, content).unwrap();
}

/// What a command may do to a root file system.
fn change(root: &Path) {
    fs::remove_file(root.join("etc/issue")).unwrap();
    write(root.join("etc/passwd"), "root and more");
    fs::remove_dir_all(root.join("opt/app")).unwrap();
    fs::create_dir_all(root.join("opt/app/sub")).unwrap();
    write(root.join("opt/app/b"), "new");
    write(root.join("opt/app/sub/d"), "new");
    fs::remove_file(root.join("swap")).unwrap();
    fs::create_dir(root.join("swap")).unwrap();
    write(root.join("swap/in"), "in");
    fs::remove_dir_all(root.join("swapdir")).unwrap();
    symlink("etc", root.join("swapdir")).unwrap();
    fs::create_dir(root.join("links")).unwrap();
    write(root.join("links/z"), "linked");
    fs::hard_link(root.join("links/z"), root.join("links/a")).unwrap();
    fs::hard_link(root.join("one"), root.join("links/one")).unwrap();
    fs::set_permissions(root.join("usr/lib"), fs::Permissions::from_mode(0o1777)).unwrap();
    chown(root.join("links"), Some(1000), Some(33)).unwrap();
    let odd = root.join(std::ffi::OsStr::from_bytes(b"n\xff\nl"));
    write(odd, "odd");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    let mut sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    std::io::Seek::seek(&mut sparse, std::io::SeekFrom::Start(20 << 20)).unwrap();
    std::io::Write::write_all(&mut sparse, b"middle").unwrap();
}

#[test]
fn a_change_becomes_a_layer_and_gives_the_same_file_system() {
    if layer_support::skip_without_root("mounting an overlay") {
        return;
    }
    let scratch = Scratch::new();
    let base = base(&scratch);
    let overlay = Overlay::mount(&scratch, "first", std::slice::from_ref(&base));
    assert_eq!(
        show_folder(&overlay.merged),
        show_view(&view(&scratch, std::slice::from_ref(&base))),
        "before"
    );
    change(&overlay.merged);
    let mut expected = show_folder(&overlay.merged);
    expected.remove("socket");
    let upper = overlay.upper.clone();
    drop(overlay);
    let below = Snapshot {
        layers: vec![base.clone()],
    };
    let written = layer::capture(&scratch.space, &upper, &below).unwrap();
    assert!(!upper.exists(), "it was moved");
    let layers = [base, written.diff_id.clone()];
    let seen = show_view(&view(&scratch, &layers));
    assert_eq!(seen, expected, "by the indexes");
    let again = Overlay::mount(&scratch, "second", &layers);
    assert_eq!(show_folder(&again.merged), expected, "as a lower");
    drop(again);
    // From the tar alone, in another store.
    let blob = layer::blob(
        &scratch.space,
        &written.diff_id,
        layer::Compression::Gzip(6),
        false,
    )
    .unwrap();
    let blob = fs::read(scratch.space.store().blob_path(blob.digest())).unwrap();
    let other = Scratch::new();
    let base = self::base(&other);
    let digest = other.space.store().put_blob(&blob).unwrap();
    let descriptor = oci_spec::image::Descriptor::new(
        oci_spec::image::MediaType::ImageLayerGzip,
        blob.len() as u64,
        digest,
    );
    layer::register_blob(&other.space, &written.diff_id, &descriptor).unwrap();
    let overlay = Overlay::mount(&other, "third", &[base, written.diff_id.clone()]);
    assert_eq!(show_folder(&overlay.merged), expected, "from the tar");
    let meta = other
        .space
        .store()
        .layer(&written.diff_id)
        .unwrap()
        .unwrap();
    assert_eq!(meta.identity, Some(written.identity));
}

/// The entries of a captured layer, whiteouts by their marker names.
fn names(scratch: &Scratch, diff_id: &Digest) -> Vec<String> {
    let blob = layer::blob(
        &scratch.space,
        diff_id,
        layer::Compression::Uncompressed,
        false,
    )
    .unwrap();
    let tar = fs::read(scratch.space.store().blob_path(blob.digest())).unwrap();
    assert_eq!(layer_support::sha256(&tar), *diff_id);
    let mut archive = tar::Archive::new(tar.as_slice());
    archive
        .entries()
        .unwrap()
        .map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).into_owned())
        .collect()
}

#[test]
fn the_layer_holds_what_changed_and_explicit_whiteouts() {
    if layer_support::skip_without_root("mounting an overlay") {
        return;
    }
    let scratch = Scratch::new();
    let base = base(&scratch);
    let overlay = Overlay::mount(&scratch, "o", std::slice::from_ref(&base));
    let root = &overlay.merged;
    fs::remove_dir_all(root.join("opt/app")).unwrap();
    fs::create_dir_all(root.join("opt/app/sub")).unwrap();
    write(root.join("opt/app/new"), "n");
    write(root.join("opt/app/sub/d"), "4");
    fs::remove_file(root.join("etc/issue")).unwrap();
    // Made and removed again: nothing to tell.
    write(root.join("etc/fleeting"), "");
    fs::remove_file(root.join("etc/fleeting")).unwrap();
    let upper = overlay.upper.clone();
    // A whiteout of what only a stub layer had.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("stub"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    drop(overlay);
    let written = layer::capture(&scratch.space, &upper, &Snapshot { layers: vec![base] }).unwrap();
    let expected = [
        "etc/",
        "etc/.wh.issue",
        "opt/",
        "opt/app/",
        "opt/app/.wh.a",
        "opt/app/.wh.b",
        "opt/app/new",
        "opt/app/sub/",
        "opt/app/sub/.wh.c",
        "opt/app/sub/d",
    ];
    assert_eq!(names(&scratch, &written.diff_id), expected);
}

/// How many attributes an entry of a layer's tar has. Another name of a file says nothing of them.
fn records_of(scratch: &Scratch, diff_id: &Digest, path: &str) -> usize {
    let blob = layer::blob(
        &scratch.space,
        diff_id,
        layer::Compression::Uncompressed,
        false,
    )
    .unwrap();
    let tar = fs::read(scratch.space.store().blob_path(blob.digest())).unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries
        .find(|entry| *entry.path_bytes() == *path.as_bytes())
        .unwrap();
    let records = entry.pax_extensions().unwrap();
    records.map_or(0, Iterator::count)
}

#[test]
fn xattrs() {
    if layer_support::skip_without_root("mounting an overlay") {
        return;
    }
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let scratch = Scratch::new();
    let base = base(&scratch);
    let overlay = Overlay::mount(&scratch, "o", std::slice::from_ref(&base));
    let file = overlay.merged.join("etc/passwd");
    // cap_net_bind_service, version 2.
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    setxattr(
        &file,
        "security.capability",
        capability,
        XattrFlags::empty(),
    )
    .unwrap();
    setxattr(&file, "user.note", b"kept", XattrFlags::empty()).unwrap();
    setxattr(&file, "trusted.secret", b"dropped", XattrFlags::empty()).unwrap();
    // Owner 6, user 1000 4, group 4, mask 4, others 4: no builder keeps it, and disks may not know it.
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let _ = setxattr(&file, "system.posix_acl_access", acl, XattrFlags::empty());
    fs::hard_link(&file, overlay.merged.join("etc/second")).unwrap();
    // The kernel keeps what a container calls its own under another name; older ones refuse.
    let own = setxattr(
        overlay.merged.join("usr"),
        "user.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    );
    let upper = overlay.upper.clone();
    drop(overlay);
    let written = layer::capture(
        &scratch.space,
        &upper,
        &Snapshot {
            layers: vec![base.clone()],
        },
    )
    .unwrap();
    let layers = [base, written.diff_id];
    let entry: Entry = view(&scratch, &layers)
        .entry(b"etc/passwd")
        .unwrap()
        .unwrap();
    let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"security.capability".to_vec(), capability.to_vec()),
        (b"user.note".to_vec(), b"kept".to_vec()),
    ];
    assert_eq!(entry.xattrs, expected);
    assert_eq!(entry.mode, 0o644, "the mask of a list is the group's mode");
    assert_eq!(records_of(&scratch, &layers[1], "etc/second"), 0);
    assert_eq!(records_of(&scratch, &layers[1], "etc/passwd"), 2);
    if own.is_ok() {
        assert!(
            view(&scratch, &layers)
                .entry(b"usr")
                .unwrap()
                .unwrap()
                .xattrs
                .is_empty()
        );
    }
    let tree = layer::tree(&scratch.space, &layers[1]).unwrap();
    let mut names = vec![0u8; 1024];
    let length = rustix::fs::listxattr(tree.join("etc"), &mut names).unwrap();
    assert_eq!(&names[..length], b"", "no traces of the mount");
    let again = Overlay::mount(&scratch, "again", &layers);
    let mut value = [0u8; 64];
    let length = getxattr(
        again.merged.join("etc/passwd"),
        "security.capability",
        &mut value,
    )
    .unwrap();
    assert_eq!(&value[..length], capability);
    assert!(again.merged.join("usr/lib").is_dir(), "nothing was hidden");
}

#[test]
fn whiteout_names_are_refused() {
    if layer_support::skip_without_root("capturing") {
        return;
    }
    let scratch = Scratch::new();
    let upper = scratch.space.store().root().join("upper");
    fs::create_dir_all(upper.join("a")).unwrap();
    write(upper.join("a/.wh.b"), "");
    let error = layer::capture(&scratch.space, &upper, &Snapshot::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("/a/.wh.b"), "{error}");
}

/// The layer of a change over a base.
fn changed(scratch: &Scratch, base: &Digest, name: &str, change: &dyn Fn(&Path)) -> Written {
    let overlay = Overlay::mount(scratch, name, std::slice::from_ref(base));
    change(&overlay.merged);
    let upper = overlay.upper.clone();
    drop(overlay);
    let below = Snapshot {
        layers: vec![base.clone()],
    };
    layer::capture(&scratch.space, &upper, &below).unwrap()
}

/// RU01: directories that only had visitors and files that were given what they had make no entry; folders on the way to
/// a change do, and so does a file that was written again.
#[test]
fn what_is_as_before_is_left_out() {
    if layer_support::skip_without_root("mounting an overlay") {
        return;
    }
    let scratch = Scratch::new();
    let base = base(&scratch);
    let captured = |name: &str, change: &dyn Fn(&Path)| {
        let written = changed(&scratch, &base, name, change);
        names(&scratch, &written.diff_id)
    };
    let visited = captured("visited", &|root| {
        write(root.join("opt/app/sub/fleeting"), "");
        fs::remove_file(root.join("opt/app/sub/fleeting")).unwrap();
        let mode = fs::metadata(root.join("etc/passwd")).unwrap().permissions();
        fs::set_permissions(root.join("etc/passwd"), mode).unwrap();
        chown(root.join("opt/app/a"), Some(0), Some(0)).unwrap();
        std::os::unix::fs::lchown(root.join("lib"), Some(0), Some(0)).unwrap();
    });
    assert_eq!(visited, Vec::<String>::new());
    let known = view(&scratch, std::slice::from_ref(&base));
    let known = known.entry(b"opt/app/sub/c").unwrap().unwrap();
    let mtime = u64::try_from(known.mtime).unwrap();
    let changed = captured("changed", &|root| {
        write(root.join("opt/app/fleeting"), "");
        fs::remove_file(root.join("opt/app/fleeting")).unwrap();
        // Written again with what it had, at the time in full seconds that it had: still a change.
        write(root.join("opt/app/sub/c"), "3");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(mtime, 1);
        let file = fs::File::open(root.join("opt/app/sub/c")).unwrap();
        file.set_modified(time).unwrap();
        fs::set_permissions(root.join("usr/lib"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(root.join("etc/issue")).unwrap();
    });
    assert_eq!(
        changed,
        [
            "etc/",
            "etc/.wh.issue",
            "opt/",
            "opt/app/",
            "opt/app/sub/",
            "opt/app/sub/c",
            "usr/",
            "usr/lib/"
        ]
    );
}

/// Equal tars can be made over different layers, and the tree of the first is that of all.
#[test]
fn a_tree_holds_what_its_tar_holds() {
    if layer_support::skip_without_root("mounting an overlay") {
        return;
    }
    let scratch = Scratch::new();
    let base = base(&scratch);
    type Change<'c> = (&'c str, &'c dyn Fn(&Path));
    let changes: [Change<'_>; 4] = [
        ("visited", &|root| {
            write(root.join("opt/app/sub/fleeting"), "");
            fs::remove_file(root.join("opt/app/sub/fleeting")).unwrap();
            std::os::unix::fs::lchown(root.join("lib"), Some(0), Some(0)).unwrap();
        }),
        ("beside", &|root| {
            write(root.join("opt/new"), "");
            chown(root.join("opt/app/sub"), Some(0), Some(0)).unwrap();
        }),
        ("opaque", &|root| {
            fs::remove_dir_all(root.join("opt/app")).unwrap();
            fs::create_dir_all(root.join("opt/app/sub")).unwrap();
        }),
        ("socket", &|root| {
            fs::remove_file(root.join("etc/issue")).unwrap();
            UnixListener::bind(root.join("etc/issue")).unwrap();
            UnixListener::bind(root.join("opt/socket")).unwrap();
        }),
    ];
    for (name, change) in changes {
        let written = changed(&scratch, &base, name, change);
        let there = BTreeSet::from_iter(names(&scratch, &written.diff_id));
        let mut here = Vec::new();
        let tree = layer::tree(&scratch.space, &written.diff_id).unwrap();
        list(&tree, "", &mut here);
        assert_eq!(BTreeSet::from_iter(here), there, "{name}");
    }
}

/// The names that a tar of an unpacked layer has; an opaque folder is `.wh..wh..opq`.
fn list(dir: &Path, below: &str, names: &mut Vec<String>) {
    for item in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = item.file_name().into_string().unwrap();
        let meta = item.metadata().unwrap();
        if meta.is_dir() {
            names.push(format!("{below}{name}/"));
            let mut value = [0; 8];
            if rustix::fs::lgetxattr(item.path(), "user.overlay.opaque", &mut value[..]).is_ok() {
                names.push(format!("{below}{name}/.wh..wh..opq"));
            }
            list(&item.path(), &format!("{below}{name}/"), names);
        } else if meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0 {
            names.push(format!("{below}.wh.{name}"));
        } else {
            names.push(format!("{below}{name}"));
        }
    }
}

#[test]
fn an_empty_change_and_a_changed_root() {
    if layer_support::skip_without_root("capturing") {
        return;
    }
    let scratch = Scratch::new();
    let upper = scratch.space.store().root().join("upper");
    fs::create_dir(&upper).unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
    let written = layer::capture(&scratch.space, &upper, &Snapshot::default()).unwrap();
    assert_eq!(written.size, 1024);
    fs::create_dir(&upper).unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o1777)).unwrap();
    let written = layer::capture(&scratch.space, &upper, &Snapshot::default()).unwrap();
    assert_eq!(names(&scratch, &written.diff_id), ["./"]);
}

#[test]
fn equal_content_is_the_known_layer() {
    if layer_support::skip_without_root("capturing") {
        return;
    }
    let scratch = Scratch::new();
    let mut results = Vec::new();
    for time in [1_000_000, 2_000_000] {
        let upper = scratch.space.store().root().join("upper");
        fs::create_dir(&upper).unwrap();
        write(upper.join("a"), "same");
        let times = fs::FileTimes::new()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time));
        fs::File::options()
            .write(true)
            .open(upper.join("a"))
            .unwrap()
            .set_times(times)
            .unwrap();
        results.push(layer::capture(&scratch.space, &upper, &Snapshot::default()).unwrap());
        assert!(!upper.exists());
    }
    assert_eq!(results[0], results[1]);
}

/// What is one file with another below, and was replaced by an equal one, is a file of its own.
#[test]
fn a_link_that_was_broken_is_written() {
    if layer_support::skip_without_root("mounting an overlay") {
        return;
    }
    let scratch = Scratch::new();
    let mut layers = vec![base(&scratch)];
    let overlay = Overlay::mount(&scratch, "run", &layers);
    fs::rename(overlay.merged.join("one"), overlay.merged.join("away")).unwrap();
    fs::rename(overlay.merged.join("away"), overlay.merged.join("one")).unwrap();
    let expected = show_folder(&overlay.merged);
    let upper = overlay.upper.clone();
    drop(overlay);
    let below = Snapshot {
        layers: layers.clone(),
    };
    let written = layer::capture(&scratch.space, &upper, &below).unwrap();
    layers.push(written.diff_id);
    assert_eq!(show_view(&view(&scratch, &layers)), expected);
}

/// One thing done to a root file system; paths come from a small set so that they meet.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, u8),
    Directory(usize),
    Remove(usize),
    Link(usize, usize),
    Symlink(usize, usize),
    Rename(usize, usize),
    Mode(usize, u32),
}

const PATHS: [&str; 14] = [
    "etc",
    "etc/issue",
    "etc/new",
    "opt/app",
    "opt/app/a",
    "opt/app/sub",
    "opt/app/sub/c",
    "swap",
    "swap/in",
    "swapdir",
    "swapdir/x",
    "one",
    "two",
    "opt",
];

/// Does it as far as the file system lets it.
fn apply(root: &Path, change: &Change) {
    let path = |at: usize| root.join(PATHS[at]);
    match *change {
        Change::Write(at, byte) => drop(fs::write(path(at), [byte; 3])),
        Change::Directory(at) => drop(fs::create_dir_all(path(at))),
        Change::Remove(at) => match fs::symlink_metadata(path(at)) {
            Ok(meta) if meta.is_dir() => drop(fs::remove_dir_all(path(at))),
            _ => drop(fs::remove_file(path(at))),
        },
        Change::Link(from, to) => drop(fs::hard_link(path(from), path(to))),
        Change::Symlink(target, at) => drop(symlink(PATHS[target], path(at))),
        Change::Rename(from, to) => drop(fs::rename(path(from), path(to))),
        Change::Mode(at, mode) if !path(at).is_symlink() => {
            drop(fs::set_permissions(
                path(at),
                fs::Permissions::from_mode(mode),
            ));
        }
        Change::Mode(..) => {}
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let at = || 0..PATHS.len();
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Write(at, byte)),
        at().prop_map(Change::Directory),
        at().prop_map(Change::Remove),
        (at(), at()).prop_map(|(from, to)| Change::Link(from, to)),
        (at(), at()).prop_map(|(target, at)| Change::Symlink(target, at)),
        (at(), at()).prop_map(|(from, to)| Change::Rename(from, to)),
        (at(), 0o700..0o1000u32).prop_map(|(at, mode)| Change::Mode(at, mode)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Base plus what was captured is what was there, over one command and over two.
    #[test]
    fn applying_a_capture_gives_what_was_captured(rounds in prop::collection::vec(prop::collection::vec(any_change(), 1..12), 1..3)) {
        if layer_support::skip_without_root("mounting an overlay") {
            return Ok(());
        }
        let scratch = Scratch::new();
        let mut layers = vec![base(&scratch)];
        for (number, changes) in rounds.iter().enumerate() {
            let overlay = Overlay::mount(&scratch, &format!("run{number}"), &layers);
            for change in changes {
                apply(&overlay.merged, change);
            }
            let expected = show_folder(&overlay.merged);
            let upper = overlay.upper.clone();
            drop(overlay);
            let below = Snapshot { layers: layers.clone() };
            let written = layer::capture(&scratch.space, &upper, &below).unwrap();
            layers.push(written.diff_id.clone());
            prop_assert_eq!(show_view(&view(&scratch, &layers)), expected.clone(), "by the indexes");
            let overlay = Overlay::mount(&scratch, &format!("again{number}"), &layers);
            prop_assert_eq!(show_folder(&overlay.merged), expected.clone(), "as lowers");
            drop(overlay);
            // The tar alone says the same: unpack it elsewhere.
            let blob = layer::blob(&scratch.space, &written.diff_id, layer::Compression::Uncompressed, false).unwrap();
            let tar = fs::read(scratch.space.store().blob_path(blob.digest())).unwrap();
            let other = Scratch::new();
            let mut copies = vec![base(&other)];
            for earlier in &layers[1..layers.len() - 1] {
                let tar = fs::read(scratch.space.store().blob_path(earlier)).unwrap();
                copies.push(other.register(&tar, &tar));
            }
            copies.push(other.register(&tar, &tar));
            let overlay = Overlay::mount(&other, "copy", &copies);
            prop_assert_eq!(show_folder(&overlay.merged), expected, "from tars");
        }
    }
}
