//! Blobs, and the making of a store.

use crate::{Fixture, digest, is_empty_dir};
use oci_spec::image::Digest;
use std::error::Error as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use store::{Error, Store};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const HELLO_512: &str = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";

#[test]
fn a_blob_is_visible_only_after_commit() {
    let fixture = Fixture::new();
    let wanted = Digest::try_from(HELLO).unwrap();
    let mut writer = fixture.store.blob_writer().unwrap();
    writer.write_all(b"hel").unwrap();
    writer.write_all(b"lo").unwrap();
    assert_eq!(fixture.store.blob_size(&wanted), None);
    let (digest, size) = writer.commit(Some((&wanted, Some(5)))).unwrap();
    assert_eq!((digest.as_ref(), size), (HELLO, 5));
    assert_eq!(fixture.store.blob_size(&wanted), Some(5));
    assert_eq!(fixture.store.read_blob(&wanted, 5).unwrap(), b"hello");
    assert_eq!(
        fixture.store.blob_path(&wanted),
        fixture.root().join("blobs").join(HELLO.replace(':', "/"))
    );
}

#[test]
fn an_unexpected_blob_is_dropped() {
    let fixture = Fixture::new();
    let write = || {
        let mut writer = fixture.store.blob_writer().unwrap();
        writer.write_all(b"hello").unwrap();
        writer
    };
    let other = digest(7);
    let error = write().commit(Some((&other, None))).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("blob {other} is corrupt: its content has digest {HELLO}")
    );
    let hello = Digest::try_from(HELLO).unwrap();
    let error = write().commit(Some((&hello, Some(6)))).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("blob {HELLO} has 5 bytes instead of 6")
    );
    drop(write());
    assert!(is_empty_dir(&fixture.root().join("blobs/sha256")));
    let scratch: Vec<_> = fs::read_dir(fixture.root().join("scratch"))
        .unwrap()
        .collect();
    assert_eq!(scratch.len(), 1, "the process's own folder");
    assert!(is_empty_dir(&scratch[0].as_ref().unwrap().path()));
}

#[test]
fn other_registered_algorithms_are_verified_too() {
    let fixture = Fixture::new();
    let wanted = Digest::try_from(HELLO_512).unwrap();
    let mut writer = fixture.store.blob_writer().unwrap();
    writer.write_all(b"hello").unwrap();
    assert_eq!(writer.commit(Some((&wanted, None))).unwrap().0, wanted);
    assert_eq!(fixture.store.read_blob(&wanted, 100).unwrap(), b"hello");

    let unknown = Digest::try_from("md5:5d41402abc4b2a76b9719d911017c592").unwrap();
    let mut writer = fixture.store.blob_writer().unwrap();
    writer.write_all(b"hello").unwrap();
    assert!(matches!(
        writer.commit(Some((&unknown, None))),
        Err(Error::UnknownAlgorithm { .. })
    ));
}

#[test]
fn a_corrupt_blob_is_named_with_its_file_and_mended_by_a_new_put() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let digest = store.put_blob(b"hello").unwrap();
    let path = store.blob_path(&digest);
    for damage in ["hellO", "hell", "hello!", ""] {
        fs::write(&path, damage).unwrap();
        let error = store.read_blob(&digest, 100).unwrap_err().to_string();
        assert!(error.contains(HELLO), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");

        let mut sink = Vec::new();
        let mut reader = store.open_blob(&digest).unwrap();
        let error = reader.read_to_end(&mut sink).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(HELLO), "{error}");
        assert!(store.open_blob(&digest).unwrap().finish().is_err());

        store.put_blob(b"hello").unwrap();
        assert_eq!(store.read_blob(&digest, 100).unwrap(), b"hello");
    }
}

#[test]
fn finish_verifies_what_was_not_read() {
    let fixture = Fixture::new();
    let digest = fixture.store.put_blob(&vec![7; 1 << 20]).unwrap();
    let mut reader = fixture.store.open_blob(&digest).unwrap();
    assert_eq!(reader.size(), 1 << 20);
    reader.read_exact(&mut [0; 1000]).unwrap();
    reader.finish().unwrap();

    fs::write(fixture.store.blob_path(&digest), vec![8; 1 << 20]).unwrap();
    let mut reader = fixture.store.open_blob(&digest).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    assert!(matches!(reader.finish(), Err(Error::Corrupt { .. })));
}

#[test]
fn absent_and_oversized_blobs_have_their_own_errors() {
    let fixture = Fixture::new();
    let absent = fixture.store.open_blob(&digest(1)).unwrap_err();
    assert!(matches!(absent, Error::NotFound { what: "blob", .. }));
    let digest = fixture.store.put_blob(b"hello").unwrap();
    let error = fixture.store.read_blob(&digest, 4).unwrap_err();
    assert!(matches!(
        error,
        Error::TooLarge {
            size: 5,
            limit: 4,
            ..
        }
    ));
}

#[test]
fn a_new_store_is_private_and_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/er/store");
    let digest = Store::open(&root).unwrap().put_blob(b"x").unwrap();
    let mode = fs::metadata(&root).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let again = Store::open(&root).unwrap();
    assert_eq!(again.read_blob(&digest, 1).unwrap(), b"x");
    assert_eq!(again.root(), root);
}

#[test]
fn roots_may_have_long_and_odd_names() {
    let dir = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"sp ace\n\xff:,=\\\"");
    let root = dir
        .path()
        .join(odd)
        .join("l".repeat(200))
        .join("m".repeat(200));
    let store = Store::open(&root).unwrap();
    let digest = store.put_blob(b"x").unwrap();
    assert_eq!(store.read_blob(&digest, 1).unwrap(), b"x");
    drop(store);
    assert!(Store::open(&root).is_ok());
}

#[test]
fn foreign_newer_and_damaged_roots_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NotAStore { .. }));
    assert!(error.to_string().contains("thesis.txt"), "{error}");

    let fixture = Fixture::new();
    let version = fixture.root().join("version");
    fs::write(&version, "2\n").unwrap();
    let error = Store::open(&fixture.root()).unwrap_err();
    assert!(error.to_string().contains("format version 2"), "{error}");
    for damage in ["", "x", "1", "-1\n", "0\n", "99999999999\n", "1\n\n"] {
        fs::write(&version, damage).unwrap();
        let error = Store::open(&fixture.root()).unwrap_err();
        assert!(
            matches!(error, Error::Damaged { .. }),
            "{damage:?}: {error}"
        );
    }
    fs::write(&version, "1\n").unwrap();
    fixture.reopen();
}

#[test]
fn a_root_that_is_a_file_is_an_error_with_its_path_and_cause() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("file");
    fs::write(&root, "").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(
        error.to_string().contains(root.to_str().unwrap()),
        "{error}"
    );
    assert!(error.source().is_some());
}

#[test]
fn scratch_folders_vanish_when_dropped() {
    let fixture = Fixture::new();
    let scratch = fixture.store.scratch().unwrap();
    let path = scratch.path().to_owned();
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::write(path.join("a/b/c"), "c").unwrap();
    fs::set_permissions(path.join("a/b"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(path.join("a"), fs::Permissions::from_mode(0o000)).unwrap();
    // Others leave it alone while it is held.
    fixture.reopen();
    assert!(path.is_dir());
    drop(scratch);
    assert!(!path.exists());
    assert!(fixture.store.leftovers().is_empty());
}
