//! The way out of a cache mount: read once, packed for each place with what that lacks, sent.

use super::Travel;
use super::doc::{Chunk, ChunkId, DOC_LIMIT, Doc, What};
use super::pack::{PACK, PACK_SIZE, PackRequest, Packed};
use super::scan::{SCAN, Scan, ScanRequest};
use super::shelf::{Listed, Shelf};
use crate::Error;
use crate::cache::day;
use crate::layer::index::io_error;
use crate::layer::materialise::owners_of;
use crate::request::CacheExport;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use store::MountReader;

/// How long a mount is waited for that somebody has alone.
const WAIT: Duration = Duration::from_secs(2);
/// How long others that want it alone wait for its reader.
const HELD: Duration = Duration::from_secs(10);
/// Packs of fewer bytes are small; when there are more than so many of them, they are packed anew.
const SMALL: u64 = PACK_SIZE as u64 / 4;
const MOST_SMALL: usize = 16;
/// How often an export begins anew because others have removed what it was to use.
const ATTEMPTS: usize = 3;
/// Days after which a mount that has not changed is marked again as seen.
const FRESH_DAYS: u32 = 7;

impl<'a> Travel<'a> {
    /// Sends mounts to all places.
    pub(crate) fn export(&self) -> Result<(), Error> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        for export in &self.request.cache_to {
            let Some(shelf) = Shelf::for_export(&export.target, self.remote)? else {
                continue;
            };
            self.export_to(export, &shelf)?;
        }
        Ok(())
    }

    fn export_to(&self, export: &CacheExport, shelf: &Shelf<'a>) -> Result<(), Error> {
        for (identity, id) in &self.wanted {
            let task = format!("exporting cache mount {id} to {}", shelf.name());
            let task = self.ui.task_started(&task);
            let ended = self.send(shelf, identity, task);
            let text = ended.as_ref().err().map(crate::error::chain);
            self.ui.task_finished(task, text.as_deref());
            match ended {
                Err(_) if self.stop.is_cancelled() => return Err(Error::Cancelled),
                Err(_) if export.ignore_error => {}
                Err(source) => {
                    return Err(Error::CacheExport {
                        place: shelf.name(),
                        source: Box::new(source),
                    });
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn send(&self, shelf: &Shelf<'a>, identity: &str, task: u64) -> Result<(), Error> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let is_used = used.contains(identity);
        drop(used);
        let today = day(self.request.now);
        for _ in 0..ATTEMPTS {
            let catalog = shelf.read(self.stop)?;
            let old = catalog.find(identity);
            if old.is_some() && !is_used {
                self.ui.task_progress(task, "no step has used it", 0, 0);
                return Ok(());
            }
            // A damaged one is replaced.
            let before = old.and_then(|old| {
                let doc = Doc::decode(&shelf.blob(&old.doc, DOC_LIMIT).ok()?).ok()?;
                Some((doc, old.clone()))
            });
            let scratch = self.space.store().scratch()?;
            let Some((doc, packs)) =
                self.packed(identity, before.as_ref().map(|old| &old.0), scratch.path())?
            else {
                self.ui
                    .task_progress(task, "the store does not have it", 0, 0);
                return Ok(());
            };
            let bytes = doc.encode();
            let mut listed = Listed::new(identity, today, &bytes);
            for pack in &doc.packs {
                listed.add_pack(&pack.digest, pack.size)?;
            }
            if let Some((_, old)) = &before
                && old.doc.digest == listed.doc.digest
                && old.seen + FRESH_DAYS > today
            {
                self.ui.task_progress(task, "it has not changed", 0, 0);
                return Ok(());
            }
            self.upload(shelf, &listed, (bytes, &packs), task)?;
            if shelf.list(std::slice::from_ref(&listed), today, self.stop)? {
                return Ok(());
            }
        }
        Err(Error::Image {
            subject: shelf.name(),
            reason: "others write to it all the time".to_owned(),
        })
    }

    /// Brings a document and new packs, the last of its list, to a place.
    fn upload(
        &self,
        shelf: &Shelf<'_>,
        listed: &Listed,
        (doc, packs): (Vec<u8>, &[PathBuf]),
        task: u64,
    ) -> Result<(), Error> {
        let new = &listed.packs[listed.packs.len() - packs.len()..];
        let total = new.iter().map(|pack| pack.size).sum::<u64>() + listed.doc.size;
        let mut done = 0;
        for (desc, path) in new.iter().zip(packs) {
            if self.stop.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let bytes = std::fs::read(path).map_err(|e| io_error("read", path, e))?;
            shelf.put(desc, bytes, self.stop)?;
            done += desc.size;
            self.ui.task_progress(task, "sending packs", done, total);
        }
        shelf.put(&listed.doc, doc, self.stop)?;
        self.ui.task_progress(task, "sending packs", total, total);
        Ok(())
    }

    /// The document of a mount as it is now, and the packs that a place lacks; `None` when the store does not have it.
    fn packed(
        &self,
        identity: &str,
        before: Option<&Doc>,
        scratch: &Path,
    ) -> Result<Option<(Doc, Vec<PathBuf>)>, Error> {
        let begun = Instant::now();
        let stop = || begun.elapsed() > WAIT || self.stop.is_cancelled();
        let Some(reader) = self.space.store().cache_mount_to_read(identity, &stop)? else {
            return Ok(None);
        };
        let (root, notes) = (reader.path(), reader.notes());
        let reader = Mutex::new(reader);
        let read = || {
            let file = scratch.join("scan");
            let absolute =
                |path: &Path| std::path::absolute(path).map_err(|e| io_error("find", path, e));
            let request = ScanRequest {
                root: absolute(&root)?,
                owners: owners_of(self.space, None)?,
                known: absolute(&notes)?,
                dest: absolute(&file)?,
            };
            self.space.task::<_, ()>(SCAN, &request)?;
            let mut scan = Scan::read(&file)?;
            let plan = Plan::of(&scan, before);
            let packs = scratch.join("packs");
            std::fs::create_dir(&packs).map_err(|e| io_error("create", &packs, e))?;
            let packed = if plan.wanted.is_empty() {
                Packed::default()
            } else {
                let request = PackRequest {
                    root: request.root,
                    scan: request.dest,
                    wanted: plan.wanted.clone(),
                    dest: absolute(&packs)?,
                };
                self.space.task(PACK, &request)?
            };
            // It only spares reading next time.
            drop(std::fs::rename(&file, &notes));
            let count = packed.packs.len();
            let doc = plan.finish(&mut scan, packed);
            self.tell_left_out(identity, &scan);
            let packs = (0..count).map(|number| packs.join(number.to_string()));
            Ok(Some((doc, packs.collect())))
        };
        held_for(&reader, HELD, read)
    }

    fn tell_left_out(&self, identity: &str, scan: &Scan) {
        if scan.left_out_in_all == 0 {
            return;
        }
        let (named, all) = (scan.left_out.join(", "), scan.left_out_in_all);
        let text =
            format!("cache mount {identity}: {all} of its entries are not exported: {named}");
        let more = if all > scan.left_out.len() as u64 {
            ", ..."
        } else {
            ""
        };
        self.ui.warning(&format!("{text}{more}"));
    }
}

/// Works while a mount is locked, but not longer than `time`; the work goes on without a lock then.
fn held_for<T>(reader: &Mutex<MountReader>, time: Duration, work: impl FnOnce() -> T) -> T {
    let release = || {
        reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .release();
    };
    let (done, is_done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // An end of the work and an end of the time are the same here.
            let _ = is_done.recv_timeout(time);
            release();
        });
        let result = work();
        drop(done);
        result
    })
}

