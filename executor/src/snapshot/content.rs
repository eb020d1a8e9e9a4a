//! One layer with what is needed to read its files: its index, and its tar or tree, opened when first used.

use super::LayerFiles;
use crate::Error;
use crate::layer::index::{Index, What, io_error};
use crate::layer::{digest_of, open_beneath};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A layer's entries and their content.
#[derive(Debug)]
pub(crate) struct LayerContent {
    files: LayerFiles,
    pub(crate) index: Index,
    tar: OnceLock<Arc<File>>,
    tree: OnceLock<OwnedFd>,
}

impl LayerContent {
    /// Loads the index; opens nothing else.
    ///
    /// # Errors
    /// A missing or damaged index, or that of another layer.
    pub(crate) fn load(files: &LayerFiles) -> Result<Self, Error> {
        let index = Index::load(&files.index)?;
        if digest_of(&index.diff_id()) != files.diff_id {
            let reason = format!("{} is the index of another layer", files.index.display());
            return Err(Error::Layer {
                layer: files.diff_id.to_string(),
                reason,
            });
        }
        Ok(Self {
            files: files.clone(),
            index,
            tar: OnceLock::new(),
            tree: OnceLock::new(),
        })
    }

    /// Opens the regular file that entry `at` is.
    ///
    /// # Errors
    /// No such file, nothing to read it from, I/O.
    pub(crate) fn open(&self, at: usize) -> Result<Box<dyn Read + Send>, Error> {
        let node = self.index.node(at);
        let failed = |e| io_error("open", &self.place(node.path), e);
        let What::File { size, offset, .. } = node.what else {
            return Err(failed(io::Error::other("it is no regular file")));
        };
        if let Some(path) = &self.files.tar {
            let tar = match self.tar.get() {
                Some(tar) => tar,
                None => {
                    let opened = File::open(path).map_err(|e| io_error("open", path, e))?;
                    self.tar.get_or_init(|| Arc::new(opened))
                }
            };
            return Ok(Box::new(Slice {
                tar: Arc::clone(tar),
                offset,
                left: size,
            }));
        }
        let Some(path) = &self.files.tree else {
            let layer = self.files.diff_id.to_string();
            return Err(Error::Layer {
                layer,
                reason: "its content is not at hand".into(),
            });
        };
        let tree = match self.tree.get() {
            Some(tree) => tree,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(path, flags, Mode::empty())
                    .map_err(|e| io_error("open", path, e.into()))?;
                self.tree.get_or_init(|| opened)
            }
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let file = open_beneath(tree.as_fd(), node.path, flags, Mode::empty());
        Ok(Box::new(File::from(file.map_err(|e| failed(e.into()))?)))
    }

    /// Where an entry lies, for messages.
    fn place(&self, path: &[u8]) -> std::path::PathBuf {
        let root = self.files.tree.as_deref().unwrap_or(Path::new("/"));
        root.join(OsStr::from_bytes(path))
    }
}

/// A file's content inside a tar.
struct Slice {
    tar: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Slice {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(out.len());
        if room == 0 {
            return Ok(0);
        }
        let got = self.tar.read_at(&mut out[..room], self.offset)?;
        if got == 0 {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the layer's tar is shorter than its index says",
            ));
        }
        self.offset += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}
