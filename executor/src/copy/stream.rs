//! A copy that goes from the list of what is read straight into a layer, entry by entry: for one folder that goes where
//! nothing of the same copy is in its way, however many files it has. Everything else is `apply`'s, with the same result.

use super::apply::{Copier, Place, is_a_directory, not_a_directory};
use super::chmod::Chmod;
use super::earlier::Earlier;
use super::owner::Owner;
use super::paths::join;
use super::reads::{ListedGroup, ReadItems, Reads};
use super::select::Item;
use super::target::{Change, Data, Target};
use super::unchanged::is_same;
use super::write::{self, Contents, Ready};
use super::{CopySourceFiles, INDEX, TAR};
use crate::Error;
use crate::layer::order::is_within;
use crate::layer::{Holes, LayerWriter, Written};
use crate::snapshot::View;
use crate::tree::{Entry, FileTree as _, Kind};
use planner::plan::CopyOp;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Entries that are handed to the writing thread at once.
const AT_ONCE: usize = 64;
/// The same for bytes of contents.
const BYTES_AT_ONCE: usize = 1 << 20;
/// Such packs under way.
const PACKS: usize = 2;

/// A copy under way.
#[derive(Debug)]
pub(super) struct Streamed<'a> {
    pub(super) op: &'a CopyOp,
    pub(super) chmod: Option<Chmod>,
    pub(super) owner: Option<Owner>,
    /// The root file system below, where it counts.
    pub(super) base: Option<&'a View>,
    pub(super) source: CopySourceFiles<'a>,
    /// What the same copy made before.
    pub(super) earlier: Option<&'a Earlier>,
    pub(super) out: &'a Path,
}

/// Entries in order, small contents read already.
type Pack = Vec<(Change, Option<Ready>)>;
/// What the same copy made before, asked in order.
type Known<'p> = Box<dyn FnMut(&Change) -> Option<Ready> + Send + 'p>;

impl Streamed<'_> {
    /// Carries it out; `None` when it is not of the kind, or has fewer entries.
    pub(super) fn run(&self, reads: &Reads, from: u64) -> Result<Option<Written>, Error> {
        let CopySourceFiles::Context(_) = self.source else {
            return Ok(None);
        };
        let Some([group]) = reads.groups() else {
            return Ok(None);
        };
        if group.root.entry.kind != Kind::Directory || group.any_links || group.below < from.max(1)
        {
            return Ok(None);
        }
        let mut target = Target::new(self.base, self.owner);
        let mut copier = Copier {
            op: self.op,
            target: &mut target,
            chmod: self.chmod.clone(),
            owner: self.owner,
        };
        let Place { path, .. } = copier.enter(&group.head, &group.root)?;
        let way = target.finish()?.changes.into_iter();
        let mut way: Vec<Change> = way.map(|made| *made).collect();
        if way.iter().any(|made| !is_within(&path, &made.entry.path)) {
            return Ok(None);
        }
        self.complete_way(&path, group, &mut way)?;
        self.write(path, way, (reads, group)).map(Some)
    }

    /// The folders on the way to the place, those of the base too: they are in the layer when anything below them is.
    fn complete_way(
        &self,
        place: &[u8],
        group: &ListedGroup,
        way: &mut Vec<Change>,
    ) -> Result<(), Error> {
        if place.is_empty() {
            return Ok(());
        }
        let ends = place.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in ends.map(|(at, _)| at).chain([place.len()]) {
            let path = &place[..end];
            if way.iter().any(|made| made.entry.path == path) {
                continue;
            }
            if let Some(entry) = self
                .base
                .map(|base| base.entry(path))
                .transpose()?
                .flatten()
            {
                way.push(Change::new(entry));
            }
        }
        way.sort_by(|a, b| crate::layer::compare(&a.entry.path, &b.entry.path));
        // The destination keeps its own attributes, but its time becomes the source's.
        if let Some(last) = way.last_mut().filter(|last| last.entry.path == place) {
            last.entry.mtime = group.root.entry.mtime;
        }
        Ok(())
    }

    fn write(
        &self,
        place: Vec<u8>,
        way: Vec<Change>,
        (reads, group): (&Reads, &ListedGroup),
    ) -> Result<Written, Error> {
        let (tar, index) = (self.out.join(TAR), self.out.join(INDEX));
        let file = File::create(&tar).map_err(|source| Error::Io {
            op: "create",
            path: tar,
            source,
        })?;
        let mut writer = LayerWriter::behind(Holes::new(file)).with_index(&index)?;
        let contents = Contents {
            op: Some(self.op),
            source: self.source,
            base: self.base,
            spool: None,
            earlier: None,
        };
        let known = self.earlier.map(|earlier| {
            let mut reader = earlier.reader();
            Box::new(move |change: &Change| reader.content(change).map(|(c, d)| (c, Some(d))))
                as Known<'_>
        });
        let (packs, written) = sync_channel(PACKS);
        let mut items = reads.items();
        items.enter(group)?;
        let mut placing = Placing {
            copy: self,
            contents,
            known,
            absent: None,
            undecided: Vec::new(),
            packs,
            pack: Vec::new(),
            bytes: 0,
        };
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || placing.all(&way, &place, items, group));
            let wrote = write_all(&mut writer, &written, contents);
            // A reader that waits for room must not wait for ever.
            drop(written);
            let read = reading.join();
            let read = read.map_err(|_| Error::Request("a reading thread panicked".to_owned()))?;
            // What stopped the writer is what went wrong.
            wrote.and(read)
        })?;
        writer.finish(&index)
    }
}

