//! Packs chunks into blobs of some MiB, and lays out what comes out of such blobs. Both are tasks that see container ids.

use super::chunk::LONGEST;
use super::doc::{Chunk, ChunkId, Doc, Item, Pack, What};
use super::scan::Scan;
use crate::Error;
use crate::build::manifest;
use crate::layer::collect::{Action, Placed};
use crate::layer::extract::{ExtractOptions, Extractor};
use crate::layer::index::io_error;
use crate::layer::open_beneath;
use crate::layer::order::split;
use crate::layer::tar_reader::RawEntry;
use rustix::fd::AsFd as _;
use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Names of the tasks.
pub(crate) const PACK: &str = "pack-cache-mount";
pub(crate) const LAY_OUT: &str = "lay-out-cache-mount";

/// Bytes of chunks in one pack.
pub(super) const PACK_SIZE: usize = 16 << 20;
/// Level of zstd.
const LEVEL: i32 = 3;

/// Request of [`PACK`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackRequest {
    pub(super) root: PathBuf,
    /// File with what was found in the folder.
    pub(super) scan: PathBuf,
    /// Numbers of the chunks that are wanted.
    pub(super) wanted: Vec<u32>,
    /// Folder for packs, named by their numbers from 0.
    pub(super) dest: PathBuf,
}

/// Answer of [`PACK`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Packed {
    pub(super) packs: Vec<Pack>,
    /// Where the chunks are. Those of files that changed meanwhile are missing.
    pub(super) chunks: Vec<Chunk>,
}

/// The task [`PACK`].
pub(crate) fn pack_task(request: PackRequest) -> Result<Packed, Error> {
    let PackRequest {
        root,
        scan,
        wanted,
        dest,
    } = request;
    let scan = Scan::read(&scan)?;
    let mut wanted: HashSet<u32> = wanted.into_iter().collect();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir =
        rfs::open(&root, flags, Mode::empty()).map_err(|e| io_error("open", &root, e.into()))?;
    let mut packer = Packer {
        dest,
        plain: Vec::with_capacity(PACK_SIZE + LONGEST),
        packed: Packed::default(),
    };
    let mut content = vec![0; LONGEST];
    for item in &scan.items {
        let What::File(chunks) = &item.what else {
            continue;
        };
        if !chunks.iter().any(|at| wanted.contains(at)) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        // What went away is missing.
        let Ok(opened) = open_beneath(dir.as_fd(), &item.path.0, flags, Mode::empty()) else {
            continue;
        };
        let file = File::from(opened);
        let mut place = 0;
        for at in chunks {
            let (id, length) = scan.chunks[*at as usize];
            let content = &mut content[..length as usize];
            if wanted.contains(at)
                && file.read_exact_at(content, place).is_ok()
                && ChunkId::of(content) == id
            {
                packer.add(id, content)?;
                wanted.remove(at);
            }
            place += u64::from(length);
        }
    }
    packer.end()?;
    Ok(packer.packed)
}

struct Packer {
    dest: PathBuf,
    plain: Vec<u8>,
    packed: Packed,
}

impl Packer {
    fn add(&mut self, id: ChunkId, content: &[u8]) -> Result<(), Error> {
        let number = u32::try_from(self.packed.packs.len()).expect("BUG: packs are large");
        let length = u32::try_from(content.len()).expect("BUG: a chunk has a longest length");
        let place = self.plain.len() as u64;
        self.packed.chunks.push(Chunk(id, number, place, length));
        self.plain.extend_from_slice(content);
        if self.plain.len() >= PACK_SIZE {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let blob = zstd::bulk::compress(&self.plain, LEVEL);
        let blob = blob.expect("BUG: memory takes what zstd writes");
        let path = self.dest.join(self.packed.packs.len().to_string());
        std::fs::write(&path, &blob).map_err(|e| io_error("write", &path, e))?;
        self.packed.packs.push(Pack {
            digest: manifest::digest_of(&blob).to_string(),
            size: blob.len() as u64,
            plain: self.plain.len() as u64,
        });
        self.plain.clear();
        Ok(())
    }
}

/// Request of [`LAY_OUT`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayOutRequest {
    /// File with a document that was checked.
    pub(super) doc: PathBuf,
    /// Folder with its packs decompressed, named by their numbers.
    pub(super) packs: PathBuf,
    /// Folder to be made.
    pub(super) dest: PathBuf,
    pub(super) options: ExtractOptions,
}

