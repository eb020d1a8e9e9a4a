//! Garbage collection.

use crate::{Fixture, digest, grow_tree, image, layer_blob, meta};
use oci_spec::image::Digest;
use serde_json::json;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use store::{Error, LayerMeta, MountSharing, PruneOptions, PruneReport, StagedLayer, Store};

const ALL: PruneOptions = PruneOptions {
    all: true,
    dry_run: false,
    references: Vec::new(),
    older_than: None,
};

fn prune(store: &Store, options: &PruneOptions) -> PruneReport {
    let report = store.prune(options, &store::remove_tree).unwrap();
    assert_eq!(report.failed, [""; 0]);
    report
}

fn put(store: &Store, value: &serde_json::Value) -> Digest {
    store.put_blob(&serde_json::to_vec(value).unwrap()).unwrap()
}

/// A layer with all its forms. Returns diff_id and the digest of its compressed blob.
fn put_layer(store: &Store, byte: u8) -> (Digest, Digest) {
    let scratch = store.scratch().unwrap();
    let diff_id = store.put_blob(&[byte; 100]).unwrap();
    let compressed = store.put_blob(&[0x1f, 0x8b, byte]).unwrap();
    let tree = scratch.path().join("t");
    grow_tree(&tree);
    let index = scratch.path().join("i");
    fs::write(&index, "index").unwrap();
    let mut blob = layer_blob(0, "gzip");
    blob.descriptor.set_digest(compressed.clone());
    let meta = LayerMeta {
        identity: Some(format!("{byte:04x}")),
        size: Some(100),
        blobs: vec![blob],
        ..meta(&diff_id)
    };
    let staged = StagedLayer {
        tree: Some(tree),
        index: Some(index),
        tar: None,
    };
    store.put_layer(&meta, staged).unwrap();
    (diff_id, compressed)
}

/// An image of one layer behind an index. Returns the documents' digests.
fn put_image(store: &Store, name: &str, byte: u8) -> Vec<Digest> {
    let (diff_id, compressed) = put_layer(store, byte);
    let config = put(
        store,
        &json!({"rootfs": {"type": "layers", "diff_ids": [diff_id]}}),
    );
    let manifest = put(
        store,
        &json!({"config": {"digest": config}, "layers": [{"digest": compressed}]}),
    );
    let index = json!({"manifests": [{"digest": manifest}, {"digest": digest(0xee)}]});
    let reference = image(store, name, &serde_json::to_vec(&index).unwrap());
    store.tag(&reference).unwrap();
    vec![
        reference.descriptor.digest().clone(),
        manifest,
        config,
        diff_id,
        compressed,
    ]
}

fn present(store: &Store, digests: &[Digest]) -> Vec<bool> {
    digests
        .iter()
        .map(|digest| store.blob_size(digest).is_some())
        .collect()
}

#[test]
fn what_a_reference_reaches_stays() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let kept = put_image(store, "kept", 1);
    let gone = put_image(store, "gone", 2);
    assert_eq!(prune(store, &PruneOptions::default()).removed, [""; 0]);
    store.untag("gone").unwrap();

    let dry = PruneOptions {
        dry_run: true,
        ..PruneOptions::default()
    };
    let promised = prune(store, &dry);
    assert_eq!(present(store, &gone), [true; 5]);
    let report = prune(store, &PruneOptions::default());
    assert_eq!(promised.removed, report.removed);
    assert_eq!(promised.bytes, report.bytes);
    assert!(report.bytes > 4096, "{}", report.bytes);
    assert!(report.removed.contains(&format!("layer {}", gone[3])));
    assert!(report.removed.contains(&"identity 0002".to_string()));
    assert_eq!(report.removed.len(), 7, "{:?}", report.removed);

    assert_eq!(present(store, &kept), [true; 5]);
    assert_eq!(present(store, &gone), [false; 5]);
    assert!(store.layer_tree(&kept[3]).is_some());
    assert_eq!(store.layer(&gone[3]).unwrap(), None);
    assert_eq!(store.layer_tree(&gone[3]), None);
    assert_eq!(
        store.layer_by_identity("0001").unwrap().as_ref(),
        Some(&kept[3])
    );
    assert_eq!(store.layer_by_identity("0002").unwrap(), None);
    assert!(store.leftovers().is_empty());
}

