//! Image layouts: what an OCI or `docker load` archive holds, written as a tar or into a folder.
//!
//! Entries are sorted by name and carry no times, owners or names of this machine, so equal images are equal archives.

use crate::Error;
use crate::build::layout::{IMAGE_NAME, REF_NAME};
use crate::build::manifest::{self, Desc, Index};
use crate::output::dest::temporary_name;
use oci_spec::image::Digest;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use store::Store;

/// Annotation with the time of creation (image-spec annotations.md).
const CREATED: &str = "org.opencontainers.image.created";

/// One image in a layout.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Manifest or index.
    pub desc: Desc,
    /// Normalised names.
    pub names: Vec<String>,
    /// `created`, for the annotation.
    pub created: Option<String>,
    /// For `docker load`: config and layers of the image, which then must be for one platform.
    pub docker: Option<DockerEntry>,
}

/// What `manifest.json` says of an image.
#[derive(Clone, Debug)]
pub(crate) struct DockerEntry {
    pub config: String,
    pub layers: Vec<String>,
}

/// A layout to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub entries: Vec<Entry>,
    /// Small blobs, by digest.
    pub documents: BTreeMap<String, Vec<u8>>,
    /// Blobs of the store, by digest, with their sizes.
    pub blobs: BTreeMap<String, u64>,
}

impl Contents {
    /// Adds a manifest, index or config.
    pub(crate) fn document(&mut self, digest: &str, bytes: Vec<u8>) {
        self.documents.insert(digest.to_owned(), bytes);
    }

    fn index(&self) -> Index {
        let mut manifests = Vec::new();
        for entry in &self.entries {
            let mut annotations = entry.desc.annotations.clone();
            if let Some(created) = &entry.created {
                annotations.insert(CREATED.to_owned(), created.clone());
            }
            if entry.names.is_empty() {
                manifests.push(Desc {
                    annotations: annotations.clone(),
                    ..entry.desc.clone()
                });
            }
            for name in &entry.names {
                let mut annotations = annotations.clone();
                annotations.insert(IMAGE_NAME.to_owned(), name.clone());
                annotations.insert(REF_NAME.to_owned(), tag_of(name).to_owned());
                manifests.push(Desc {
                    annotations,
                    ..entry.desc.clone()
                });
            }
        }
        Index::of(manifests)
    }

