//! The crate's one error type. It does not decide what a user sees: the command line renders it with its sources.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O operation failed.
    #[error("could not {op} {}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Content does not have the digest it was asked for by.
    #[error("blob {expected} is corrupt: its content has digest {actual}{}", remedy(path.as_deref()))]
    Corrupt {
        /// Wanted.
        expected: String,
        /// Found.
        actual: String,
        /// The damaged file, when it is one of the store; `None` for content that never became visible.
        path: Option<PathBuf>,
    },
    /// Content does not have the size its descriptor says.
    #[error("blob {digest} has {actual} bytes instead of {expected}{}", remedy(path.as_deref()))]
    WrongSize {
        /// Of which blob.
        digest: String,
        /// Bytes wanted.
        expected: u64,
        /// Bytes found.
        actual: u64,
        /// The damaged file, when it is one of the store; `None` for content that never became visible.
        path: Option<PathBuf>,
    },
    /// A blob is larger than the reader allows.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// Of which blob.
        digest: String,
        /// Its bytes.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not there.
    #[error("{what} {name} is not in the store")]
    NotFound {
        /// Kind.
        what: &'static str,
        /// Name.
        name: String,
    },
    /// A store file cannot be understood.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder was written by a newer program.
    #[error(
        "the store {} has format version {found}, this program knows versions up to {supported}: \
         use a newer kiln or another --root",
        path.display()
    )]
    NewerVersion {
        /// The store's folder.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Newest version known here.
        supported: u32,
    },
    /// The folder holds something else.
    #[error("{} is not a kiln store and not empty (it holds {found:?})", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// An entry of it that no store has.
        found: String,
    },
    /// Someone else uses the store.
    #[error("the store {} is in use by another kiln process: try again when its build is done", path.display())]
    Busy {
        /// The store's folder.
        path: PathBuf,
    },
    /// A digest of an algorithm that cannot be verified here.
    #[error("digest {digest} is of an unknown algorithm (known are sha256, sha384 and sha512)")]
    UnknownAlgorithm {
        /// The digest.
        digest: String,
    },
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }

    /// As an `io::Error` of kind `InvalidData`, for the `Read` trait; the source chain is kept.
    pub(crate) fn into_invalid_data(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    /// Whether the disk (or the quota) is full, which is worth a hint of its own.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

fn remedy(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| {
        format!(
            "; remove {} and build or pull again (`kiln prune` removes it if nothing needs it)",
            path.display()
        )
    })
}
