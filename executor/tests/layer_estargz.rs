//! eStargz layers: what they decompress to, the table of contents, and every chunk reached by it alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::layer::{self, Compression};
use flate2::read::{GzDecoder, MultiGzDecoder};
use layer_support::{Scratch, TarMaker, sha256};
use serde_json::Value;
use std::io::Read as _;

/// The table's offset in the footer, which is an empty gzip member of 51 bytes.
fn toc_offset(blob: &[u8]) -> usize {
    let footer = &blob[blob.len() - 51..];
    assert_eq!(&footer[..4], &[0x1f, 0x8b, 8, 4]);
    assert_eq!(&footer[12..16], &[b'S', b'G', 22, 0]);
    assert_eq!(&footer[32..38], b"STARGZ");
    let mut content = Vec::new();
    GzDecoder::new(footer).read_to_end(&mut content).unwrap();
    assert!(content.is_empty());
    usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap()
}

/// The table, and its bytes.
fn toc(blob: &[u8]) -> (Value, Vec<u8>) {
    let mut member = GzDecoder::new(&blob[toc_offset(blob)..]);
    let mut archive = tar::Archive::new(&mut member);
    let mut entries = archive.entries().unwrap();
    let mut entry = entries.next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("stargz.index.json"));
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).unwrap();
    (serde_json::from_slice(&bytes).unwrap(), bytes)
}

#[test]
fn o05_estargz_can_be_entered_at_every_chunk() {
    let scratch = Scratch::new();
    let big: String = (0..900_000).map(|number| format!("{number} ")).collect();
    assert!(big.len() > 5 << 20);
    let tar = TarMaker::new()
        .dir("d")
        .file("d/big", &big)
        .file("d/empty", "")
        .file("d/small", "small")
        .hardlink("d/link", "d/small")
        .file("d/.wh.gone", "")
        .end();
    let diff_id = scratch.register(&tar, &tar);
    let space = &scratch.space;
    let form = Compression::Estargz(6);
    let made = layer::blob(space, &diff_id, form, false).unwrap();
    let again = layer::blob(space, &diff_id, form, true).unwrap();
    assert_eq!(made.digest(), again.digest());
    let blob = std::fs::read(space.store().blob_path(made.digest())).unwrap();

    let mut plain = Vec::new();
    MultiGzDecoder::new(blob.as_slice())
        .read_to_end(&mut plain)
        .unwrap();
    let annotations = made.annotations().as_ref().unwrap();
    let size = &annotations["io.containers.estargz.uncompressed-size"];
    assert_eq!(*size, plain.len().to_string());
    let (toc, bytes) = toc(&blob);
    let digest = &annotations["containerd.io/snapshot/stargz/toc.digest"];
    assert_eq!(*digest, sha256(&bytes).to_string());

    // As a tar it is the layer with the landmark in front.
    let mut archive = tar::Archive::new(plain.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names[0], ".no.prefetch.landmark");
    assert!(
        plain[1024..].starts_with(&tar),
        "the layer's own tar is whole"
    );

    let entries = toc["entries"].as_array().unwrap();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in entries {
        let (name, kind) = (
            entry["name"].as_str().unwrap(),
            entry["type"].as_str().unwrap(),
        );
        let Some(offset) = entry["offset"].as_u64() else {
            continue;
        };
        let start = usize::try_from(offset).unwrap();
        let mut content = Vec::new();
        GzDecoder::new(&blob[start..])
            .read_to_end(&mut content)
            .unwrap();
        if kind == "reg" {
            files.push((name.to_owned(), Vec::new()));
        }
        let whole = entries
            .iter()
            .find(|e| e["name"] == name && e["type"] == "reg");
        let size = usize::try_from(whole.unwrap()["size"].as_u64().unwrap()).unwrap();
        let so_far = files.last().unwrap().1.len();
        assert_eq!(entry["chunkOffset"].as_u64().unwrap_or(0), so_far as u64);
        content.truncate((size - so_far).min(4 << 20));
        assert_eq!(entry["chunkDigest"], sha256(&content).to_string().as_str());
        files.last_mut().unwrap().1.extend(content);
    }
    let find = |name: &str| files.iter().find(|(found, _)| found == name).unwrap();
    assert!(find("d/big").1 == big.as_bytes());
    assert_eq!(find("d/small").1, b"small");
    let names: Vec<&str> = entries
        .iter()
        .map(|e| e["name"].as_str().unwrap())
        .collect();
    for name in ["d/", "d/empty", "d/link", "d/.wh.gone"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}
