//! Owners that were asked for, where every file on disk belongs to one id.
//!
//! A file or folder carries its owner as an extended attribute, which goes with it through copy-up, renames and further
//! names, and is there in the next command. What cannot carry one (links, pipes, sockets; file systems without) is in a
//! table of the run, written beside the upper folder for whoever captures it. No record means root.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The attribute: `UID:GID` in decimal.
pub const OWNER_ATTRIBUTE: &str = "user.kiln.owner";
/// The table's name in an overlay's work folder.
const OWNER_TABLE: &str = "owners";

/// The owner and group that an attribute's value names.
#[must_use]
pub fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// The attribute's value for an owner and group.
#[must_use]
pub fn owner_value((uid, gid): (u32, u32)) -> String {
    format!("{uid}:{gid}")
}

/// An inode for as long as it lives: numbers are used again, then with another time of birth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Inode {
    device: (u32, u32),
    number: u64,
    born: (i64, u32),
}

/// What is in the table of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// Where it was when it got its owner, from the root.
    pub path: Vec<u8>,
    /// Inode number.
    pub inode: u64,
    /// Time of birth: seconds and nanoseconds, zero where the file system keeps none.
    pub born: (i64, u32),
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The table that a run left in its overlay's work folder; empty when there is none.
///
/// # Errors
/// It cannot be read.
pub fn owner_table(work: &Path) -> std::io::Result<Vec<OwnerRecord>> {
    match std::fs::read(work.join(OWNER_TABLE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::from),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The records of a run.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    table: HashMap<Inode, OwnerRecord>,
    /// The overlay's work folder, and the root's device: only what is in the root is written down.
    work: Option<OwnedFd>,
    root: Option<(u32, u32)>,
}

impl Owners {
    /// Of a root with this upper and work folder. In the end the table is written into the work folder, which cannot be
    /// reached by then.
    pub(crate) fn beside(upper: Option<&(PathBuf, PathBuf)>) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let work = upper.and_then(|(_, work)| rustix::fs::open(work, flags, Mode::empty()).ok());
        Self {
            work,
            ..Self::default()
        }
    }

    /// To be called once the run's root is `/`.
    pub(crate) fn entered(&mut self) {
        let root = rustix::fs::statx(CWD, "/", AtFlags::empty(), StatxFlags::BASIC_STATS);
        self.root = root
            .ok()
            .map(|stat| (stat.stx_dev_major, stat.stx_dev_minor));
    }

    /// Whether no file has an owner but root by what is at this path: a look that needs no file to be found first.
    pub(super) fn none_at(&self, path: &CStr, follow: bool) -> bool {
        let mut buffer = [0; 32];
        let read = if follow {
            rustix::fs::getxattr(path, OWNER_ATTRIBUTE, &mut buffer)
        } else {
            rustix::fs::lgetxattr(path, OWNER_ATTRIBUTE, &mut buffer)
        };
        match read {
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => self.table.is_empty(),
            Err(Errno::NOENT | Errno::NOTDIR) => true,
            _ => false,
        }
    }

    /// The recorded owner of an open file.
    pub(super) fn of(&self, file: BorrowedFd<'_>) -> Option<(u32, u32)> {
        let mut buffer = [0; 32];
        if let Ok(length) = rustix::fs::getxattr(link_to(file), OWNER_ATTRIBUTE, &mut buffer) {
            return parse_owner(&buffer[..length]);
        }
        if self.table.is_empty() {
            return None;
        }
        let inode = inode(file).ok()?;
        self.table
            .get(&inode)
            .map(|record| (record.uid, record.gid))
    }

    /// Records the owner of an open file, which may be open as a path only.
    pub(crate) fn set(&mut self, file: BorrowedFd<'_>, owner: (u32, u32)) -> Result<(), Errno> {
        let link = link_to(file);
        if owner == (0, 0)
            && matches!(
                rustix::fs::removexattr(&link, OWNER_ATTRIBUTE),
                Ok(()) | Err(Errno::NODATA)
            )
        {
            return Ok(());
        }
        if owner != (0, 0) && record(file, owner).is_ok() {
            return Ok(());
        }
        let inode = inode(file)?;
        let path = rustix::fs::readlink(&link, Vec::new())?.into_bytes();
        let record = OwnerRecord {
            path,
            inode: inode.number,
            born: inode.born,
            uid: owner.0,
            gid: owner.1,
        };
        self.table.insert(inode, record);
        Ok(())
    }

    /// Writes the table down, where there is anything in it.
    pub(crate) fn save(&self) -> Result<(), Errno> {
        let Some(work) = &self.work else {
            return Ok(());
        };
        let mut records: Vec<&OwnerRecord> = self
            .table
            .iter()
            .filter(|(inode, _)| self.root.is_none_or(|root| root == inode.device))
            .map(|(_, record)| record)
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        records.sort_by(|one, other| one.path.cmp(&other.path));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(work, OWNER_TABLE, flags, Mode::from_raw_mode(0o600))?;
        serde_json::to_writer(std::io::BufWriter::new(File::from(file)), &records)
            .map_err(|_| Errno::IO)
    }
}

/// Records the owner of a file that can carry an attribute.
pub(crate) fn record(file: BorrowedFd<'_>, owner: (u32, u32)) -> Result<(), Errno> {
    let value = owner_value(owner);
    rustix::fs::setxattr(
        link_to(file),
        OWNER_ATTRIBUTE,
        value.as_bytes(),
        XattrFlags::empty(),
    )
}

/// A path to an open file, whatever it is open for.
pub(super) fn link_to(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn inode(file: BorrowedFd<'_>) -> Result<Inode, Errno> {
    inode_at(file, c"", AtFlags::EMPTY_PATH)
}

fn inode_at(folder: BorrowedFd<'_>, path: &CStr, flags: AtFlags) -> Result<Inode, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(folder, path, flags, wanted)?;
    let born = if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
        (0, 0)
    } else {
        (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
    };
    Ok(Inode {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        number: stat.stx_ino,
        born,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_written_and_nothing_else() {
        for owner in [(0, 1), (33, 33), (u32::MAX - 1, 0)] {
            assert_eq!(parse_owner(owner_value(owner).as_bytes()), Some(owner));
        }
        for bad in ["", ":", "1", "1:", "a:b", "-1:0", "1:2:3", "4294967296:0"] {
            assert_eq!(parse_owner(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_owner(&[0xff, b':', b'1']), None);
    }
}
