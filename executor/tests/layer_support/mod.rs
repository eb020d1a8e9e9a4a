//! What the layer tests share: entries, tars made by hand, a store in a temporary folder.
#![allow(dead_code, reason = "each test program uses a part of it")]

use executor::layer::{LayerWriter, Limits, Written};
use executor::snapshot::LayerFiles;
use executor::space::Space;
use executor::tree::{Entry, Kind};
use oci_spec::image::{Descriptor, Digest, MediaType};
use sha2::{Digest as _, Sha256};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use store::Store;

pub(crate) fn entry(path: &[u8], kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory {
        0o755
    } else {
        0o644
    };
    Entry {
        path: path.to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 1_485_449_953,
        xattrs: Vec::new(),
    }
}

pub(crate) fn dir(path: &str) -> Entry {
    entry(path.as_bytes(), Kind::Directory)
}

pub(crate) fn file(path: &str, size: u64) -> Entry {
    entry(path.as_bytes(), Kind::File { size, digest: None })
}

pub(crate) fn link(path: &str, target: &str) -> Entry {
    Entry {
        mode: 0o777,
        ..entry(
            path.as_bytes(),
            Kind::Symlink {
                target: target.as_bytes().to_vec(),
            },
        )
    }
}

pub(crate) fn hardlink(path: &str, target: &str) -> Entry {
    entry(
        path.as_bytes(),
        Kind::Hardlink {
            target: target.as_bytes().to_vec(),
        },
    )
}

/// Entries with the content of their files, `None` for a whiteout.
pub(crate) type Items<'a> = &'a [(Entry, Option<&'a [u8]>)];

/// Writes entries; gives the tar and the index file's path.
pub(crate) fn write(
    folder: &Path,
    name: &str,
    items: Items<'_>,
    whiteouts: &[&str],
) -> (Written, Vec<u8>, PathBuf) {
    let mut tar = Vec::new();
    let index = folder.join(format!("{name}.index"));
    let mut writer = LayerWriter::new(&mut tar);
    let mut all: Vec<(Vec<u8>, Option<usize>)> = Vec::new();
    all.extend(
        items
            .iter()
            .enumerate()
            .map(|(at, (entry, _))| (entry.path.clone(), Some(at))),
    );
    all.extend(
        whiteouts
            .iter()
            .map(|path| (path.as_bytes().to_vec(), None)),
    );
    all.sort_by(|a, b| executor::layer::compare(&a.0, &b.0));
    for (path, at) in all {
        match at {
            None => writer.whiteout(&path).unwrap(),
            Some(at) => {
                let (entry, content) = &items[at];
                let mut content = *content;
                writer
                    .entry(entry, content.as_mut().map(|c| c as &mut dyn Read))
                    .unwrap();
            }
        }
    }
    let written = writer.finish(&index).unwrap();
    (written, tar, index)
}

/// A written layer as files for a view.
pub(crate) fn layer_files(
    folder: &Path,
    name: &str,
    items: Items<'_>,
    whiteouts: &[&str],
) -> LayerFiles {
    let (written, tar, index) = write(folder, name, items, whiteouts);
    let path = folder.join(format!("{name}.tar"));
    std::fs::write(&path, tar).unwrap();
    LayerFiles {
        diff_id: written.diff_id,
        index,
        tree: None,
        tar: Some(path),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    Digest::try_from(format!("sha256:{hex}")).unwrap()
}

/// A store of its own.
pub(crate) struct Scratch {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) space: Space,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let space =
            Space::new(Store::open(&folder.path().join("store")).unwrap()).with_limits(limits);
        Self { folder, space }
    }

    /// Registers a layer from its blob, plain or compressed.
    pub(crate) fn register(&self, tar: &[u8], blob: &[u8]) -> Digest {
        let diff_id = sha256(tar);
        let digest = self.space.store().put_blob(blob).unwrap();
        let descriptor = Descriptor::new(MediaType::ImageLayerGzip, blob.len() as u64, digest);
        executor::layer::register_blob(&self.space, &diff_id, &descriptor).unwrap();
        diff_id
    }
}

/// Tars made by hand, as other tools make them.
pub(crate) struct TarMaker {
    pub(crate) builder: tar::Builder<Vec<u8>>,
}

impl TarMaker {
    pub(crate) fn new() -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
        }
    }

    /// An entry whose name is written as it is, without any check.
    pub(crate) fn raw(mut self, flag: u8, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::new(flag));
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", b"")
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.raw(b'0', name.as_bytes(), b"", content.as_bytes())
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    /// Extended records for the next entry.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// For tests that need root: says so, and fails where everything is expected to run.
pub(crate) fn skip_without_root(what: &str) -> bool {
    if is_root() {
        return false;
    }
    eprintln!("SKIPPED: {what} needs root");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{what} needs root, and nothing may be skipped here"
    );
    true
}
