//! Local directory contexts: `.dockerignore`, walking, digests with the stat cache.
//!
//! A context is read lazily and never outside its folder (see `walk`). What was read of directories is kept until there is
//! much of it; what was found out about files goes into the stat cache at once. What the rules hide is not there. Where sources are found and what a COPY makes of them is [`crate::copy`]'s job.

mod ahead;
mod automaton;
pub mod dockerfile;
pub mod glob;
mod hash;
pub mod ignore;
pub mod pattern;
mod unpacked;
pub(crate) mod walk;

pub use ignore::IgnoreRules;
pub(crate) use unpacked::Files;
pub use unpacked::Unpacked;

use crate::Error;
use crate::request::ContextMode;
use crate::tree::{Child, Entry, FileDigest, FileTree, Kind};
use ahead::{Ahead, Kept};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use store::{StatCache, StatKey, Store};
use walk::{Content, Details, Directory, Listed, Listing, Node, Root};

/// Files to hash before another thread helps.
const HASH_HELP_FROM: usize = 16;
/// Files that a thread takes at once to hash.
const HASH_CHUNK: usize = 4;

/// One open context. The folder is held by a descriptor; nothing outside it is ever read.
#[derive(Debug)]
pub struct Context {
    root: Root,
    rules: IgnoreRules,
    ignore_file: Option<PathBuf>,
    stats: Option<StatCache>,
    listings: RwLock<Kept>,
    ahead: Mutex<Ahead>,
    /// Set once a file with several names was listed.
    any_hard_links: AtomicBool,
    /// Set once a file was hashed.
    any_hashed: AtomicBool,
}

impl Context {
    /// Opens a folder. `ignore_file` is the file the rules came from, for messages.
    ///
    /// # Errors
    /// Not a folder, unreadable.
    pub fn open(
        dir: &Path,
        rules: IgnoreRules,
        ignore_file: Option<PathBuf>,
        store: &Store,
    ) -> Result<Self, Error> {
        let canonical = dir.canonicalize().map_err(|source| Error::Io {
            op: "open the context",
            path: dir.to_path_buf(),
            source,
        })?;
        let stats = store.stat_cache(&canonical)?;
        Self::new(&canonical, rules, ignore_file, Some(stats))
    }

    /// Opens a folder without a stat cache.
    pub(crate) fn open_uncached(
        dir: &Path,
        rules: IgnoreRules,
        ignore_file: Option<PathBuf>,
    ) -> Result<Self, Error> {
        Self::new(dir, rules, ignore_file, None)
    }

    fn new(
        dir: &Path,
        rules: IgnoreRules,
        ignore_file: Option<PathBuf>,
        stats: Option<StatCache>,
    ) -> Result<Self, Error> {
        Ok(Self {
            root: Root::open_folder(dir)?,
            rules,
            ignore_file,
            stats,
            listings: RwLock::default(),
            ahead: Mutex::default(),
            any_hard_links: AtomicBool::new(false),
            any_hashed: AtomicBool::new(false),
        })
    }