/// What of the packs at a place stays, and what has to be packed.
struct Plan {
    /// The document with the packs that stay.
    doc: Doc,
    known: HashMap<ChunkId, Chunk>,
    /// Numbers of chunks of the scan.
    wanted: Vec<u32>,
}

impl Plan {
    fn of(scan: &Scan, before: Option<&Doc>) -> Self {
        let mut doc = Doc::default();
        let mut known = HashMap::new();
        if let Some(before) = before {
            let live: HashSet<ChunkId> = scan.chunks.iter().map(|chunk| chunk.0).collect();
            let is_live = |chunk: &&Chunk| live.contains(&chunk.0);
            let mut used = vec![0u64; before.packs.len()];
            for Chunk(_, pack, _, length) in before.chunks.iter().filter(is_live) {
                used[*pack as usize] += u64::from(*length);
            }
            let half_used = |at: usize| used[at] * 2 >= before.packs[at].plain && used[at] > 0;
            let small =
                (0..used.len()).filter(|at| half_used(*at) && before.packs[*at].plain < SMALL);
            let too_many = small.count() > MOST_SMALL;
            let mut numbers = HashMap::new();
            for (at, pack) in before.packs.iter().enumerate() {
                if half_used(at) && !(too_many && pack.plain < SMALL) {
                    numbers.insert(
                        at,
                        u32::try_from(doc.packs.len()).expect("BUG: there were as many"),
                    );
                    doc.packs.push(pack.clone());
                }
            }
            for Chunk(id, pack, place, length) in before.chunks.iter().filter(is_live) {
                if let Some(number) = numbers.get(&(*pack as usize)) {
                    known.insert(*id, Chunk(*id, *number, *place, *length));
                }
            }
        }
        let numbers = 0u32..;
        let lacking = numbers
            .zip(&scan.chunks)
            .filter(|(_, chunk)| !known.contains_key(&chunk.0));
        let wanted = lacking.map(|(number, _)| number).collect();
        Self { doc, known, wanted }
    }

    fn finish(mut self, scan: &mut Scan, packed: Packed) -> Doc {
        let base = u32::try_from(self.doc.packs.len()).expect("BUG: packs are large");
        for Chunk(id, pack, place, length) in packed.chunks {
            self.known.insert(id, Chunk(id, base + pack, place, length));
        }
        self.doc.packs.extend(packed.packs);
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut gone: HashSet<Vec<u8>> = HashSet::new();
        for mut item in std::mem::take(&mut scan.items) {
            let is_whole = match &mut item.what {
                What::File(chunks) => chunks.iter_mut().all(|at| {
                    let id = scan.chunks[*at as usize].0;
                    let Some(chunk) = self.known.get(&id) else {
                        return false;
                    };
                    let list = &mut self.doc.chunks;
                    *at = *numbers.entry(*at).or_insert_with(|| {
                        list.push(*chunk);
                        u32::try_from(list.len() - 1).expect("BUG: the scan has as many")
                    });
                    true
                }),
                What::Hardlink(target) => !gone.contains(&target.0),
                _ => true,
            };
            if is_whole {
                self.doc.items.push(item);
            } else {
                scan.leave_out(&item.path.0, "changed meanwhile");
                gone.insert(item.path.0);
            }
        }
        self.doc
    }
}
