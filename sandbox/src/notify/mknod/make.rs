//! Makes one node where a caller asked for it, with the caller's rights.
//!
//! The caller chooses names and what lies at them, and may change it at any time. Its paths are followed with its root as
//! root; nothing outside of the run's upper folder is ever opened for change.

use crate::fail::{Failure, Stage};
use crate::sys;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Uid,
};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const OVERLAY_MAGIC: rustix::fs::FsWord = 0x794c_7630;
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How often something may come in between.
const TRIES: usize = 8;

/// What is asked for: kind and permissions, and the device's number as the call has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) device: u32,
}

impl Node {
    fn kind(self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    fn permissions(self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }

    fn device(self) -> rustix::fs::Dev {
        let major = (self.device & 0xf_ff00) >> 8;
        let minor = (self.device & 0xff) | ((self.device >> 12) & 0xf_ff00);
        rustix::fs::makedev(major, minor)
    }
}

/// Who asks, by the host's ids.
#[derive(Debug)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: CapabilitySet,
    umask: u32,
    userns: (u64, u64),
}

impl Caller {
    pub(super) fn of(thread: i32) -> Result<Self, Errno> {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status"))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::SRCH))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .ok_or(Errno::SRCH)
        };
        // Real, effective, saved, and that for files.
        let id = |name| field(name)?.split_whitespace().nth(3).ok_or(Errno::SRCH);
        let number = |text: &str| text.parse().map_err(|_| Errno::SRCH);
        let groups = field("Groups:")?.split_whitespace().map(number);
        let bits = u64::from_str_radix(field("CapEff:")?.trim(), 16).map_err(|_| Errno::SRCH)?;
        Ok(Self {
            uid: number(id("Uid:")?)?,
            gid: number(id("Gid:")?)?,
            groups: groups.collect::<Result<_, _>>()?,
            capabilities: CapabilitySet::from_bits_retain(bits),
            umask: u32::from_str_radix(field("Umask:")?.trim(), 8).map_err(|_| Errno::SRCH)?,
            userns: identity(&rustix::fs::stat(format!("/proc/{thread}/ns/user"))?),
        })
    }
}

fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Where the caller stands: its root, and the folder that its path begins in.
#[derive(Debug)]
pub(super) struct Places {
    root: OwnedFd,
    folder: OwnedFd,
}

impl Places {
    pub(super) fn of(thread: i32, folder: i32) -> Result<Self, Errno> {
        let open = |name: String| {
            rustix::fs::open(format!("/proc/{thread}/{name}"), FOLDER, Mode::empty())
        };
        let folder = match folder {
            libc::AT_FDCWD => open("cwd".to_owned())?,
            number @ 0.. => match open(format!("fd/{number}")) {
                Err(Errno::NOENT) => return Err(Errno::BADF),
                opened => opened?,
            },
            _ => return Err(Errno::BADF),
        };
        let root = open("root".to_owned())?;
        Ok(Self { root, folder })
    }
}

/// Makes the nodes of one run.
#[derive(Debug)]
pub(super) struct Maker {
    /// Mount of the run's root.
    mount: u64,
    userns: (u64, u64),
    /// Upper and work folder, as the host has them.
    upper: Option<(OwnedFd, OwnedFd)>,
}