/// The task [`LAY_OUT`]. The folder itself keeps the attributes of a new one.
pub(crate) fn lay_out_task(request: LayOutRequest) -> Result<(), Error> {
    let LayOutRequest {
        doc: path,
        packs,
        dest,
        options,
    } = request;
    let damaged = |reason: String| Error::Image {
        subject: "the content of a cache mount".to_owned(),
        reason,
    };
    let bytes = std::fs::read(&path).map_err(|e| io_error("read", &path, e))?;
    let doc = Doc::decode(&bytes).map_err(damaged)?;
    let mut extractor = Extractor::create(&dest, options)?;
    let mut files: HashMap<u32, File> = HashMap::new();
    let mut content = vec![0; LONGEST];
    for item in doc.items.iter().skip(1) {
        let raw = raw(item);
        let What::File(chunks) = &item.what else {
            extractor.special(&placed(item), &raw)?;
            continue;
        };
        let mut target = extractor.file(&item.path.0)?;
        for at in chunks {
            let Chunk(id, pack, place, length) = doc.chunks[*at as usize];
            let path = packs.join(pack.to_string());
            let file = match files.entry(pack) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(File::open(&path).map_err(|e| io_error("open", &path, e))?)
                }
            };
            let content = &mut content[..length as usize];
            file.read_exact_at(content, place)
                .map_err(|e| io_error("read", &path, e))?;
            if ChunkId::of(content) != id {
                return Err(damaged("a chunk is not what its digest says".to_owned()));
            }
            target.write(content)?;
        }
        extractor.end_file(&target, &raw)?;
        // Each open one is a descriptor, and packs are used in turn.
        if files.len() > 64 {
            files.clear();
        }
    }
    extractor.finish()?;
    set_times(&dest, &doc.items)
}

fn raw(item: &Item) -> RawEntry {
    let (flag, link) = match &item.what {
        What::Directory => (b'5', Vec::new()),
        What::File(_) => (b'0', Vec::new()),
        What::Symlink(target) => (b'2', target.0.clone()),
        What::Hardlink(target) => (b'1', target.0.clone()),
    };
    let xattrs = item.xattrs.iter();
    RawEntry {
        name: item.path.0.clone(),
        link,
        flag,
        mode: item.mode,
        uid: item.owner.0,
        gid: item.owner.1,
        size: 0,
        mtime: item.mtime.0,
        device: (0, 0),
        xattrs: xattrs
            .map(|(name, value)| (name.0.clone(), value.0.clone()))
            .collect(),
        offset: 0,
    }
}

fn placed(item: &Item) -> Placed {
    let action = match &item.what {
        What::Directory => Action::Directory { opaque: false },
        What::File(_) => Action::File,
        What::Symlink(_) => Action::Symlink,
        What::Hardlink(target) => Action::Hardlink(target.0.clone()),
    };
    Placed {
        path: item.path.0.clone(),
        action,
        replaces: false,
        parents: Vec::new(),
    }
}

/// Times to the nanosecond, which build tools compare; layers have whole seconds. The innermost first.
fn set_times(dest: &Path, items: &[Item]) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root =
        rfs::open(dest, flags, Mode::empty()).map_err(|e| io_error("open", dest, e.into()))?;
    for item in items.iter().skip(1).rev() {
        if item.mtime.1 == 0 || matches!(item.what, What::Hardlink(_)) {
            continue;
        }
        let time = Timespec {
            tv_sec: item.mtime.0,
            tv_nsec: item.mtime.1.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let (folder, name) = split(&item.path.0);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let set = open_beneath(root.as_fd(), folder, flags, Mode::empty()).and_then(|folder| {
            rfs::utimensat(
                &folder,
                OsStr::from_bytes(name),
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )
        });
        let path = || dest.join(OsStr::from_bytes(&item.path.0));
        set.map_err(|e| io_error("set the time of", &path(), e.into()))?;
    }
    Ok(())
}
