//! File trees as data: the entry type that indexes, contexts and layers share, and the read interface over them.

use crate::Error;
use crate::context::walk::Listed;
use serde::{Deserialize, Serialize};
use std::io::Read;

/// BLAKE3 of a file's content.
pub type FileDigest = [u8; 32];

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Directory.
    Directory,
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// Content digest, where it is known already.
        digest: Option<FileDigest>,
    },
    /// Symbolic link.
    Symlink {
        /// Target as stored.
        target: Vec<u8>,
    },
    /// Hard link to an earlier path of the same layer.
    Hardlink {
        /// That path, without a leading slash.
        target: Vec<u8>,
    },
    /// Character device.
    Char {
        /// Major.
        major: u32,
        /// Minor.
        minor: u32,
    },
    /// Block device.
    Block {
        /// Major.
        major: u32,
        /// Minor.
        minor: u32,
    },
    /// FIFO.
    Fifo,
    /// Socket (never in a layer).
    Socket,
}

/// One entry. In a merged view the path is the full path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Raw bytes, no leading or trailing slash; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Extended attributes that layers keep (`security.capability`, `user.*`), by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry that a walk came by.
#[derive(Debug)]
pub struct Child {
    /// The entry.
    pub entry: Entry,
    /// As [`FileTree::link_id`] has it.
    pub link: Option<(u64, u64)>,
    /// Where a context has it, so that it need not be looked for again.
    pub(crate) found: Option<Listed>,
}

impl Child {
    /// An entry alone.
    #[must_use]
    pub fn of(entry: Entry) -> Self {
        Self {
            entry,
            link: None,
            found: None,
        }
    }
}

/// Read access to a tree: a context folder or a merged root file system. Paths are raw bytes relative to the root,
/// components never `.` or `..`; symlinks are not followed.
pub trait FileTree {
    /// The entry itself (lstat); `None` when it is not there or hidden.
    ///
    /// # Errors
    /// Unreadable.
    fn entry(&self, path: &[u8]) -> Result<Option<Entry>, Error>;
    /// Names in a directory, sorted bytewise.
    ///
    /// # Errors
    /// Unreadable.
    fn list(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error>;
    /// A regular file's content (hard links resolved).
    ///
    /// # Errors
    /// Unreadable.
    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send + '_>, Error>;
    /// A regular file's content digest.
    ///
    /// # Errors
    /// Unreadable.
    fn digest(&self, path: &[u8]) -> Result<FileDigest, Error>;
    /// The entries of a directory, sorted by name: [`FileTree::list`] and [`FileTree::entry`] in one call.
    ///
    /// # Errors
    /// Unreadable.
    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, Error> {
        let mut children = Vec::new();
        for name in self.list(path)? {
            let full = if path.is_empty() {
                name.clone()
            } else {
                [path, b"/", &name].concat()
            };
            if let Some(entry) = self.entry(&full)? {
                children.push((name, entry));
            }
        }
        Ok(children)
    }
    /// As [`FileTree::children`], for who goes through a whole tree in order and comes by each directory once: with what
    /// [`FileTree::complete`] needs.
    ///
    /// # Errors
    /// Unreadable.
    fn walk(&self, path: &[u8]) -> Result<Vec<Child>, Error> {
        let children = self.children(path)?.into_iter();
        Ok(children
            .map(|(_, entry)| {
                let file = matches!(entry.kind, Kind::File { .. });
                let link = file.then(|| self.link_id(&entry.path)).flatten();
                Child {
                    link,
                    ..Child::of(entry)
                }
            })
            .collect())
    }
    /// Fills in what [`FileTree::walk`] leaves out because it takes reading: content digests, and extended attributes
    /// where they take opening. Trees that must read many files do it in parallel.
    ///
    /// # Errors
    /// Unreadable.
    fn complete(&self, children: &mut [&mut Child]) -> Result<(), Error> {
        for child in children {
            let entry = &mut child.entry;
            if let Kind::File {
                digest: digest @ None,
                ..
            } = &mut entry.kind
            {
                *digest = Some(self.digest(&entry.path)?);
            }
        }
        Ok(())
    }
    /// Why a path that exists on disk is not there for readers (`hidden by line 3 of .dockerignore`); `None` when it is
    /// simply missing or not hidden.
    fn hidden_by(&self, _path: &[u8]) -> Option<String> {
        None
    }
    /// Files with the same number are hard links of each other (only where it matters: contexts and trees).
    fn link_id(&self, _path: &[u8]) -> Option<(u64, u64)> {
        None
    }
}