    /// Takes modes in this way; to be said before anything is read.
    #[must_use]
    pub fn with_modes(mut self, modes: ContextMode) -> Self {
        self.root.modes = modes;
        self
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &IgnoreRules {
        &self.rules
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.root.dir()
    }

    /// The file the rules came from.
    #[must_use]
    pub fn ignore_file(&self) -> Option<&Path> {
        self.ignore_file.as_deref()
    }

    /// Writes the stat cache back.
    ///
    /// # Errors
    /// The store.
    pub fn save(self) -> Result<(), Error> {
        match self.stats {
            Some(stats) if self.any_hashed.into_inner() => Ok(stats.save()?),
            _ => Ok(()),
        }
    }

    /// The listing of a directory; `None` when the path is not one, or hidden with all below it.
    fn listing(&self, path: &[u8]) -> Result<Option<Arc<Listing>>, Error> {
        if let Some(listing) = self.loaded(path) {
            return Ok(Some(listing));
        }
        if path.is_empty() {
            return self.load(path, &pattern::ParentMatch::default()).map(Some);
        }
        let (parent, name) = split(path);
        let Some(parent) = self.listing(parent)? else {
            return Ok(None);
        };
        match parent.find(name).and_then(Node::directory) {
            Some(directory) => self.load(path, &directory.below).map(Some),
            None => Ok(None),
        }
    }

    fn load(&self, path: &[u8], parent: &pattern::ParentMatch) -> Result<Arc<Listing>, Error> {
        let listing = walk::read_listing(&self.root, path, parent, &self.rules)?;
        if listing.nodes.iter().any(|node| node.hard_links) {
            self.any_hard_links.store(true, Ordering::Relaxed);
        }
        if let Some(stats) = &self.stats {
            let files: Vec<&Node> = listing.nodes.iter().filter(|node| node.is_file()).collect();
            let keys: Vec<StatKey> = files.iter().map(|node| node.stamp.key()).collect();
            stats.get_many(&keys, |at, digest| {
                let _ = files[at].details.set(Details {
                    digest,
                    xattrs: Box::default(),
                    fresh: false,
                });
            });
        }
        let mut listings = self
            .listings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(listings.keep(listing))
    }

    /// Whether a node is there for readers. An ignored directory is when something below it is.
    fn is_visible(&self, listing: &Listing, node: &Node) -> Result<bool, Error> {
        if !node.ignored {
            return Ok(true);
        }
        let Some(Directory { holds_visible, .. }) = node.directory() else {
            return Ok(false);
        };
        if let Some(&known) = holds_visible.get() {
            return Ok(known);
        }
        let mut visible = false;
        if let Some(listing) = self.listing(&listing.path(node))? {
            for child in &listing.nodes {
                if self.is_visible(&listing, child)? {
                    visible = true;
                    break;
                }
            }
        }
        Ok(*holds_visible.get_or_init(|| visible))
    }

    fn with_node<T>(
        &self,
        path: &[u8],
        read: impl FnOnce(&Listing, &Node) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if path.is_empty() {
            return Ok(None);
        }
        let (parent, name) = split(path);
        let Some(listing) = self.listing(parent)? else {
            return Ok(None);
        };
        match listing.find(name) {
            Some(node) if self.is_visible(&listing, node)? => read(&listing, node).map(Some),
            _ => Ok(None),
        }
    }

    /// Digest and attributes of a file, read at most once.
    fn details<'n>(
        &self,
        path: &[u8],
        node: &'n Node,
        buffer: &mut Vec<u8>,
    ) -> Result<&'n Details, Error> {
        if let Some(details) = node.details.get() {
            return Ok(details);
        }
        let marked = with_xattrs_mark(node.stamp.key());
        let mut known = None;
        if let Some(stats) = &self.stats {
            stats.get_many(&[marked], |_, digest| known = Some(digest));
        }
        let details = self.root.read_details(path, node, known, buffer)?;
        if let (true, Some(stats)) = (details.fresh, &self.stats) {
            self.any_hashed.store(true, Ordering::Relaxed);
            let key = node.stamp.key();
            let key = if details.xattrs.is_empty() {
                key
            } else {
                with_xattrs_mark(key)
            };
            stats.remember(key, details.digest);
        }
        Ok(node.details.get_or_init(|| details))
    }

    /// Adds a file's digest and attributes to its entry.
    fn fill_in(&self, child: &mut Child, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let path = &child.entry.path;
        let mut read = |node: &Node| {
            let details = self.details(path, node, buffer)?;
            Ok((details.digest, details.xattrs.to_vec()))
        };
        let details = match &child.found {
            Some(found) => Some(read(found.node())?),
            None => self.with_node(path, |_, node| read(node))?,
        };
        let (found, xattrs) = details.ok_or_else(|| self.root.changed(path))?;
        if self.root.modes.keeps_all() {
            child.entry.xattrs = xattrs;
        }
        if let Kind::File { digest, .. } = &mut child.entry.kind {
            *digest = Some(found);
        }
        Ok(())
    }
}

