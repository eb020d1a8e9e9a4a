//! Arbitrary bytes in every file of a store: wrong answers and panics are failures, errors are fine.

use crate::{Fixture, digest, files_below, grow_tree, image, layer_blob, meta};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use store::{LayerMeta, MountSharing, PruneOptions, StagedLayer, StatKey, Store};

const KEY: StatKey = StatKey {
    dev: 1,
    ino: 2,
    size: 3,
    mtime_ns: 4,
    ctime_ns: 5,
};

fn fill(fixture: &Fixture) {
    let store = &fixture.store;
    let manifest = br#"{"config":{"digest":"sha256:11"},"layers":[]}"#;
    store.tag(&image(store, "name", manifest)).unwrap();
    store
        .put_record(&[1; 32], b"payload", &[digest(1)])
        .unwrap();
    let scratch = store.scratch().unwrap();
    let tree = scratch.path().join("t");
    grow_tree(&tree);
    let index = scratch.path().join("i");
    fs::write(&index, "index").unwrap();
    let meta = LayerMeta {
        identity: Some("abcdef".into()),
        blobs: vec![layer_blob(9, "pulled")],
        ..meta(&digest(1))
    };
    let staged = StagedLayer {
        tree: Some(tree),
        index: Some(index),
        tar: None,
    };
    store.put_layer(&meta, staged).unwrap();
    let mut cache = store.stat_cache(Path::new("/")).unwrap();
    cache.insert(KEY, [7; 32]);
    cache.save().unwrap();
    drop(store.cache_mount("id", MountSharing::Shared).unwrap());
}

/// Uses everything; only answers that must not be wrong are looked at.
fn exercise(store: &Store) {
    let blob = image(
        store,
        "name",
        br#"{"config":{"digest":"sha256:11"},"layers":[]}"#,
    );
    assert!(store.read_blob(blob.descriptor.digest(), 1000).is_ok());
    if let Ok(Some(payload)) = store.record(&[1; 32]) {
        assert_eq!(payload, b"payload");
    }
    if let Some(layer) = store.layer(&digest(1)).unwrap() {
        assert_eq!(layer.diff_id, digest(1));
    }
    let _ = store.layer_by_identity("abcdef");
    let _ = store.reference("name");
    let _ = store.references();
    let cache = store.stat_cache(Path::new("/")).unwrap();
    assert!(cache.get(&KEY).is_none_or(|digest| digest == [7; 32]));
    let meta = LayerMeta {
        identity: Some("abcdef".into()),
        ..meta(&digest(1))
    };
    store.put_layer(&meta, StagedLayer::default()).unwrap();
    store.tag(&blob).unwrap();
    store.put_record(&[1; 32], b"payload", &[]).unwrap();
    assert!(store.record(&[1; 32]).unwrap().is_some());
    drop(store.cache_mount("id", MountSharing::Locked).unwrap());
    assert!(store.usage().total() > 0);
    let options = PruneOptions::default();
    store.prune(&options, &store::remove_tree).unwrap();
}

fn damage_all(noise: &[u8], cut: usize) {
    let fixture = Fixture::new();
    fill(&fixture);
    let Fixture { dir, store } = fixture;
    drop(store);
    let root = dir.path().join("store");
    for path in files_below(&root) {
        if path.ends_with("version") || path.ends_with("lock") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(cut);
        bytes.extend_from_slice(noise);
        fs::write(&path, bytes).unwrap();
    }
    exercise(&Store::open(&root).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_in_every_file(noise in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
        damage_all(&noise, cut);
    }

    #[test]
    fn random_bytes_as_version(noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let fixture = Fixture::new();
        fs::write(fixture.root().join("version"), &noise).unwrap();
        let opened = Store::open(&fixture.root());
        prop_assert_eq!(opened.is_ok(), noise == b"1\n");
    }
}

#[test]
fn empty_files_everywhere_as_after_a_power_cut() {
    damage_all(&[], 0);
}

#[test]
fn folders_where_files_should_be() {
    let fixture = Fixture::new();
    fill(&fixture);
    for path in files_below(&fixture.root()) {
        let keep = ["version", "lock"].iter().any(|name| path.ends_with(name));
        if !keep {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
    }
    let store = &fixture.store;
    assert!(store.record(&[1; 32]).is_err());
    assert!(store.references().unwrap().is_empty());
    let _ = store.layer(&digest(1));
    let _ = store.stat_cache(Path::new("/"));
    let _ = store.put_record(&[1; 32], b"", &[]);
    let _ = store.prune(&PruneOptions::default(), &store::remove_tree);
}
