//! Overlay mounts, by the new mount API and, on kernels before 6.8, by mount(2).
//!
//! Lowers are always given by descriptor or by `/proc/self/fd/N`: the length of a path and the characters in it do not matter.

use crate::fail::{Failure, Stage};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags,
};
use std::path::Path;

/// A folder to open, or one that is open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer<'a> {
    Path(&'a Path),
    Open(BorrowedFd<'a>),
}

/// What to mount.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// Topmost first; at least one, two without an upper.
    pub(crate) lowers: Vec<Layer<'a>>,
    /// Upper and work folder, both open.
    pub(crate) upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
}

/// An empty folder to mount on, by its parent: an open folder itself would not show what is mounted on it.
#[derive(Debug)]
pub(crate) struct Spare<'a> {
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) name: String,
}

/// Options beside the folders. Trusted xattrs are out of reach in a user namespace; redirects of a hostile layer are not
/// followed; with `volatile` (Linux 5.10) nothing is synced at unmount, whatever else waits to be written on that disk.
const FLAGS: [(&str, &str); 2] = [("redirect_dir", "nofollow"), ("index", "off")];

/// Mounts an overlay that is not attached anywhere yet, `nodev`. A folder to mount on is needed for old kernels only.
pub(crate) fn mount(layers: &Layers<'_>, spare: &Spare<'_>) -> Result<OwnedFd, Failure> {
    let mounted = match by_new_api(layers) {
        Err(Attempt::Unsupported) => by_mount(layers, spare)?,
        Err(Attempt::Failed(failure)) => return Err(failure),
        Ok(mounted) => mounted,
    };
    if let Some((upper, _)) = layers.upper {
        refuse_read_only(&mounted, upper)?;
    }
    Ok(mounted)
}

/// The kernel mounts an overlay read-only, and says so in its log only, when it could not use the work folder.
fn refuse_read_only(mounted: &OwnedFd, upper: BorrowedFd<'_>) -> Result<(), Failure> {
    let look = "look at the overlay root";
    let stat = rustix::fs::fstatvfs(mounted).stage(look)?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let disk = rustix::fs::fstatvfs(upper).stage(look)?;
        // File systems without a table of inodes count none.
        let lacks_inodes = disk.f_files > 0 && disk.f_favail < LEAST;
        if disk.f_bavail < LEAST || lacks_inodes {
            let what = if lacks_inodes { "inodes" } else { "blocks" };
            let detail = format!("the file system of the store has almost no {what} left");
            let failure = Failure::new("mount the overlay root for writing", Errno::NOSPC);
            return Err(failure.detail(detail));
        }
        let fix = "it came up read-only: the file system of the store cannot hold an overlay's upper folder (ext4, xfs, btrfs and tmpfs can)";
        return Err(Failure::new("mount the overlay root for writing", Errno::ROFS).detail(fix));
    }
    Ok(())
}

/// So many blocks and inodes an overlay needs for itself, about.
const LEAST: u64 = 16;

enum Attempt {
    Unsupported,
    Failed(Failure),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn by_new_api(layers: &Layers<'_>) -> Result<OwnedFd, Attempt> {
    let context = match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NOSYS) => return Err(Attempt::Unsupported),
        result => result.stage("open the overlay file system")?,
    };
    for (index, lower) in layers.lowers.iter().enumerate() {
        let opened;
        let fd = match lower {
            Layer::Open(fd) => *fd,
            Layer::Path(path) => {
                opened = open_layer(path)?;
                opened.as_fd()
            }
        };
        match set_folder(&context, "lowerdir+", fd) {
            // Before Linux 6.5 overlay takes no descriptors at all, by its old way of reading options.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if index == 0 => return Err(Attempt::Unsupported),
            result => result
                .stage_with(|| format!("add layer {} of {}", index + 1, layers.lowers.len()))
                .map_err(|f| explain(f, &context))?,
        }
    }
    let stage = "set up the overlay root";
    if let Some((upper, work)) = layers.upper {
        set_folder(&context, "upperdir", upper)
            .stage(stage)
            .map_err(|f| explain(f, &context))?;
        set_folder(&context, "workdir", work)
            .stage(stage)
            .map_err(|f| explain(f, &context))?;
        rustix::mount::fsconfig_set_flag(&context, "volatile").stage(stage)?;
    }
    rustix::mount::fsconfig_set_string(&context, "source", "overlay").stage(stage)?;
    rustix::mount::fsconfig_set_flag(&context, "userxattr").stage(stage)?;
    for (key, value) in FLAGS {
        rustix::mount::fsconfig_set_string(&context, key, value).stage(stage)?;
    }
    rustix::mount::fsconfig_create(&context)
        .stage("mount the overlay root")
        .map_err(|f| explain(f, &context))?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if layers.upper.is_none() {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    Ok(
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .stage("mount the overlay root")?,
    )
}

