//! Contexts that were no folder: fetched or unpacked into a scratch folder of the store, which goes when the last user drops them.

use crate::snapshot::LayerFiles;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Scratch;

/// Files of a tar, a URL or a Git repository. Clones share them; equal means the same files on disk.
#[derive(Clone, Debug)]
pub struct Unpacked(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    /// The one file that it is, when that is the Dockerfile too.
    single: Option<PathBuf>,
    /// When it was made, in seconds since 1970, where its source says so.
    time: Option<i64>,
    _scratch: Scratch,
}

/// How the files are kept.
#[derive(Debug)]
pub(crate) enum Files {
    /// A folder; owners do not matter.
    Folder(PathBuf),
    /// A layer, with the owners and modes that an archive had.
    Layer(LayerFiles),
}

impl Unpacked {
    /// Files in a scratch folder.
    pub(crate) fn new(scratch: Scratch, files: Files, time: Option<i64>) -> Self {
        Self(Arc::new(Inner {
            files,
            single: None,
            time,
            _scratch: scratch,
        }))
    }

    /// A folder with one file, which is a Dockerfile.
    pub(crate) fn single(scratch: Scratch, dir: PathBuf, file: PathBuf, time: Option<i64>) -> Self {
        Self(Arc::new(Inner {
            files: Files::Folder(dir),
            single: Some(file),
            time,
            _scratch: scratch,
        }))
    }

    /// The file that is the Dockerfile, whatever name was asked for.
    pub(crate) fn dockerfile(&self) -> Option<&Path> {
        self.0.single.as_deref()
    }

    /// The time of a commit, or what a server says of a file.
    pub(crate) fn time(&self) -> Option<i64> {
        self.0.time
    }

    pub(crate) fn files(&self) -> &Files {
        &self.0.files
    }
}

impl PartialEq for Unpacked {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Unpacked {}
