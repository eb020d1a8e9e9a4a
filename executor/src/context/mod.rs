//! Local directory contexts: `.dockerignore`, walking, digests with the stat cache.

use crate::Error;
use crate::tree::{Entry, FileDigest, FileTree};
use std::io::Read;
use std::path::{Path, PathBuf};
use store::Store;

/// A `.dockerignore` matcher with Docker's exact rules.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {}

impl IgnoreRules {
    /// Parses the file's text.
    ///
    /// # Errors
    /// An illegal exclusion pattern (`!` alone), a bad pattern: message and line.
    pub fn parse(_text: &str) -> Result<Self, Error> {
        todo!()
    }
    /// Whether a path (slash-separated, relative) is ignored, parents considered.
    #[must_use]
    pub fn is_ignored(&self, _path: &str) -> bool {
        todo!()
    }
    /// The line (one-based) of the rule that decides about a path, when it is ignored.
    #[must_use]
    pub fn deciding_line(&self, _path: &str) -> Option<u32> {
        todo!()
    }
}

/// One open context. The folder is held by a descriptor; nothing outside it is ever read.
#[derive(Debug)]
pub struct Context {}

impl Context {
    /// Opens a folder. `ignore_file` is the file the rules came from, for messages.
    ///
    /// # Errors
    /// Not a folder, unreadable.
    pub fn open(_dir: &Path, _rules: IgnoreRules, _ignore_file: Option<PathBuf>, _store: &Store) -> Result<Self, Error> {
        todo!()
    }
    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &IgnoreRules {
        todo!()
    }
    /// Writes the stat cache back.
    ///
    /// # Errors
    /// The store.
    pub fn save(self) -> Result<(), Error> {
        todo!()
    }
}

/// Ignored paths are not there; owners are 0:0, as BuildKit transfers a context.
impl FileTree for Context {
    fn entry(&self, _path: &[u8]) -> Result<Option<Entry>, Error> {
        todo!()
    }
    fn list(&self, _path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        todo!()
    }
    fn open(&self, _path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        todo!()
    }
    fn digest(&self, _path: &[u8]) -> Result<FileDigest, Error> {
        todo!()
    }
}
