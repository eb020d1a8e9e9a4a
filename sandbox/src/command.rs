//! The command's own process, from its fork to its exec: identity, privileges, lookup.

use crate::RunSpec;
use crate::capability;
use crate::fail::{Failure, Stage};
use crate::limits;
use crate::notify::{self, mknod::Nodes};
use crate::resolve;
use crate::seccomp::Filter;
use crate::sys;
use crate::terminal;
use crate::wire::{self, RunReply};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where programs are looked for when the environment has no PATH (Docker's default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(crate) const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Creates the working folder when it is missing, for the command's user.
pub(crate) fn make_working_folder(spec: &RunSpec) -> Result<(), Failure> {
    let cwd = resolve::clean(&spec.cwd);
    if cwd.as_os_str().is_empty() {
        return Ok(());
    }
    let root = rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .stage("open the root")?;
    resolve::make_folders(&root, &cwd, Some((spec.uid, spec.gid)))?;
    Ok(())
}

/// Filters of the command, in the order in which they are loaded.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    /// Who makes device nodes, and where that is told of the command.
    pub(crate) nodes: Option<(&'a Nodes, OwnedFd)>,
    pub(crate) filter: Option<&'a Filter>,
    /// Socket to a supervisor, for which the command is who it believes to be: to the kernel it stays root.
    pub(crate) supervisor: Option<BorrowedFd<'a>>,
}

impl Load<'_> {
    /// Filters need CAP_SYS_ADMIN: otherwise no_new_privs, which would break sudo.
    fn load(&self) -> Result<(), Failure> {
        let stage = "load the seccomp filter";
        if let Some((nodes, run)) = &self.nodes {
            nodes.watch(run)?;
        }
        let Some(filter) = self.filter else {
            return Ok(());
        };
        let Some(socket) = self.supervisor else {
            return sys::load_seccomp(filter.instructions()).stage(stage);
        };
        notify::begin_identity().stage("set the timer slack")?;
        // The supervisor reads which program is executed. Nobody else is here yet.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .stage("open the process to its supervisor")?;
        let listener = notify::load(filter.instructions()).stage(stage)?;
        notify::send_listener(socket, &listener).stage("pass the seccomp listener on")
    }
}

/// Body of the command's process.
pub(crate) fn main(
    spec: &RunSpec,
    filters: &Load<'_>,
    output: [BorrowedFd<'_>; 2],
    reply: &OwnedFd,
) -> ! {
    if let Err(failure) = prepare(spec, filters, output) {
        let _ = wire::send_answer(reply.as_fd(), &RunReply::Failed(failure));
        sys::exit_now(NOT_EXECUTABLE);
    }
    let _ = wire::send_answer(reply.as_fd(), &RunReply::Started);
    let (code, message) = execute(spec);
    let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
    sys::exit_now(code)
}

fn prepare(
    spec: &RunSpec,
    filters: &Load<'_>,
    [stdout, stderr]: [BorrowedFd<'_>; 2],
) -> Result<(), Failure> {
    rustix::process::setsid().stage("start a session")?;
    if spec.terminal {
        let terminal = terminal::take(stdout, Some((spec.uid, spec.gid)))?;
        set_streams([terminal.as_fd(); 3])?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .stage("take the terminal as the controlling one")?;
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .stage("open /dev/null")?;
        set_streams([null.as_fd(), stdout, stderr])?;
    }
    sys::close_range(3, u32::MAX, true).stage("mark inherited descriptors")?;
    sys::join_new_session_keyring();
    let cwd = Path::new("/").join(resolve::clean(&spec.cwd));
    rustix::process::chdir(&cwd).stage_with(|| format!("enter the folder {}", cwd.display()))?;
    let capabilities = capabilities(spec)?;
    // Before capabilities go.
    filters.load()?;
    if !spec.insecure {
        drop_bounding_set(capabilities)?;
    }
    if filters.supervisor.is_none() {
        become_user(spec)?;
    }
    let is_root = spec.uid == 0 || filters.supervisor.is_some();
    if !spec.insecure && is_root {
        let sets = CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).stage("drop capabilities")?;
    }
    if spec.security.no_new_privileges && !spec.insecure {
        rustix::thread::set_no_new_privs(true).stage("set no_new_privs")?;
    }
    limits::set(&spec.limits)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    Ok(())
}

/// Standard input, output and error.
pub(crate) fn set_streams(streams: [BorrowedFd<'_>; 3]) -> Result<(), Failure> {
    for (fd, standard) in streams.into_iter().zip(0..) {
        sys::dup_onto(fd, standard).stage("set the standard streams")?;
    }
    Ok(())
}

/// What the command may have. What was asked for by name must be there; Docker's own may be less where this process itself
/// has less.
fn capabilities(spec: &RunSpec) -> Result<CapabilitySet, Failure> {
    let wanted = capability::of(&spec.security)
        .map_err(|reason| Failure::new("choose capabilities", Errno::INVAL).detail(reason))?;
    let permitted = rustix::thread::capabilities(None)
        .stage("look at the own capabilities")?
        .permitted;
    let lacks = |name: &&String| {
        capability::by_name(name).is_some_and(|capability| !permitted.contains(capability))
    };
    match spec.security.cap_add.iter().find(lacks) {
        Some(name) if !spec.insecure => Err(Failure::new(
            format!("give the command the capability {name}"),
            Errno::PERM,
        )
        .detail("the sandbox itself does not have it here")),
        _ => Ok(wanted & permitted),
    }
}

fn drop_bounding_set(kept: CapabilitySet) -> Result<(), Failure> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Beyond the last one this kernel knows.
            Err(Errno::INVAL) => return Ok(()),
            result => result.stage("drop capabilities")?,
        }
    }
    Ok(())
}

