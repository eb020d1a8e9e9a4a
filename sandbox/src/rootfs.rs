//! The root of a command: its overlay, and the mount points that it lacks.
//!
//! A mount point that no layer has comes from a layer of its own below all others, so that parent folders keep the
//! attributes they have in the image and nothing of it reaches the upper. Where that layer is hidden (whiteouts, opaque
//! folders, links that lead elsewhere), the root is mounted again with such a layer above the image's; it repeats the
//! attributes of the parents.

use crate::fail::{Failure, Stage};
use crate::mounts;
use crate::overlay::{self, Layer, Layers, Spare};
use crate::resolve;
use crate::root::{self, Changes, fuse};
use crate::sys;
use crate::{Keep, Overlay, RootKind};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A ramfs that only this process sees, mounted over `/` where no path leads to: memory that is never written to a disk.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: OwnedFd,
    next: Cell<u32>,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self, Failure> {
        let root = match Self::mount("ramfs") {
            Err(failure) if failure.errno() == Errno::NODEV => Self::mount("tmpfs")?,
            result => result?,
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&root, "", CWD, "/", flags).stage("mount a ramfs")?;
        Ok(Self {
            root,
            next: Cell::new(0),
        })
    }

    fn mount(kind: &str) -> Result<OwnedFd, Failure> {
        let stage = || format!("mount a {kind}");
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).stage_with(stage)?;
        rustix::mount::fsconfig_set_string(&context, "mode", "755").stage_with(stage)?;
        rustix::mount::fsconfig_create(&context).stage_with(stage)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .stage_with(stage)
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    fn name(&self) -> String {
        let number = self.next.get();
        self.next.set(number + 1);
        number.to_string()
    }

    /// A new empty folder.
    pub(crate) fn folder(&self) -> Result<OwnedFd, Failure> {
        resolve::make_folder(&self.root, OsStr::new(&self.name()), None)
            .stage("create a folder in memory")
    }

    /// A new empty folder to mount on.
    fn spare(&self) -> Result<Spare<'_>, Failure> {
        let name = self.name();
        resolve::make_folder(&self.root, OsStr::new(&name), None)
            .stage("create a folder in memory")?;
        Ok(Spare {
            parent: self.root.as_fd(),
            name,
        })
    }

    /// A new empty file, open for writing.
    pub(crate) fn file(&self) -> Result<OwnedFd, Failure> {
        resolve::make_file(&self.root, OsStr::new(&self.name())).stage("create a file in memory")
    }

    /// Attaches a detached mount, which some calls need; nobody else can reach it here.
    pub(crate) fn attach(&self, mount: &OwnedFd) -> Result<(), Failure> {
        let folder = self.folder()?;
        attach(mount, &folder).stage("attach a mount")
    }
}

/// Attaches a detached mount at an open place.
pub(crate) fn attach(mount: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}

/// Where something will be mounted: a path inside the root and what it must be.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) path: PathBuf,
    pub(crate) folder: bool,
}

/// How roots are put together in a run.
#[derive(Debug)]
pub(crate) struct Way<'a> {
    pub(crate) kind: RootKind,
    /// Serves what fuse-overlayfs mounts.
    pub(crate) keeper: Option<&'a fuse::Keeper>,
    pub(crate) scratch: &'a Scratch,
    /// The work folder of the command's root, for what has none of its own.
    pub(crate) work: Option<&'a Path>,
    /// What stays for other commands.
    pub(crate) keep: &'a Keep,
}

impl Way<'_> {
    /// Whether layers are mounted, and not copied. fuse-overlayfs needs folders that other processes see: what only reads,
    /// in a run that writes nothing, has none.
    fn mounts(&self, overlay: &Overlay) -> bool {
        match self.kind {
            RootKind::Overlay => true,
            RootKind::Fuse => overlay.upper.is_some() || self.work.is_some(),
            RootKind::Reflink | RootKind::Copy => false,
        }
    }

    /// The folder to make a copy in. What only reads, in a run that writes nothing, has memory only.
    fn folder(&self, overlay: &Overlay) -> Result<OwnedFd, Failure> {
        let work = overlay.upper.as_ref().map(|(_, work)| work.as_path());
        let Some(work) = work.or(self.work) else {
            let folder = self.scratch.folder()?;
            return real(&folder).stage("open a folder in memory");
        };
        folder(work)
    }
}

fn folder(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .stage_with(|| format!("open the folder {}", path.display()))
}

/// A command's root.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) mount: OwnedFd,
    /// What must be collected in the end.
    pub(crate) changes: Option<Changes>,
}

