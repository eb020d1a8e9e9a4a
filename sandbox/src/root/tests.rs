//! Copies of made-up layers, changed as a command would, and what the upper then holds.

use super::*;
use crate::{Overlay, RootKind};
use rustix::fs::{self as rfs, FileType, Mode, XattrFlags};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub(super) struct Layers {
    pub(super) folder: tempfile::TempDir,
    pub(super) overlay: Overlay,
}

/// Makes layers, topmost first, of lines `PATH`, `PATH/`, `PATH!` (whiteout), `PATH/!` (opaque folder), `PATH=content`.
pub(super) fn layers(layers: &[&[&str]]) -> Layers {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let mut lowers = Vec::new();
    for (number, lines) in layers.iter().enumerate() {
        let layer = at(format!("layer{number}"));
        for line in *lines {
            make(&layer, line);
        }
        lowers.push(layer);
    }
    let upper = Some((at("upper".to_owned()), at("work".to_owned())));
    Layers {
        overlay: Overlay { lowers, upper },
        folder,
    }
}

pub(super) fn make(layer: &Path, line: &str) {
    let (path, content) = line.split_once('=').unwrap_or((line, "content"));
    let name = path.trim_end_matches(['/', '!']);
    let at = layer.join(name);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    if path.ends_with("/!") {
        fs::create_dir_all(&at).unwrap();
        rfs::setxattr(&at, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    } else if path.ends_with('!') {
        rfs::mknodat(rfs::CWD, &at, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    } else if path.ends_with('/') {
        fs::create_dir_all(&at).unwrap();
    } else {
        fs::write(&at, content).unwrap();
    }
}

/// What a tree holds: `PATH/`, `PATH/!`, `PATH!`, `PATH=content`, `PATH -> target`; sorted.
pub(super) fn listed(root: &Path) -> Vec<String> {
    fn list(root: &Path, folder: &Path, lines: &mut Vec<String>) {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            if kind.is_dir() {
                let mut value = [0; 8];
                let opaque = rfs::lgetxattr(&path, "user.overlay.opaque", &mut value).is_ok();
                lines.push(format!("{name}/{}", if opaque { "!" } else { "" }));
                list(root, &path, lines);
            } else if kind.is_char_device() && meta.rdev() == 0 {
                lines.push(format!("{name}!"));
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                lines.push(format!("{name} -> {}", target.display()));
            } else if kind.is_file() {
                lines.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
            } else {
                lines.push(format!("{name}: {kind:?}"));
            }
        }
    }
    let mut lines = Vec::new();
    list(root, root, &mut lines);
    lines.sort();
    lines
}

fn copy_of(layers: &Layers) -> (Prepared, PathBuf) {
    let prepared = merge(&layers.overlay, RootKind::Reflink)
        .and_then(Merged::snapshot)
        .unwrap();
    let copies = layers.folder.path().join("work");
    let mut names: Vec<_> = fs::read_dir(&copies)
        .unwrap()
        .map(|item| item.unwrap().path())
        .collect();
    names.sort();
    (prepared, names.pop().unwrap())
}

/// The upper after a change of the copy.
#[track_caller]
fn changed(layers: &Layers, change: impl FnOnce(&Path)) -> Vec<String> {
    let (prepared, copy) = copy_of(layers);
    change(&copy);
    prepared.collect().unwrap();
    listed(&layers.overlay.upper.as_ref().unwrap().0)
}

#[test]
fn layers_are_merged_as_an_overlay_shows_them() {
    let layers = layers(&[
        &[
            "a=top",
            "gone!",
            "folder/new",
            "opaque/!",
            "opaque/in=top",
            "dir/to-file=file",
            "file-over!",
        ],
        &[
            "a=middle",
            "gone=x",
            "folder/old",
            "opaque/hidden",
            "dir/to-file/x",
            "split=file",
        ],
        &[
            "a=low",
            "folder/old=low",
            "folder/low",
            "opaque/low",
            "dir/to-file/y",
            "split/hidden",
            "file-over/x",
            "gone/x",
        ],
    ]);
    let (_, copy) = copy_of(&layers);
    assert_eq!(
        listed(&copy),
        [
            "a=top",
            "dir/",
            "dir/to-file=file",
            "folder/",
            "folder/low=content",
            "folder/new=content",
            "folder/old=content",
            "opaque/",
            "opaque/in=top",
            "split=file"
        ]
    );
}

#[test]
fn attributes_and_holes_are_kept() {
    let layers = layers(&[&["file", "dir/x", "sparse"]]);
    let lower = &layers.overlay.lowers[0];
    fs::set_permissions(lower.join("file"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::set_permissions(lower.join("dir"), PermissionsExt::from_mode(0o1777)).unwrap();
    rfs::setxattr(lower.join("file"), "user.a", b"b", XattrFlags::empty()).unwrap();
    fs::File::options()
        .write(true)
        .open(lower.join("sparse"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    fs::hard_link(lower.join("file"), lower.join("link")).unwrap();
    rfs::mknodat(
        rfs::CWD,
        lower.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o622),
        0,
    )
    .unwrap();
    symlink("/nowhere", lower.join("dangling")).unwrap();
    let (_, copy) = copy_of(&layers);
    for name in ["file", "link", "dir", "sparse", "fifo", "dangling", "dir/x"] {
        let key = |path: PathBuf| {
            let meta = fs::symlink_metadata(path).unwrap();
            (
                meta.mode(),
                meta.uid(),
                meta.mtime(),
                meta.mtime_nsec(),
                if meta.is_dir() { 0 } else { meta.size() },
            )
        };
        assert_eq!(key(lower.join(name)), key(copy.join(name)), "{name}");
    }
    let mut value = [0; 8];
    assert_eq!(
        rfs::lgetxattr(copy.join("file"), "user.a", &mut value),
        Ok(1)
    );
    assert!(fs::metadata(copy.join("sparse")).unwrap().blocks() < 64);
    assert_eq!(
        fs::read_link(copy.join("dangling")).unwrap(),
        Path::new("/nowhere")
    );
    // An overlay copies one name up.
    let inode = |name| fs::metadata(copy.join(name)).unwrap().ino();
    assert_ne!(inode("file"), inode("link"));
}

#[test]
fn changes_come_out_in_overlay_form() {
    let base: &[&str] = &[
        "etc/a=1",
        "etc/b=22",
        "usr/lib/x",
        "usr/bin/y",
        "empty/",
        "file",
    ];
    let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
    let case = |expected: &[&str], change: &dyn Fn(&Path)| {
        assert_eq!(changed(&layers(&[base]), change), expected);
    };
    case(&[], &|_| {});
    case(&["etc/", "etc/b=33"], &|root| {
        // Same size, and the old time set back.
        let time = fs::metadata(root.join("etc/b"))
            .unwrap()
            .modified()
            .unwrap();
        write(root.join("etc/b"), "33");
        fs::File::open(root.join("etc/b"))
            .unwrap()
            .set_modified(time)
            .unwrap();
    });
    case(&["etc/", "etc/a=1"], &|root| {
        fs::set_permissions(root.join("etc/a"), PermissionsExt::from_mode(0o600)).unwrap();
    });
    case(&["empty/"], &|root| {
        fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o700)).unwrap();
    });
    case(&["usr!"], &|root| {
        fs::remove_dir_all(root.join("usr")).unwrap();
    });
    case(&["usr/", "usr/lib/", "usr/lib/x!"], &|root| {
        fs::remove_file(root.join("usr/lib/x")).unwrap();
    });
    case(&["usr=now a file"], &|root| {
        fs::remove_dir_all(root.join("usr")).unwrap();
        write(root.join("usr"), "now a file");
    });
    case(&["etc/!", "etc/c=new"], &|root| {
        fs::remove_dir_all(root.join("etc")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        write(root.join("etc/c"), "new");
    });
    case(&["empty/!"], &|root| {
        fs::remove_dir(root.join("empty")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
    });
    case(&["file/", "file/x=1"], &|root| {
        fs::remove_file(root.join("file")).unwrap();
        fs::create_dir(root.join("file")).unwrap();
        write(root.join("file/x"), "1");
    });
    case(
        &[
            "moved/",
            "moved/bin/",
            "moved/bin/y=content",
            "moved/lib/",
            "moved/lib/x=content",
            "usr!",
        ],
        &|root| {
            fs::rename(root.join("usr"), root.join("moved")).unwrap();
        },
    );
    case(&["etc/", "etc/a=1", "link=1"], &|root| {
        fs::hard_link(root.join("etc/a"), root.join("link")).unwrap();
    });
    case(&["new/"], &|root| {
        // What would speak to an overlay.
        make(root, "new/!");
        make(root, "new/white!");
        make(root, "white!");
    });
    case(&["file!"], &|root| {
        fs::remove_file(root.join("file")).unwrap();
        make(root, "file!");
    });
}

#[test]
fn what_an_upper_has_already_is_changed_further() {
    let layers = layers(&[&["a", "b", "dir/x", "dir/y", "other/z"]]);
    assert_eq!(
        changed(&layers, |root| {
            fs::remove_dir_all(root.join("dir")).unwrap();
            fs::remove_file(root.join("a")).unwrap();
            fs::write(root.join("other/new"), "1").unwrap();
            fs::hard_link(root.join("other/new"), root.join("linked")).unwrap();
        }),
        ["a!", "dir!", "linked=1", "other/", "other/new=1"]
    );
    let again = changed(&layers, |root| {
        assert_eq!(
            listed(root),
            [
                "b=content",
                "linked=1",
                "other/",
                "other/new=1",
                "other/z=content"
            ]
        );
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/new"), "2").unwrap();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("linked"), "3").unwrap();
        fs::remove_dir_all(root.join("other")).unwrap();
    });
    assert_eq!(again, ["a/!", "dir/!", "dir/new=2", "linked=3", "other!"]);
}

#[test]
fn long_paths_and_odd_names() {
    let deep: String = std::iter::repeat_n("d".repeat(200) + "/", 15).collect();
    let layers = layers(&[&[&format!("{deep}file"), "other"]]);
    let odd = std::ffi::OsStr::from_bytes(b"\xff new\nline");
    fs::write(layers.overlay.lowers[0].join(odd), "odd").unwrap();
    let (prepared, copy) = copy_of(&layers);
    fs::write(copy.join(odd), "changed").unwrap();
    prepared.collect().unwrap();
    let upper = &layers.overlay.upper.as_ref().unwrap().0;
    assert_eq!(fs::read(upper.join(odd)).unwrap(), b"changed");
    assert_eq!(fs::read_dir(upper).unwrap().count(), 1);
    assert!(copy.join(deep).join("file").exists());
}