pub(crate) fn become_user(spec: &RunSpec) -> Result<(), Failure> {
    let fix = "this id is not mapped: the user running the build needs (more) subordinate ids in /etc/subuid and /etc/subgid";
    let explain = |failure: Failure| {
        if failure.errno() == Errno::INVAL {
            failure.detail(fix)
        } else {
            failure
        }
    };
    let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // setgroups is given up where only the own id is mapped: the command has the caller's groups, whatever they are inside.
        Err(Errno::PERM) => {}
        result => result
            .stage("set the supplementary groups")
            .map_err(explain)?,
    }
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .stage_with(|| format!("become group {}", spec.gid))
        .map_err(explain)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .stage_with(|| format!("become user {}", spec.uid))
        .map_err(explain)
}

/// Executes the command; returns only when that fails, with the exit code and message a shell would give.
pub(crate) fn execute(spec: &RunSpec) -> (i32, String) {
    let Some(name) = spec.args.first() else {
        return (NOT_FOUND, "exec: no command\n".to_owned());
    };
    let program = match look_up(name, path_of(spec)) {
        Ok(program) => program,
        Err((code, reason)) => return (code, format!("exec: {name:?}: {reason}\n")),
    };
    let env: Vec<String> = spec
        .env
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let strings = |texts: &[String]| {
        texts
            .iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<Vec<_>, _>>()
    };
    let (Ok(program_text), Ok(args), Ok(env)) = (
        CString::new(program.as_os_str().as_bytes()),
        strings(&spec.args),
        strings(&env),
    ) else {
        return (
            NOT_EXECUTABLE,
            format!("exec: {name:?}: zero byte in an argument or variable\n"),
        );
    };
    let errno = sys::execve(&program_text, &args, &env);
    let reason = match errno {
        Errno::NOENT => {
            "no such file or directory (its interpreter or loader is missing)".to_owned()
        }
        Errno::NOEXEC => {
            "exec format error (built for another architecture, or a script without `#!`)"
                .to_owned()
        }
        errno => message(errno),
    };
    let code = if errno == Errno::NOENT {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    (code, format!("exec: {name:?}: {reason}\n"))
}

fn path_of(spec: &RunSpec) -> &str {
    spec.env
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or(DEFAULT_PATH, |(_, path)| path)
}

/// Finds a program: a name with a slash as it is, any other in PATH.
fn look_up(name: &str, path: &str) -> Result<PathBuf, (i32, String)> {
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => Err((NOT_FOUND, message(errno))),
            Err(errno) => Err((NOT_EXECUTABLE, message(errno))),
        };
    }
    let mut denied = false;
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        return Err((NOT_EXECUTABLE, message(Errno::ACCESS)));
    }
    Err((NOT_FOUND, "executable file not found in $PATH".to_owned()))
}

fn executable(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile => rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()),
        _ => Err(Errno::ACCESS),
    }
}

/// An errno's text as C libraries have it, without Rust's code in brackets.
fn message(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}
