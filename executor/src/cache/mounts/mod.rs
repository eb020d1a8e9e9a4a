//! Cache mounts that travel (`--cache-mounts`): the content of `RUN --mount=type=cache` goes beside every `--cache-to` that
//! has a place of its own, and comes from beside every `--cache-from`.
//!
//! Files are cut where their content says (`chunk`), and chunks that a place does not have are packed into blobs of 16 MiB
//! (`pack`), so that a registry holds hundreds of blobs where a mount holds a hundred thousand files. A document for each
//! mount names its entries and where their chunks lie (`doc`); documents and packs hang on one manifest (`shelf`). A pack
//! of which less than half is still used is packed anew, and so are small ones when there are too many of them.
//!
//! - **Export** comes after a build that succeeded, for mounts that a step used, and for others that a place does not have
//!   yet. Files whose stat is what it was are not read again (`scan`). The mount is locked against those that want it
//!   alone for some seconds at most; what changes while it is read is left out and told.
//! - **Import** comes when a command that really runs mounts a cache that the store has not filled; what the store has
//!   wins. It comes as a whole, or what is wrong is told and the mount is empty.
//! - A mount is known by its id, namespace, owner and mode, as in the store. One over a filling (`from=`) does not travel:
//!   it holds only the differences to layers that the next machine may not have.
//! - Of two builds that export one mount at the same time, the last wins as a whole.

mod chunk;
mod doc;
mod export;
mod pack;
mod scan;
mod shelf;

pub(crate) use pack::{LAY_OUT, PACK, lay_out_task, pack_task};
pub(crate) use scan::{SCAN, scan_task};

use crate::Error;
use crate::build::Ui;
use crate::build::mounts::own;
use crate::layer::incoming::{bounded, extract_options};
use crate::layer::index::io_error;
use crate::remote::Remote;
use crate::request::{BuildRequest, CacheMounts};
use crate::space::Space;
use doc::{DOC_LIMIT, Doc, PACK_LIMIT, Pack};
use pack::LayOutRequest;
use planner::plan::{Op, Plan, RunMount};
use planner::scheduler::Cancel;
use shelf::{Catalog, Listed, Shelf};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use store::CacheMount;

/// Packs fetched at once.
const FETCHERS: usize = 4;

/// The mounts of a build that travel.
pub(crate) struct Travel<'a> {
    space: &'a Space,
    request: &'a BuildRequest,
    remote: &'a Remote,
    ui: &'a dyn Ui,
    stop: &'a Cancel,
    /// Ids of the Dockerfile by the identities of the mounts.
    wanted: BTreeMap<String, String>,
    /// Identities of those that a command has used.
    used: Mutex<BTreeSet<String>>,
    /// What there is beside the caches that are read, by their numbers.
    sources: OnceLock<Vec<(usize, Catalog)>>,
}

impl std::fmt::Debug for Travel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Travel").finish_non_exhaustive()
    }
}

/// What the store calls a mount that lies over nothing. One that is to belong to somebody else is another one.
pub(crate) fn identity(id: &str, mode: u32, uid: u32, gid: u32) -> String {
    /// Mode of a cache mount's folder that does not say one.
    const DEFAULT_MODE: u32 = 0o755;
    match (mode, uid, gid) {
        // One that has colons could be read as another one with its owner.
        (DEFAULT_MODE, 0, 0) if !id.contains(':') => id.to_owned(),
        (mode, uid, gid) => format!("{id}:{mode:o}:{uid}:{gid}"),
    }
}

impl<'a> Travel<'a> {
    pub(crate) fn new(
        space: &'a Space,
        request: &'a BuildRequest,
        remote: &'a Remote,
        (plan, ui, stop): (&Plan, &'a dyn Ui, &'a Cancel),
    ) -> Self {
        let travel = Self {
            space,
            request,
            remote,
            ui,
            stop,
            wanted: wanted(request, plan),
            used: Mutex::default(),
            sources: OnceLock::new(),
        };
        travel.tell_unknown();
        travel
    }

    /// Ids that no command has are mistyped, most likely.
    fn tell_unknown(&self) {
        let CacheMounts::Ids(ids) = &self.request.cache_mounts else {
            return;
        };
        for id in ids {
            if !self
                .wanted
                .values()
                .any(|known| is_called(self.request, known, id))
            {
                let text = format!(
                    "--cache-mounts: no RUN of this build mounts a cache with the id {id:?} that can travel"
                );
                self.ui.warning(&text);
            }
        }
    }