impl Maker {
    pub(super) fn new(
        root: &OwnedFd,
        userns: &OwnedFd,
        upper: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, Failure> {
        let stage = "look at a command's root";
        let open = |path: PathBuf| rustix::fs::open(path, FOLDER, Mode::empty()).stage(stage);
        let is_overlay = rustix::fs::fstatfs(root).is_ok_and(|stat| stat.f_type == OVERLAY_MAGIC);
        let upper = match upper.filter(|_| is_overlay) {
            Some((upper, work)) => Some((open(upper)?, open(work)?)),
            None => None,
        };
        Ok(Self {
            mount: mount_of(root).stage(stage)?,
            userns: identity(&rustix::fs::fstat(userns).stage(stage)?),
            upper,
        })
    }

    pub(super) fn make(
        &self,
        caller: &Caller,
        places: &Places,
        path: &[u8],
        node: Node,
    ) -> Result<(), Errno> {
        let device = node.device();
        // The kernel's order: the path, what is there, then whether devices may be made.
        let (folders, name) = split(path)?;
        let acting = Acting::begin(caller)?;
        let parent = open_parent(places, folders)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Errno::EXIST),
            Err(errno) => return Err(errno),
        }
        // A character device 0:0 is a whiteout: an overlay makes none for others.
        let is_whiteout = node.kind() == FileType::CharacterDevice && device == 0;
        if is_whiteout
            || caller.userns != self.userns
            || !caller.capabilities.contains(CapabilitySet::MKNOD)
        {
            return Err(Errno::PERM);
        }
        let in_root = mount_of(&parent)? == self.mount;
        match &self.upper {
            Some((upper, work)) if in_root => {
                drop(acting);
                let overlaid = Overlaid {
                    caller,
                    parent,
                    upper,
                    work,
                };
                overlaid.make(name, node)
            }
            None if in_root => mknod(&parent, name, node),
            _ if is_memory_of_the_run(&parent)? => mknod(&parent, name, node),
            _ => Err(Errno::PERM),
        }
    }
}

/// Folder and last name of a path. The errors are those of mknod(2).
fn split(path: &[u8]) -> Result<(&Path, &OsStr), Errno> {
    if path.is_empty() || path.iter().all(|byte| *byte == b'/') {
        return Err(if path.is_empty() {
            Errno::NOENT
        } else {
            Errno::EXIST
        });
    }
    let start = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let (folders, name) = path.split_at(start);
    match name {
        // Only folders may be made with a slash behind the name.
        b"" => Err(Errno::NOENT),
        b"." | b".." => Err(Errno::EXIST),
        _ => Ok((
            Path::new(OsStr::from_bytes(folders)),
            OsStr::from_bytes(name),
        )),
    }
}

/// Follows a path as the caller would: `/`, `..` and links stay in its root.
fn open_parent(places: &Places, folders: &Path) -> Result<OwnedFd, Errno> {
    let own = rustix::fs::open("/", FOLDER, Mode::empty())?;
    let opened = enter(&places.root).and_then(|()| {
        rustix::process::fchdir(&places.folder)?;
        let folders = if folders.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folders
        };
        let resolve = ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(CWD, folders, FOLDER, Mode::empty(), resolve)
    });
    if enter(&own).is_err() {
        // Nothing may be done with the caller's root as root.
        sys::exit_now(1);
    }
    opened
}

fn enter(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")
}

fn mount_of(folder: &OwnedFd) -> Result<u64, Errno> {
    let flags = AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statx(folder, "", flags, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

/// A tmpfs that is mounted nowhere on the host.
fn is_memory_of_the_run(folder: &OwnedFd) -> Result<bool, Errno> {
    if rustix::fs::fstatfs(folder)?.f_type != TMPFS_MAGIC {
        return Ok(false);
    }
    let device = rustix::fs::fstat(folder)?.st_dev;
    let device = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let of_host = |line: &str| line.split(' ').nth(2) == Some(device.as_str());
    Ok(!mounts.lines().any(of_host))
}

/// The time in which this process has the caller's ids and rights on files.
struct Acting {
    groups: Vec<Gid>,
    capabilities: CapabilitySets,
}

impl Acting {
    fn begin(caller: &Caller) -> Result<Self, Errno> {
        let own = Self {
            groups: rustix::process::getgroups()?,
            capabilities: rustix::thread::capabilities(None)?,
        };
        let groups: Vec<Gid> = caller.groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups)?;
        sys::set_file_ids(caller.uid, caller.gid);
        rustix::process::umask(Mode::from_raw_mode(caller.umask));
        // What was lost with the id, but for what the caller does not have either.
        let of_files = CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::FOWNER
            | CapabilitySet::FSETID;
        let effective = own.capabilities.effective - (of_files - caller.capabilities);
        own.set_effective(effective)?;
        Ok(own)
    }

    fn set_effective(&self, effective: CapabilitySet) -> Result<(), Errno> {
        let sets = CapabilitySets {
            effective,
            ..self.capabilities
        };
        rustix::thread::set_capabilities(None, sets)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        sys::set_file_ids(0, 0);
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let restored = rustix::thread::set_thread_groups(&self.groups)
            .and_then(|()| self.set_effective(self.capabilities.effective));
        if restored.is_err() {
            // Never someone else for longer than for one call.
            sys::exit_now(1);
        }
    }
}

fn mknod(parent: &OwnedFd, name: &OsStr, node: Node) -> Result<(), Errno> {
    rustix::fs::mknodat(parent, name, node.kind(), node.permissions(), node.device())
}

/// A folder of an overlay in which a node is to be.
struct Overlaid<'a> {
    caller: &'a Caller,
    parent: OwnedFd,
    upper: &'a OwnedFd,
    work: &'a OwnedFd,
}

