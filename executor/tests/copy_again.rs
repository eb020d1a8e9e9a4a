//! A copy that takes what did not change from the layer that it made before gives the layer of a copy that reads all.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use executor::copy::{self, CopySourceTree};
use executor::layer::{self, Written};
use executor::snapshot::Snapshot;
use planner::plan::CopyOp;
use proptest::prelude::*;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use support::{Bench, op};

const FILES: usize = 60;

fn again(bench: &Bench, op: &CopyOp, base: &Snapshot, folder: &Path) -> Written {
    let context = bench.open(folder, "");
    let source = CopySourceTree::Context(&context);
    copy::copy_listed(&bench.space, op, base, source, true, None).unwrap()
}

fn tar(bench: &Bench, written: &Written) -> PathBuf {
    let files = layer::readable(&bench.space, &written.diff_id).unwrap();
    files.tar.unwrap()
}

fn file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("d{}/f{number:02}", number % 7))
}

fn fill(folder: &Path) {
    for number in 0..FILES {
        let path = file(folder, number);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(
            path,
            format!("content of {number} ").repeat(1 + number * 13),
        )
        .unwrap();
    }
}

/// What happens to a file between two copies.
#[derive(Clone, Debug)]
enum Edit {
    /// Same length or another.
    Write(usize, u8, usize),
    Mode(usize, u32),
    Remove(usize),
    /// Its content moves to a new name.
    Rename(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    /// Bytes of the layer that was made before change on the disk.
    Damage(u64, u8),
    /// The layer that was made before ends early.
    Truncate(u64),
}

fn edit() -> impl Strategy<Value = Edit> {
    let file = || 0..FILES;
    prop_oneof![
        (file(), any::<u8>(), 0..3000_usize)
            .prop_map(|(at, byte, size)| Edit::Write(at, byte, size)),
        (file(), 0..8_u32).prop_map(|(at, bits)| Edit::Mode(at, 0o600 | bits)),
        file().prop_map(Edit::Remove),
        (file(), file()).prop_map(|(from, to)| Edit::Rename(from, to)),
        (file(), file()).prop_map(|(from, to)| Edit::Link(from, to)),
        file().prop_map(Edit::Symlink),
        (0..30_000_u64, 1..=255_u8).prop_map(|(at, flip)| Edit::Damage(at, flip)),
        (0..30_000_u64).prop_map(Edit::Truncate),
    ]
}

/// Whether the earlier layer was damaged.
fn apply(edit: &Edit, folder: &Path, layer: &Path) -> bool {
    let (from, to) = match *edit {
        Edit::Write(at, ..) | Edit::Mode(at, _) | Edit::Remove(at) | Edit::Symlink(at) => (at, at),
        Edit::Rename(from, to) | Edit::Link(from, to) => (from, to),
        Edit::Damage(..) | Edit::Truncate(_) => (0, 0),
    };
    let (from, to) = (file(folder, from), file(folder, to));
    let is_file = fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_file());
    match *edit {
        Edit::Write(_, byte, size) => {
            drop(fs::remove_file(&from));
            fs::write(from, vec![byte; size]).unwrap();
        }
        Edit::Mode(_, mode) if is_file => {
            fs::set_permissions(from, PermissionsExt::from_mode(mode)).unwrap();
        }
        Edit::Remove(_) => drop(fs::remove_file(from)),
        Edit::Rename(..) => drop(fs::rename(from, to)),
        Edit::Link(..) if is_file && from != to => {
            drop(fs::remove_file(&to));
            fs::hard_link(from, to).unwrap();
        }
        Edit::Symlink(_) => {
            drop(fs::remove_file(&from));
            symlink("nowhere", from).unwrap();
        }
        Edit::Damage(at, flip) => {
            let damaged = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(layer)
                .unwrap();
            let mut byte = [0];
            if damaged.read_at(&mut byte, at).unwrap() == 1 {
                damaged.write_all_at(&[byte[0] ^ flip], at).unwrap();
            }
            return true;
        }
        Edit::Truncate(size) => {
            let damaged = fs::OpenOptions::new().write(true).open(layer).unwrap();
            damaged.set_len(size).unwrap();
            return true;
        }
        Edit::Mode(..) | Edit::Link(..) => {}
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn edits_and_damage_give_what_a_clean_copy_gives(
        rounds in prop::collection::vec(prop::collection::vec(edit(), 1..6), 1..4),
        over in any::<bool>(),
        chmod in any::<bool>(),
    ) {
        let bench = Bench::new();
        let folder = bench.dir.path().join("context");
        fill(&folder);
        let below = if over { "f x/d1/f01 644 old\nd x/d2 700" } else { "" };
        let base = bench.base(below);
        let mut op = op(".", "/x/");
        op.chmod = chmod.then(|| "640".to_owned());
        let mut before = again(&bench, &op, &base, &folder);
        let mut damaged = HashSet::new();
        for edits in rounds {
            let layer = tar(&bench, &before);
            for edit in &edits {
                if apply(edit, &folder, &layer) {
                    damaged.insert(before.diff_id.clone());
                }
            }
            let written = again(&bench, &op, &base, &folder);
            let clean = Bench::new();
            let base = clean.base(below);
            let context = clean.open(&folder, "");
            let expected = clean.run(&op, &base, &context).unwrap();
            prop_assert_eq!(&written, &expected);
            // A damaged layer that is made once more stays what it is.
            if !damaged.contains(&written.diff_id) {
                let expected = fs::read(tar(&clean, &expected)).unwrap();
                prop_assert!(fs::read(tar(&bench, &written)).unwrap() == expected);
            }
            before = written;
        }
    }
}

/// After its digest was taken, a file is not opened any more if the earlier layer has its content; without one it is.
#[test]
fn what_did_not_change_is_not_opened() {
    for earlier in [false, true] {
        let bench = Bench::new();
        let folder = bench.dir.path().join("context");
        fill(&folder);
        let (op, base) = (op(".", "/x/"), Snapshot::default());
        if earlier {
            again(&bench, &op, &base, &folder);
        }
        fs::write(file(&folder, 3), "new").unwrap();
        let clean = Bench::new();
        let context = clean.open(&folder, "");
        let expected = clean.run(&op, &base, &context).unwrap();
        let context = bench.open(&folder, "");
        copy::source_digest(&op, &context).unwrap();
        fs::remove_file(file(&folder, 5)).unwrap();
        let source = CopySourceTree::Context(&context);
        let written = copy::copy_listed(&bench.space, &op, &base, source, true, None);
        assert_eq!(written.ok(), earlier.then_some(expected));
    }
}