/// Mounts an overlay without mount points of its own (bind mounts from stages and contexts).
pub(crate) fn mount_plain(overlay: &Overlay, way: &Way<'_>) -> Result<OwnedFd, Failure> {
    if !way.mounts(overlay) {
        return copied(overlay, way);
    }
    Work::open(overlay, way)?.mount(overlay, None, None, "overlay", way)
}

/// Mounts a command's root in which all points exist. Not attached yet.
pub(crate) fn mount_root(
    overlay: &Overlay,
    points: &[Point],
    way: &Way<'_>,
) -> Result<Root, Failure> {
    if way.mounts(overlay) {
        let served = match way.kind {
            RootKind::Fuse => fuse::Upper::of(overlay)?,
            _ => None,
        };
        let mount = mount_overlay_root(overlay, points, way)?;
        let changes = served.map(Changes::Served);
        return Ok(Root { mount, changes });
    }
    let kept = way.keep.copy.as_ref();
    let mut merged = root::copy(overlay, way.folder(overlay)?, kept, way.kind)?;
    for point in points {
        if let Some(made) = make_point(merged.root(), point)? {
            merged.note_stub(made)?;
        }
    }
    let mount = mount_copy(merged.root())?;
    if overlay.upper.is_none() {
        sys::mount_setattr(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, false)
            .stage("make the root read-only")?;
        let changes = None;
        return Ok(Root { mount, changes });
    }
    let changes = Some(Changes::Copied(Box::new(merged.snapshot()?)));
    Ok(Root { mount, changes })
}

/// A copy in place of an overlay. Of one folder that is only read none is made.
fn copied(overlay: &Overlay, way: &Way<'_>) -> Result<OwnedFd, Failure> {
    if let ([only], None) = (overlay.lowers.as_slice(), &overlay.upper) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(only, flags, Mode::empty())
            .stage_with(|| format!("open the layer {}", only.display()))?;
        return mount_copy(&folder);
    }
    mount_copy(root::merge_in(overlay, way.folder(overlay)?, way.kind)?.root())
}

fn mount_copy(folder: &OwnedFd) -> Result<OwnedFd, Failure> {
    let stage = "mount the copy of the layers";
    let tree = mounts::clone_of(folder.as_fd()).stage(stage)?;
    sys::mount_setattr(&tree, MountAttrFlags::MOUNT_ATTR_NODEV, false).stage(stage)?;
    Ok(tree)
}

/// Makes a mount point in a copy where there is none, and tells what is new. What it is made in keeps its time.
fn make_point(root: &OwnedFd, point: &Point) -> Result<Option<PathBuf>, Failure> {
    let stage = || format!("make the mount point /{}", point.path.display());
    match resolve::place(root, &point.path) {
        Ok(place) => return check_type(&place, point).map(|()| None),
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(errno) => return Err(Failure::new(stage(), errno)),
    }
    let walk = resolve::walk(root.as_fd(), &point.path).stage_with(stage)?;
    let parent = walk.folders.last().map_or(root, |(_, folder)| folder);
    let parent = real(parent).stage_with(stage)?;
    let stat = rustix::fs::fstat(&parent).stage_with(stage)?;
    let missing: PathBuf = walk.missing.iter().collect();
    make_stub(&parent, &missing, point.folder).stage_with(stage)?;
    rustix::fs::futimens(&parent, &times(&stat)).stage_with(stage)?;
    let above = walk.folders.iter().map(|(name, _)| name);
    Ok(Some(above.chain(walk.missing.first()).collect()))
}

/// [`mount_root`] by an overlay.
fn mount_overlay_root(
    overlay: &Overlay,
    points: &[Point],
    way: &Way<'_>,
) -> Result<OwnedFd, Failure> {
    let work = Work::open(overlay, way)?;
    let absent = absent_everywhere(overlay, points)?;
    let below = if absent.is_empty() {
        None
    } else {
        Some(stubs_below(&work, &absent)?)
    };
    let root = work.mount(overlay, None, below.as_ref(), "overlay", way)?;
    let hidden = unresolved(&root, points)?;
    if hidden.is_empty() {
        return Ok(root);
    }
    let above = stubs_above(&work, &root, &hidden)?;
    // The upper is in use until the first mount is gone.
    drop(root);
    let root = work.mount(overlay, Some(&above), below.as_ref(), "overlay-again", way)?;
    match unresolved(&root, points)?.first() {
        Some(point) => Err(Failure::new(
            format!("make the mount point /{}", point.path.display()),
            Errno::NOENT,
        )),
        None => Ok(root),
    }
}

/// Folders a mount needs besides its layers: on the upper's file system when there is one, so that all layers share a
/// file system and inode numbers stay what they are.
struct Work {
    folder: OwnedFd,
    upper: Option<OwnedFd>,
    empty: OwnedFd,
    /// The layers that are too many, in one folder.
    joined: OnceCell<OwnedFd>,
}

