//! Writes a finished target as a layer: entries in order into the tar, contents straight from where they are.
//!
//! Small files are read ahead by another thread, since opening them costs more than their bytes; large ones are streamed.

use super::archive::Spool;
use super::earlier::Earlier;
use super::paths::show;
use super::target::{Change, Data, Finished};
use super::{CopySourceFiles, Written};
use crate::Error;
use crate::layer::{Holes, LayerWriter, compare};
use crate::snapshot::View;
use crate::tree::{FileDigest, FileTree, Kind};
use planner::plan::{CopyOp, CopySource};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Larger files are not read ahead.
const AHEAD_FILE: u64 = 256 * 1024;
/// Bytes read ahead at most.
const AHEAD_BYTES: usize = 2 << 20;
/// With fewer small files another thread does not pay.
const AHEAD_FROM: usize = 32;

/// Where contents are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    pub(super) op: Option<&'a CopyOp>,
    pub(super) source: CopySourceFiles<'a>,
    pub(super) base: Option<&'a View>,
    pub(super) spool: Option<&'a Spool>,
    /// What the same copy made before.
    pub(super) earlier: Option<&'a Earlier>,
}

impl<'a> Contents<'a> {
    pub(super) fn open(&self, change: &Change) -> Result<Option<Box<dyn Read + Send + 'a>>, Error> {
        let Kind::File { size, .. } = change.entry.kind else {
            return Ok(None);
        };
        Ok(Some(match &change.data {
            Data::Source(path) => self.source.tree().open(path)?,
            Data::Base(path) => self
                .base
                .expect("BUG: content of the base needs a base")
                .open(path)?,
            Data::Inline(index) => match self.op.map(|op| &op.sources[*index]) {
                Some(CopySource::Inline { data, .. }) => Box::new(data.as_bytes()),
                _ => Box::new(std::io::empty()),
            },
            Data::Spool { offset } if size > 0 => Box::new(
                self.spool
                    .expect("BUG: spooled content needs a spool")
                    .read_at(*offset, size)?,
            ),
            Data::Spool { .. } | Data::None => Box::new(std::io::empty()),
        }))
    }
}

/// Writes the tar and the index.
#[allow(
    clippy::needless_pass_by_value,
    reason = "gives the memory back before the index is made"
)]
pub(super) fn write(
    finished: Finished,
    contents: Contents<'_>,
    tar: &Path,
    index: &Path,
) -> Result<Written, Error> {
    let file = File::create(tar).map_err(|source| Error::Io {
        op: "create",
        path: tar.to_path_buf(),
        source,
    })?;
    let mut writer = LayerWriter::behind(Holes::new(file));
    let changes = &finished.changes;
    let paths = changes.iter().map(|change| change.entry.path.len());
    writer.expect(changes.len(), paths.sum());
    let mut whiteouts: Vec<&[u8]> = finished.whiteouts.iter().map(Vec::as_slice).collect();
    whiteouts.sort_unstable_by(|a, b| compare(a, b));
    let mut hidden = whiteouts.into_iter().peekable();
    let ahead: Vec<&Change> = changes
        .iter()
        .map(|change| &**change)
        .filter(|change| is_read_ahead(change))
        .collect();
    let queue = (ahead.len() >= AHEAD_FROM).then(Queue::default);
    std::thread::scope(|scope| {
        if let Some(queue) = &queue {
            scope.spawn(move || queue.fill(&ahead, contents));
        }
        let _stop = queue.as_ref().map(StopOnDrop);
        for change in changes {
            while let Some(path) =
                hidden.next_if(|path| compare(path, &change.entry.path) == Ordering::Less)
            {
                writer.whiteout(path)?;
            }
            match &queue {
                Some(queue) if is_read_ahead(change) => {
                    let (content, digest) = queue.take()?;
                    match digest {
                        Some(digest) => writer.file(&change.entry, &content, digest)?,
                        None => writer.entry(&change.entry, Some(&mut content.as_slice()))?,
                    }
                }
                _ => match contents.open(change)? {
                    Some(mut content) => writer.entry(&change.entry, Some(&mut content))?,
                    None => writer.entry(&change.entry, None)?,
                },
            }
        }
        for path in hidden {
            writer.whiteout(path)?;
        }
        Ok::<(), Error>(())
    })?;
    // Ending the index takes memory.
    drop(finished);
    writer.finish(index)
}

pub(super) fn is_read_ahead(change: &Change) -> bool {
    matches!(change.data, Data::Source(_))
        && matches!(change.entry.kind, Kind::File { size, .. } if size > 0 && size <= AHEAD_FILE)
}

/// A file's content, and its digest where that has been checked.
pub(super) type Ready = (Vec<u8>, Option<FileDigest>);

/// Contents read ahead, in order.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Result<Ready, Error>>,
    bytes: usize,
    stopped: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, changes: &[&Change], contents: Contents<'_>) {
        let mut earlier = contents.earlier.map(Earlier::reader);
        for change in changes {
            let known = earlier.as_mut().and_then(|earlier| earlier.content(change));
            let content = match known {
                Some((content, digest)) => Ok((content, Some(digest))),
                None => read(change, contents).map(|content| (content, None)),
            };
            let failed = content.is_err();
            let mut state = self.lock();
            while state.bytes >= AHEAD_BYTES && !state.stopped {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped {
                return;
            }
            state.bytes += content.as_ref().map_or(0, |(content, _)| content.len());
            state.ready.push_back(content);
            // The writer only waits when it has run dry.
            if state.ready.len() == 1 {
                self.changed.notify_all();
            }
            if failed {
                return;
            }
        }
    }

    fn take(&self) -> Result<Ready, Error> {
        let mut state = self.lock();
        loop {
            if let Some(content) = state.ready.pop_front() {
                let content = content?;
                let full = state.bytes >= AHEAD_BYTES;
                state.bytes -= content.0.len();
                if full {
                    self.changed.notify_all();
                }
                return Ok(content);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lets the reading thread end when the writer does, whatever way.
struct StopOnDrop<'q>(&'q Queue);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

pub(super) fn read(change: &Change, contents: Contents<'_>) -> Result<Vec<u8>, Error> {
    let Some(mut content) = contents.open(change)? else {
        return Ok(Vec::new());
    };
    let size = if let Kind::File { size, .. } = change.entry.kind {
        size
    } else {
        0
    };
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    // One byte more than expected is enough for the writer to see that the file grew.
    content
        .by_ref()
        .take(size + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| {
            let path = match &change.data {
                Data::Source(path) | Data::Base(path) => show(path),
                _ => show(&change.entry.path),
            };
            Error::Io {
                op: "read",
                path: path.into(),
                source,
            }
        })?;
    Ok(bytes)
}
