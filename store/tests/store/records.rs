//! Cache records and references.

use crate::{Fixture, descriptor, digest, image};
use std::fs;
use store::{Error, ImageRef};

#[test]
fn records_come_back_and_are_replaced() {
    let fixture = Fixture::new();
    let (one, two) = ([1; 32], [2; 32]);
    assert_eq!(fixture.store.record(&one).unwrap(), None);
    fixture
        .store
        .put_record(&one, b"{\"a\":1}", &[digest(1), digest(2)])
        .unwrap();
    fixture.store.put_record(&two, b"", &[]).unwrap();
    assert_eq!(
        fixture.store.record(&one).unwrap().as_deref(),
        Some(&b"{\"a\":1}"[..])
    );
    assert_eq!(fixture.reopen().record(&two).unwrap(), Some(Vec::new()));
    fixture.store.put_record(&one, b"new", &[]).unwrap();
    assert_eq!(
        fixture.reopen().record(&one).unwrap().as_deref(),
        Some(&b"new"[..])
    );
}

#[test]
fn a_truncated_or_changed_record_is_absent() {
    let fixture = Fixture::new();
    fixture
        .store
        .put_record(&[9; 32], b"payload", &[digest(1)])
        .unwrap();
    let path = fixture.root().join("records/09").join("09".repeat(31));
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(fixture.store.record(&[9; 32]).unwrap(), None, "{length}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        fs::write(&path, &changed).unwrap();
        assert_eq!(fixture.store.record(&[9; 32]).unwrap(), None, "{at}");
    }
    fixture.store.put_record(&[9; 32], b"again", &[]).unwrap();
    assert!(fixture.store.record(&[9; 32]).unwrap().is_some());
}

#[test]
fn references_are_listed_by_name_and_replaced() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let b = image(store, "docker.io/library/b:latest", b"{\"b\":1}");
    let a = image(store, "docker.io/library/a:latest", b"{\"a\":1}");
    let nameless = image(store, "", b"{\"c\":1}");
    let other_nameless = image(store, "", b"{\"d\":1}");
    for reference in [&b, &a, &nameless, &other_nameless] {
        store.tag(reference).unwrap();
    }
    let names: Vec<_> = store
        .references()
        .unwrap()
        .into_iter()
        .map(|image| image.name)
        .collect();
    assert_eq!(names, ["", "", &a.name, &b.name]);
    assert_eq!(store.reference(&a.name).unwrap(), Some(a.clone()));
    assert_eq!(store.reference("docker.io/library/a").unwrap(), None);
    assert_eq!(store.reference("").unwrap(), None);
    let digest = nameless.descriptor.digest().to_string();
    assert_eq!(store.reference(&digest).unwrap(), Some(nameless));

    let newer = ImageRef {
        tagged: "2025-01-01T00:00:00Z".into(),
        ..image(store, &a.name, b"{\"a\":2}")
    };
    store.tag(&newer).unwrap();
    assert_eq!(store.reference(&a.name).unwrap(), Some(newer.clone()));
    let same_later = ImageRef {
        tagged: "2026-01-01T00:00:00Z".into(),
        ..newer.clone()
    };
    store.tag(&same_later).unwrap();
    assert_eq!(store.reference(&a.name).unwrap(), Some(newer));

    assert!(store.untag(&a.name).unwrap());
    assert!(!store.untag(&a.name).unwrap());
    assert!(store.untag(&digest).unwrap());
    assert!(store.untag(a.descriptor.digest().as_ref()).unwrap());
    assert_eq!(fixture.reopen().references().unwrap().len(), 2);
}

#[test]
fn what_loses_its_last_name_stays_untagged() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let listed = || -> Vec<(String, String)> {
        let references = store.references().unwrap().into_iter();
        references
            .map(|image| (image.name, image.descriptor.digest().to_string()))
            .collect()
    };
    let (old, other) = (
        image(store, "a", b"{\"1\":1}"),
        image(store, "b", b"{\"1\":1}"),
    );
    let new = image(store, "a", b"{\"2\":2}");
    let of = |image: &ImageRef| (image.name.clone(), image.descriptor.digest().to_string());
    let nameless = (String::new(), old.descriptor.digest().to_string());
    store.tag(&old).unwrap();
    store.tag(&other).unwrap();
    store.tag(&new).unwrap();
    // It still has another name.
    assert_eq!(listed(), [of(&new), of(&other)]);
    store.tag(&image(store, "b", b"{\"2\":2}")).unwrap();
    assert_eq!(listed().len(), 3);
    assert_eq!(listed()[0], nameless);
    // A name ends it, and the other image loses one of two.
    store.tag(&old).unwrap();
    assert_eq!(listed().len(), 2);
    assert!(!store.untag(&nameless.1).unwrap());
}

#[test]
fn a_reference_needs_its_blob() {
    let fixture = Fixture::new();
    let mut reference = image(&fixture.store, "x", b"content");
    reference.descriptor = descriptor(reference.descriptor.digest(), 3);
    let error = fixture.store.tag(&reference).unwrap_err();
    assert!(matches!(error, Error::WrongSize { .. }));
    reference.descriptor = descriptor(&digest(1), 7);
    let error = fixture.store.tag(&reference).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    assert!(fixture.store.references().unwrap().is_empty());
}

#[test]
fn names_may_be_anything() {
    let fixture = Fixture::new();
    for name in [
        "../../etc/passwd",
        "a/b:c@d",
        &"x".repeat(5000),
        "\n\0",
        "é",
    ] {
        let reference = image(&fixture.store, name, b"{}");
        fixture.store.tag(&reference).unwrap();
        assert_eq!(fixture.store.reference(name).unwrap(), Some(reference));
        assert!(fixture.store.untag(name).unwrap());
    }
}

#[test]
fn a_damaged_reference_is_an_error_by_name_and_left_out_of_the_list() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let kept = image(store, "kept", b"{}");
    let lost = image(store, "lost", b"{}");
    store.tag(&kept).unwrap();
    store.tag(&lost).unwrap();
    let path = fs::read_dir(fixture.root().join("refs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path).unwrap().contains("lost"))
        .unwrap();
    fs::write(&path, "{\"name\":\"lo").unwrap();
    let error = store.reference("lost").unwrap_err();
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(store.references().unwrap(), [kept]);
    store.tag(&lost).unwrap();
    assert_eq!(store.reference("lost").unwrap(), Some(lost));
}
