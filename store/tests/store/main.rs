//! The store through its public surface: one binary, a module per topic.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests; clippy's own exception does not reach helper functions"
)]

mod blobs;
mod collecting;
mod damage;
mod layers;
mod processes;
mod pruning;
mod records;
mod stat_caches;

use oci_spec::image::{Descriptor, Digest, MediaType};
use std::fs;
use std::path::{Path, PathBuf};
use store::{ImageRef, LayerBlob, LayerMeta, Store};
use tempfile::TempDir;

/// A store in a folder of its own.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn reopen(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }
}

/// A digest that no content here has.
pub(crate) fn digest(byte: u8) -> Digest {
    Digest::try_from(format!("sha256:{}", format!("{byte:02x}").repeat(32))).unwrap()
}

pub(crate) fn descriptor(digest: &Digest, size: u64) -> Descriptor {
    Descriptor::new(MediaType::ImageManifest, size, digest.clone())
}

pub(crate) fn image(store: &Store, name: &str, content: &[u8]) -> ImageRef {
    let digest = store.put_blob(content).unwrap();
    ImageRef {
        name: name.into(),
        descriptor: descriptor(&digest, content.len() as u64),
        tagged: "2024-01-02T03:04:05Z".into(),
    }
}

pub(crate) fn meta(diff_id: &Digest) -> LayerMeta {
    LayerMeta {
        diff_id: diff_id.clone(),
        identity: None,
        size: None,
        blobs: Vec::new(),
    }
}

pub(crate) fn layer_blob(byte: u8, encoder: &str) -> LayerBlob {
    LayerBlob {
        descriptor: Descriptor::new(MediaType::ImageLayerGzip, 7, digest(byte)),
        encoder: encoder.into(),
    }
}

/// A small tree at `path`.
pub(crate) fn grow_tree(path: &Path) {
    for folder in 0..4 {
        let folder = path.join(format!("folder {folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..5 {
            fs::write(
                folder.join(format!("file-{file}")),
                format!("content {file}"),
            )
            .unwrap();
        }
    }
}

/// Whether a tree is what [`grow_tree`] makes.
pub(crate) fn tree_is_whole(path: &Path) -> bool {
    (0..4).all(|folder| {
        (0..5).all(|file| {
            let path = path.join(format!("folder {folder}/file-{file}"));
            fs::read_to_string(path).is_ok_and(|text| text == format!("content {file}"))
        })
    })
}

/// All regular files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).unwrap().next().is_none()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
