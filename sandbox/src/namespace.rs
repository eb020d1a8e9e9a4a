//! Enters the build's user and mount namespace, in the helper, once.
//!
//! Root gets a user namespace of high host ids over id-mapped mounts of the stores, so that files on disk keep container
//! ids while no process of a build has an id that means anything on the host; where mounts cannot be mapped, as in most
//! containers, a namespace of the same ids as its own. A user gets subordinate ids, or the own id only. Whether what was
//! entered is enough, the ladder says.

use crate::IdMapping;
use crate::fail::{Failure, Stage};
use crate::probe::fixes;
use crate::subid::{self, Mapper};
use crate::sys::{self, SingleThreaded};
use crate::volumes;
use crate::wire::Hello;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::{Gid, Pid, Uid, WaitOptions};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// First host id of a root build's namespace: the upper half of the id space, which nothing hands out.
const FIRST_HOST_ID: u32 = 0x8000_0000;
/// Up to 2^32 - 2; the last number means "no id".
const HOST_IDS: u32 = 0x7fff_ffff;

/// A namespace that was entered.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) mapping: IdMapping,
    /// Why there is a single id.
    pub(crate) single: Option<String>,
    pub(crate) notes: Vec<String>,
}

/// Why none was entered.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another process must do with the own id only: this one has used up its only chance to map more.
    NeedsSingle(String),
    /// This place allows no namespace.
    NoNamespace(Failure),
    /// What was asked for is not there.
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::NoNamespace(failure)
    }
}

/// Enters the namespace as [`Hello`] asks.
pub(crate) fn enter(one: SingleThreaded, hello: &Hello) -> Result<Namespace, Refusal> {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::DAC_OVERRIDE;
    match &hello.single {
        Some(reason) => enter_single(one, hello, reason),
        None if is_root_with(needed) => enter_as_root(one, hello),
        None => enter_as_user(one, hello),
    }
}

/// Whether this process is user 0 and may do what is needed.
pub(crate) fn is_root_with(needed: CapabilitySet) -> bool {
    rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

// Root.

fn enter_as_root(one: SingleThreaded, hello: &Hello) -> Result<Namespace, Refusal> {
    let mut mapping = IdMapping::Idmapped;
    let mut single = None;
    let mut notes = Vec::new();
    let mapped = if is_root_with(CapabilitySet::SYS_ADMIN) {
        let stores = outermost(&hello.stores).map_err(Refusal::Failed)?;
        unshare(one, UnshareFlags::NEWNS, "make a mount namespace")?;
        make_private()?;
        crate::device::open_to_the_build(crate::network::TUN_DEVICE);
        crate::device::open_to_the_build(crate::root::fuse::DEVICE);
        idmapped_stores(one, stores)
    } else {
        Err(Failure::new("map the ids of mounts", Errno::PERM))
    };
    let userns = match mapped {
        Ok((userns, trees)) => {
            // Root's volumes are attached with the stores, while the ids of their mounts can still be mapped.
            let volumes = volumes::open(&hello.volumes, Some(&userns)).map_err(Refusal::Failed)?;
            attach_stores(trees).map_err(Refusal::Failed)?;
            notes.extend(volumes::attach_open(volumes).map_err(Refusal::Failed)?);
            userns
        }
        Err(failure) => {
            let (uids, gids) = (
                own_ids("/proc/self/uid_map")?,
                own_ids("/proc/self/gid_map")?,
            );
            let why = format!("could not {}: {}", failure.stage, failure.errno());
            if has_one_id() {
                mapping = IdMapping::Single;
                single = Some(why);
            } else {
                mapping = IdMapping::Host;
                notes.push(format!("ids of commands are the host's, since id-mapped mounts are not possible here: {why}"));
            }
            make_user_namespace(one, &uids, &gids)?
        }
    };
    rustix::thread::move_into_link_name_space(userns.as_fd(), Some(LinkNameSpaceType::User))
        .stage("enter the user namespace")?;
    // Where groups cannot be dropped they mean nothing inside either.
    let _ = rustix::thread::set_thread_groups(&[]);
    become_root_of_namespace(one)?;
    if mapping != IdMapping::Idmapped {
        volumes::attach(&hello.volumes, None).map_err(Refusal::Failed)?;
    }
    Ok(Namespace {
        mapping,
        single,
        notes,
    })
}

/// The real paths of the stores that are not inside another one.
fn outermost(stores: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for store in stores {
        let path = std::fs::canonicalize(store)
            .stage_with(|| format!("find the folder {}", store.display()))?;
        paths.push(path);
    }
    paths.sort();
    let mut outer: Vec<PathBuf> = Vec::new();
    for path in paths {
        if outer.last().is_none_or(|outer| !path.starts_with(outer)) {
            outer.push(path);
        }
    }
    Ok(outer)
}

/// A user namespace of high ids, and detached id-mapped mounts of the stores.
fn idmapped_stores(
    one: SingleThreaded,
    stores: Vec<PathBuf>,
) -> Result<(OwnedFd, Vec<(PathBuf, OwnedFd)>), Failure> {
    let map = format!("0 {FIRST_HOST_ID} {HOST_IDS}");
    let userns = make_user_namespace(one, &map, &map)?;
    let mut trees = Vec::new();
    for path in stores {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, &path, flags)
            .stage_with(|| format!("clone the mount of {}", path.display()))?;
        sys::idmap_mount(&tree, &userns, false)
            .stage_with(|| format!("map the ids of {}", path.display()))?;
        trees.push((path, tree));
    }
    Ok((userns, trees))
}