impl Overlaid<'_> {
    fn make(self, name: &OsStr, node: Node) -> Result<(), Errno> {
        for _ in 0..TRIES {
            match self.attempt(name, node)? {
                Some(()) => return Ok(()),
                None => continue,
            }
        }
        Err(Errno::AGAIN)
    }

    /// `None` when someone came in between.
    fn attempt(&self, name: &OsStr, node: Node) -> Result<Option<()>, Errno> {
        let temporary = temporary_name()?;
        // Makes sure of the caller's rights, brings the folder up, and shows whose the node will be.
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let acting = Acting::begin(self.caller)?;
        let placeholder = rustix::fs::openat(&self.parent, &temporary, flags, node.permissions())?;
        let stat = rustix::fs::fstat(&placeholder)?;
        drop(placeholder);
        let raw = self.folder_of_upper().and_then(|folder| {
            let stat = rustix::fs::statat(&folder, &temporary, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((folder, stat.st_uid, stat.st_gid))
        });
        rustix::fs::unlinkat(&self.parent, &temporary, AtFlags::empty())?;
        drop(acting);
        let (folder, uid, gid) = match raw {
            // Moved elsewhere meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            raw => raw?,
        };
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        self.place(&folder, &temporary, node, (uid, gid, mode))?;
        // An id that the overlay knows is needed even where nothing is made.
        let _acting = Acting::begin(self.caller)?;
        let renamed = rustix::fs::renameat_with(
            &self.parent,
            &temporary,
            &self.parent,
            name,
            RenameFlags::NOREPLACE,
        );
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.parent, &temporary, AtFlags::empty());
        }
        match renamed {
            Err(Errno::NOENT) => Ok(None),
            renamed => renamed.map(Some),
        }
    }

    /// The same folder in the upper, by its path; where that is wrong by now, the placeholder is not in it.
    fn folder_of_upper(&self) -> Result<OwnedFd, Errno> {
        let link = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let path = rustix::fs::readlinkat(CWD, link, Vec::new())?;
        let path = OsString::from_vec(path.into_bytes());
        let below = Path::new(&path)
            .strip_prefix("/")
            .map_err(|_| Errno::NOENT)?;
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(self.upper, below, FOLDER, Mode::empty(), resolve)
    }

    /// Makes the node where no one sees it and moves it into the upper, with this process's own rights.
    fn place(
        &self,
        folder: &OwnedFd,
        name: &OsStr,
        node: Node,
        (uid, gid, mode): (u32, u32, Mode),
    ) -> Result<(), Errno> {
        let work = self.work;
        let make = || {
            mknod(work, name, node)?;
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(work, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::chmodat(work, name, mode, AtFlags::empty())?;
            rustix::fs::renameat_with(work, name, folder, name, RenameFlags::NOREPLACE)
        };
        let made = make();
        if made.is_err() {
            let _ = rustix::fs::unlinkat(work, name, AtFlags::empty());
        }
        made
    }
}

/// A name that no one can know beforehand.
fn temporary_name() -> Result<OsString, Errno> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(".node-{hex}").into())
}
