//! Control groups of commands: made when a limit is asked for, entered before the command starts, read and removed after
//! it has ended.
//!
//! The caller makes a group with its own rights and opens its entrance; the command's process writes itself into it, which
//! the kernel judges by who opened it. Where groups can be made is the business of [`place`], what is written into their
//! files that of [`settings`]. A group is locked while its maker lives: what one that was killed has left is found by its
//! free lock and removed by the next build that makes a group beside it.

mod hierarchy;
mod place;
mod settings;
pub(crate) mod view;

use crate::fail::{Failure, Stage};
use crate::{Pressure, Resources};
use hierarchy::Hierarchy;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use settings::Setting;
pub(crate) use settings::size;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often a group that is still busy is tried to be removed: processes are gone a little later than they are reaped.
const REMOVALS: u32 = 200;
const REMOVAL_INTERVAL: Duration = Duration::from_millis(10);
/// Names of groups: this, the maker's process, a number.
const PREFIX: &str = "kiln-";

/// A command's control groups, one in each hierarchy that its limits need. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Group {
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    unified: bool,
    /// Locked as long as this process lives.
    _lock: OwnedFd,
}

impl Group {
    /// Makes the groups that the limits need and sets them; none when there is no limit.
    pub(crate) fn new(resources: &Resources) -> Result<Option<Self>, Failure> {
        if *resources == Resources::default() {
            return Ok(None);
        }
        let hierarchies = hierarchy::all()?;
        let wanted = settings::wanted(resources);
        let mut group = Self {
            folders: Vec::new(),
        };
        for hierarchy in &hierarchies {
            let settings = settings::of(&wanted, hierarchy);
            let controllers = controllers(&settings, hierarchy, resources);
            // In version 2 there are groups without controllers, which a parent alone asks for.
            let is_named = hierarchy.unified && resources.cgroup_parent.is_some();
            if controllers.is_empty() && !is_named {
                continue;
            }
            let parent = place::parent(hierarchy, resources, &controllers, &settings)?;
            sweep(&parent);
            let folder = make(&parent, hierarchy).map_err(|errno| {
                let at = format!("could not make a control group in {}", parent.display());
                Failure::new(place::stage(resources, &settings), errno)
                    .detail(format!(
                        "{}: {at}",
                        place::controllers_in_words(&controllers)
                    ))
                    .detail(place::fix(hierarchy, errno))
            })?;
            group.folders.push(folder);
            let folder = group.folders.last().expect("BUG: pushed above");
            for setting in &settings {
                set(folder, setting, hierarchy)?;
            }
        }
        check_all_found(&wanted, &hierarchies)?;
        Ok(Some(group))
    }

    /// Descriptors by which a process enters the groups.
    pub(crate) fn entrances(&self) -> Result<Vec<OwnedFd>, Failure> {
        let open = |folder: &Folder| {
            let path = folder.path.join("cgroup.procs");
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .stage_with(|| format!("open {}", path.display()))
        };
        self.folders.iter().map(open).collect()
    }

    /// How often the limits were hit so far.
    pub(crate) fn pressure(&self) -> Pressure {
        let mut pressure = Pressure::default();
        for folder in &self.folders {
            let memory = if folder.unified {
                "memory.events"
            } else {
                "memory.oom_control"
            };
            pressure.oom_kills += counter(&folder.path.join(memory), "oom_kill");
            pressure.forks_refused += counter(&folder.path.join("pids.events"), "max");
        }
        pressure
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            for _ in 0..REMOVALS {
                match rustix::fs::rmdir(&folder.path) {
                    Err(Errno::BUSY) => std::thread::sleep(REMOVAL_INTERVAL),
                    // What cannot be removed, the next build tries again.
                    _ => break,
                }
            }
        }
    }
}

/// Enters the groups of these entrances, in the process that is to become the command; they are the root of what it sees of
/// control groups then. Gives those, to be shown.
pub(crate) fn enter(
    one: crate::sys::SingleThreaded,
    entrances: &[OwnedFd],
) -> Result<Vec<view::Own>, Failure> {
    if entrances.is_empty() {
        return Ok(Vec::new());
    }
    for entrance in entrances {
        rustix::io::retry_on_intr(|| rustix::io::write(entrance, b"0"))
            .stage("enter the control group of the command")
            .map_err(|failure| match failure.errno() {
                Errno::ACCESS | Errno::PERM => failure.detail(
                    "processes can only be moved within a control group that the user has been given",
                ),
                Errno::NOSPC => failure.detail("it allows no processors: see cpuset-cpus and cpuset-mems"),
                _ => failure,
            })?;
    }
    let entered = view::entered();
    // Without a namespace of control groups, as in chroot mode, the command sees where it is, and no more.
    match crate::sys::unshare(one, rustix::thread::UnshareFlags::NEWCGROUP) {
        Ok(()) => Ok(entered),
        Err(_) => Ok(Vec::new()),
    }
}