/// Whether the mounts of stores can be mapped. The process is of no other use afterwards.
pub(crate) fn try_idmapped(one: SingleThreaded, stores: Vec<PathBuf>) -> Result<(), Failure> {
    unshare(one, UnshareFlags::NEWNS, "make a mount namespace")?;
    make_private()?;
    idmapped_stores(one, stores).map(|_| ())
}

/// Puts the stores where they were. Folders above them that only the host's root may pass are covered by an empty tmpfs,
/// in this mount namespace only: the build's root is a stranger there.
fn attach_stores(trees: Vec<(PathBuf, OwnedFd)>) -> Result<(), Failure> {
    for (path, tree) in trees {
        make_reachable(&path)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", CWD, &path, flags)
            .stage_with(|| format!("mount {}", path.display()))?;
    }
    Ok(())
}

fn make_reachable(path: &Path) -> Result<(), Failure> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for folder in above {
        match std::fs::metadata(folder) {
            Ok(metadata) if metadata.permissions().mode() & 0o001 != 0 => {}
            Ok(_) => {
                rustix::mount::mount(
                    "tmpfs",
                    folder,
                    "tmpfs",
                    MountFlags::empty(),
                    c"mode=755,size=1m",
                )
                .stage_with(|| format!("mount a tmpfs over {}", folder.display()))?;
                break;
            }
            // Covered for another store.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(error) => {
                return Err(error)
                    .stage_with(|| format!("look at the folder {}", folder.display()));
            }
        }
    }
    std::fs::create_dir_all(path).stage_with(|| format!("create the folder {}", path.display()))
}

/// Whether this process's user namespace has only one id.
pub(crate) fn has_one_id() -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .any(|file| own_ids(file).is_ok_and(|ids| ids.split(' ').nth(2) == Some("1\n")))
}

/// All ids of the own namespace, each mapped to itself.
fn own_ids(file: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).stage_with(|| format!("read {file}"))?;
    let identity = |line: &str| {
        let mut fields = line.split_whitespace();
        let (inside, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{inside} {inside} {count}\n"))
    };
    Ok(text.lines().filter_map(identity).collect())
}

/// A new user namespace with these maps; its only process is gone again.
fn make_user_namespace(
    one: SingleThreaded,
    uid_map: &str,
    gid_map: &str,
) -> Result<OwnedFd, Failure> {
    let (ready_read, ready_write) = pipe()?;
    let (done_read, done_write) = pipe()?;
    let Some(pid) = sys::fork(one).stage("fork")? else {
        drop((ready_read, done_write));
        let errno = sys::unshare(one, UnshareFlags::NEWUSER)
            .err()
            .map_or(0, Errno::raw_os_error);
        let _ = rustix::io::write(&ready_write, &errno.to_le_bytes());
        let _ = rustix::io::read(&done_read, &mut [0]);
        sys::exit_now(0)
    };
    drop((ready_write, done_read));
    let result = map_ids_of(pid, &ready_read, uid_map, gid_map);
    drop(done_write);
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    result
}

