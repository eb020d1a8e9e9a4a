//! Whose a captured file is.
//!
//! On disk it is told by the file itself. Where a namespace has a single id, everything there belongs to it, and the
//! sandbox has recorded what was asked for: on the file, else in the run's table. No record means root. What can carry no
//! record and came up from a layer below keeps the owner it has there: it is known by its time and target, as it may have
//! been moved. Where nothing was recorded at all, everything keeps the owner of its path.

use super::index::io_error;
use super::order::split;
use crate::Error;
use crate::snapshot::View;
use crate::tree::{FileTree as _, Kind};
use rustix::fd::BorrowedFd;
use rustix::fs::{self as rfs, AtFlags, Stat, StatxFlags, XattrFlags};
use sandbox::OwnerRecord;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Where owners are told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OwnersFrom {
    /// By the files.
    Disk,
    /// By records; the table is in this overlay work folder.
    Records {
        /// The folder, where there was one.
        work: Option<PathBuf>,
    },
    /// By nothing.
    Nothing,
}

/// [`OwnersFrom`], read.
#[derive(Debug)]
pub(crate) enum Owners {
    Disk,
    Records {
        table: Vec<OwnerRecord>,
        /// Files can carry their owners here.
        carried: bool,
        /// What may have come up from the layers below.
        others: OnceCell<Candidates>,
    },
    Nothing,
}

/// A file of the upper directory.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) stat: &'a Stat,
    recorded: Option<(u32, u32)>,
    dir: BorrowedFd<'a>,
    /// Empty when `dir` is the file itself.
    name: &'a OsStr,
}

impl<'a> Found<'a> {
    /// An open file or directory with the owner that it carries.
    pub(crate) fn open(file: BorrowedFd<'a>, stat: &'a Stat, recorded: Option<(u32, u32)>) -> Self {
        Self {
            stat,
            recorded,
            dir: file,
            name: OsStr::new(""),
        }
    }

    /// What cannot be opened, by its name in a directory.
    pub(crate) fn named(dir: BorrowedFd<'a>, name: &'a OsStr, stat: &'a Stat) -> Self {
        Self {
            stat,
            recorded: None,
            dir,
            name,
        }
    }

    /// Time of birth; zero where none is kept.
    fn born(&self) -> (i64, u32) {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        match rfs::statx(self.dir, self.name, flags, StatxFlags::BTIME) {
            Ok(stat) if stat.stx_mask & StatxFlags::BTIME.bits() != 0 => {
                (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
            }
            _ => (0, 0),
        }
    }
}

impl Owners {
    pub(crate) fn open(from: OwnersFrom, upper: BorrowedFd<'_>) -> Result<Self, Error> {
        let work = match from {
            OwnersFrom::Disk => return Ok(Self::Disk),
            OwnersFrom::Nothing => return Ok(Self::Nothing),
            OwnersFrom::Records { work } => work,
        };
        let table = match work {
            Some(work) => sandbox::owner_table(&work).map_err(|e| io_error("read", &work, e))?,
            None => Vec::new(),
        };
        Ok(Self::Records {
            table,
            carried: carries(upper),
            others: OnceCell::new(),
        })
    }

    /// Owner and group of a file; whether the layers below are shown at its place.
    pub(crate) fn of(
        &self,
        found: &Found<'_>,
        path: &[u8],
        kind: &Kind,
        (below, shown): (&View, bool),
    ) -> Result<(u32, u32), Error> {
        let there = || -> Result<(u32, u32), Error> {
            let known = if shown { below.entry(path)? } else { None };
            Ok(known.map_or((0, 0), |known| (known.uid, known.gid)))
        };
        let (table, carried, others) = match self {
            Self::Disk => return Ok((found.stat.st_uid, found.stat.st_gid)),
            Self::Nothing => return there(),
            Self::Records {
                table,
                carried,
                others,
            } => (table, *carried, others),
        };
        if let Some(recorded) = found.recorded {
            return Ok(recorded);
        }
        if let Some(record) = in_table(table, found, path) {
            return Ok((record.uid, record.gid));
        }
        if !carried {
            return there();
        }
        // A link to a file that carries its owner is written without one of its own.
        if matches!(
            kind,
            Kind::File { .. } | Kind::Directory | Kind::Hardlink { .. }
        ) {
            return Ok((0, 0));
        }
        let nodes = others.get_or_init(|| candidates(below));
        let same = nodes.get(&(kind.clone(), found.stat.st_mtime));
        let Some(same) = same else { return Ok((0, 0)) };
        // Most likely it has another name in its folder now, or its name elsewhere.
        let nearness = |known: &[u8]| {
            let ((dir, name), (known_dir, known_name)) = (split(path), split(known));
            (known == path, known_dir == dir, known_name == name)
        };
        let nearest = same.iter().rev().max_by_key(|(known, _)| nearness(known));
        Ok(nearest.map_or((0, 0), |(_, owner)| *owner))
    }
}

/// By what they are and their time: paths and owners.
type Candidates = HashMap<(Kind, i64), Vec<(Vec<u8>, (u32, u32))>>;

fn candidates(below: &View) -> Candidates {
    let mut found = Candidates::new();
    for node in below.unopened_of_others() {
        let (path, owner, mtime) = (node.path.to_vec(), (node.uid, node.gid), node.mtime);
        if let Some(entry) = node.to_entry() {
            let same = found.entry((entry.kind, mtime)).or_default();
            same.push((path, owner));
        }
    }
    found
}

/// The record of an inode. One that came up from a layer below may have had that one's number while the command ran.
fn in_table<'a>(
    table: &'a [OwnerRecord],
    found: &Found<'_>,
    path: &[u8],
) -> Option<&'a OwnerRecord> {
    if table.is_empty() {
        return None;
    }
    let born = found.born();
    let mut same_age = table.iter().filter(|record| record.born == born);
    let by_number = same_age
        .clone()
        .find(|record| record.inode == found.stat.st_ino);
    by_number.or_else(|| same_age.find(|record| record.path.strip_prefix(b"/") == Some(path)))
}

/// Whether files of a file system can carry extended attributes of users.
fn carries(directory: BorrowedFd<'_>) -> bool {
    const PROBE: &str = "user.kiln.probe";
    let set = rfs::fsetxattr(directory, PROBE, b"", XattrFlags::empty()).is_ok();
    set && rfs::fremovexattr(directory, PROBE).is_ok()
}