/// Processes that the kernel has killed for lack of memory on this machine since it was booted.
pub(crate) fn machine_oom_kills() -> u64 {
    counter(Path::new("/proc/vmstat"), "oom_kill")
}

/// Controllers of a hierarchy that a command needs. A parent alone is entered in all that know one of the limits.
fn controllers(
    settings: &[Setting],
    hierarchy: &Hierarchy,
    resources: &Resources,
) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = settings.iter().map(|setting| setting.controller).collect();
    if names.is_empty() && resources.cgroup_parent.is_some() {
        let known = settings::CONTROLLERS.into_iter();
        names.extend(known.filter(|name| hierarchy.has(name)));
    }
    names.dedup();
    names
}

/// An error for the first limit whose controller is nowhere.
fn check_all_found(wanted: &[settings::Wanted], hierarchies: &[Hierarchy]) -> Result<(), Failure> {
    let missing = wanted.iter().find(|wanted| {
        let controller = wanted.controller;
        !wanted.optional && !hierarchies.iter().any(|known| known.has(controller))
    });
    let Some(missing) = missing else {
        return Ok(());
    };
    let stage = format!("set the limit {}", missing.shown);
    let fix = if hierarchies.is_empty() {
        "no control groups are mounted here: mount them at /sys/fs/cgroup, or set the limit on the container that the build runs in".to_owned()
    } else {
        format!(
            "there is no controller {} here: the kernel was started or built without it, or it is not delegated to this user (systemd: `Delegate=cpu cpuset memory pids` for user@.service)",
            missing.controller
        )
    };
    Err(Failure::new(stage, Errno::NODEV).detail(fix))
}

fn set(folder: &Folder, setting: &Setting, hierarchy: &Hierarchy) -> Result<(), Failure> {
    let path = folder.path.join(setting.file);
    match std::fs::write(&path, &setting.value) {
        Ok(()) => Ok(()),
        Err(error) if setting.optional && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let at = format!("controller {}: {}", setting.controller, path.display());
            let failure =
                Failure::new(format!("set the limit {}", setting.shown), errno).detail(at);
            Err(failure.detail(settings::fix(setting, &folder.path, errno, hierarchy)))
        }
    }
}

/// Makes a group of a new name and locks it.
fn make(parent: &Path, hierarchy: &Hierarchy) -> Result<Folder, Errno> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            // A process of the same number in another pid namespace has it.
            Err(Errno::EXIST) => continue,
            result => result?,
        }
        match lock(&path) {
            // Removed before it was locked.
            Ok(None) | Err(Errno::NOENT) => continue,
            Err(errno) => {
                let _ = rustix::fs::rmdir(&path);
                return Err(errno);
            }
            Ok(Some(lock)) => {
                let folder = Folder {
                    path,
                    unified: hierarchy.unified,
                    _lock: lock,
                };
                if hierarchy.has("cpuset") && !hierarchy.unified {
                    place::inherit_cpuset(&folder.path)?;
                }
                return Ok(folder);
            }
        }
    }
}

/// The lock of a group, `None` when another has it or it is gone.
fn lock(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    match rustix::fs::flock(folder.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        result => result?,
    }
    let (locked, there) = (rustix::fs::fstat(&folder)?, rustix::fs::stat(path)?);
    let same = (locked.st_dev, locked.st_ino) == (there.st_dev, there.st_ino);
    Ok(same.then_some(folder))
}

/// Removes the groups that nobody holds any longer. Best effort.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_group = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'))
            .is_some_and(|(pid, number)| {
                pid.parse::<u32>().is_ok() && number.parse::<u32>().is_ok()
            });
        if is_group && let Ok(Some(_lock)) = lock(&entry.path()) {
            let _ = rustix::fs::rmdir(entry.path());
        }
    }
}

/// A line `NAME NUMBER` of a file; 0 when there is none.
fn counter(file: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(known, _)| *known == name)
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or(0)
}
