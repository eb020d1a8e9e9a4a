//! COPY and local ADD: which files, where to, with which attributes; written straight into a layer, never through a tree.
//!
//! `select` takes what the sources name, `apply` places it in a `target::Target` by BuildKit's rules, `write` writes
//! the layer. Keys come from the selection alone (`digest`). What steps mean and when they run is the planner's.

mod apply;
pub(crate) mod archive;
mod chmod;
mod digest;
mod earlier;
mod job;
mod mixed;
mod overflow;
mod owner;
mod paths;
mod reads;
mod select;
mod stream;
mod target;
mod unchanged;
mod write;

pub(crate) use archive::newest_file;
pub use job::{CopyJob, copy_task};
pub(crate) use reads::Lines;
pub use reads::{ReadEntry, Reads};

use crate::Error;
use crate::context::Context;
use crate::layer::{self, LayerWriter, Written};
use crate::snapshot::{LayerFiles, Snapshot, View};
use crate::space::Space;
use crate::tree::{Entry, FileDigest, FileTree};
use planner::plan::{CopyOp, CopySource, MkdirOp};
use std::io::Read;
use std::path::{Path, PathBuf};
use store::{LayerMeta, StagedLayer, Store};

use job::SourceFiles;

/// Name of the task that [`copy_task`] is.
pub const COPY_TASK: &str = "copy";
/// File names in the folder that a layer is staged in.
const TAR: &str = "layer.tar";
const INDEX: &str = "layer.index";
const SPOOL: &str = "unpacked";
/// Entries of a copy whose earlier layer is looked at.
const EARLIER_FILES: u64 = 100_000;

