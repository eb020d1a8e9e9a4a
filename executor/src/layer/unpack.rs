//! One pass over a layer blob: its index, and on the way either a copy of the tar or the unpacked tree.
//!
//! Digests are checked in the same pass; nothing of a blob counts before the pass has ended well. Putting results into
//! the store is the caller's.

use super::collect::{Action, Collector, Limits};
use super::decode::{Decoded, Input, Source};
use super::extract::{ExtractOptions, Extractor};
use super::hash::digest_of;
use super::order::show;
use super::tar_reader::{Problem, RawEntry, TarReader};
use super::writer::Written;
use crate::Error;
use std::path::Path;

/// Reads a blob, writes its index, and its tar to `copy` where that is given.
///
/// # Errors
/// Corrupt or hostile layers, naming layer and entry; I/O.
pub fn index_blob(
    source: &Source,
    limits: &Limits,
    copy: Option<&Path>,
    index: &Path,
) -> Result<Written, Error> {
    let tar = Decoded::open(source, limits.tar, copy)?;
    run(tar, limits, None, index)
}

/// [`index_blob`] of a blob that comes from elsewhere.
pub(crate) fn index_input(
    input: Input,
    source: &Source,
    limits: &Limits,
    copy: Option<&Path>,
    index: &Path,
) -> Result<Written, Error> {
    let tar = Decoded::over(input, source, limits.tar, copy)?;
    run(tar, limits, None, index)
}

/// Unpacks a blob into `dest`, which must not exist, as an overlay lower; writes its index.
///
/// # Errors
/// Corrupt or hostile layers, naming layer and entry; I/O.
pub fn extract_blob(
    source: &Source,
    limits: &Limits,
    dest: &Path,
    options: ExtractOptions,
    index: &Path,
) -> Result<Written, Error> {
    let tar = Decoded::open(source, limits.tar, None)?;
    let extractor = Extractor::create(dest, options)?;
    run(tar, limits, Some(extractor), index)
}

/// [`extract_blob`] of a blob that comes from elsewhere.
pub(crate) fn extract_input(
    input: Input,
    source: &Source,
    limits: &Limits,
    (dest, options): (&Path, ExtractOptions),
    index: &Path,
) -> Result<Written, Error> {
    let tar = Decoded::over(input, source, limits.tar, None)?;
    let extractor = Extractor::create(dest, options)?;
    run(tar, limits, Some(extractor), index)
}

fn run(
    tar: Decoded,
    limits: &Limits,
    mut extractor: Option<Extractor>,
    index: &Path,
) -> Result<Written, Error> {
    let mut tar = TarReader::new(tar);
    let mut collector = Collector::new(*limits);
    let scanned = scan(&mut tar, &mut collector, extractor.as_mut());
    let mut decoded = tar.into_inner();
    match scanned {
        Ok(()) => {}
        Err(Stop::Tree(error)) => return Err(error),
        Err(Stop::Problem(Problem::Io(error))) => return Err(decoded.error(error)),
        Err(Stop::Problem(Problem::Tar(reason))) => return Err(decoded.refuse(reason)),
    }
    let found = decoded.finish()?;
    if let Some(extractor) = extractor {
        extractor.finish()?;
    }
    let built = collector.finish().finish(found.diff_id, found.size);
    built.save(index)?;
    Ok(Written {
        diff_id: digest_of(&found.diff_id),
        size: found.size,
        identity: built.identity(),
    })
}

/// Why a scan stopped.
enum Stop {
    /// Stream or tar.
    Problem(Problem),
    /// Writing the tree.
    Tree(Error),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn scan(
    tar: &mut TarReader<Decoded>,
    collector: &mut Collector,
    mut extractor: Option<&mut Extractor>,
) -> Result<(), Stop> {
    while let Some(raw) = tar.next_entry()? {
        let placed = collector.place(&raw).map_err(|reason| {
            Problem::Tar(format!("{}: {reason}", show(raw.name.trim_ascii_end())))
        })?;
        if let Some(extractor) = extractor.as_deref_mut() {
            extractor.prepare(&placed).map_err(Stop::Tree)?;
        }
        if placed.action == Action::File {
            file(tar, collector, extractor.as_deref_mut(), &placed.path, &raw)?;
        } else if let Some(extractor) = extractor.as_deref_mut() {
            extractor.special(&placed, &raw).map_err(Stop::Tree)?;
        }
    }
    Ok(())
}

/// Content of a file: hashed for the index, written into the tree.
fn file(
    tar: &mut TarReader<Decoded>,
    collector: &mut Collector,
    mut extractor: Option<&mut Extractor>,
    path: &[u8],
    raw: &RawEntry,
) -> Result<(), Stop> {
    let mut target = match extractor.as_deref_mut() {
        Some(extractor) => Some(extractor.file(path).map_err(Stop::Tree)?),
        None => None,
    };
    let mut hasher = blake3::Hasher::new();
    loop {
        let content = tar.content()?;
        let bytes = content.len();
        if bytes == 0 {
            break;
        }
        hasher.update(content);
        if let Some(target) = &mut target {
            target.write(content).map_err(Stop::Tree)?;
        }
        tar.consume(bytes);
    }
    collector.content(path, *hasher.finalize().as_bytes());
    if let (Some(extractor), Some(target)) = (extractor, target) {
        extractor.end_file(&target, raw).map_err(Stop::Tree)?;
    }
    Ok(())
}
