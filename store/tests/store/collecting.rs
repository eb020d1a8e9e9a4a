//! Collections: what goes to make room, in which order, and what stays.

use crate::pruning::grow_old;
use crate::{Fixture, grow_tree, image, meta};
use oci_spec::image::Digest;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};
use store::{Collection, Disk, MountSharing, PruneReport, SpaceLimits, StagedLayer, Store};

const SIZE: usize = 100_000;

fn put_layer(store: &Store, byte: u8) -> Digest {
    let scratch = store.scratch().unwrap();
    let diff_id = store.put_blob(&[byte; SIZE]).unwrap();
    let tree = scratch.path().join("t");
    grow_tree(&tree);
    let staged = StagedLayer {
        tree: Some(tree),
        ..StagedLayer::default()
    };
    store.put_layer(&meta(&diff_id), staged).unwrap();
    diff_id
}

/// Makes a piece look last used so many minutes ago.
fn used(root: &Path, layer: &Digest, minutes: u64) {
    let time = SystemTime::now() - Duration::from_secs(60 * minutes);
    let name = layer.digest();
    for path in [
        root.join("layers/sha256").join(name),
        root.join("blobs/sha256").join(name),
    ] {
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
}

fn collect(store: &Store, limits: SpaceLimits) -> PruneReport {
    let collection = Collection {
        limits,
        ..Collection::default()
    };
    let report = store.collect(&collection, &store::remove_tree).unwrap();
    assert_eq!(report.failed, [""; 0]);
    report
}

fn bytes_of(store: &Store, layers: &[&Digest]) -> u64 {
    let pieces = store.pieces().unwrap();
    let of = |layer: &&Digest| {
        let id = layer.to_string();
        pieces.iter().find(|piece| piece.id == id).unwrap().bytes
    };
    layers.iter().map(of).sum()
}

fn at_most(bytes: u64) -> SpaceLimits {
    SpaceLimits {
        max_used: Some(bytes),
        ..SpaceLimits::default()
    }
}

#[test]
fn what_was_used_longest_ago_goes_first_and_work_counts() {
    let fixture = Fixture::new();
    let layers: Vec<Digest> = (1..=5)
        .map(|byte| put_layer(&fixture.store, byte))
        .collect();
    let [unreached, oldest, costly, newer, named] = &layers[..] else {
        panic!("five layers");
    };
    for (key, layer) in [(1, oldest), (2, costly), (3, newer), (4, named)] {
        let layers = std::slice::from_ref(layer);
        fixture.store.put_record(&[key; 32], b"{}", layers).unwrap();
    }
    fixture
        .store
        .note_cost(costly, Duration::from_secs(120))
        .unwrap();
    let manifest = serde_json::to_vec(&json!({"layers": [{"digest": named}]})).unwrap();
    let reference = image(&fixture.store, "named", &manifest);
    fixture.store.tag(&reference).unwrap();
    grow_old(&fixture.root());
    let root = fixture.root();
    for (layer, minutes) in [
        (unreached, 2),
        (oldest, 90),
        (costly, 100),
        (newer, 5),
        (named, 200),
    ] {
        used(&root, layer, minutes);
    }
    let store = fixture.reopen();
    // What nothing leads to goes first, however new it is; two minutes of work are two hours of use.
    let all = bytes_of(&store, &[unreached, oldest, costly, newer]) + 4096 * 8;
    for (gone, bytes) in [
        (unreached, all - SIZE as u64 / 2),
        (oldest, bytes_of(&store, &[costly, newer]) + SIZE as u64),
        (newer, bytes_of(&store, &[costly]) + SIZE as u64),
        (costly, 0),
    ] {
        let report = collect(&store, at_most(bytes));
        let layers: Vec<_> = report
            .removed
            .iter()
            .filter(|name| name.starts_with("layer "))
            .collect();
        assert_eq!(layers, [&format!("layer {gone}")], "{:?}", report.removed);
        assert_eq!(store.quiet().layer_tree(gone), None);
    }
    assert!(store.layer_tree(named).is_some());
    assert!(store.record(&[3; 32]).unwrap().is_none());
    assert_eq!(store.references().unwrap().len(), 1);
}

#[test]
fn what_this_process_used_stays_and_the_estimate_follows() {
    let fixture = Fixture::new();
    let (mine, other) = (put_layer(&fixture.store, 1), put_layer(&fixture.store, 2));
    grow_old(&fixture.root());
    drop(fixture.store.clone());
    let store = fixture.reopen();
    assert_eq!(store.cache_estimate().unwrap(), None);
    assert!(store.layer(&mine).unwrap().is_some());
    let mount = store.cache_mount("held", MountSharing::Shared).unwrap();
    let report = collect(&store, at_most(0));
    assert!(report.removed.contains(&format!("layer {other}")));
    assert!(store.layer_tree(&mine).is_some() && mount.path().is_dir());
    let measured = store.cache_estimate().unwrap().unwrap();
    assert!(measured > SIZE as u64, "{measured}");
    put_layer(&store, 3);
    let grown = store.cache_estimate().unwrap().unwrap();
    assert!(grown >= measured + SIZE as u64, "{measured} {grown}");
    // Another process knows of it when this one has ended.
    drop((mount, store));
    let told = fixture.reopen().cache_estimate().unwrap().unwrap();
    assert!(told >= grown, "{told} {grown}");
}

/// What was last used in the future was used now: it is no reason to keep it for ever, and a look at it sets it right.
#[test]
fn times_of_the_future_are_now() {
    let fixture = Fixture::new();
    let (future, costly) = (put_layer(&fixture.store, 1), put_layer(&fixture.store, 2));
    for (key, layer) in [(1, &future), (2, &costly)] {
        let layers = std::slice::from_ref(layer);
        fixture.store.put_record(&[key; 32], b"{}", layers).unwrap();
    }
    let minute = Duration::from_secs(60);
    fixture.store.note_cost(&costly, minute).unwrap();
    let root = fixture.root();
    grow_old(&root);
    used(&root, &costly, 5);
    let later = SystemTime::now() + minute * 60 * 24 * 365;
    let record = root.join("records/01").join("01".repeat(31));
    let name = future.digest();
    let paths = ["layers/sha256", "blobs/sha256"].map(|folder| root.join(folder).join(name));
    for path in paths.iter().chain([&record]) {
        fs::File::open(path).unwrap().set_modified(later).unwrap();
    }
    let store = &fixture.store;
    store.quiet().record(&[1; 32]).unwrap().unwrap();
    let of_record = || fs::metadata(&record).unwrap().modified().unwrap();
    assert_eq!(of_record(), later, "who only looks around changes nothing");
    // A minute of work counts as an hour.
    let collection = Collection {
        limits: at_most(bytes_of(store, &[&costly]) + 8 * 4096),
        // While others work it may be in use.
        may_be_alone: true,
        ..Collection::default()
    };
    let report = store.collect(&collection, &store::remove_tree).unwrap();
    assert!(
        report.removed.contains(&format!("layer {future}")),
        "{:?}",
        report.removed
    );
    assert!(store.quiet().layer_tree(&costly).is_some());
    store.put_record(&[2; 32], b"{}", &[]).unwrap();
    let record = root.join("records/02").join("02".repeat(31));
    fs::File::open(&record)
        .unwrap()
        .set_modified(later)
        .unwrap();
    store.record(&[2; 32]).unwrap().unwrap();
    let used = fs::metadata(&record).unwrap().modified().unwrap();
    assert!(used < SystemTime::now() + minute);
}

/// Another process began by a clock that has gone back since: nobody can say what it has used, so that all stays.
#[test]
fn a_clock_that_went_back_removes_nothing_in_use() {
    let fixture = Fixture::new();
    let layer = put_layer(&fixture.store, 1);
    grow_old(&fixture.root());
    let later = SystemTime::UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(7200);
    let lease = fixture
        .root()
        .join(format!("leases/{}-0123", later.as_secs()));
    let held = fs::File::create(&lease).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let store = fixture.reopen();
    let report = collect(&store, at_most(0));
    assert_eq!(report.removed, [""; 0]);
    let all = store::PruneOptions {
        all: true,
        ..store::PruneOptions::default()
    };
    let other = fixture.reopen();
    let report = other.prune(&all, &store::remove_tree).unwrap();
    assert_eq!(report.removed, [""; 0]);
    drop((held, other));
    let report = collect(&store, at_most(0));
    assert!(report.removed.contains(&format!("layer {layer}")));
    assert!(!lease.exists());
}

#[test]
fn images_without_a_name_make_room() {
    let fixture = Fixture::new();
    let mut layers = Vec::new();
    for byte in [1, 2] {
        let layer = put_layer(&fixture.store, byte);
        let manifest = serde_json::to_vec(&json!({"layers": [{"digest": layer}]})).unwrap();
        let reference = image(&fixture.store, "name", &manifest);
        fixture.store.tag(&reference).unwrap();
        layers.push(layer);
    }
    assert_eq!(fixture.store.references().unwrap().len(), 2);
    grow_old(&fixture.root());
    let store = fixture.reopen();
    let report = collect(&store, at_most(0));
    assert!(
        report
            .removed
            .iter()
            .any(|name| name.starts_with("reference "))
    );
    assert_eq!(store.references().unwrap().len(), 1);
    assert_eq!(store.layer_tree(&layers[0]), None);
    assert!(store.layer_tree(&layers[1]).is_some());
}

#[test]
fn a_selection_and_a_dry_run() {
    let fixture = Fixture::new();
    let layer = put_layer(&fixture.store, 1);
    drop(
        fixture
            .store
            .cache_mount("npm", MountSharing::Shared)
            .unwrap(),
    );
    grow_old(&fixture.root());
    let store = fixture.reopen();
    let only_mounts = |piece: &store::Piece| piece.id == "npm";
    for dry_run in [true, false] {
        let collection = Collection {
            select: Some(&only_mounts),
            dry_run,
            ..Collection::default()
        };
        let report = store.collect(&collection, &store::remove_tree).unwrap();
        assert_eq!(report.removed, ["cache mount npm"]);
        let left = store.count().unwrap();
        assert_eq!((left.mounts, left.layers), (u64::from(dry_run), 1));
    }
    assert!(store.layer_tree(&layer).is_some());
}

#[test]
fn limits_say_how_much_stays() {
    let disk = Disk {
        total: 1000,
        free: 100,
    };
    for (reserved, max_used, min_free, used, keeps) in [
        (0, None, None, 500, 0),
        (50, None, None, 500, 50),
        (0, Some(200), None, 500, 200),
        (300, Some(200), None, 500, 300),
        (0, None, Some(150), 500, 450),
        (0, Some(400), Some(150), 500, 400),
        (0, Some(480), Some(150), 500, 450),
        (480, Some(480), Some(400), 500, 480),
        (0, Some(600), Some(100), 500, 600),
    ] {
        let limits = SpaceLimits {
            reserved,
            max_used,
            min_free,
        };
        assert_eq!(limits.keeps(used, disk), keeps, "{limits:?}");
    }
}