/// Where a COPY reads path sources from.
#[derive(Clone, Copy, Debug)]
pub enum CopySourceTree<'a> {
    /// A context.
    Context(&'a Context),
    /// A root file system of another step.
    Snapshot(&'a Snapshot),
    /// Layers that are not in the store.
    Layers(&'a [LayerFiles]),
    /// Nothing.
    Empty,
    /// One of these, and a root file system for each source that has an input of its own.
    Mixed(&'a CopySourceTree<'a>, &'a [(usize, Snapshot)]),
}

/// Digest of what the op reads from `source` (paths, modes, owners, contents, links; not mtimes), and the list behind it.
///
/// # Errors
/// A source that is not there, with BuildKit's wording and, when an ignore rule hid it, the rule's file and line.
pub fn source_digest(op: &CopyOp, source: &dyn FileTree) -> Result<([u8; 32], Reads), Error> {
    read_list(op, source, None)
}

/// As [`source_digest`]; a long list goes to a file of the store.
pub(crate) fn read_list(
    op: &CopyOp,
    source: &dyn FileTree,
    store: Option<&Store>,
) -> Result<([u8; 32], Reads), Error> {
    let mut digesting = digest::Digesting::new(Reads::new(store));
    select::select_into(op, source, &mut digesting)?;
    Ok(digesting.finish())
}

/// Carries a COPY/ADD out: one new layer over `base`, an empty one when nothing changes, as BuildKit has it. All content is
/// read where it is.
///
/// # Errors
/// BuildKit's messages for missing sources, files in the way of directories, unknown users, bad modes.
pub fn copy(
    space: &Space,
    op: &CopyOp,
    base: &Snapshot,
    source: CopySourceTree<'_>,
) -> Result<Written, Error> {
    copy_listed(space, op, base, source, false, None)
}

/// What a copy takes, as [`source_digest`] found it.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The list.
    pub reads: &'a Reads,
    /// Folders with at least so many entries go straight from it into the layer, which needs no memory for each; with fewer
    /// that does not pay.
    pub stream_from: u64,
}

impl<'a> Listed<'a> {
    /// As builds do it.
    #[must_use]
    pub fn new(reads: &'a Reads) -> Self {
        Self {
            reads,
            stream_from: 1000,
        }
    }
}

/// [`copy`]; with `again`, content that did not change since the same copy was carried out is taken from the layer that it
/// made then. With a list, of what [`source_digest`] said that is read, whatever the source has become since.
///
/// # Errors
/// As [`copy`], and when a file's content is not what it was.
pub fn copy_listed(
    space: &Space,
    op: &CopyOp,
    base: &Snapshot,
    source: CopySourceTree<'_>,
    again: bool,
    listed: Option<Listed<'_>>,
) -> Result<Written, Error> {
    let scratch = space.store().scratch()?;
    let base = if op.link && !names_owner(op) {
        Vec::new()
    } else {
        readable(space, base)?
    };
    let source = SourceFiles::new(space, source)?;
    let memory = match &source {
        SourceFiles::Context(context) => Some(earlier::Memory::of(op, context)),
        _ => None,
    };
    // An index is in memory as a whole: of very many files that is too much.
    let few = listed.is_none_or(|listed| listed.reads.len() <= EARLIER_FILES);
    let before = memory.as_ref().filter(|_| again && few);
    let before = before.and_then(|memory| memory.layer(space));
    let foreign = |layer: &LayerFiles| layer.tar.is_none() && layer.tree.is_some();
    // The base's own files matter only for names of owners, and for archives that link to them.
    let reads_base = names_owner(op) || op.add;
    let written = if !space.is_root()
        && (source.layers().into_iter().any(foreign) || reads_base && base.iter().any(foreign))
    {
        let job = CopyJob {
            op: op.clone(),
            base,
            source: source.detached()?,
            out: absolute(scratch.path())?,
        };
        space.task(COPY_TASK, &job)?
    } else {
        source.open(&mut |files| {
            let sources = (files, before.as_ref());
            run(op, &base, sources, listed, scratch.path())
        })?
    };
    let written = keep(space, written, scratch.path())?;
    if let Some(memory) = memory {
        memory.keep(space.store(), &written.diff_id)?;
    }
    Ok(written)
}

/// Carries a WORKDIR out: one new layer, an empty one when the directory is there, as BuildKit has it.
///
/// # Errors
/// Something else is in the way.
pub fn mkdir(space: &Space, op: &MkdirOp, base: &Snapshot) -> Result<Written, Error> {
    let view = View::load(&readable(space, base)?)?;
    let owner = match op.user.as_str() {
        "" => None,
        user => Some(owner::file_owner(user, Some(&view), false)?),
    };
    let mut target = target::Target::new(Some(&view), owner);
    let path = target.resolve(op.path.as_bytes())?;
    target.make_directories(&path, 0o755)?;
    let scratch = space.store().scratch()?;
    let contents = write::Contents {
        op: None,
        source: CopySourceFiles::Empty,
        base: Some(&view),
        spool: None,
        earlier: None,
    };
    let written = finish(target, contents, scratch.path())?;
    keep(space, written, scratch.path())
}

/// A layer with one file in its root.
///
/// # Errors
/// Content that cannot be read or has another size, a name that no layer can hold.
pub(crate) fn single_file(
    space: &Space,
    entry: &Entry,
    content: &mut dyn Read,
) -> Result<Written, Error> {
    let scratch = space.store().scratch()?;
    let path = scratch.path().join(TAR);
    let file = std::fs::File::create(&path).map_err(|source| Error::Io {
        op: "create",
        path,
        source,
    })?;
    let mut writer = LayerWriter::new(file);
    writer.entry(entry, Some(content))?;
    let written = writer.finish(&scratch.path().join(INDEX))?;
    keep(space, written, scratch.path())
}

/// Of a copy, what it reads from the tree that paths are read from, or from one of the inputs that sources have of their own.
#[must_use]
pub(crate) fn part(op: &CopyOp, of: Option<usize>) -> CopyOp {
    let mut part = op.clone();
    part.sources.retain(|source| match source {
        CopySource::Path(_) | CopySource::Inline { .. } => of.is_none(),
        CopySource::Input { input, .. } => of == Some(*input),
    });
    part
}

/// Digest of what a copy reads from an input that sources have of their own.
pub(crate) fn input_digest(op: &CopyOp, input: usize, view: View) -> Result<[u8; 32], Error> {
    let mixed = mixed::Mixed {
        main: CopySourceFiles::Empty,
        inputs: vec![(input, view)],
    };
    Ok(source_digest(&part(op, Some(input)), &mixed)?.0)
}

/// Ids of a `USER` or `--chown` text in a root file system: uid, gid, supplementary groups (only when no group is given).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserIds {
    /// uid.
    pub uid: u32,
    /// gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, `/` when unknown.
    pub home: String,
}

/// Whether content that begins so is a tar archive, plain or compressed, by its first half kilobyte.
#[must_use]
pub fn is_archive(start: &[u8]) -> bool {
    archive::is_archive(start)
}

/// Unpacks an archive into a layer of its own in the folder `out`: what ADD of it onto nothing gives, owners and
/// modes as the archive has them. Nothing of it is made on the file system, so no entry can lead anywhere. `name` is
/// the archive for messages.
///
/// # Errors
/// No archive, a damaged one, entries that no layer can hold; I/O.
pub fn unpack_archive(content: impl Read, name: &str, out: &Path) -> Result<LayerFiles, Error> {
    let mut spool = archive::Spool::new(out.join(SPOOL));
    let Some(opened) = archive::open(content, &spool)? else {
        return Err(paths::refuse(format!("{name} is not a tar archive")));
    };
    let mut target = target::Target::new(None, None);
    let unpacking = archive::Unpacking {
        target: &mut target,
        owner: None,
        directory: Vec::new(),
        number: 0,
    };
    unpacking.run(name, opened, &mut spool)?;
    let contents = write::Contents {
        op: None,
        source: CopySourceFiles::Empty,
        base: None,
        spool: Some(&spool),
        earlier: None,
    };
    let written = finish(target, contents, out)?;
    spool.remove();
    Ok(LayerFiles {
        diff_id: written.diff_id,
        index: out.join(INDEX),
        tree: None,
        tar: Some(out.join(TAR)),
    })
}

/// Follows links in a path inside a tree, as chroot would; the result need not exist.
///
/// # Errors
/// Too many links, unreadable directories.
pub fn resolve_in(tree: &dyn FileTree, path: &[u8]) -> Result<Vec<u8>, Error> {
    paths::resolve(path, &|path| tree.entry(path))
}

/// Resolves a user text by `/etc/passwd` and `/etc/group` of the view; numbers need no entry.
///
/// # Errors
/// Unknown names.
pub fn resolve_user(user: &str, view: &View) -> Result<UserIds, Error> {
    owner::process_user(user, view)
}

/// An opened source.
#[derive(Clone, Copy, Debug)]
enum CopySourceFiles<'a> {
    Context(&'a Context),
    View(&'a View),
    Empty,
    Mixed(&'a mixed::Mixed<'a>),
}

impl<'a> CopySourceFiles<'a> {
    fn tree(self) -> &'a dyn FileTree {
        match self {
            Self::Context(context) => context,
            Self::View(view) => view,
            Self::Empty => &NoFiles,
            Self::Mixed(mixed) => mixed,
        }
    }
}

/// A tree with nothing in it.
#[derive(Debug)]
struct NoFiles;

impl FileTree for NoFiles {
    fn entry(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        let root = Entry {
            path: Vec::new(),
            kind: crate::tree::Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        };
        Ok(path.is_empty().then_some(root))
    }
    fn list(&self, _path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(Vec::new())
    }
    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error> {
        Err(paths::missing(self, path))
    }
    fn digest(&self, path: &[u8]) -> Result<FileDigest, Error> {
        Err(paths::missing(self, path))
    }
}

fn names_owner(op: &CopyOp) -> bool {
    op.chown
        .as_deref()
        .is_some_and(|owner| owner.split(':').any(|part| part.parse::<u32>().is_err()))
}

fn readable(space: &Space, snapshot: &Snapshot) -> Result<Vec<LayerFiles>, Error> {
    snapshot
        .layers
        .iter()
        .map(|layer| layer::readable(space, layer))
        .collect()
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Io {
        op: "find",
        path: path.to_path_buf(),
        source,
    })
}