/// As many layers as are given to the kernel, which takes 500, one by one; some are for mount points.
pub(crate) const MOST_LAYERS: usize = 490;
/// Of more, the lowest are joined: a multiple of so many, so that roots of a few layers more have the same ones joined.
const JOINED_LAYERS: usize = 90;

impl Work {
    fn open(overlay: &Overlay, way: &Way<'_>) -> Result<Self, Failure> {
        let scratch = way.scratch;
        let work = overlay.upper.as_ref().map(|(_, work)| work.as_path());
        let work = work.or(way.work.filter(|_| way.kind == RootKind::Fuse));
        let Some(work) = work else {
            return Ok(Self {
                folder: scratch.folder()?,
                upper: None,
                empty: scratch.folder()?,
                joined: OnceCell::new(),
            });
        };
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .stage_with(|| format!("open the folder {}", path.display()))
        };
        let upper = match &overlay.upper {
            Some((upper, _)) => Some(open(upper)?),
            None => None,
        };
        let parent = open(work)?;
        // A work folder that has been used with `volatile` is refused by the kernel.
        for number in 0.. {
            match resolve::make_folder(&parent, OsStr::new(&format!("mount{number}")), None) {
                Ok(folder) => {
                    let empty = match way.kind {
                        RootKind::Fuse => resolve::make_folder(&folder, OsStr::new("empty"), None)
                            .stage("create an empty folder")?,
                        _ => scratch.folder()?,
                    };
                    return Ok(Self {
                        folder,
                        upper,
                        empty,
                        joined: OnceCell::new(),
                    });
                }
                Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(Failure::new(
                        format!("create a folder in {}", work.display()),
                        errno,
                    ));
                }
            }
        }
        unreachable!("BUG: there is always a free number")
    }

    /// The lowest layers in one folder.
    fn joined(&self, layers: &[&Path], shared: Option<&Path>) -> Result<BorrowedFd<'_>, Failure> {
        if self.joined.get().is_none() {
            let joined = root::joined(layers, &self.folder, shared)?;
            let _ = self.joined.set(joined);
        }
        Ok(self.joined.get().map_or(self.empty.as_fd(), AsFd::as_fd))
    }

    fn folder(&self, name: &str) -> Result<OwnedFd, Failure> {
        resolve::make_folder(&self.folder, OsStr::new(name), None)
            .stage_with(|| format!("create the folder {name} beside the upper"))
    }

    fn mount(
        &self,
        overlay: &Overlay,
        above: Option<&OwnedFd>,
        below: Option<&OwnedFd>,
        name: &str,
        way: &Way<'_>,
    ) -> Result<OwnedFd, Failure> {
        let mut lowers: Vec<Layer<'_>> = Vec::new();
        lowers.extend(above.map(|fd| Layer::Open(fd.as_fd())));
        // A layer that an image has twice: the kernel takes a folder once, and what the lower one did the upper one does again.
        let mut known = BTreeSet::new();
        let lowest = overlay
            .lowers
            .iter()
            .filter(|path| known.insert(path.as_path()));
        let lowest: Vec<&Path> = lowest.map(PathBuf::as_path).collect();
        let too_many = lowest.len().saturating_sub(MOST_LAYERS);
        let kept = lowest.len() - too_many.next_multiple_of(JOINED_LAYERS);
        lowers.extend(lowest[..kept].iter().map(|path| Layer::Path(path)));
        if kept < lowest.len() {
            lowers.push(Layer::Open(
                self.joined(&lowest[kept..], way.keep.joins.as_deref())?,
            ));
        }
        lowers.extend(below.map(|fd| Layer::Open(fd.as_fd())));
        let work = match &self.upper {
            Some(_) => Some(self.folder(name)?),
            None => None,
        };
        let upper = self
            .upper
            .as_ref()
            .map(AsFd::as_fd)
            .zip(work.as_ref().map(AsFd::as_fd));
        let least = if upper.is_some() || way.keeper.is_some() {
            1
        } else {
            2
        };
        while lowers.len() < least {
            lowers.push(Layer::Open(self.empty.as_fd()));
            if lowers.len() < least {
                lowers.push(Layer::Open(self.folder.as_fd()));
            }
        }
        let layers = Layers { lowers, upper };
        match way.keeper {
            Some(keeper) => fuse::mount(&layers, keeper),
            None => overlay::mount(&layers, &way.scratch.spare()?),
        }
    }
}

/// Points of which no layer has anything at their path. Links on the way may still lead elsewhere.
fn absent_everywhere<'a>(
    overlay: &Overlay,
    points: &'a [Point],
) -> Result<Vec<&'a Point>, Failure> {
    let mut absent: Vec<&Point> = points.iter().collect();
    let upper = overlay.upper.iter().map(|(upper, _)| upper);
    for layer in overlay.lowers.iter().chain(upper) {
        if absent.is_empty() {
            break;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(layer, flags, Mode::empty())
            .stage_with(|| format!("open the layer {}", layer.display()))?;
        absent.retain(|point| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let found = rustix::fs::openat2(
                &fd,
                &point.path,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            );
            matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
        });
    }
    Ok(absent)
}

