//! Indexes whose checksum is right and whose content is not: reading must stay inside.

use super::*;
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    let mut builder = IndexBuilder::default();
    let xattrs = encode();
    let digest = [7; 32];
    let rows: [(&[u8], What<'_>); 6] = [
        (b"a", What::Directory { opaque: true }),
        (
            b"a/b",
            What::File {
                size: 1,
                offset: 512,
                digest,
            },
        ),
        (b"a/c", What::Hardlink(b"a/b")),
        (b"d/e/f", What::Symlink(b"../x")),
        (b"g", What::Char(1, 3)),
        (b"h", What::Whiteout),
    ];
    for (path, what) in rows {
        builder.push(&Node {
            what,
            xattrs: &xattrs,
            ..Node::whiteout(path)
        });
    }
    builder.finish([1; 32], 1024).bytes
}

fn encode() -> Vec<u8> {
    crate::layer::xattr::encode_xattrs(&[(b"user.a".to_vec(), b"1".to_vec())])
}

/// Touches everything an index can be asked.
fn use_all(index: &Index) {
    for (at, node) in index.nodes().enumerate() {
        let _ = (index.find(node.path), index.target(at), node.to_entry());
        index.children(node.path, &mut |_, _| {});
    }
    for path in [b"".as_slice(), b"a", b"d/e", b"zz", b"\0"] {
        let _ = index.find(path);
        index.children(path, &mut |_, _| {});
    }
}

#[test]
fn parents_are_implied() {
    let index = Index::parse(sample()).expect("a whole index");
    let paths: Vec<&[u8]> = index.nodes().map(|node| node.path).collect();
    let expected: [&[u8]; 8] = [b"a", b"a/b", b"a/c", b"d", b"d/e", b"d/e/f", b"g", b"h"];
    assert_eq!(paths, expected);
    let mut names = Vec::new();
    index.children(b"", &mut |_, name| names.push(name.to_vec()));
    assert_eq!(names, [b"a", b"d", b"g", b"h"]);
    use_all(&index);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_content_is_read_inside(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut bytes = sample();
        let end = bytes.len() - CHECKSUM;
        for (at, value) in changes {
            bytes[at.index(end)] = value;
        }
        if cut.index(4) == 0 {
            bytes.drain(cut.index(end)..end);
        }
        let end = bytes.len() - CHECKSUM;
        let sum = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(sum.as_bytes());
        if let Ok(index) = Index::parse(bytes) {
            use_all(&index);
        }
    }

    #[test]
    fn random_bytes_are_no_index(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Index::parse(bytes).is_err());
    }
}