/// The copy itself: selection, placement, writing into `out`.
fn run(
    op: &CopyOp,
    base: &[LayerFiles],
    (source, earlier): (CopySourceFiles<'_>, Option<&earlier::Earlier>),
    listed: Option<Listed<'_>>,
    out: &Path,
) -> Result<Written, Error> {
    let base = View::load(base)?;
    let owner = match op.chown.as_deref() {
        None | Some("") => None,
        Some(text) => Some(owner::file_owner(text, Some(&base), true)?),
    };
    let chmod = match op.chmod.as_deref() {
        None | Some("") => None,
        Some(text) => Some(chmod::Chmod::parse(text).ok_or_else(|| bad_mode(text))?),
    };
    // An independent layer is made as if over nothing.
    let below = (!op.link).then_some(&base);
    if let Some(Listed { reads, stream_from }) = listed {
        let streamed = stream::Streamed {
            op,
            chmod: chmod.clone(),
            owner,
            base: below,
            source,
            earlier,
            out,
        };
        if let Some(written) = streamed.run(reads, stream_from)? {
            return Ok(written);
        }
    }
    let known = listed.map(|listed| listed.reads.selection()).transpose()?;
    let selection = match known.flatten() {
        Some(selection) => selection,
        None => select::select(op, source.tree())?,
    };
    let mut target = target::Target::new(below, owner);
    let mut spool = archive::Spool::new(out.join(SPOOL));
    apply::Copier {
        op,
        target: &mut target,
        chmod,
        owner,
    }
    .run(selection, source.tree(), &mut spool)?;
    finish(
        target,
        write::Contents {
            op: Some(op),
            source,
            base: below,
            spool: Some(&spool),
            earlier,
        },
        out,
    )
}

fn bad_mode(text: &str) -> Error {
    Error::Copy {
        message: format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ),
        help: Some("symbolic modes such as u=rwX,go=rX are fine too".to_owned()),
    }
}

