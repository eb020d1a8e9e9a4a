//! The stat cache: round trips, the rule about recent files, and damage.

use crate::Fixture;
use proptest::prelude::*;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use store::{StatCache, StatKey};

const OLD: i128 = 1_600_000_000_123_456_789;

fn key(ino: u64) -> StatKey {
    StatKey {
        dev: 1,
        ino,
        size: 10,
        mtime_ns: OLD,
        ctime_ns: OLD,
    }
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i128::try_from(since.as_nanos()).unwrap()
}

fn open(fixture: &Fixture) -> StatCache {
    fixture
        .store
        .stat_cache(Path::new("/some/context"))
        .unwrap()
}

fn save(fixture: &Fixture, entries: &[(StatKey, [u8; 32])]) {
    let mut cache = open(fixture);
    for (key, digest) in entries {
        cache.insert(*key, *digest);
    }
    cache.save().unwrap();
}

#[test]
fn settled_entries_survive_and_any_change_of_the_stat_misses() {
    let fixture = Fixture::new();
    save(&fixture, &[(key(1), [1; 32]), (key(2), [2; 32])]);
    let cache = open(&fixture);
    assert_eq!(cache.loaded(), 2);
    assert_eq!(cache.get(&key(1)), Some([1; 32]));
    assert_eq!(cache.get(&key(2)), Some([2; 32]));
    let changed = [
        key(3),
        StatKey { dev: 2, ..key(1) },
        StatKey { size: 11, ..key(1) },
        StatKey {
            mtime_ns: OLD + 1,
            ..key(1)
        },
        StatKey {
            ctime_ns: OLD - 1,
            ..key(1)
        },
    ];
    for key in changed {
        assert_eq!(cache.get(&key), None, "{key:?}");
    }
    let other = fixture.store.stat_cache(Path::new("/other")).unwrap();
    assert_eq!(other.get(&key(1)), None);
}

#[test]
fn recent_and_future_files_are_known_only_until_saved() {
    let fixture = Fixture::new();
    let second = 1_000_000_000;
    let now = now();
    let whole_second = now - now.rem_euclid(second);
    let old = now - 60 * second;
    let cases = [
        ("just changed", old, now, false),
        ("within a tick", old, now - 5_000_000, false),
        ("mtime in the future", now + 3600 * second, old, false),
        ("coarse clock", old, whole_second - second, false),
        ("a minute old", old, old, true),
        ("old, coarse", old, whole_second - 60 * second, true),
        ("before 1970", -5, -5, true),
        ("out of range", i128::MIN, old, false),
    ];
    let cases: Vec<_> = (0..)
        .zip(cases)
        .map(|(ino, (name, mtime_ns, ctime_ns, kept))| {
            let times = StatKey {
                mtime_ns,
                ctime_ns,
                ..key(ino)
            };
            (name, times, kept)
        })
        .collect();
    let mut cache = open(&fixture);
    for (name, key, _) in &cases {
        cache.insert(*key, [3; 32]);
        assert_eq!(cache.get(key), Some([3; 32]), "{name}");
    }
    cache.save().unwrap();
    let cache = open(&fixture);
    for (name, key, kept) in &cases {
        assert_eq!(cache.get(key).is_some(), *kept, "{name}");
    }
}

/// What the rule is for: a file that changes again within the same tick keeps its stat.
#[test]
fn a_real_file_changed_right_after_hashing_is_not_trusted() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("file");
    for round in 0..20 {
        fs::write(&path, format!("{round:04}")).unwrap();
        let meta = fs::metadata(&path).unwrap();
        let time = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let key = StatKey {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime_ns: time(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: time(meta.ctime(), meta.ctime_nsec()),
        };
        save(&fixture, &[(key, [9; 32])]);
        assert_eq!(open(&fixture).get(&key), None);
    }
}

#[test]
fn a_new_state_of_a_file_replaces_the_old_one() {
    let fixture = Fixture::new();
    let newer = StatKey {
        mtime_ns: OLD + 5,
        ..key(1)
    };
    save(&fixture, &[(key(1), [1; 32]), (key(2), [2; 32])]);
    save(&fixture, &[(newer, [3; 32])]);
    let cache = open(&fixture);
    assert_eq!(cache.loaded(), 2);
    assert_eq!(cache.get(&key(1)), None);
    assert_eq!(cache.get(&newer), Some([3; 32]));
    assert_eq!(cache.get(&key(2)), Some([2; 32]));
}

#[test]
fn entries_go_when_they_stay_unused() {
    let fixture = Fixture::new();
    save(&fixture, &[(key(1), [1; 32]), (key(2), [2; 32])]);
    for round in 0..20 {
        let mut cache = open(&fixture);
        assert!(cache.get(&key(1)).is_some());
        cache.insert(key(100 + round), [0; 32]);
        cache.save().unwrap();
    }
    let cache = open(&fixture);
    assert!(cache.get(&key(1)).is_some());
    assert_eq!(cache.get(&key(2)), None);
}

#[test]
fn an_unchanged_cache_is_not_rewritten() {
    let fixture = Fixture::new();
    save(&fixture, &[(key(1), [1; 32])]);
    let path = || crate::files_below(&fixture.root().join("stat")).remove(0);
    let before = fs::metadata(path()).unwrap().ino();
    let cache = open(&fixture);
    assert!(cache.get(&key(1)).is_some());
    cache.save().unwrap();
    assert_eq!(fs::metadata(path()).unwrap().ino(), before);
}

#[test]
fn a_damaged_cache_is_empty() {
    let fixture = Fixture::new();
    let entries: Vec<_> = (0..20).map(|ino| (key(ino), [1; 32])).collect();
    save(&fixture, &entries);
    let path = crate::files_below(&fixture.root().join("stat")).remove(0);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(open(&fixture).loaded(), 0, "cut at {at}");
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        assert_eq!(open(&fixture).loaded(), 0, "bit changed at {at}");
    }
    save(&fixture, &entries);
    assert_eq!(open(&fixture).loaded(), 20);
}

fn any_key() -> impl Strategy<Value = StatKey> {
    let ino = prop_oneof![0..50u64, any::<u64>()];
    let time = i128::from(i64::MIN)..OLD;
    (0..3u64, ino, any::<u64>(), time.clone(), time).prop_map(
        |(dev, ino, size, mtime_ns, ctime_ns)| StatKey {
            dev,
            ino,
            size,
            mtime_ns,
            ctime_ns,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_saved_is_found(batches in prop::collection::vec(
        prop::collection::vec((any_key(), any::<[u8; 32]>()), 0..80), 1..4))
    {
        let fixture = Fixture::new();
        let mut model = HashMap::new();
        for batch in &batches {
            save(&fixture, batch);
            for (key, digest) in batch {
                model.insert((key.dev, key.ino), (*key, *digest));
            }
        }
        let cache = open(&fixture);
        for (key, _) in batches.iter().flatten() {
            let known = model[&(key.dev, key.ino)];
            let expected = (known.0 == *key).then_some(known.1);
            prop_assert_eq!(cache.get(key), expected);
        }
        prop_assert_eq!(cache.loaded(), model.len());
    }
}
