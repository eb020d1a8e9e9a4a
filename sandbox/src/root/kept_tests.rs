//! Copies that stay for the next command: what they hold, what comes out of them, and that no layer is ever part of them.

use super::kept::copy_beside;
use super::tests::{Layers, layers, listed, make};

use crate::{KeptCopy, Overlay, RootKind};
use rustix::fs::{self as rfs, XattrFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Steps over one another, as a build runs them: what one has in its upper is a layer of the next.
struct Stage {
    layers: Layers,
    /// The copy that stays, and how many of the lowers it holds.
    kept: Option<(PathBuf, usize)>,
    steps: usize,
}

impl Stage {
    fn new(base: &[&[&str]], keeps: bool) -> Self {
        let layers = layers(base);
        for lower in &layers.overlay.lowers {
            make_old(lower);
        }
        let kept = keeps.then(|| {
            let folder = layers.folder.path().join("kept");
            fs::create_dir(&folder).unwrap();
            (folder, 0)
        });
        Self {
            layers,
            kept,
            steps: 0,
        }
    }

    fn lowers(&self) -> &[PathBuf] {
        &self.layers.overlay.lowers
    }

    /// Puts a layer on top of the others, as a COPY does.
    fn add_layer(&mut self, lines: &[&str]) {
        self.steps += 1;
        let layer = self
            .layers
            .folder
            .path()
            .join(format!("added{}", self.steps));
        fs::create_dir(&layer).unwrap();
        for line in lines {
            make(&layer, line);
        }
        make_old(&layer);
        self.layers.overlay.lowers.insert(0, layer);
    }

    /// One command; the layer that it made.
    fn step(&mut self, change: impl FnOnce(&Path)) -> PathBuf {
        self.steps += 1;
        let at = |name: &str| {
            self.layers
                .folder
                .path()
                .join(format!("{name}{}", self.steps))
        };
        let (upper, work) = (at("upper"), at("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let lowers = self.lowers().to_vec();
        let kept = self.kept.as_ref().map(|(folder, held)| KeptCopy {
            folder: folder.clone(),
            above: lowers[..lowers.len() - held].to_vec(),
        });
        let overlay = Overlay {
            lowers: lowers.clone(),
            upper: Some((upper.clone(), work.clone())),
        };
        let merged = copy_beside(&overlay, kept.as_ref(), RootKind::Copy).unwrap();
        let tree = match &self.kept {
            Some((folder, _)) => folder.join("tree"),
            None => work.join("merged0"),
        };
        let prepared = merged.snapshot().unwrap();
        change(&tree);
        prepared.collect().unwrap();
        if let Some((_, held)) = &mut self.kept {
            *held = lowers.len();
        }
        self.layers.overlay.lowers.insert(0, upper.clone());
        upper
    }
}

/// Gives a layer another time than what steps make has.
fn make_old(layer: &Path) {
    for item in fs::read_dir(layer).unwrap() {
        let path = item.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            make_old(&path);
        }
        let time = rfs::Timespec {
            tv_sec: 1_000_000 + i64::try_from(path.as_os_str().len()).unwrap(),
            tv_nsec: 7,
        };
        let times = rfs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rfs::utimensat(rfs::CWD, &path, &times, rfs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Everything about a tree that a layer tells, and which names are one file.
fn described(root: &Path) -> Vec<String> {
    fn describe(
        folder: &Path,
        root: &Path,
        lines: &mut Vec<String>,
        files: &mut BTreeMap<u64, String>,
    ) {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut value = [0; 8];
            let xattr =
                rfs::lgetxattr(&path, "user.x", &mut value).map(|len| value[..len].to_vec());
            // What is new has the time of its making, which is another one in each run.
            let is_new = meta.mtime() > 1_500_000_000;
            let time = if is_new { 0 } else { meta.mtime() };
            let first = files
                .entry(meta.ino())
                .or_insert_with(|| name.clone())
                .clone();
            let linked = if meta.is_file() && meta.nlink() > 1 {
                first
            } else {
                String::new()
            };
            lines.push(format!(
                "{name} {:o} {time} {xattr:?} {linked}",
                meta.mode()
            ));
            if meta.is_dir() {
                describe(&path, root, lines, files);
            }
        }
    }
    let (mut lines, mut files) = (Vec::new(), BTreeMap::new());
    describe(root, root, &mut lines, &mut files);
    lines.sort();
    // The first name of a file depends on the order that the folder is read in: names are enough.
    lines.extend(listed(root));
    lines
}

fn inodes(root: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let item = item.unwrap();
            let meta = item.path().symlink_metadata().unwrap();
            found.insert(meta.ino());
            if meta.is_dir() {
                folders.push(item.path());
            }
        }
    }
    found
}

#[test]
fn no_layer_changes_with_a_later_step() {
    let mut stage = Stage::new(&[&["a=1", "dir/b=2", "dir/c=3", "other/d=4"]], true);
    let first = stage.step(|root| {
        fs::write(root.join("a"), "one").unwrap();
        fs::write(root.join("new"), "new").unwrap();
        fs::write(root.join("dir/b"), "two").unwrap();
        fs::hard_link(root.join("new"), root.join("linked")).unwrap();
        rfs::setxattr(root.join("a"), "user.x", b"1", XattrFlags::empty()).unwrap();
    });
    let (then, base) = (described(&first), described(&stage.lowers()[1]));
    let second = stage.step(|root| {
        assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "new");
        fs::write(root.join("new"), "changed in place").unwrap();
        fs::File::options()
            .append(true)
            .open(root.join("a"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b" more"))
            .unwrap();
        fs::set_permissions(root.join("dir/b"), PermissionsExt::from_mode(0o600)).unwrap();
        rfs::setxattr(root.join("a"), "user.x", b"2", XattrFlags::empty()).unwrap();
        fs::rename(root.join("dir"), root.join("moved")).unwrap();
        fs::remove_dir_all(root.join("other")).unwrap();
    });
    assert_eq!(described(&first), then);
    assert_eq!(described(&stage.lowers()[2]), base);
    assert_eq!(
        listed(&second),
        [
            "a=one more",
            "dir!",
            "moved/",
            "moved/b=two",
            "moved/c=3",
            "new=changed in place",
            "other!"
        ]
    );
    // One inode, two names, in the layer that made them so.
    assert_eq!(fs::metadata(first.join("new")).unwrap().nlink(), 2);
    let tree = stage.kept.as_ref().unwrap().0.join("tree");
    for layer in [&first, &second, &stage.lowers()[2].clone()] {
        assert!(inodes(layer).is_disjoint(&inodes(&tree)));
    }
}

#[test]
fn layers_of_other_steps_are_applied() {
    for keeps in [true, false] {
        let base: &[&str] = &["dir/a=1", "dir/b=2", "file=3", "gone/x", "back/y"];
        let mut stage = Stage::new(&[base], keeps);
        stage.step(|root| {
            fs::remove_dir_all(root.join("back")).unwrap();
            fs::write(root.join("made"), "by the first").unwrap();
        });
        stage.add_layer(&["dir/!", "dir/c=new", "file/", "gone!", "back/z=2"]);
        stage.add_layer(&["dir/d", "made!", "file/inner=1"]);
        let upper = stage.step(|root| {
            assert_eq!(
                listed(root),
                [
                    "back/",
                    "back/z=2",
                    "dir/",
                    "dir/c=new",
                    "dir/d=content",
                    "file/",
                    "file/inner=1"
                ]
            );
        });
        assert!(listed(&upper).is_empty());
    }
}

/// As with an overlay, which copies a folder up that something is made in.
#[test]
fn what_came_and_went_leaves_its_folders_time() {
    for keeps in [true, false] {
        let mut stage = Stage::new(&[&["dir/sub/a=1"]], keeps);
        let old = filetime(&stage.lowers()[0].join("dir"));
        let first = stage.step(|root| {
            fs::write(root.join("dir/temporary"), "x").unwrap();
            fs::remove_file(root.join("dir/temporary")).unwrap();
        });
        assert_eq!(listed(&first), ["dir/"]);
        let second = stage.step(|root| fs::write(root.join("dir/sub/b"), "x").unwrap());
        assert_eq!(filetime(&second.join("dir")), filetime(&first.join("dir")));
        assert_ne!(filetime(&second.join("dir")), old);
    }
}

fn filetime(path: &Path) -> (i64, i64) {
    let meta = fs::metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn a_copy_that_does_not_say_what_it_holds_is_made_anew() {
    for state in [None, Some(&b""[..]), Some(b"kilncpy1"), Some(&[7; 300])] {
        let mut stage = Stage::new(&[&["a=1", "dir/b=2"]], true);
        stage.step(|root| fs::write(root.join("c"), "3").unwrap());
        let folder = stage.kept.as_ref().unwrap().0.clone();
        fs::write(folder.join("tree/a"), "damaged").unwrap();
        match state {
            Some(bytes) => fs::write(folder.join("state"), bytes).unwrap(),
            None => fs::remove_file(folder.join("state")).unwrap(),
        }
        stage.step(|root| {
            assert_eq!(listed(root), ["a=1", "c=3", "dir/", "dir/b=2"]);
        });
    }
}

/// Random changes of a tree, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).unwrap()
    }

    fn path(&mut self, root: &Path) -> PathBuf {
        let names = ["a", "b", "c", "d"];
        let mut path = root.to_owned();
        for _ in 0..=self.below(3) {
            path.push(names[self.below(names.len())]);
        }
        path
    }

    fn change(&mut self, root: &Path) {
        let path = self.path(root);
        let other = self.path(root);
        let is_there = path.symlink_metadata().is_ok();
        // What does not work in the state that things are in does nothing, in both.
        match self.below(12) {
            0 | 1 => drop(fs::create_dir_all(&path)),
            2..=4 => drop(fs::write(&path, format!("{}", self.below(1000)))),
            5 => drop(fs::remove_file(&path)),
            6 => drop(fs::remove_dir_all(&path)),
            7 if is_there => drop(fs::set_permissions(
                &path,
                PermissionsExt::from_mode(0o700 | u32::try_from(self.below(8)).unwrap()),
            )),
            8 => drop(fs::rename(&path, &other)),
            9 => drop(fs::hard_link(&path, &other)),
            10 => drop(symlink("target", &path)),
            11 => {
                let value = [u8::try_from(self.below(9)).unwrap()];
                let _ = rfs::setxattr(&path, "user.x", &value, XattrFlags::empty());
                if self.below(3) == 0 {
                    let _ = rfs::removexattr(&path, "user.x");
                }
            }
            _ => {}
        }
    }
}

