//! The local folders of a build: opened when first read, shared by steps, stat caches written back at the end.

use crate::Error;
use crate::context::{Context, IgnoreRules};
use crate::request::{BuildRequest, ContextSource};
use crate::space::Space;
use crate::tree::{Entry, FileDigest, FileTree, Kind};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Name of the main context in [`planner::plan::CopyFrom::Context`].
pub(crate) const MAIN: &str = "context";

/// The contexts of a build.
pub(crate) struct Contexts<'a> {
    space: &'a Space,
    request: &'a BuildRequest,
    open: Mutex<HashMap<String, Arc<Context>>>,
}

impl std::fmt::Debug for Contexts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").finish_non_exhaustive()
    }
}

impl<'a> Contexts<'a> {
    pub(crate) fn new(space: &'a Space, request: &'a BuildRequest) -> Self {
        Self {
            space,
            request,
            open: Mutex::default(),
        }
    }

    /// A context by its name; `None` when it holds no files at all.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Arc<Context>>, Error> {
        let dir = match self.source(name) {
            Some(ContextSource::Directory(dir)) => dir,
            Some(ContextSource::Empty) => return Ok(None),
            _ => return Err(Error::Request(format!("context {name:?} is not a folder"))),
        };
        let mut open = self
            .open
            .lock()
            .expect("BUG: no holder of the contexts panics");
        if let Some(context) = open.get(name) {
            return Ok(Some(Arc::clone(context)));
        }
        let context = Arc::new(self.open(name, dir)?);
        open.insert(name.to_owned(), Arc::clone(&context));
        Ok(Some(context))
    }

    fn source(&self, name: &str) -> Option<&'a ContextSource> {
        match self.request.named_contexts.get(name) {
            None if name == MAIN => Some(&self.request.context),
            named => named,
        }
    }

    fn open(&self, name: &str, dir: &Path) -> Result<Context, Error> {
        let is_main = name == MAIN && !self.request.named_contexts.contains_key(MAIN);
        let ignore = if is_main {
            self.request.ignore.clone()
        } else {
            read_ignore(dir)?
        };
        let (rules, file) = match ignore {
            None => (IgnoreRules::default(), None),
            Some((text, file)) => (IgnoreRules::parse(&text)?, Some(file)),
        };
        Context::open(dir, rules, file, self.space.store())
    }

    /// Writes the stat caches back. Nobody may hold a context any more.
    pub(crate) fn save(self) -> Result<(), Error> {
        let open = self
            .open
            .into_inner()
            .expect("BUG: no holder of the contexts panics");
        for context in open.into_values() {
            if let Ok(context) = Arc::try_unwrap(context) {
                context.save()?;
            }
        }
        Ok(())
    }
}

fn read_ignore(dir: &Path) -> Result<Option<(String, std::path::PathBuf)>, Error> {
    let path = dir.join(".dockerignore");
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), path))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            op: "read",
            path,
            source,
        }),
    }
}

/// A tree with nothing in it.
pub(crate) struct NoFiles;

impl FileTree for NoFiles {
    fn entry(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        Ok(path.is_empty().then(|| Entry {
            path: Vec::new(),
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        }))
    }
    fn list(&self, _path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(Vec::new())
    }
    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        Err(missing(path))
    }
    fn digest(&self, path: &[u8]) -> Result<FileDigest, Error> {
        Err(missing(path))
    }
}

fn missing(path: &[u8]) -> Error {
    let message = format!("\"/{}\": not found", String::from_utf8_lossy(path));
    Error::Copy {
        message,
        help: None,
    }
}