#[test]
fn records_keep_their_layers_unless_all_goes() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let (used, compressed) = put_layer(store, 3);
    let manifest = put(store, &json!({"layers": [{"digest": used}]}));
    let record_only = put_layer(store, 4).0;
    store
        .put_record(&[1; 32], b"{}", &[record_only.clone(), manifest.clone()])
        .unwrap();
    let mount = store.cache_mount("npm", MountSharing::Shared).unwrap();
    fs::write(mount.path().join("x"), "x").unwrap();
    drop(mount);

    assert_eq!(prune(store, &PruneOptions::default()).removed, [""; 0]);
    assert_eq!(
        present(store, &[used.clone(), compressed, manifest]),
        [true; 3]
    );
    let report = prune(store, &ALL);
    assert!(report.removed.contains(&"cache mount npm".to_string()));
    assert_eq!(store.record(&[1; 32]).unwrap(), None);
    assert_eq!(present(store, &[used, record_only]), [false; 2]);
    assert!(
        store
            .cache_mount("npm", MountSharing::Shared)
            .unwrap()
            .is_new()
    );
}

#[test]
fn damaged_records_and_references_stale_stat_caches_and_old_logs_go() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.put_record(&[1; 32], b"good", &[]).unwrap();
    store.put_record(&[2; 32], b"bad", &[]).unwrap();
    let damaged = fixture.root().join("records/02").join("02".repeat(31));
    fs::write(&damaged, "x").unwrap();
    fs::write(fixture.root().join("refs/nonsense"), "x").unwrap();
    let key = store::StatKey {
        dev: 1,
        ino: 1,
        size: 1,
        mtime_ns: 1,
        ctime_ns: 1,
    };
    for context in [fixture.dir.path(), &fixture.dir.path().join("gone")] {
        let mut cache = store.stat_cache(context).unwrap();
        cache.insert(key, [1; 32]);
        cache.save().unwrap();
    }
    fs::write(store.logs().join("new.log"), "new").unwrap();
    let old = fs::File::create(store.logs().join("old.log")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(30 * 24 * 3600))
        .unwrap();

    let report = prune(store, &PruneOptions::default());
    assert_eq!(report.removed.len(), 4, "{:?}", report.removed);
    assert!(report.removed.contains(&"log old.log".to_string()));
    assert!(!damaged.exists());
    assert!(store.record(&[1; 32]).unwrap().is_some());
    let loaded = |context| store.stat_cache(context).unwrap().loaded();
    assert_eq!(loaded(fixture.dir.path()), 1);
    assert_eq!(loaded(&fixture.dir.path().join("gone")), 0);
}

/// Makes everything below a store's folder look last used two hours ago.
pub(crate) fn grow_old(root: &Path) {
    let old = SystemTime::now() - Duration::from_secs(7200);
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn pruning_spares_what_another_process_may_use() {
    let fixture = Fixture::new();
    let (old, _) = put_layer(&fixture.store, 1);
    let (looked_at, blob) = put_layer(&fixture.store, 2);
    let (named_by_new, _) = put_layer(&fixture.store, 3);
    grow_old(&fixture.root());
    let build = fixture.reopen();
    let orphan = build.put_blob(b"just written, not tagged yet").unwrap();
    assert!(build.layer(&looked_at).unwrap().is_some());
    let manifest = put(&build, &json!({"layers": [{"digest": named_by_new}]}));
    // One who only looks around uses nothing.
    assert!(build.quiet().layer(&old).unwrap().is_some());
    let report = prune(&fixture.store, &ALL);
    assert!(
        report.removed.contains(&format!("layer {old}")),
        "{:?}",
        report.removed
    );
    assert_eq!(fixture.store.quiet().layer(&old).unwrap(), None);
    assert_eq!(
        present(
            &build,
            &[
                orphan.clone(),
                looked_at.clone(),
                blob,
                named_by_new,
                manifest
            ]
        ),
        [true; 5]
    );
    assert!(build.layer_tree(&looked_at).is_some());
    let busy = fixture.store.alone(|| Ok(()));
    assert!(matches!(busy, Err(Error::Busy { .. })));
    drop(build);
    prune(&fixture.store, &ALL);
    assert!(fixture.store.blob_size(&orphan).is_none());
    assert_eq!(fixture.store.layer_tree(&looked_at), None);
}

#[test]
fn trees_go_through_the_given_remover_and_stay_as_leftovers_when_it_fails() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let (diff_id, _) = put_layer(store, 5);
    let asked = RefCell::new(Vec::<PathBuf>::new());
    let refuse = |path: &std::path::Path| {
        asked.borrow_mut().push(path.to_owned());
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    };
    let report = store.prune(&ALL, &refuse).unwrap();
    assert!(report.failed[0].starts_with(&format!("layer {diff_id}: ")));
    assert_eq!(store.layer_tree(&diff_id), None);
    let left = store.leftovers();
    assert_eq!(left.len(), 1);
    assert_eq!(asked.borrow().len(), 1);
    assert_eq!(fixture.reopen().leftovers(), left);

    let report = prune(store, &PruneOptions::default());
    assert_eq!(report.removed.len(), 1);
    assert!(store.leftovers().is_empty());
}