    fn docker_manifest(&self) -> Option<Vec<u8>> {
        let entries: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let docker = entry.docker.as_ref()?;
                let layers: Vec<String> = docker.layers.iter().map(|digest| blob_path(digest)).collect();
                let names: Vec<&str> = entry.names.iter().map(|name| familiar(name)).collect();
                Some(json!({"Config": blob_path(&docker.config), "RepoTags": names, "Layers": layers}))
            })
            .collect();
        (!entries.is_empty()).then(|| manifest::bytes_of(&entries))
    }

    /// Writes a tar. `progress` gets bytes done and in all; its error stops the writing.
    pub(crate) fn write_tar(
        &self,
        store: &Store,
        out: &mut dyn Write,
        progress: &dyn Fn(u64, u64) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let fail = |source| Error::Io {
            op: "write",
            path: "the image archive".into(),
            source,
        };
        let mut archive = tar::Builder::new(out);
        for folder in ["blobs/", "blobs/sha256/"] {
            let header = header(folder, 0, tar::EntryType::Directory);
            archive.append(&header, std::io::empty()).map_err(fail)?;
        }
        let total = self.blobs.values().sum();
        let mut done = 0;
        let names: std::collections::BTreeSet<&String> =
            self.documents.keys().chain(self.blobs.keys()).collect();
        for digest in names {
            if let Some(bytes) = self.documents.get(digest) {
                append(&mut archive, &blob_path(digest), bytes).map_err(fail)?;
                continue;
            }
            let size = self.blobs[digest];
            let blob = store.open_blob(&manifest::digest(digest)?)?;
            let header = header(&blob_path(digest), size, tar::EntryType::Regular);
            let counted = Counted {
                inner: blob,
                done: &mut done,
                total,
                progress,
            };
            archive.append(&header, counted).map_err(fail)?;
        }
        append(
            &mut archive,
            "index.json",
            &manifest::bytes_of(&self.index()),
        )
        .map_err(fail)?;
        if let Some(bytes) = self.docker_manifest() {
            append(&mut archive, "manifest.json", &bytes).map_err(fail)?;
        }
        append(&mut archive, "oci-layout", LAYOUT.as_bytes()).map_err(fail)?;
        archive.finish().map_err(fail)
    }

    /// Writes into a folder. Images of other names that are there already stay.
    pub(crate) fn write_folder(
        &self,
        store: &Store,
        dir: &Path,
        progress: &dyn Fn(u64, u64) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io {
                op: "write",
                path,
                source,
            }
        };
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(fail(&blobs))?;
        let total = self.blobs.values().sum();
        let mut done = 0;
        for (digest, size) in &self.blobs {
            let path = dir.join(blob_path(digest));
            if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == *size) {
                done += size;
                continue;
            }
            let blob = store.open_blob(&manifest::digest(digest)?)?;
            let mut counted = Counted {
                inner: blob,
                done: &mut done,
                total,
                progress,
            };
            replace(&path, &mut counted).map_err(fail(&path))?;
        }
        for (digest, bytes) in &self.documents {
            let path = dir.join(blob_path(digest));
            replace(&path, &mut bytes.as_slice()).map_err(fail(&path))?;
        }
        let layout = dir.join("oci-layout");
        replace(&layout, &mut LAYOUT.as_bytes()).map_err(fail(&layout))?;
        let path = dir.join("index.json");
        let index = manifest::bytes_of(&self.merged_index(&path)?);
        replace(&path, &mut index.as_slice()).map_err(fail(&path))
    }

    /// The index of a folder with our entries in place of those of the same name, or of the same image when ours has no name.
    fn merged_index(&self, path: &Path) -> Result<Index, Error> {
        let mut ours = self.index();
        // A layout's reader asks for a name; without one it asks for this.
        for entry in &mut ours.manifests {
            let name = entry.annotations.entry(REF_NAME.to_owned());
            name.or_insert_with(|| "latest".to_owned());
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ours),
            Err(source) => {
                return Err(Error::Io {
                    op: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let manifest::Document::Index(old) =
            manifest::Document::parse(&path.display().to_string(), &bytes)?
        else {
            return Ok(ours);
        };
        let is_replaced = |entry: &Desc| {
            ours.manifests.iter().any(|own| {
                match (
                    own.annotations.get(REF_NAME),
                    entry.annotations.get(REF_NAME),
                ) {
                    (Some(a), Some(b)) => {
                        a == b
                            && own.annotations.get(IMAGE_NAME) == entry.annotations.get(IMAGE_NAME)
                    }
                    (None, None) => own.digest == entry.digest,
                    _ => false,
                }
            })
        };
        let mut manifests: Vec<Desc> = old
            .manifests
            .into_iter()
            .filter(|entry| !is_replaced(entry))
            .collect();
        manifests.extend(ours.manifests);
        Ok(Index::of(manifests))
    }
}

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// `blobs/sha256/HEX`.
pub(crate) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn tag_of(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

/// `busybox:latest` for `docker.io/library/busybox:latest`: the names that `docker load` shows.
pub(crate) fn familiar(name: &str) -> &str {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    match short.strip_prefix("library/") {
        Some(official) if short.len() != name.len() && !official.contains('/') => official,
        _ => short,
    }
}

pub(crate) fn header(path: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header
        .set_path(path)
        .expect("BUG: names in a layout are short and relative");
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o444 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

pub(crate) fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    bytes: &[u8],
) -> std::io::Result<()> {
    archive.append(
        &header(path, bytes.len() as u64, tar::EntryType::Regular),
        bytes,
    )
}

/// Writes a file under a temporary name, then renames it.
fn replace(path: &Path, content: &mut dyn Read) -> std::io::Result<()> {
    let temporary = temporary_name(path);
    let written =
        std::fs::File::create(&temporary).and_then(|mut file| std::io::copy(content, &mut file));
    let renamed = written.and_then(|_| std::fs::rename(&temporary, path));
    if renamed.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}

struct Counted<'a, R> {
    inner: R,
    done: &'a mut u64,
    total: u64,
    progress: &'a dyn Fn(u64, u64) -> std::io::Result<()>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        *self.done += read as u64;
        (self.progress)(*self.done, self.total)?;
        Ok(read)
    }
}

/// Adds a layer's blob, whose size the store knows.
pub(crate) fn add_blob(contents: &mut Contents, store: &Store, desc: &Desc) -> Result<(), Error> {
    let digest: Digest = desc.digest()?;
    let Some(size) = store.blob_size(&digest) else {
        return Err(Error::Image {
            subject: desc.digest.clone(),
            reason: "the blob is not in the store".to_owned(),
        });
    };
    contents.blobs.insert(desc.digest.clone(), size);
    Ok(())
}
