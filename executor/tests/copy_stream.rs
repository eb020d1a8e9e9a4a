//! A copy that goes from its list straight into a layer makes the same bytes and the same index as one that places every
//! entry first.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use executor::copy;
use executor::layer;
use executor::snapshot::Snapshot;
use planner::plan::CopyOp;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use support::{Bench, message, op};

const NAMES: [&str; 6] = ["a", "a-", "a.b", "ab", "b", "c"];

/// A file, a folder or a link at a path of up to three names.
fn tree() -> impl Strategy<Value = String> {
    let name = prop::sample::select(NAMES.to_vec());
    let path = prop::collection::vec(name, 1..4);
    let modes = [644u32, 600, 755];
    let kind = (0..5u8, prop::sample::select(modes.to_vec()), 0..3u8);
    prop::collection::vec((path, kind), 0..14).prop_map(|entries| {
        let mut made: BTreeMap<String, String> = BTreeMap::new();
        for (path, (kind, mode, content)) in entries {
            let path = path.join("/");
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            let blocked = above
                .filter_map(|above| made.get(above))
                .any(|line| !line.starts_with("d "));
            let below = format!("{path}/");
            if blocked || made.contains_key(&path) || made.keys().any(|p| p.starts_with(&below)) {
                continue;
            }
            let line = match kind {
                0 => format!("d {path} 7{}", mode % 100),
                1 => format!("l {path} {content}"),
                _ => format!("f {path} {mode} {content}"),
            };
            made.insert(path, line);
        }
        made.into_values().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    })
}

fn any_op() -> impl Strategy<Value = CopyOp> {
    let dest = ["/", "/a", "/a/", "/x/y/", "/b/c", "a-/a", "/a.b/./"];
    let source = [".", "a", "b/"];
    let owners = [None, Some("1:2")];
    let modes = [None, Some("640"), Some("u=rwX,go=rX")];
    let excludes = [vec![], vec!["**/b"], vec!["a", "!a/b"]];
    (
        prop::sample::select(source.to_vec()),
        prop::sample::select(dest.to_vec()),
        prop::sample::select(owners.to_vec()),
        prop::sample::select(modes.to_vec()),
        prop::sample::select(excludes.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(source, dest, chown, chmod, exclude, link)| CopyOp {
            chown: chown.map(str::to_owned),
            chmod: chmod.map(str::to_owned),
            exclude: exclude.into_iter().map(str::to_owned).collect(),
            link,
            ..op(source, dest)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn both_ways_make_the_same_layer(source in tree(), below in tree(), same in any::<bool>(), op in any_op()) {
        let (one, other) = (Bench::quick(), Bench::quick());
        let folder = one.folder("source", &source);
        // Sometimes what is copied is there already.
        let under = if same { folder.clone() } else { one.folder("below", &below) };
        let all = CopyOp { chown: op.chown.clone(), ..support::op(".", &op.dest) };
        let base = |bench: &Bench| {
            let written = bench.run(&all, &Snapshot::default(), &bench.open(&under, "")).unwrap();
            Snapshot { layers: vec![written.diff_id] }
        };
        let placed = one.run(&op, &base(&one), &one.open(&folder, ""));
        let listed = other.run_listed(&op, &base(&other), &other.open(&folder, ""));
        match (placed, listed) {
            (Ok(placed), Ok(listed)) => {
                prop_assert_eq!(&placed, &listed);
                let index = |bench: &Bench| {
                    std::fs::read(layer::readable(&bench.space, &placed.diff_id).unwrap().index).unwrap()
                };
                prop_assert_eq!(index(&one), index(&other));
            }
            (Err(placed), Err(listed)) => prop_assert_eq!(message(&placed), message(&listed)),
            (placed, listed) => prop_assert!(false, "{:?}\n{:?}", placed, listed),
        }
    }
}

/// More files than are looked up, listed, read ahead or kept at once.
#[test]
fn many_files_are_the_same_both_ways_and_cached() {
    let bench = Bench::quick();
    let folder = bench.dir.path().join("many");
    for directory in 0..40 {
        let inner = folder.join(format!("d{directory:02}/e"));
        std::fs::create_dir_all(&inner).unwrap();
        for file in 0..2000 {
            std::fs::File::create(inner.join(format!("f{file:04}"))).unwrap();
        }
    }
    let op = op(".", "/x/");
    let base = Snapshot::default();
    let first = bench.open(&folder, "");
    let (key, reads) = copy::source_digest(&op, &first).unwrap();
    assert_eq!(reads.iter().map(Result::unwrap).count(), 40 * 2002);
    let source = copy::CopySourceTree::Context(&first);
    let list = copy::Listed::new(&reads);
    let listed = copy::copy_listed(&bench.space, &op, &base, source, true, Some(list)).unwrap();
    let other = Bench::quick();
    let placed = other.run(&op, &base, &other.open(&folder, "d99")).unwrap();
    assert_eq!(placed, listed);
    first.save().unwrap();
    std::fs::write(folder.join("d31/e/f1999"), "changed").unwrap();
    let second = copy::source_digest(&op, &bench.open(&folder, ""))
        .unwrap()
        .0;
    assert_ne!(second, key);
    std::fs::write(folder.join("d31/e/f1999"), "").unwrap();
    let third = copy::source_digest(&op, &bench.open(&folder, ""))
        .unwrap()
        .0;
    assert_eq!(third, key);
}
