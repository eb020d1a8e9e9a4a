//! Prints what the store's operations cost. `cargo run --release -p kiln-store --example figures [FOLDER]`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measuring program for people"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use store::{LayerMeta, StagedLayer, StatKey, Store};

const FILES: u64 = 50_000;

/// Median and fastest of several runs.
fn time(name: &str, runs: usize, mut work: impl FnMut(usize)) {
    let mut times: Vec<Duration> = (0..runs)
        .map(|run| {
            let start = Instant::now();
            work(run);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{name:44} median {:>11.1?}  best {:>11.1?}",
        times[runs / 2],
        times[0]
    );
}

fn key(ino: u64) -> StatKey {
    StatKey {
        dev: 64769,
        ino: 1_000_000 + ino,
        size: ino * 7,
        mtime_ns: 1_600_000_000_000_000_001 + i128::from(ino),
        ctime_ns: 1_600_000_000_000_000_002,
    }
}

fn digest_key(run: usize) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(
        &(run as u64)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .to_le_bytes(),
    );
    key
}

fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| "/tmp".into());
    let dir = tempfile::tempdir_in(parent).unwrap();
    let root = dir.path().join("store");
    time("create a store", 1, |_| drop(Store::open(&root).unwrap()));
    time("open and close", 2000, |_| {
        drop(Store::open(&root).unwrap());
    });
    let store = Store::open(&root).unwrap();
    records(&store);
    blobs(&store);
    layers(&store);
    references(&store);
    stat_cache(&store);
    time("usage", 5, |_| assert!(store.usage().total() > 0));
    time("prune everything, dry run", 3, |_| {
        let options = store::PruneOptions {
            all: true,
            dry_run: true,
            ..store::PruneOptions::default()
        };
        drop(store.prune(&options, &store::remove_tree).unwrap());
    });
}

fn records(store: &Store) {
    time("put a record of 2 KiB", 5000, |run| {
        store
            .put_record(&digest_key(run), &[b'x'; 2048], &[])
            .unwrap();
    });
    time("get a record", 5000, |run| {
        assert!(store.record(&digest_key(run)).unwrap().is_some());
    });
    time("miss a record", 5000, |run| {
        assert!(store.record(&digest_key(run + 10_000)).unwrap().is_none());
    });
}

fn blobs(store: &Store) {
    let small = |run: usize| format!("{run:02000}").into_bytes();
    time("put a blob of 2 kB", 2000, |run| {
        store.put_blob(&small(run)).unwrap();
    });
    time("put it again", 2000, |run| {
        store.put_blob(&small(run)).unwrap();
    });
    let digest = store.put_blob(&small(1)).unwrap();
    time("read a blob of 2 kB, verified", 2000, |_| {
        store.read_blob(&digest, 4096).unwrap();
    });
    let chunk = vec![0x5a; 1 << 20];
    let mut large = None;
    time("write a blob of 256 MiB", 3, |_| {
        let mut writer = store.blob_writer().unwrap();
        (0..256).for_each(|_| writer.write_all(&chunk).unwrap());
        large = Some(writer.commit(None).unwrap().0);
    });
    let large = large.unwrap();
    time("read a blob of 256 MiB, verified", 3, |_| {
        let mut reader = store.open_blob(&large).unwrap();
        let mut buffer = vec![0; 1 << 18];
        while reader.read(&mut buffer).unwrap() > 0 {}
    });
}

fn layers(store: &Store) {
    let meta = |run: usize| LayerMeta {
        diff_id: store.put_blob(&run.to_le_bytes()).unwrap(),
        identity: Some(format!("{run:064x}")),
        size: None,
        blobs: Vec::new(),
    };
    let metas: Vec<_> = (0..500).map(meta).collect();
    let scratch = store.scratch().unwrap();
    time("put a layer (tree, index, identity)", 500, |run| {
        let tree = scratch.path().join(format!("{run}/root"));
        fs::create_dir_all(&tree).unwrap();
        let index = scratch.path().join("index");
        fs::write(&index, "index").unwrap();
        let staged = StagedLayer {
            tar: None,
            tree: Some(tree),
            index: Some(index),
        };
        store.put_layer(&metas[run], staged).unwrap();
    });
    time("get a layer's facts and tree", 500, |run| {
        let diff_id = &metas[run].diff_id;
        assert!(store.layer(diff_id).unwrap().is_some());
        assert!(store.layer_tree(diff_id).is_some());
    });
    time("make and drop a scratch folder", 500, |_| {
        drop(store.scratch().unwrap());
    });
}

fn references(store: &Store) {
    let image = |run: usize| {
        let digest = store
            .put_blob(format!("{{\"n\":{run}}}").as_bytes())
            .unwrap();
        let size = store.blob_size(&digest).unwrap();
        store::ImageRef {
            name: "docker.io/library/name:latest".into(),
            descriptor: oci_spec::image::Descriptor::new(
                oci_spec::image::MediaType::ImageManifest,
                size,
                digest,
            ),
            tagged: "2024-01-01T00:00:00Z".into(),
        }
    };
    time("tag (fsynced)", 50, |run| store.tag(&image(run)).unwrap());
    time("tag the same again", 200, |_| {
        store.tag(&image(49)).unwrap();
    });
}

fn stat_cache(store: &Store) {
    let context = Path::new("/a/context");
    let mut cache = store.stat_cache(context).unwrap();
    (0..FILES).for_each(|ino| cache.insert(key(ino), [7; 32]));
    let start = Instant::now();
    cache.save().unwrap();
    println!("{:44} {:.1?}", "stat cache: save 50,000", start.elapsed());
    time("stat cache: load 50,000", 21, |_| {
        assert_eq!(store.stat_cache(context).unwrap().loaded(), 50_000);
    });
    let cache = store.stat_cache(context).unwrap();
    time("stat cache: look 50,000 up", 21, |_| {
        assert!((0..FILES).all(|ino| cache.get(&key(ino)).is_some()));
    });
    time("stat cache: load and look 50,000 up", 21, |_| {
        let cache = store.stat_cache(context).unwrap();
        assert!((0..FILES).all(|ino| cache.get(&key(ino)).is_some()));
    });
    time("stat cache: 1 changed of 50,000, save", 5, |run| {
        let mut cache = store.stat_cache(context).unwrap();
        let changed = StatKey {
            size: run as u64,
            ..key(5)
        };
        cache.insert(changed, [8; 32]);
        cache.save().unwrap();
    });
}