fn map_ids_of(pid: Pid, ready: &OwnedFd, uid_map: &str, gid_map: &str) -> Result<OwnedFd, Failure> {
    let mut errno = [0; 4];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(ready, &mut errno))
        .stage("make a user namespace")?;
    let errno = if read == errno.len() {
        i32::from_le_bytes(errno)
    } else {
        libc::ECHILD
    };
    if errno != 0 {
        return Err(Failure::new(
            "make a user namespace",
            Errno::from_raw_os_error(errno),
        ));
    }
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    std::fs::write(format!("{folder}/uid_map"), uid_map).stage("map the user ids")?;
    std::fs::write(format!("{folder}/gid_map"), gid_map).stage("map the group ids")?;
    rustix::fs::open(
        format!("{folder}/ns/user"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .stage("open the user namespace")
}

// A user.

fn enter_as_user(one: SingleThreaded, hello: &Hello) -> Result<Namespace, Refusal> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = subid::login_name(&passwd, uid);
    let who = name.map_or_else(|| uid.to_string(), str::to_owned);
    let ranges = |file| {
        subid::ranges(
            &std::fs::read_to_string(file).unwrap_or_default(),
            name,
            uid,
        )
    };
    let (uids, gids) = (ranges("/etc/subuid"), ranges("/etc/subgid"));
    if uids.is_empty() || gids.is_empty() {
        let reason = format!(
            "user {who} has no lines in /etc/subuid and /etc/subgid (add `{who}:100000:65536` to both)"
        );
        return enter_single(one, hello, &reason);
    }
    let (Some(uid_mapper), Some(gid_mapper)) = (
        Mapper::find("newuidmap", uid, &uids),
        Mapper::find("newgidmap", gid, &gids),
    ) else {
        let reason = "newuidmap and newgidmap are not installed (package uidmap or shadow-utils)";
        return enter_single(one, hello, reason);
    };
    if let Some(reason) = map_by_programs(one, &uid_mapper, &gid_mapper)? {
        return Err(Refusal::NeedsSingle(reason));
    }
    become_root_of_namespace(one)?;
    volumes::attach(&hello.volumes, None).map_err(Refusal::Failed)?;
    let smallest = [&uids, &gids]
        .map(|ranges| ranges.iter().map(|range| u64::from(range.count)).sum())
        .into_iter()
        .min()
        .unwrap_or(0);
    let notes = if smallest < 65535 {
        vec![format!(
            "user {who} has {smallest} subordinate ids: files of users and groups above that number cannot be made (65536 are usual)"
        )]
    } else {
        Vec::new()
    };
    Ok(Namespace {
        mapping: IdMapping::Subordinate,
        single: None,
        notes,
    })
}

/// Makes the user namespace while a child outside of it runs the set-uid programs. A reason when they fail: the namespace
/// is of no use then, since its maps can be written only once.
fn map_by_programs(
    one: SingleThreaded,
    uids: &Mapper,
    gids: &Mapper,
) -> Result<Option<String>, Failure> {
    let (go_read, go_write) = pipe()?;
    let (answer_read, answer_write) = pipe()?;
    let parent = rustix::process::getpid();
    let Some(child) = sys::fork(one).stage("fork")? else {
        drop((go_write, answer_read));
        let go = rustix::io::read(&go_read, &mut [0]);
        if go == Ok(1)
            && let Err(reason) = uids.map(parent).and_then(|()| gids.map(parent))
        {
            let _ = rustix::io::write(&answer_write, reason.as_bytes());
        }
        sys::exit_now(0)
    };
    drop((go_read, answer_write));
    let made = sys::unshare(one, UnshareFlags::NEWUSER);
    if made.is_ok() {
        let _ = rustix::io::write(&go_write, b"g");
    }
    drop(go_write);
    let mut answer = vec![0; 4096];
    let len =
        rustix::io::retry_on_intr(|| rustix::io::read(&answer_read, &mut answer)).unwrap_or(0);
    let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
    made.stage("make a user namespace")?;
    Ok((len > 0).then(|| String::from_utf8_lossy(&answer[..len]).into_owned()))
}

fn enter_single(one: SingleThreaded, hello: &Hello, reason: &str) -> Result<Namespace, Refusal> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    // In the namespace this process will have all capabilities.
    let lacks = fixes::here().own_id();
    unshare(one, UnshareFlags::NEWUSER, "make a user namespace")?;
    std::fs::write("/proc/self/setgroups", "deny").stage("give up setgroups")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
        .stage("map the own user id")
        .map_err(|failure| failure.detail(lacks))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).stage("map the own group id")?;
    become_root_of_namespace(one)?;
    volumes::attach(&hello.volumes, None).map_err(Refusal::Failed)?;
    Ok(Namespace {
        mapping: IdMapping::Single,
        single: Some(reason.to_owned()),
        notes: Vec::new(),
    })
}

fn become_root_of_namespace(one: SingleThreaded) -> Result<(), Failure> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .stage("become group 0 of the user namespace")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .stage("become user 0 of the user namespace")?;
    unshare(one, UnshareFlags::NEWNS, "make a mount namespace")?;
    make_private()
}

fn unshare(one: SingleThreaded, flags: UnshareFlags, stage: &str) -> Result<(), Failure> {
    sys::unshare(one, flags).stage(stage)
}

/// No mount of a build reaches the host, nor the other way round.
fn make_private() -> Result<(), Failure> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).stage("make all mounts private")
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).stage("make a pipe")
}
