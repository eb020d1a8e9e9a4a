//! Local directory contexts: `.dockerignore`, walking, digests with the stat cache.
//!
//! A context is read lazily, each directory at most once, and never outside its folder (see `walk`). What the rules hide is
//! not there. Where sources are found and what a COPY makes of them is [`crate::copy`]'s job.

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
use crate::tree::{Entry, FileDigest, FileTree, Kind};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use store::{StatCache, StatKey, Store};
use walk::{Content, Details, Directory, Listing, Node, Root};

/// Directories waiting before another thread helps to read them.
const HELP_FROM: usize = 8;
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
    listings: RwLock<HashMap<Vec<u8>, Arc<Listing>>>,
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
        let Some(stats) = self.stats else {
            return Ok(());
        };
        if !self.any_hashed.into_inner() {
            return Ok(());
        }
        let listings = self
            .listings
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let found = listings.into_values().flat_map(|listing| {
            (0..listing.nodes.len()).filter_map(move |at| {
                let node = &listing.nodes[at];
                let details = node.details.get().filter(|details| details.fresh)?;
                let key = if details.xattrs.is_empty() {
                    node.stamp.key()
                } else {
                    with_xattrs_mark(node.stamp.key())
                };
                Some((key, details.digest))
            })
        });
        Ok(stats.save_with(found)?)
    }

    fn loaded(&self, path: &[u8]) -> Option<Arc<Listing>> {
        self.listings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
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
            for node in listing.nodes.iter().filter(|node| node.is_file()) {
                if let Some(digest) = stats.get(&node.stamp.key()) {
                    let _ = node.details.set(Details {
                        digest,
                        xattrs: Box::default(),
                        fresh: false,
                    });
                }
            }
        }
        let mut listings = self
            .listings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(listings
            .entry(path.to_vec())
            .or_insert_with(|| Arc::new(listing))
            .clone())
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

    /// Reads every directory at and below `path` that is not known yet, with the help of other threads when there are many.
    /// What cannot be read is left for the reader who needs it.
    fn read_ahead(&self, path: &[u8]) -> Result<(), Error> {
        let Some(listing) = self.listing(path)? else {
            return Ok(());
        };
        let first = self.unread_below(&listing);
        if first.is_empty() {
            return Ok(());
        }
        let crew = Crew {
            state: Mutex::new(CrewState {
                queue: first,
                busy: 0,
            }),
            wake: Condvar::new(),
        };
        std::thread::scope(|scope| {
            self.work(
                &crew,
                Some(&|crew| drop(scope.spawn(move || self.work(crew, None)))),
            );
        });
        Ok(())
    }

    fn unread_below(&self, listing: &Listing) -> Vec<(Vec<u8>, pattern::ParentMatch)> {
        let directories = listing.nodes.iter().filter_map(|node| {
            let directory = node.directory()?;
            Some((listing.path(node), directory.below.clone()))
        });
        directories
            .filter(|(path, _)| self.loaded(path).is_none())
            .collect()
    }

    fn work<'c>(&self, crew: &'c Crew, hire: Option<&dyn Fn(&'c Crew)>) {
        let mut hired = 1;
        let most = threads();
        let mut state = crew.lock();
        loop {
            let Some((path, parent)) = state.queue.pop() else {
                if state.busy == 0 {
                    crew.wake.notify_all();
                    return;
                }
                state = crew
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            let crowded = state.queue.len() >= HELP_FROM;
            drop(state);
            if let (Some(hire), true) = (hire, crowded && hired < most) {
                hire(crew);
                hired += 1;
            }
            let found = self
                .load(&path, &parent)
                .map(|listing| self.unread_below(&listing))
                .unwrap_or_default();
            state = crew.lock();
            state.busy -= 1;
            if !found.is_empty() {
                state.queue.extend(found);
                crew.wake.notify_all();
            }
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
        let known = self.stats.as_ref().and_then(|stats| stats.get(&marked));
        let details = self.root.read_details(path, node, known, buffer)?;
        if details.fresh {
            self.any_hashed.store(true, Ordering::Relaxed);
        }
        Ok(node.details.get_or_init(|| details))
    }

    /// Adds a file's digest and attributes to its entry.
    fn fill_in(&self, entry: &mut Entry, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let details = self.with_node(&entry.path, |_, node| {
            let details = self.details(&entry.path, node, buffer)?;
            Ok((details.digest, details.xattrs.to_vec()))
        })?;
        let (found, xattrs) = details.ok_or_else(|| self.root.changed(&entry.path))?;
        if self.root.modes.keeps_all() {
            entry.xattrs = xattrs;
        }
        if let Kind::File { digest, .. } = &mut entry.kind {
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

struct Crew {
    state: Mutex<CrewState>,
    wake: Condvar,
}

struct CrewState {
    queue: Vec<(Vec<u8>, pattern::ParentMatch)>,
    busy: usize,
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, CrewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        if self.loaded(path).is_none() {
            self.read_ahead(path)?;
        }
        let Some(listing) = self.listing(path)? else {
            return Ok(Vec::new());
        };
        let mut children = Vec::with_capacity(listing.nodes.len());
        for node in &listing.nodes {
            if self.is_visible(&listing, node)? {
                let name = listing.name(node).to_vec();
                children.push((name, listing.entry(node, self.root.modes)));
            }
        }
        Ok(children)
    }

    fn complete(&self, entries: &mut [&mut Entry]) -> Result<(), Error> {
        let mut wanted: Vec<&mut Entry> = entries
            .iter_mut()
            .map(|entry| &mut **entry)
            .filter(|e| matches!(e.kind, Kind::File { digest: None, .. }))
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
                for entry in chunk {
                    self.fill_in(entry, &mut buffer)?;
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