/// In the stat cache, a file under its own key has no extended attributes worth keeping (setting one changes ctime); one
/// that has some is under this key, so that a hit never hides them.
fn with_xattrs_mark(key: StatKey) -> StatKey {
    StatKey {
        dev: key.dev ^ (1 << 62),
        ..key
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(8))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn root_entry() -> Entry {
    Entry {
        path: Vec::new(),
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

/// Ignored paths are not there; owners are 0:0, as BuildKit transfers a context.
impl FileTree for Context {
    fn entry(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        if path.is_empty() {
            return Ok(Some(root_entry()));
        }
        self.with_node(path, |listing, node| {
            Ok(listing.entry(node, self.root.modes))
        })
    }

    fn list(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let Some(listing) = self.listing(path)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::with_capacity(listing.nodes.len());
        for node in &listing.nodes {
            if self.is_visible(&listing, node)? {
                names.push(listing.name(node).to_vec());
            }
        }
        Ok(names)
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, Error> {
        let children = self.walk(path)?.into_iter();
        let named = |child: Child| (split(&child.entry.path).1.to_vec(), child.entry);
        Ok(children.map(named).collect())
    }

    fn walk(&self, path: &[u8]) -> Result<Vec<Child>, Error> {
        let Some(listing) = self.listing_ahead(path)? else {
            return Ok(Vec::new());
        };
        let mut children = Vec::with_capacity(listing.nodes.len());
        let with_links = self.root.modes.keeps_all();
        for (at, node) in listing.nodes.iter().enumerate() {
            if self.is_visible(&listing, node)? {
                let has_links = with_links && node.hard_links;
                children.push(Child {
                    entry: listing.entry(node, self.root.modes),
                    link: has_links.then(|| node.stamp.file()),
                    found: Some(Listed::new(&listing, at)),
                });
            }
        }
        Ok(children)
    }

    fn complete(&self, children: &mut [&mut Child]) -> Result<(), Error> {
        let mut wanted: Vec<&mut Child> = children
            .iter_mut()
            .map(|child| &mut **child)
            .filter(|child| matches!(child.entry.kind, Kind::File { digest: None, .. }))
            .collect();
        let helpers = if wanted.len() >= HASH_HELP_FROM {
            threads() - 1
        } else {
            0
        };
        let chunks = Mutex::new(wanted.chunks_mut(HASH_CHUNK));
        let work = || -> Result<(), Error> {
            let mut buffer = Vec::new();
            loop {
                let chunk = chunks.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(chunk) = chunk else {
                    return Ok(());
                };
                for child in chunk {
                    self.fill_in(child, &mut buffer)?;
                }
            }
        };
        std::thread::scope(|scope| {
            let crew: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
            work()?;
            for member in crew {
                member
                    .join()
                    .map_err(|_| Error::Request("a hashing thread panicked".to_owned()))??;
            }
            Ok(())
        })
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        let content = self.with_node(path, |_, node| {
            Ok(Content::new(self.root.open_file(path, node)?, node.stamp))
        })?;
        content
            .map(|content| Box::new(content) as Box<dyn Read + Send>)
            .ok_or_else(|| self.root.changed(path))
    }

    fn digest(&self, path: &[u8]) -> Result<FileDigest, Error> {
        let digest = self.with_node(path, |_, node| {
            Ok(self.details(path, node, &mut Vec::new())?.digest)
        })?;
        digest.ok_or_else(|| self.root.changed(path))
    }

    fn hidden_by(&self, path: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(path).ok()?;
        let line = self.rules.deciding_line(text)?;
        self.root.open(path, rustix::fs::OFlags::PATH).ok()?;
        let file = self
            .ignore_file
            .as_deref()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned());
        Some(format!(
            "line {line} of {}",
            file.as_deref().unwrap_or(".dockerignore")
        ))
    }

    fn link_id(&self, path: &[u8]) -> Option<(u64, u64)> {
        if !self.root.modes.keeps_all() || !self.any_hard_links.load(Ordering::Relaxed) {
            return None;
        }
        let id = self.with_node(path, |_, node| {
            Ok(node.hard_links.then(|| node.stamp.file()))
        });
        id.ok().flatten().flatten()
    }
}
