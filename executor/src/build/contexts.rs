//! The contexts of a build: opened when first read, shared by steps, stat caches written back at the end.
//!
//! Folders of the host are read with their ignore files; what was fetched or unpacked has none (BuildKit applies them
//! where it transfers files from the client only).

use crate::Error;
use crate::build::Ui;
use crate::build::prepare::Pending;
use crate::context::dockerfile::Place;
use crate::context::{Context, Files, IgnoreRules, Unpacked};
use crate::copy::CopySourceTree;
use crate::request::{BuildRequest, ContextMode, ContextSource};
use crate::snapshot::{LayerFiles, View};
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
    pending: &'a Pending<'a>,
    open: Mutex<HashMap<String, Arc<Opened>>>,
}

/// A context that can be read.
#[derive(Debug)]
pub(crate) enum Opened {
    Folder(Box<Context>),
    Layer(Box<(Vec<LayerFiles>, View)>),
}

impl Opened {
    pub(crate) fn tree(&self) -> &dyn FileTree {
        match self {
            Self::Folder(context) => &**context,
            Self::Layer(layer) => &layer.1,
        }
    }

    pub(crate) fn copy_source(&self) -> CopySourceTree<'_> {
        match self {
            Self::Folder(context) => CopySourceTree::Context(context),
            Self::Layer(layer) => CopySourceTree::Layers(&layer.0),
        }
    }

    /// What was fetched or unpacked.
    pub(crate) fn unpacked(unpacked: &Unpacked, modes: ContextMode) -> Result<Self, Error> {
        match unpacked.files() {
            Files::Folder(dir) => {
                let context = Context::open_uncached(dir, IgnoreRules::default(), None)?;
                Ok(Self::Folder(Box::new(context.with_modes(modes))))
            }
            Files::Layer(files) => {
                let files = vec![files.clone()];
                let view = View::load(&files)?;
                Ok(Self::Layer(Box::new((files, view))))
            }
        }
    }
}

impl std::fmt::Debug for Contexts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").finish_non_exhaustive()
    }
}

impl<'a> Contexts<'a> {
    pub(crate) fn new(
        space: &'a Space,
        request: &'a BuildRequest,
        pending: &'a Pending<'a>,
    ) -> Self {
        Self {
            space,
            request,
            pending,
            open: Mutex::default(),
        }
    }

    /// A context by its name; `None` when it holds no files at all.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Arc<Opened>>, Error> {
        // A named context of this name replaces nothing, as in BuildKit.
        let source = if name == MAIN {
            Some(&self.request.context)
        } else {
            self.request.named_contexts.get(name)
        };
        if source == Some(&ContextSource::Empty) {
            return Ok(None);
        }
        let mut open = self
            .open
            .lock()
            .expect("BUG: no holder of the contexts panics");
        if let Some(context) = open.get(name) {
            return Ok(Some(Arc::clone(context)));
        }
        let context = match source {
            Some(ContextSource::Directory(dir)) => {
                Opened::Folder(Box::new(self.folder(name, dir)?))
            }
            Some(ContextSource::Unpacked(unpacked)) => {
                Opened::unpacked(unpacked, self.request.context_mode)?
            }
            Some(source) if source.is_pending() => Opened::unpacked(
                &self.pending.named(name, source)?,
                self.request.context_mode,
            )?,
            _ => return Err(Error::Request(format!("context {name:?} has no files"))),
        };
        let context = Arc::new(context);
        open.insert(name.to_owned(), Arc::clone(&context));
        Ok(Some(context))
    }

    fn folder(&self, name: &str, dir: &Path) -> Result<Context, Error> {
        let (rules, file) = if name == MAIN {
            match &self.request.ignore {
                None => (IgnoreRules::default(), None),
                Some((text, file)) => (IgnoreRules::parse(text)?, Some(file.clone())),
            }
        } else {
            match Place::Folder(dir).ignore()? {
                None => (IgnoreRules::default(), None),
                Some(found) => {
                    let text = String::from_utf8_lossy(&found.content);
                    (IgnoreRules::parse(&text)?, Some(dir.join(found.path)))
                }
            }
        };
        let context = Context::open(dir, rules, file, self.space.store())?;
        Ok(context.with_modes(self.request.context_mode))
    }

    /// Writes the stat caches back. Nobody may hold a context any more. They only make later builds fast: where they cannot
    /// be written, as on a disk that is full, this build has what it needs.
    pub(crate) fn save(self, ui: &dyn Ui) {
        let open = self
            .open
            .into_inner()
            .expect("BUG: no holder of the contexts panics");
        for context in open.into_values() {
            let Ok(Opened::Folder(context)) = Arc::try_unwrap(context) else {
                continue;
            };
            if let Err(error) = context.save() {
                ui.warning(&format!(
                    "the next build has to read the files of the context again: {}",
                    crate::error::chain(&error)
                ));
            }
        }
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
