//! Layers and cache mounts.

use crate::{Fixture, digest, grow_tree, layer_blob, meta, tree_is_whole};
use std::fs;
use std::sync::mpsc;
use std::time::Duration;
use store::{Error, LayerMeta, MountSharing, StagedLayer};

#[test]
fn a_layer_gets_its_materialisations_one_by_one() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let scratch = store.scratch().unwrap();
    let tar = scratch.path().join("tar");
    fs::write(&tar, "hello").unwrap();
    let diff_id = digest(0xaa);
    assert_eq!(store.layer(&diff_id).unwrap(), None);

    let staged = StagedLayer {
        tar: Some(tar.clone()),
        ..StagedLayer::default()
    };
    let first = LayerMeta {
        size: Some(5),
        ..meta(&diff_id)
    };
    store.put_layer(&first, staged).unwrap();
    assert_eq!(store.layer(&diff_id).unwrap(), Some(first));
    assert_eq!(store.blob_size(&diff_id), Some(5));
    assert!(!tar.exists());
    assert_eq!(store.layer_tree(&diff_id), None);
    assert_eq!(store.layer_index(&diff_id), None);

    let tree = scratch.path().join("tree");
    grow_tree(&tree);
    let index = scratch.path().join("index");
    fs::write(&index, "index").unwrap();
    let second = LayerMeta {
        identity: Some("abcdef0123".into()),
        ..meta(&diff_id)
    };
    let staged = StagedLayer {
        tree: Some(tree.clone()),
        index: Some(index.clone()),
        ..StagedLayer::default()
    };
    store.put_layer(&second, staged).unwrap();
    assert!(!tree.exists() && !index.exists());
    assert!(tree_is_whole(&store.layer_tree(&diff_id).unwrap()));
    let index = store.layer_index(&diff_id).unwrap();
    assert_eq!(fs::read_to_string(index).unwrap(), "index");
    let merged = store.layer(&diff_id).unwrap().unwrap();
    assert_eq!(merged.size, Some(5));
    assert_eq!(merged.identity.as_deref(), Some("abcdef0123"));
    assert_eq!(
        store.layer_by_identity("abcdef0123").unwrap(),
        Some(diff_id)
    );
}

#[test]
fn blobs_merge_by_encoder_and_digest() {
    let fixture = Fixture::new();
    let put = |blobs: &[store::LayerBlob]| {
        let meta = LayerMeta {
            blobs: blobs.to_vec(),
            ..meta(&digest(1))
        };
        fixture
            .store
            .put_layer(&meta, StagedLayer::default())
            .unwrap();
    };
    let (pulled, made, zstd) = (
        layer_blob(2, "pulled"),
        layer_blob(3, "gzip:6"),
        layer_blob(4, "zstd:3"),
    );
    put(std::slice::from_ref(&pulled));
    put(&[made.clone(), pulled.clone()]);
    put(&[]);
    put(&[zstd.clone(), made.clone()]);
    let known = fixture.store.layer(&digest(1)).unwrap().unwrap().blobs;
    assert_eq!(known, [pulled, made, zstd]);
}

#[test]
fn the_first_tree_stays_and_the_second_is_dropped() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    for round in 0..3 {
        let scratch = store.scratch().unwrap();
        // Both forms: a folder by itself, and one with a wrapper of its own.
        let tree = scratch.path().join(["tree", "w/root", "root"][round]);
        grow_tree(&tree);
        fs::write(tree.join("round"), round.to_string()).unwrap();
        let staged = StagedLayer {
            tree: Some(tree.clone()),
            ..StagedLayer::default()
        };
        store.put_layer(&meta(&digest(5)), staged).unwrap();
        assert!(!tree.exists());
        assert!(scratch.path().is_dir());
    }
    let tree = store.layer_tree(&digest(5)).unwrap();
    assert!(tree_is_whole(&tree));
    assert_eq!(fs::read_to_string(tree.join("round")).unwrap(), "0");
    assert!(store.leftovers().is_empty());
}