fn finish(
    target: target::Target<'_>,
    contents: write::Contents<'_>,
    out: &Path,
) -> Result<Written, Error> {
    let mut finished = target.finish()?;
    if let Some(base) = contents.base {
        unchanged::leave_out(&mut finished, base, &contents)?;
    }
    write::write(finished, contents, &out.join(TAR), &out.join(INDEX))
}

/// Puts the layer into the store, or takes the one of equal content that it has.
fn keep(space: &Space, written: Written, staged: &Path) -> Result<Written, Error> {
    let store = space.store();
    if let Some(known) = store.layer_by_identity(&written.identity)?
        && known != written.diff_id
        && let Some(meta) = store.layer(&known)?
        && let Some(size) = meta.size
    {
        return Ok(Written {
            diff_id: known,
            size,
            identity: written.identity,
        });
    }
    let meta = LayerMeta {
        diff_id: written.diff_id.clone(),
        identity: Some(written.identity.clone()),
        size: Some(written.size),
        blobs: Vec::new(),
    };
    let files = StagedLayer {
        tar: Some(staged.join(TAR)),
        tree: None,
        index: Some(staged.join(INDEX)),
    };
    store.put_layer(&meta, files)?;
    Ok(written)
}

/// Whether an op reads any path at all.
#[must_use]
pub fn reads_paths(op: &CopyOp) -> bool {
    op.sources
        .iter()
        .any(|source| matches!(source, CopySource::Path(_)))
}