    /// A command is about to take a mount: it is filled from a cache if it can be, and is exported when all is done.
    pub(crate) fn before_use(&self, identity: &str) -> Result<(), Error> {
        let Some(id) = self.wanted.get(identity) else {
            return Ok(());
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(identity.to_owned());
        drop(used);
        if self.request.cache_from.is_empty() {
            return Ok(());
        }
        let Some(mut mount) = self.space.store().cache_mount_to_fill(identity)? else {
            return Ok(());
        };
        for (number, catalog) in self.sources() {
            let shelf = Shelf::beside(&self.request.cache_from[*number], self.remote)?;
            let Some((shelf, listed)) = shelf.zip(catalog.find(identity)) else {
                continue;
            };
            let name = shelf.name();
            let task = self
                .ui
                .task_started(&format!("importing cache mount {id} from {name}"));
            let filled = self.fill(&shelf, listed, &mount, task);
            let text = filled.as_ref().err().map(crate::error::chain);
            self.ui.task_finished(task, text.as_deref());
            match filled {
                Ok(()) => {
                    mount.mark_ready()?;
                    return Ok(());
                }
                Err(Error::Cancelled) => {
                    mount.leave_new();
                    return Err(Error::Cancelled);
                }
                Err(error) => {
                    let error = crate::error::chain(&error);
                    let text =
                        format!("cache mount {id}: what {name} has of it is not used: {error}");
                    self.ui.warning(&text);
                }
            }
        }
        mount.leave_new();
        Ok(())
    }

    fn sources(&self) -> &[(usize, Catalog)] {
        self.sources.get_or_init(|| {
            let mut sources = Vec::new();
            for (number, import) in self.request.cache_from.iter().enumerate() {
                let read = Shelf::beside(import, self.remote).and_then(|shelf| {
                    let Some(shelf) = shelf else { return Ok(None) };
                    let catalog = shelf.read(self.stop)?;
                    Ok(Some((number, catalog)))
                });
                match read {
                    Ok(found) => sources.extend(found),
                    Err(error) => {
                        let error = crate::error::chain(&error);
                        self.ui
                            .warning(&format!("cache mounts could not be looked for: {error}"));
                    }
                }
            }
            sources
        })
    }

    /// Fills a mount that is held alone.
    fn fill(
        &self,
        shelf: &Shelf<'_>,
        listed: &Listed,
        mount: &CacheMount,
        task: u64,
    ) -> Result<(), Error> {
        let packed = shelf.blob(&listed.doc, DOC_LIMIT)?;
        let damaged = |reason: String| Error::Image {
            subject: format!("document {}", listed.doc.digest),
            reason,
        };
        let doc = Doc::decode(&packed).map_err(damaged)?;
        let blobs = doc.packs.iter().map(|pack| pack.size).sum();
        let most = bounded(self.space, blobs, true).tar;
        // Packs lie here decompressed, whatever the files take of them.
        let packs = doc.packs.iter().map(|pack| pack.plain).sum();
        for (what, bytes) in [("files", doc.content()), ("packs", packs)] {
            if bytes > most {
                return Err(damaged(format!(
                    "its {what} have {bytes} bytes, and {most} are allowed here"
                )));
            }
        }
        let scratch = self.space.store().scratch()?;
        let packs = scratch.path().join("packs");
        std::fs::create_dir(&packs).map_err(|e| io_error("create", &packs, e))?;
        self.fetch(shelf, &doc.packs, &packs, task)?;
        let path = scratch.path().join("doc");
        std::fs::write(&path, &packed).map_err(|e| io_error("write", &path, e))?;
        let tree = scratch.path().join("tree");
        std::fs::create_dir(&tree).map_err(|e| io_error("create", &tree, e))?;
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|e| io_error("find", path, e));
        let request = LayOutRequest {
            doc: absolute(&path)?,
            packs: absolute(&packs)?,
            dest: absolute(&tree.join("root"))?,
            options: extract_options(self.space)?,
        };
        let laid: Result<(), Error> = self.space.task(LAY_OUT, &request);
        if let Err(error) = laid {
            // What is half there may belong to ids that only the namespace can remove.
            drop(self.space.remove_tree(&tree));
            return Err(error);
        }
        let place = mount.path();
        let remove = self.space.remove_tree(place);
        remove.map_err(|e| io_error("remove", place, e))?;
        std::fs::rename(&request.dest, place).map_err(|e| io_error("move", &request.dest, e))?;
        let root = &doc.items[0];
        own(self.space, place, root.mode, root.owner)?;
        Ok(())
    }