#[test]
fn a_tar_of_the_wrong_size_is_refused() {
    let fixture = Fixture::new();
    let scratch = fixture.store.scratch().unwrap();
    let tar = scratch.path().join("tar");
    fs::write(&tar, "hello").unwrap();
    let meta = LayerMeta {
        size: Some(6),
        ..meta(&digest(1))
    };
    let staged = StagedLayer {
        tar: Some(tar),
        ..StagedLayer::default()
    };
    let error = fixture.store.put_layer(&meta, staged).unwrap_err();
    assert!(matches!(error, Error::WrongSize { .. }), "{error}");
    assert_eq!(fixture.store.blob_size(&digest(1)), None);
    assert_eq!(fixture.store.layer(&digest(1)).unwrap(), None);
}

#[test]
fn an_identity_stays_with_its_first_layer_while_that_is_there() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    for identity in ["00ff", "odd identity/../x", "", "é"] {
        let put = |byte| {
            let meta = LayerMeta {
                identity: Some(identity.into()),
                ..meta(&digest(byte))
            };
            store.put_layer(&meta, StagedLayer::default()).unwrap();
        };
        assert_eq!(store.layer_by_identity(identity).unwrap(), None);
        put(1);
        put(2);
        assert_eq!(store.layer_by_identity(identity).unwrap(), Some(digest(1)));
        let folder = fixture.root().join("layers/sha256");
        fs::remove_dir_all(folder.join(digest(1).digest())).unwrap();
        assert_eq!(store.layer_by_identity(identity).unwrap(), None);
        put(2);
        assert_eq!(store.layer_by_identity(identity).unwrap(), Some(digest(2)));
        fs::remove_dir_all(folder.join(digest(2).digest())).unwrap();
    }
}

#[test]
fn cache_mounts_keep_their_content_and_say_when_they_are_new() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let mount = store
        .cache_mount("/root/.cache, odd\n", MountSharing::Shared)
        .unwrap();
    assert!(mount.is_new());
    fs::write(mount.path().join("kept"), "kept").unwrap();
    let path = mount.path().to_owned();
    drop(mount);
    for sharing in [
        MountSharing::Shared,
        MountSharing::Locked,
        MountSharing::Private,
    ] {
        let mount = store.cache_mount("/root/.cache, odd\n", sharing).unwrap();
        assert!(!mount.is_new());
        assert_eq!(mount.path(), path);
        assert!(mount.path().join("kept").is_file());
    }
    assert!(
        store
            .cache_mount("other", MountSharing::Shared)
            .unwrap()
            .is_new()
    );
}

#[test]
fn private_mounts_take_a_fresh_folder_when_busy() {
    let fixture = Fixture::new();
    let take = |sharing| fixture.store.cache_mount("id", sharing).unwrap();
    let shared = take(MountSharing::Shared);
    let also_shared = take(MountSharing::Shared);
    assert_eq!(shared.path(), also_shared.path());
    let private = take(MountSharing::Private);
    let another = take(MountSharing::Private);
    assert_ne!(private.path(), shared.path());
    assert_ne!(private.path(), another.path());
    assert!(another.is_new());
    let path = private.path().to_owned();
    drop(private);
    assert_eq!(take(MountSharing::Private).path(), path);
}

#[test]
fn locked_mounts_wait() {
    let fixture = Fixture::new();
    let held = fixture
        .store
        .cache_mount("id", MountSharing::Locked)
        .unwrap();
    let (send, receive) = mpsc::channel();
    let store = fixture.store.clone();
    let waiter = std::thread::spawn(move || {
        let mount = store.cache_mount("id", MountSharing::Locked).unwrap();
        send.send(()).unwrap();
        drop(mount);
    });
    let early = receive.recv_timeout(Duration::from_millis(100));
    assert!(early.is_err(), "the lock was given twice");
    drop(held);
    receive.recv_timeout(Duration::from_secs(20)).unwrap();
    waiter.join().unwrap();
}