fn write_all<W: std::io::Write>(
    writer: &mut LayerWriter<W>,
    packs: &Receiver<Pack>,
    contents: Contents<'_>,
) -> Result<(), Error> {
    for (change, content) in packs.iter().flatten() {
        match content {
            Some((content, Some(digest))) => writer.file(&change.entry, &content, digest)?,
            Some((content, None)) => writer.entry(&change.entry, Some(&mut content.as_slice()))?,
            None => match contents.open(&change)? {
                Some(mut content) => writer.entry(&change.entry, Some(&mut content))?,
                None => writer.entry(&change.entry, None)?,
            },
        }
    }
    Ok(())
}

/// Decides what is in the layer, and reads ahead.
struct Placing<'p, 'a> {
    copy: &'p Streamed<'a>,
    contents: Contents<'p>,
    known: Option<Known<'p>>,
    /// A directory that the base lacks: there is no need to ask for what is in it.
    absent: Option<Vec<u8>>,
    /// Directories as the base has them, each below the one before: they are in the layer when anything below them is.
    undecided: Vec<Change>,
    packs: SyncSender<Pack>,
    pack: Pack,
    bytes: usize,
}

/// Nobody takes packs any longer.
struct Stopped;

impl Placing<'_, '_> {
    fn all(
        &mut self,
        way: &[Change],
        place: &[u8],
        mut items: ReadItems<'_>,
        group: &ListedGroup,
    ) -> Result<(), Error> {
        for made in way {
            let before = self.before(&made.entry.path)?;
            if self.directory(before.as_ref(), made.clone())?.is_err() {
                return Ok(());
            }
        }
        for _ in 0..group.below {
            let item = items.take()?;
            let path = join(place, &item.entry.path[group.head.strip..]);
            if self.item(item, path)?.is_err() {
                return Ok(());
            }
        }
        let _ = self.packs.send(std::mem::take(&mut self.pack));
        Ok(())
    }

    /// What the base has at a path.
    fn before(&mut self, path: &[u8]) -> Result<Option<Entry>, Error> {
        let Some(base) = self.copy.base else {
            return Ok(None);
        };
        if self
            .absent
            .as_ref()
            .is_some_and(|absent| is_within(path, absent))
        {
            return Ok(None);
        }
        self.absent = None;
        base.entry(path)
    }

    fn item(&mut self, item: Item, path: Vec<u8>) -> Result<Result<(), Stopped>, Error> {
        let before = self.before(&path)?;
        let is_there = before.as_ref().map(|entry| entry.kind == Kind::Directory);
        let parent_only = item.parent_only;
        let mut entry = item.entry;
        let source = std::mem::replace(&mut entry.path, path);
        if entry.kind == Kind::Directory {
            match (is_there, before.as_ref()) {
                (Some(false), _) => return Err(not_a_directory(&entry.path)),
                // A parent that is only there for what is below it takes the mode alone.
                (Some(true), Some(before)) if parent_only => {
                    let mode = entry.mode;
                    entry = before.clone();
                    entry.mode = mode;
                }
                _ => self.set_attributes(&mut entry),
            }
            return self.directory(before.as_ref(), Change::new(entry));
        }
        if is_there == Some(true) {
            return Err(is_a_directory(&entry.path));
        }
        self.set_attributes(&mut entry);
        let data = match entry.kind {
            Kind::File { .. } => Data::Source(source),
            _ => Data::None,
        };
        let change = Change {
            entry,
            data,
            link: None,
        };
        if let (Some(base), Some(before)) = (self.copy.base, &before)
            && is_same(before, &change, base, &self.contents)?
        {
            return Ok(Ok(()));
        }
        self.give(change)
    }

    fn set_attributes(&self, entry: &mut Entry) {
        super::apply::set_attributes(entry, self.copy.owner, self.copy.chmod.as_ref());
    }

    fn directory(
        &mut self,
        before: Option<&Entry>,
        change: Change,
    ) -> Result<Result<(), Stopped>, Error> {
        let is_known = |before: &&Entry| before.kind == Kind::Directory;
        let Some((before, base)) = before.filter(is_known).zip(self.copy.base) else {
            self.absent.get_or_insert_with(|| change.entry.path.clone());
            return self.give(change);
        };
        if !is_same(before, &change, base, &self.contents)? {
            return self.give(change);
        }
        self.pass(&change.entry.path);
        self.undecided.push(change);
        Ok(Ok(()))
    }

    /// Forgets directories that nothing changed in.
    fn pass(&mut self, path: &[u8]) {
        let inside = |above: &Change| is_within(path, &above.entry.path);
        while self.undecided.last().is_some_and(|above| !inside(above)) {
            self.undecided.pop();
        }
    }

    /// An entry of the layer.
    fn give(&mut self, change: Change) -> Result<Result<(), Stopped>, Error> {
        self.pass(&change.entry.path);
        let above = std::mem::take(&mut self.undecided);
        self.pack
            .extend(above.into_iter().map(|above| (above, None)));
        let content = if write::is_read_ahead(&change) {
            let known = self.known.as_mut().and_then(|known| known(&change));
            Some(match known {
                Some(known) => known,
                None => (write::read(&change, self.contents)?, None),
            })
        } else {
            None
        };
        self.bytes += content.as_ref().map_or(0, |(content, _)| content.len());
        self.pack.push((change, content));
        if self.pack.len() < AT_ONCE && self.bytes < BYTES_AT_ONCE {
            return Ok(Ok(()));
        }
        self.bytes = 0;
        let full = std::mem::replace(&mut self.pack, Vec::with_capacity(AT_ONCE));
        Ok(self.packs.send(full).map_err(|_| Stopped))
    }
}
