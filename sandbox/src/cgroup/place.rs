//! In which control group a command's own can be made: the one that was named, else that of this process or one above it.
//!
//! In version 2 a group that has processes cannot pass controllers on, but for the topmost one. Where only this build and
//! those who wait for it are in a group, as in a scope or a container of its own, they are moved aside into one below it.

use super::hierarchy::Hierarchy;
use super::settings::Setting;
use crate::Resources;
use crate::fail::Failure;
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use std::path::{Component, Path, PathBuf};

/// Where this process is moved to when its group is to pass controllers on.
const ASIDE: &str = "kiln-main";

/// The group to make others in, with these controllers passed on.
pub(crate) fn parent(
    hierarchy: &Hierarchy,
    resources: &Resources,
    controllers: &[&'static str],
    settings: &[Setting],
) -> Result<PathBuf, Failure> {
    let found = match &resources.cgroup_parent {
        Some(name) => named(hierarchy, name, controllers, !settings.is_empty()),
        None if hierarchy.unified => unnamed(hierarchy, controllers),
        None => Ok(hierarchy.own.clone()),
    };
    found.map_err(|refusal| {
        let at = format!(
            "{}: {} {}",
            controllers_in_words(controllers),
            refusal.what,
            refusal.path.display()
        );
        let fix = refusal.fix.unwrap_or_else(|| fix(hierarchy, refusal.errno));
        Failure::new(stage(resources, settings), refusal.errno)
            .detail(at)
            .detail(fix)
    })
}

/// What was attempted, by the first limit.
pub(crate) fn stage(resources: &Resources, settings: &[Setting]) -> String {
    match (&resources.cgroup_parent, settings.first()) {
        (_, Some(setting)) => format!("set the limit {}", setting.shown),
        (Some(name), None) => format!("use the control group {name}"),
        (None, None) => "make a control group".to_owned(),
    }
}

/// `controllers cpu, memory`.
pub(crate) fn controllers_in_words(names: &[&'static str]) -> String {
    if names.is_empty() {
        return "no controller".to_owned();
    }
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("controller{plural} {}", names.join(", "))
}

/// Why a group cannot be used.
struct Refusal {
    errno: Errno,
    what: &'static str,
    path: PathBuf,
    fix: Option<String>,
}

impl Refusal {
    fn new(errno: Errno, what: &'static str, path: &Path) -> Self {
        Self {
            errno,
            what,
            path: path.to_owned(),
            fix: None,
        }
    }
}

/// What would help against an errno.
pub(crate) fn fix(hierarchy: &Hierarchy, errno: Errno) -> String {
    let is_root = rustix::process::geteuid().is_root();
    let text = match errno {
        Errno::ROFS => {
            "/sys/fs/cgroup is read-only, as in a container: start the container with the limit instead (`docker run --memory ...`), or privileged"
        }
        Errno::ACCESS | Errno::PERM if is_root => {
            "start the container with the limit instead (`docker run --memory ...`), or privileged"
        }
        Errno::ACCESS | Errno::PERM if hierarchy.unified => {
            "start the build in a control group that is given to you: `systemd-run --user --scope -p Delegate=yes kiln build ...`"
        }
        Errno::ACCESS | Errno::PERM => {
            "only root makes control groups of version 1: run the build as root, have it make a group and give it to you (--cgroup-parent), or boot with version 2 (systemd.unified_cgroup_hierarchy=1)"
        }
        Errno::BUSY => {
            "it has other processes: start the build in a control group of its own, `systemd-run --scope -p Delegate=yes kiln build ...`"
        }
        _ => "",
    };
    text.to_owned()
}

/// The group of `--cgroup-parent`: a path from the root of the hierarchy, or a slice of systemd by its name.
fn named(
    hierarchy: &Hierarchy,
    name: &str,
    controllers: &[&'static str],
    pass_on: bool,
) -> Result<PathBuf, Refusal> {
    let (relative, is_slice) = match slice_path(name) {
        Some(path) => (path, true),
        None => (PathBuf::from(name), false),
    };
    let mut folder = hierarchy.mount.clone();
    for part in relative.components() {
        let Component::Normal(part) = part else {
            continue;
        };
        if hierarchy.unified && pass_on {
            enable(&folder, controllers)?;
        }
        folder.push(part);
        if folder.is_dir() {
            continue;
        }
        if is_slice {
            let fix = format!("start the slice first: `systemctl start {name}`");
            return Err(Refusal {
                fix: Some(fix),
                ..Refusal::new(Errno::NOENT, "there is no", &folder)
            });
        }
        std::fs::create_dir(&folder).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Refusal::new(errno, "could not make", &folder)
        })?;
        if hierarchy.has("cpuset") && !hierarchy.unified {
            inherit_cpuset(&folder)
                .map_err(|errno| Refusal::new(errno, "could not set up", &folder))?;
        }
    }
    if hierarchy.unified && pass_on {
        enable(&folder, controllers)?;
    }
    Ok(folder)
}

/// `a-b.slice` lies in `a.slice`; `-.slice` is the root. `None` for what is no name of a slice.
fn slice_path(name: &str) -> Option<PathBuf> {
    let stem = name.strip_suffix(".slice")?;
    if name.contains('/') {
        return None;
    }
    let mut path = PathBuf::new();
    if stem == "-" {
        return Some(path);
    }
    let dashes = stem.match_indices('-').map(|(at, _)| at);
    for end in dashes.chain([stem.len()]) {
        path.push(format!("{}.slice", &stem[..end]));
    }
    Some(path)
}

/// The nearest group, from that of this process upwards, in which others can be made that have the controllers.
fn unnamed(hierarchy: &Hierarchy, controllers: &[&'static str]) -> Result<PathBuf, Refusal> {
    let mut refused = None;
    let aside = hierarchy.own.file_name().is_some_and(|name| name == ASIDE);
    let candidates = hierarchy.own.ancestors().skip(usize::from(aside));
    for folder in candidates.take_while(|folder| folder.starts_with(&hierarchy.mount)) {
        match usable(folder, controllers, hierarchy) {
            Ok(()) => return Ok(folder.to_owned()),
            // What the nearest lacks is what its user can change.
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    Err(refused.unwrap_or_else(|| Refusal::new(Errno::NOENT, "there is no", &hierarchy.own)))
}

fn usable(
    folder: &Path,
    controllers: &[&'static str],
    hierarchy: &Hierarchy,
) -> Result<(), Refusal> {
    let may_write =
        |path: &Path| rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
    for path in [folder.to_owned(), folder.join("cgroup.procs")] {
        may_write(&path).map_err(|errno| Refusal::new(errno, "may not write to", &path))?;
    }
    match enable(folder, controllers) {
        Err(refusal) if refusal.errno == Errno::BUSY && folder == hierarchy.own => {
            move_aside(folder).map_err(|_| refusal)?;
            enable(folder, controllers)
        }
        result => result,
    }
}

/// Passes controllers on to the groups below.
fn enable(folder: &Path, controllers: &[&'static str]) -> Result<(), Refusal> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    // The kernel lets a group with processes pass on some controllers, and then takes nobody into the groups below. The
    // topmost one, which may have both, has no type.
    if folder.join("cgroup.type").exists() && !read("cgroup.procs").is_empty() {
        return Err(Refusal::new(Errno::BUSY, "there are processes in", folder));
    }
    let has = |text: &str, name: &str| text.split_whitespace().any(|known| known == name);
    let (there, passed_on) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in controllers {
        if has(&passed_on, controller) {
            continue;
        }
        if !has(&there, controller) {
            let fix = format!(
                "controller {controller} is not delegated: for systemd, `Delegate=cpu cpuset memory pids` for user@.service or the scope"
            );
            return Err(Refusal {
                fix: Some(fix),
                ..Refusal::new(Errno::NODEV, "not in", &folder.join("cgroup.controllers"))
            });
        }
        let path = folder.join("cgroup.subtree_control");
        std::fs::write(&path, format!("+{controller}")).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Refusal::new(errno, "could not write to", &path)
        })?;
    }
    Ok(())
}

/// Moves the processes of a group into one below it, when they are this one, its children, and those that wait for it.
fn move_aside(folder: &Path) -> std::io::Result<()> {
    let processes = std::fs::read_to_string(folder.join("cgroup.procs"))?;
    let own = std::process::id();
    let mut ours = vec![own];
    while let Some(parent) = ours.last().copied().and_then(parent_of) {
        ours.push(parent);
    }
    let pids: Vec<u32> = processes
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    let is_ours = |pid: &u32| ours.contains(pid) || parent_of(*pid) == Some(own);
    if !pids.iter().all(is_ours) {
        return Err(Errno::BUSY.into());
    }
    let aside = folder.join(ASIDE);
    match std::fs::create_dir(&aside) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        result => result?,
    }
    for pid in pids {
        match std::fs::write(aside.join("cgroup.procs"), pid.to_string()) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            result => result?,
        }
    }
    Ok(())
}

/// The process that waits for another; `None` at the top of what is seen.
fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|parent| *parent != 0)
}

/// A new group of version 1 allows no processor and no memory node until it is told to.
pub(crate) fn inherit_cpuset(folder: &Path) -> Result<(), Errno> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(file));
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        if !read(folder).map_err(errno)?.trim().is_empty() {
            continue;
        }
        let Some(parent) = folder.parent() else {
            continue;
        };
        let value = read(parent).map_err(errno)?;
        std::fs::write(folder.join(file), value.trim()).map_err(errno)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_nested_by_their_names() {
        for (name, path) in [
            ("machine.slice", Some("machine.slice")),
            ("a-b-c.slice", Some("a.slice/a-b.slice/a-b-c.slice")),
            ("-.slice", Some("")),
            ("/a/b", None),
            ("kiln", None),
            ("x/y.slice", None),
        ] {
            assert_eq!(slice_path(name).as_deref(), path.map(Path::new), "{name}");
        }
    }
}