/// By descriptor (Linux 6.13), else by its name in `/proc`.
fn set_folder(context: &OwnedFd, key: &str, folder: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::mount::fsconfig_set_fd(context, key, folder) {
        Err(Errno::INVAL | Errno::BADF) => rustix::mount::fsconfig_set_string(
            context,
            key,
            format!("/proc/self/fd/{}", folder.as_raw_fd()),
        ),
        result => result,
    }
}

/// What the kernel has to say about a failed file system context.
fn explain(failure: Failure, context: &OwnedFd) -> Failure {
    let mut text = [0; 512];
    let mut said = Vec::new();
    while let Ok(len @ 1..) = rustix::io::read(context, &mut text) {
        said.push(
            String::from_utf8_lossy(&text[..len])
                .trim_start_matches("e ")
                .trim()
                .to_owned(),
        );
    }
    failure.detail(said.join(", "))
}

fn open_layer(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .stage_with(|| format!("open the layer {}", path.display()))
}

/// mount(2) takes all options in one page: with `/proc/self/fd` as working folder a layer costs three or four bytes of it.
fn by_mount(layers: &Layers<'_>, spare: &Spare<'_>) -> Result<OwnedFd, Failure> {
    let mut opened = Vec::new();
    let mut names = Vec::new();
    for lower in &layers.lowers {
        let fd = match lower {
            Layer::Open(fd) => *fd,
            Layer::Path(path) => {
                opened.push(open_layer(path)?);
                names.push(opened.last().map_or(0, AsRawFd::as_raw_fd).to_string());
                continue;
            }
        };
        names.push(fd.as_raw_fd().to_string());
    }
    let mut options = format!("userxattr,lowerdir={}", names.join(":"));
    if let Some((upper, work)) = layers.upper {
        options.push_str(&format!(
            ",volatile,upperdir={},workdir={}",
            upper.as_raw_fd(),
            work.as_raw_fd()
        ));
    }
    for (key, value) in FLAGS {
        options.push_str(&format!(",{key}={value}"));
    }
    let options = std::ffi::CString::new(options).expect("BUG: options hold no zero byte");
    let mut flags = MountFlags::NODEV;
    if layers.upper.is_none() {
        flags |= MountFlags::RDONLY;
    }
    let stage = "mount the overlay root";
    let target = format!("/proc/self/fd/{}/{}", spare.parent.as_raw_fd(), spare.name);
    rustix::process::chdir("/proc/self/fd").stage(stage)?;
    let mounted =
        rustix::mount::mount("overlay", &target, "overlay", flags, options.as_c_str()).stage(stage);
    rustix::process::chdir("/").stage(stage)?;
    mounted?;
    // A clone of what is attached now, as the new API would have given it.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = rustix::mount::open_tree(spare.parent, &spare.name, flags).stage(stage)?;
    rustix::mount::unmount(&target, UnmountFlags::DETACH).stage(stage)?;
    Ok(clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{self, SingleThreaded};
    use rustix::thread::UnshareFlags;

    /// The way of kernels before 6.8, in a mount namespace of a thread's own. Needs root.
    #[test]
    fn mount_2_takes_any_path_and_many_layers() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        std::thread::spawn(|| {
            // SAFETY: a mount namespace belongs to this thread alone, and nothing is forked here.
            #[allow(unsafe_code)]
            let one = unsafe { SingleThreaded::assume() };
            sys::unshare(one, UnshareFlags::NEWNS).unwrap();
            let private = rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let make = |name: String| {
                let path = folder.path().join(name);
                std::fs::create_dir(&path).unwrap();
                path
            };
            let paths: Vec<_> = (0..300)
                .map(|index| make(format!("a,b:c\\{index}")))
                .collect();
            std::fs::write(paths[299].join("lowest"), "").unwrap();
            let [upper, work] =
                ["up:,", "work"].map(|name| open_layer(&make(name.to_owned())).unwrap());
            let lowers = paths.iter().map(|path| Layer::Path(path)).collect();
            let layers = Layers {
                lowers,
                upper: Some((upper.as_fd(), work.as_fd())),
            };
            make("spare".to_owned());
            let parent = open_layer(folder.path()).unwrap();
            let spare = Spare {
                parent: parent.as_fd(),
                name: "spare".to_owned(),
            };
            let mounted = by_mount(&layers, &spare).unwrap();
            refuse_read_only(&mounted, upper.as_fd()).unwrap();
            let found = |name: &str| {
                rustix::fs::statat(&mounted, name, rustix::fs::AtFlags::empty()).is_ok()
            };
            assert!(found("lowest") && !found("nothing"));
            rustix::fs::mkdirat(&mounted, "new", Mode::from_raw_mode(0o755)).unwrap();
            assert!(folder.path().join("up:,/new").is_dir());
        })
        .join()
        .unwrap();
    }
}