/// The points that cannot be opened in the mounted root. One of the wrong type is an error: nothing can be mounted there.
fn unresolved<'a>(root: &OwnedFd, points: &'a [Point]) -> Result<Vec<&'a Point>, Failure> {
    let mut missing = Vec::new();
    for point in points {
        match resolve::place(root, &point.path) {
            Ok(place) => check_type(&place, point)?,
            Err(Errno::NOENT | Errno::NOTDIR) => missing.push(point),
            Err(errno) => {
                return Err(Failure::new(
                    format!("resolve the mount point /{}", point.path.display()),
                    errno,
                ));
            }
        }
    }
    Ok(missing)
}

/// Whether what is to be mounted fits what is there.
pub(crate) fn check_type(place: &OwnedFd, point: &Point) -> Result<(), Failure> {
    let folder = resolve::is_folder(place).stage("look at a mount point")?;
    match (folder, point.folder) {
        (true, false) => Err(Failure::new(
            format!("mount a file on /{}", point.path.display()),
            Errno::ISDIR,
        )),
        (false, true) => Err(Failure::new(
            format!("mount a folder on /{}", point.path.display()),
            Errno::NOTDIR,
        )),
        _ => Ok(()),
    }
}

fn stubs_below(work: &Work, points: &[&Point]) -> Result<OwnedFd, Failure> {
    let stubs = work.folder("stubs")?;
    for point in points {
        make_stub(&stubs, &point.path, point.folder)
            .stage_with(|| format!("make the mount point /{}", point.path.display()))?;
    }
    Ok(stubs)
}

/// Creates a path in a folder of our own.
fn make_stub(stubs: &OwnedFd, path: &Path, folder: bool) -> Result<(), Errno> {
    let mut names: Vec<&OsStr> = path.iter().collect();
    let last = if folder { None } else { names.pop() };
    let mut here = resolve::place(stubs, Path::new(""))?;
    for name in names {
        here = open_or_make(&here, name)?.0;
    }
    match last.map(|name| resolve::make_file(&here, name)) {
        Some(Err(errno)) if errno != Errno::EXIST => Err(errno),
        _ => Ok(()),
    }
}

fn open_or_make(parent: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, bool), Errno> {
    match resolve::make_folder(parent, name, None) {
        Ok(made) => Ok((made, true)),
        Err(Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok((
                rustix::fs::openat(parent, name, flags, Mode::empty())?,
                false,
            ))
        }
        Err(errno) => Err(errno),
    }
}

fn stubs_above(work: &Work, root: &OwnedFd, points: &[&Point]) -> Result<OwnedFd, Failure> {
    let stubs = work.folder("stubs-above")?;
    let mut times = vec![(real(&stubs), real(root))];
    for point in points {
        let stage = || format!("make the mount point /{}", point.path.display());
        let walk = resolve::walk(root.as_fd(), &point.path).stage_with(stage)?;
        let mut here = resolve::place(&stubs, Path::new("")).stage_with(stage)?;
        for (name, original) in &walk.folders {
            let (copy, new) = open_or_make(&here, name).stage_with(stage)?;
            if new {
                times.push((real(&copy), real(original)));
            }
            here = copy;
        }
        let missing: PathBuf = walk.missing.iter().collect();
        make_stub(&here, &missing, point.folder).stage_with(stage)?;
    }
    for (copy, original) in times.into_iter().rev() {
        let (copy, original) = (
            copy.stage("open a mount point")?,
            original.stage("open a mount point's original")?,
        );
        copy_attributes(copy.as_fd(), original.as_fd())
            .stage("copy a folder's attributes to a mount point")?;
    }
    Ok(stubs)
}

/// Reopens a place for reading.
fn real(place: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        place,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn copy_attributes(copy: BorrowedFd<'_>, original: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(original)?;
    rustix::fs::fchown(
        copy,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0; 4096];
    if let Ok(len) = rustix::fs::flistxattr(original, &mut names) {
        for name in names[..len]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let mut value = vec![0; 4096];
            // What this file system cannot hold is the mount point's loss for the time of the command only.
            if let Ok(len) = rustix::fs::fgetxattr(original, name, &mut value) {
                let _ = rustix::fs::fsetxattr(copy, name, &value[..len], XattrFlags::empty());
            }
        }
    }
    rustix::fs::utimensat(copy, ".", &times(&stat), AtFlags::empty())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.cast_signed(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