#[test]
fn usage_sums_up_by_kind() {
    let fixture = Fixture::new();
    let empty = fixture.store.usage();
    fixture.store.put_blob(&vec![1; 1 << 20]).unwrap();
    let usage = fixture.store.usage();
    assert!(usage.blobs - empty.blobs >= 1 << 20);
    assert_eq!(usage.layers, empty.layers);
    assert!(usage.total() >= usage.blobs);
}

#[test]
fn references_go_on_request_and_what_changed_lately_stays() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let kept = put_image(store, "kept", 1);
    let named = put_image(store, "named", 2);
    let moved = store.reference("named").unwrap().unwrap();
    put_image(store, "named", 3);
    let untagged = moved.descriptor.digest().to_string();
    assert!(store.reference(&untagged).unwrap().is_some());
    store.put_record(&[1; 32], b"{}", &[]).unwrap();

    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let options = PruneOptions {
        references: vec!["named".to_owned(), untagged.clone()],
        older_than: Some(hour_ago),
        ..ALL
    };
    let dry = PruneOptions {
        dry_run: true,
        ..options.clone()
    };
    let promised = prune(store, &dry);
    assert_eq!(present(store, &named), [true; 5]);
    let report = prune(store, &options);
    assert_eq!(promised.removed, report.removed);
    assert_eq!(report.kinds[&store::PrunedKind::Reference].0, 2);
    let bytes: u64 = report.kinds.values().map(|(_, bytes)| bytes).sum();
    assert_eq!(bytes, report.bytes);
    assert_eq!(present(store, &named), [false; 5]);
    assert_eq!(present(store, &kept), [true; 5]);
    assert!(store.reference(&untagged).unwrap().is_none());
    assert!(store.record(&[1; 32]).unwrap().is_some());
    prune(store, &ALL);
    assert!(store.record(&[1; 32]).unwrap().is_none());
}

/// What is kept spares its layers, appears whole, and goes only when nobody looks at it.
#[test]
fn kept_folders_and_their_layers() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let (needed, _) = put_layer(store, 1);
    let (other, _) = put_layer(store, 2);
    let keep = |content: &str| {
        let scratch = store.scratch().unwrap();
        let folder = scratch.path().join("x");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("f"), content).unwrap();
        let record = |id: &str| format!("record of {id}").into_bytes();
        let layers = std::slice::from_ref(&needed);
        store.keep(("changes", &folder), record, layers).unwrap()
    };
    let (first, second) = (keep("a"), keep("b"));
    assert_ne!(first, second);
    let kept = store.kept().unwrap();
    assert_eq!(kept.len(), 2);
    let of = |id: &str| kept.iter().find(|kept| kept.id() == id).unwrap();
    assert_eq!(
        of(&first).record().unwrap(),
        format!("record of {first}").into_bytes()
    );
    assert_eq!(
        fs::read(of(&second).path().join("changes/f")).unwrap(),
        b"b"
    );
    assert_eq!(store.count().unwrap().kept, 2);

    let held = of(&first).hold().unwrap().unwrap();
    assert!(of(&first).hold().unwrap().is_none());
    assert!(store.discard_kept(of(&first)).unwrap().is_none());
    let grave = store.discard_kept(of(&second)).unwrap().unwrap();
    assert!(grave.join("changes/f").is_file() && !of(&second).path().exists());
    drop(held);

    prune(store, &PruneOptions::default());
    assert!(store.layer(&needed).unwrap().is_some());
    assert!(store.layer(&other).unwrap().is_none());
    let report = prune(store, &ALL);
    assert_eq!(report.kinds[&store::PrunedKind::Kept].0, 1);
    assert!(store.kept().unwrap().is_empty() && store.layer(&needed).unwrap().is_none());
}