#[test]
fn random_steps_make_the_same_layers_with_and_without() {
    let base: &[&[&str]] = &[
        &["a/b=top", "c/!", "c/d=new", "d!"],
        &[
            "a/b=low",
            "a/c/d=1",
            "b=file",
            "c/a=hidden",
            "d/a",
            "a/a/a=x",
        ],
    ];
    for seed in 0..24 {
        let mut stages = [Stage::new(base, true), Stage::new(base, false)];
        for step in 0..6 {
            let results = stages.each_mut().map(|stage| {
                let mut random = Random(seed * 1000 + step);
                if random.below(4) == 0 {
                    stage.add_layer(&["a/d!", "b/!", "b/a=copied"]);
                }
                let mut before = Vec::new();
                let upper = stage.step(|root| {
                    before = described(root);
                    for _ in 0..8 {
                        random.change(root);
                    }
                });
                (before, described(&upper))
            });
            assert_eq!(results[0], results[1], "seed {seed}, step {step}");
        }
    }
}

#[test]
fn the_same_layers_are_joined_once() {
    let layers = layers(&[&["a=top"], &["a=low", "b=2"]]);
    let folder = layers.folder.path();
    let (shared, own) = (folder.join("shared"), folder.join("own"));
    fs::create_dir(&shared).unwrap();
    fs::create_dir(&own).unwrap();
    let own = fs::File::open(own).unwrap().into();
    let lowers: Vec<&Path> = layers.overlay.lowers.iter().map(PathBuf::as_path).collect();
    let joined = |lowers: &[&Path], shared| {
        let joined = super::joined(lowers, &own, shared).unwrap();
        rfs::fstat(&joined).unwrap().st_ino
    };
    let first = joined(&lowers, Some(&shared));
    assert_eq!(joined(&lowers, Some(&shared)), first);
    assert_eq!(listed(&shared.join("0/merged0")), ["a=top", "b=2"]);
    // Others, or one that is not finished, are not taken for it.
    assert_ne!(joined(&lowers[1..], Some(&shared)), first);
    assert_ne!(joined(&lowers, None), first);
    fs::remove_file(shared.join("0/layers")).unwrap();
    assert_ne!(joined(&lowers, Some(&shared)), first);
}
