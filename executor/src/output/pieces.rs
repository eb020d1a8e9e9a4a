//! The cache piece by piece, as `docker buildx du` and `docker buildx prune` see it, and their filters.

use super::ImageFilters;
use crate::Error;
use crate::repo_digests;
use crate::space::Space;
use std::time::SystemTime;
use store::{Collection, Piece, PruneReport, PrunedKind};

/// Keys of [`PieceFilters::parse`].
pub const PIECE_FILTERS: &[&str] = &[
    "id",
    "type",
    "description",
    "inuse",
    "shared",
    "private",
    "mutable",
    "immutable",
    "until",
];

/// BuildKit's names of the kinds of records.
const TYPES: &[&str] = &[
    "internal",
    "frontend",
    "source.local",
    "source.git.checkout",
    "exec.cachemount",
    "regular",
];

/// BuildKit's name of what a piece is.
#[must_use]
pub fn type_of(kind: PrunedKind) -> &'static str {
    match kind {
        PrunedKind::Layer => "regular",
        PrunedKind::StatCache => "source.local",
        PrunedKind::Mount => "exec.cachemount",
        _ => "internal",
    }
}

/// Which pieces are meant.
#[derive(Clone, Debug, Default)]
pub struct PieceFilters {
    tests: Vec<(Test, bool)>,
    until: Option<SystemTime>,
}

#[derive(Clone, Debug)]
enum Test {
    Id(String),
    Type(String),
    Description(String),
    InUse,
    Shared,
    Mutable,
}

impl PieceFilters {
    /// Reads `key=value`, `key!=value` and, where it is a yes or no, `key`.
    ///
    /// # Errors
    /// Unknown keys and values that cannot be understood.
    pub fn parse(filters: &[String], now: SystemTime) -> Result<Self, Error> {
        let mut parsed = Self::default();
        for filter in filters {
            let (key, value) = filter.split_once('=').unwrap_or((filter, "true"));
            let (key, wanted) = key
                .strip_suffix('!')
                .map_or((key, true), |key| (key, false));
            let (key, value) = (key.trim().to_lowercase(), value.trim());
            let invalid = || Error::Request(format!("invalid filter '{filter}'"));
            if !PIECE_FILTERS.contains(&key.as_str()) {
                return Err(Error::Request(format!("invalid filter '{key}'")));
            }
            let yes = || match value {
                "1" | "t" | "true" => Ok(wanted),
                "0" | "f" | "false" => Ok(!wanted),
                _ => Err(invalid()),
            };
            let test = match key.as_str() {
                "until" => {
                    if !wanted {
                        return Err(invalid());
                    }
                    let images = ImageFilters::parse(&[format!("until={value}")], &["until"], now)?;
                    parsed.until = images.until();
                    continue;
                }
                _ if !filter.contains('=')
                    && !matches!(
                        key.as_str(),
                        "inuse" | "shared" | "private" | "mutable" | "immutable"
                    ) =>
                {
                    return Err(invalid());
                }
                "id" => (Test::Id(value.to_owned()), wanted),
                "type" if TYPES.contains(&value) => (Test::Type(value.to_owned()), wanted),
                "description" => (Test::Description(value.to_owned()), wanted),
                "inuse" => (Test::InUse, yes()?),
                "shared" => (Test::Shared, yes()?),
                "private" => (Test::Shared, !yes()?),
                "mutable" => (Test::Mutable, yes()?),
                "immutable" => (Test::Mutable, !yes()?),
                _ => return Err(invalid()),
            };
            parsed.tests.push(test);
        }
        Ok(parsed)
    }

    /// Whether a piece is meant.
    #[must_use]
    pub fn matches(&self, piece: &Piece) -> bool {
        let passes = |test: &Test| match test {
            Test::Id(id) => {
                let plain = piece.id.strip_prefix("sha256:").unwrap_or(&piece.id);
                !id.is_empty() && (piece.id.starts_with(id) || plain.starts_with(id))
            }
            Test::Type(name) => type_of(piece.kind) == name,
            Test::Description(text) => piece.description.contains(text),
            Test::InUse => piece.is_in_use,
            Test::Shared => piece.is_needed,
            Test::Mutable => is_mutable(piece),
        };
        self.until.is_none_or(|until| piece.used < until)
            && self
                .tests
                .iter()
                .all(|(test, wanted)| passes(test) == *wanted)
    }
}

/// Whether builds change it in place.
#[must_use]
pub fn is_mutable(piece: &Piece) -> bool {
    matches!(piece.kind, PrunedKind::Mount | PrunedKind::StatCache)
}

/// All pieces. What it looks at does not count as used.
///
/// # Errors
/// A folder that cannot be read.
pub fn pieces(space: &Space) -> Result<Vec<Piece>, Error> {
    Ok(space.store().quiet().pieces()?)
}

/// Removes pieces of the cache, and keeps what is known of the images that stay.
///
/// # Errors
/// I/O.
pub fn collect(space: &Space, collection: &Collection<'_>) -> Result<PruneReport, Error> {
    let store = space.store();
    let quiet = store.quiet();
    let mut known = Vec::new();
    for image in quiet.references()? {
        let digest = image.descriptor.digest();
        known.push((digest.clone(), repo_digests::of(&quiet, digest)?));
    }
    let report = quiet.collect(collection, &|path| space.remove_tree(path))?;
    if collection.dry_run {
        return Ok(report);
    }
    // They are records, but no cache: an image that stays is known to registries as before.
    known.retain(|(digest, texts)| !texts.is_empty() && quiet.blob_size(digest).is_some());
    for (digest, texts) in known {
        if repo_digests::of(&quiet, &digest)? != texts {
            repo_digests::replace(store, &digest, &texts)?;
        }
    }
    Ok(report)
}