    /// Brings packs into a folder, decompressed.
    fn fetch(
        &self,
        shelf: &Shelf<'_>,
        packs: &[Pack],
        dest: &Path,
        task: u64,
    ) -> Result<(), Error> {
        let next = AtomicUsize::new(0);
        let (done, total) = (Mutex::new(0), packs.iter().map(|pack| pack.size).sum());
        let work = || -> Result<(), Error> {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                let Some(pack) = packs.get(number) else {
                    return Ok(());
                };
                if self.stop.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let plain = unpacked(shelf, pack)?;
                let path = dest.join(number.to_string());
                std::fs::write(&path, plain).map_err(|e| io_error("write", &path, e))?;
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                *done += pack.size;
                self.ui.task_progress(task, "fetching packs", *done, total);
            }
        };
        std::thread::scope(|scope| {
            let count = FETCHERS.min(packs.len());
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().expect("BUG: fetching does not panic"));
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }
}

fn unpacked(shelf: &Shelf<'_>, pack: &Pack) -> Result<Vec<u8>, Error> {
    let blob = shelf.blob(&Listed::pack(&pack.digest, pack.size)?, PACK_LIMIT)?;
    let mut plain = Vec::new();
    let read = zstd::Decoder::new(blob.as_slice())
        .and_then(|decoder| decoder.take(pack.plain + 1).read_to_end(&mut plain));
    if read.is_err() || plain.len() as u64 != pack.plain {
        return Err(Error::Image {
            subject: format!("pack {}", pack.digest),
            reason: format!("it does not decompress to {} bytes", pack.plain),
        });
    }
    Ok(plain)
}

/// Whether an id of the command line means a mount: the namespace may be left out.
fn is_called(request: &BuildRequest, id: &str, given: &str) -> bool {
    let namespace = request.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
    let bare =
        namespace.and_then(|namespace| id.strip_prefix(namespace.as_str())?.strip_prefix('/'));
    id == given || bare.is_some_and(|bare| bare == given)
}

/// The mounts that are to travel, by identity.
fn wanted(request: &BuildRequest, plan: &Plan) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    let runs = plan.steps.iter().filter_map(|step| match &step.op {
        Op::Run(run) => Some(run),
        _ => None,
    });
    for mount in runs.flat_map(|run| &run.mounts) {
        let RunMount::Cache {
            id,
            from: None,
            mode,
            uid,
            gid,
            ..
        } = mount
        else {
            continue;
        };
        let is_wanted = match &request.cache_mounts {
            CacheMounts::None => false,
            CacheMounts::All => true,
            CacheMounts::Ids(ids) => ids.iter().any(|given| is_called(request, id, given)),
        };
        if is_wanted {
            wanted.insert(identity(id, *mode, *uid, *gid), id.clone());
        }
    }
    wanted
}

/// What is read of a document, written again.
pub(super) fn rewritten(packed: &[u8]) -> Option<Vec<u8>> {
    Doc::decode(packed).ok().map(|doc| doc.encode())
}

#[cfg(test)]
mod tests {
    use super::identity;
    use std::collections::HashSet;

    #[test]
    fn no_mount_is_taken_for_another() {
        let ids = [
            "x",
            "x:700:0:0",
            "x:755:0:0",
            "x:",
            ":",
            "x:700:0:0:755:0:0",
        ];
        let owners = [(0o755, 0, 0), (0o700, 0, 0), (0o755, 1, 0), (0o755, 0, 1)];
        let all: HashSet<String> = ids
            .iter()
            .flat_map(|id| owners.map(|(mode, uid, gid)| identity(id, mode, uid, gid)))
            .collect();
        assert_eq!(all.len(), ids.len() * owners.len());
    }
}
