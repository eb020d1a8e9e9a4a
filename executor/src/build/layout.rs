//! Reads OCI image layouts in folders (`oci-layout://DIR`), and the folders that `docker save` makes when unpacked
//! and that hold `index.json`. Blobs are checked against digest and size whenever they are read.

use crate::Error;
use crate::build::manifest::{self, Desc, Document, Index};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Annotation with a tag (image-spec annotations.md).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with a whole name, as containerd writes it.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// A layout.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Opens a folder that must be a layout.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let layout = Self {
            dir: dir.to_owned(),
        };
        let marker = layout.small("oci-layout", 4096)?;
        let version = serde_json::from_slice::<serde_json::Value>(&marker)
            .ok()
            .and_then(|value| {
                value
                    .get("imageLayoutVersion")
                    .and_then(|v| v.as_str().map(str::to_owned))
            });
        match version {
            Some(version) if version.starts_with("1.") => Ok(layout),
            Some(version) => Err(layout.bad(format!("unknown image layout version {version}"))),
            None => Err(layout.bad("its oci-layout file says no imageLayoutVersion".to_owned())),
        }
    }

    /// A layout that was opened before.
    pub(crate) fn known(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Its `index.json`.
    pub(crate) fn index(&self) -> Result<Index, Error> {
        let bytes = self.small("index.json", manifest::MANIFEST_LIMIT)?;
        match Document::parse(&self.dir.join("index.json").display().to_string(), &bytes)? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => Err(self.bad("index.json is not an index".to_owned())),
        }
    }

    /// The bytes of a blob, unchecked, piece by piece.
    pub(crate) fn stream(
        &self,
        desc: &Desc,
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let path = self.path_of(desc.digest()?.as_ref());
        let fail = |source| Error::Io {
            op: "read",
            path: path.clone(),
            source,
        };
        // One byte more than it should have is enough to see that it is another.
        let most = desc.size.saturating_add(1);
        let mut file = open_file(&path).map_err(fail)?.take(most);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = file.read(&mut buffer).map_err(fail)?;
            if read == 0 {
                return Ok(());
            }
            sink(&buffer[..read]).map_err(|source| Error::Io {
                op: "copy into the store",
                path: path.clone(),
                source,
            })?;
        }
    }

    /// The entries that a tag or digest selects: several when the layout holds one for each platform.
    /// Without either it is `latest`, or all there is when it is one image.
    pub(crate) fn select(
        &self,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Result<Vec<Desc>, Error> {
        let index = self.index()?;
        if let Some(text) = digest {
            if let Some(entry) = index.manifests.iter().find(|entry| entry.digest == text) {
                return Ok(vec![entry.clone()]);
            }
            let digest = manifest::digest(text)?;
            let found = std::fs::metadata(self.path_of(text));
            let size = found
                .map_err(|_| self.bad(format!("it holds no manifest {text}")))?
                .len();
            return Ok(vec![Desc::new("", &digest, size)]);
        }
        let wanted = tag.unwrap_or("latest");
        let tagged: Vec<Desc> = index
            .manifests
            .iter()
            .filter(|entry| has_tag(entry, wanted))
            .cloned()
            .collect();
        if !tagged.is_empty() {
            return Ok(tagged);
        }
        let mut names = index
            .manifests
            .iter()
            .map(|entry| entry.annotations.get(REF_NAME));
        let first = names.next();
        if tag.is_none() && first.is_some_and(|first| names.all(|name| name == first)) {
            return Ok(index.manifests);
        }
        Err(self.bad(format!(
            "it holds no image tagged {wanted} (it has {})",
            tags(&index)
        )))
    }

    /// Where a blob is.
    pub(crate) fn path_of(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// A whole small blob, verified.
    pub(crate) fn blob(&self, desc: &Desc, limit: u64) -> Result<Vec<u8>, Error> {
        let digest = desc.digest()?.to_string();
        let bytes = read_limited(&self.path_of(&digest), limit)?;
        let actual = manifest::digest_of(&bytes).to_string();
        if actual != digest || bytes.len() as u64 != desc.size {
            return Err(self.bad(format!(
                "blob {digest} is corrupt: its content has digest {actual} and {} bytes instead of {}",
                bytes.len(),
                desc.size
            )));
        }
        Ok(bytes)
    }

    fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        read_limited(&self.dir.join(name), limit)
    }

    fn bad(&self, reason: String) -> Error {
        Error::Image {
            subject: format!("oci-layout://{}", self.dir.display()),
            reason,
        }
    }
}

/// Opens a regular file: a FIFO or a terminal in its place would be waited for without end.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        ));
    }
    Ok(file)
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Io {
        op: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    open_file(path)
        .map_err(fail)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        let reason = format!("larger than the limit of {limit} bytes");
        return Err(Error::Image {
            subject: path.display().to_string(),
            reason,
        });
    }
    Ok(bytes)
}

/// Whether an index entry carries a tag: alone, as part of a whole name, or in containerd's annotation.
pub(crate) fn has_tag(entry: &Desc, tag: &str) -> bool {
    [REF_NAME, IMAGE_NAME]
        .iter()
        .filter_map(|key| entry.annotations.get(*key))
        .any(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, after)| after == tag))
}

fn tags(index: &Index) -> String {
    let names: Vec<&str> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.annotations.get(REF_NAME))
        .map(String::as_str)
        .collect();
    if names.is_empty() {
        format!("{} untagged images", index.manifests.len())
    } else {
        names.join(", ")
    }
}
