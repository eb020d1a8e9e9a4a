//! Any tar becomes a context, an index and an unpacked tree, or is refused; nothing appears beside the folder it was unpacked into.
#![no_main]

use executor::layer::{ExtractOptions, Limits, Source, extract_blob};
use executor::snapshot::View;
use executor::tree::{FileTree, Kind};
use libfuzzer_sys::fuzz_target;
use oci_spec::image::Digest;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

const LIMITS: Limits = Limits {
    entries: 10_000,
    metadata: 1 << 20,
    tar: 4 << 20,
};

fuzz_target!(|bytes: &[u8]| {
    // Decompression is not what is looked at, and small inputs can become large ones by it.
    if !executor::copy::is_archive(bytes)
        || bytes[0] == 0x1f
        || bytes[0] == 0x28
        || bytes[0] == 0xfd
        || bytes.starts_with(b"BZh")
    {
        return;
    }
    let work = std::env::temp_dir().join(format!("kiln-fuzz-{}", std::process::id()));
    drop(store::remove_tree(&work));
    fs::create_dir_all(work.join("context")).expect("a folder can be made");
    context(bytes, &work.join("context"));
    layer(bytes, &work);
    let mut names: Vec<_> = fs::read_dir(&work)
        .expect("the folder is there")
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| {
            !["context", "blob", "index", "tree"]
                .iter()
                .any(|own| name == own)
        })
        .collect();
    assert_eq!(names.pop(), None);
    store::remove_tree(&work).expect("all of it can be removed");
});

fn context(bytes: &[u8], out: &Path) {
    if let Ok(files) = executor::copy::unpack_archive(bytes, "fuzz", out) {
        let view = View::load(&[files]).expect("what was written can be read");
        walk(&view, b"");
    }
}

/// Everything listed is there and can be read.
fn walk(view: &View, path: &[u8]) {
    for (_, entry) in view.children(path).expect("a directory can be listed") {
        match entry.kind {
            Kind::Directory => walk(view, &entry.path),
            Kind::File { size, .. } => {
                let mut content = view.open(&entry.path).expect("a file can be opened");
                let read = std::io::copy(&mut content, &mut std::io::sink());
                assert_eq!(read.expect("a file can be read"), size);
            }
            _ => {}
        }
    }
}

fn layer(bytes: &[u8], work: &Path) {
    let path: PathBuf = work.join("blob");
    fs::write(&path, bytes).expect("a file can be written");
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let source = Source {
        path,
        digest: None,
        diff_id: Digest::try_from(format!("sha256:{hex}").as_str()).expect("it is a digest"),
    };
    drop(extract_blob(
        &source,
        &LIMITS,
        &work.join("tree"),
        ExtractOptions::default(),
        &work.join("index"),
    ));
}
