//! The keeper of a run's file systems: process 1 of namespaces of its own, which starts fuse-overlayfs for each of them.
//!
//! It ends when nobody holds the other end of its socket any longer, and everything it has started ends with it.

use super::program;
use crate::fail::{Failure, Stage};
use crate::helper::close_all_but;
use crate::init;
use crate::sys::{self, Forked, SingleThreaded};
use crate::wire::{self, Kind};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::net::SocketType;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest that programs may take to end when nothing is mounted any longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Folders of one file system, topmost first, and its upper and work folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) lowers: Vec<PathBuf>,
    pub(super) upper: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// With the device.
    Serve(Served),
    /// Answered by what went wrong, if anything, when all programs have ended.
    End,
}

/// The way to a keeper. It ends when this is dropped everywhere.
#[derive(Debug)]
pub(crate) struct Keeper {
    socket: OwnedFd,
}

/// Starts one. It is the caller's to reap.
pub(crate) fn start(one: SingleThreaded) -> Result<(Keeper, Pid, OwnedFd), Failure> {
    let stage = "start the keeper of fuse-overlayfs";
    let (near, far) = wire::socket_pair(SocketType::SEQPACKET).stage(stage)?;
    // It needs no network, but where none can be made it goes without.
    let forked = sys::clone_process(one, init::clone_flags(true))
        .or_else(|_| sys::clone_process(one, init::clone_flags(false)));
    match forked.stage(stage)? {
        Forked::Parent { pid, pidfd } => Ok((Keeper { socket: near }, pid, pidfd)),
        Forked::Child => {
            drop(near);
            main(one, &far)
        }
    }
}

impl Keeper {
    /// What a process must not close to reach it.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Has a mounted file system served by the device that it was mounted with.
    pub(super) fn serve(&self, served: &Served, device: &OwnedFd) -> Result<(), Failure> {
        let stage = "ask for fuse-overlayfs";
        let bytes = serde_json::to_vec(&Request::Serve(Served {
            lowers: served.lowers.clone(),
            upper: served.upper.clone(),
        }))
        .map_err(|_| Failure::new(stage, Errno::INVAL))?;
        wire::send_request(
            self.socket.as_fd(),
            Kind::Serve,
            0,
            &[device.as_fd()],
            &bytes,
        )
        .stage(stage)
    }

    /// Waits until all programs have ended, which they do when their file systems are unmounted. Fails when one did before,
    /// or does not.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        let stage = "wait for fuse-overlayfs";
        let bytes = serde_json::to_vec(&Request::End).unwrap_or_default();
        wire::send_request(self.socket.as_fd(), Kind::Serve, 0, &[], &bytes).stage(stage)?;
        match wire::receive_answer(self.socket.as_fd()).stage(stage)? {
            Some(Some(failure)) => Err(failure),
            Some(None) => Ok(()),
            None => Err(Failure::new(stage, Errno::PIPE)),
        }
    }
}

/// A program under way.
struct Server {
    pid: Pid,
    end: OwnedFd,
    log: OwnedFd,
}

fn main(one: SingleThreaded, socket: &OwnedFd) -> ! {
    let _ = close_all_but(&[socket]);
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = rustix::thread::set_name(c"kiln-fuse");
    let mut servers = Vec::new();
    let mut failure: Option<Failure> = None;
    let mut buffer = Vec::new();
    while let Ok(Some(mut request)) = wire::receive_request(socket.as_fd(), &mut buffer) {
        let bytes = request.payload.take().unwrap_or_default();
        match serde_json::from_slice(&bytes) {
            Ok(Request::Serve(served)) => {
                let device = request.fds.pop().ok_or(Errno::BADMSG);
                let started = device
                    .stage("read the request")
                    .and_then(|device| serve(one, &served, &device));
                match started {
                    Ok(server) => servers.push(server),
                    Err(first) => drop(failure.get_or_insert(first)),
                }
            }
            Ok(Request::End) => {
                for server in servers.drain(..) {
                    let ended = wait_for(server);
                    failure = failure.or(ended.err());
                }
                if wire::send_answer(socket.as_fd(), &failure).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    sys::exit_now(0)
}

fn serve(one: SingleThreaded, served: &Served, device: &OwnedFd) -> Result<Server, Failure> {
    let stage = "start fuse-overlayfs";
    let program = program::find()?;
    let log = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).stage(stage)?;
    let Some(pid) = sys::fork(one).stage(stage)? else {
        let text = match execute(&program, served, device, &log) {
            Ok(errno) => format!("could not execute {}: {errno}\n", program.display()),
            Err(failure) => format!("could not {}: {}\n", failure.stage, failure.errno()),
        };
        let _ = rustix::io::write(&log, text.as_bytes());
        sys::exit_now(127)
    };
    let end = rustix::process::pidfd_open(pid, PidfdFlags::empty()).stage(stage)?;
    Ok(Server { pid, end, log })
}

/// Returns only when it fails, in the program's process.
fn execute(
    program: &Path,
    served: &Served,
    device: &OwnedFd,
    log: &OwnedFd,
) -> Result<Errno, Failure> {
    let stage = "set up fuse-overlayfs";
    sys::reset_signals();
    rustix::process::umask(Mode::empty());
    rustix::process::chdir("/").stage(stage)?;
    let _ = rustix::thread::set_no_new_privs(true);
    let usual = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: usual.maximum,
        maximum: usual.maximum,
    };
    let _ = rustix::process::setrlimit(Resource::Nofile, most);
    for standard in [1, 2] {
        sys::dup_onto(log, standard).stage(stage)?;
    }
    rustix::io::fcntl_setfd(device, FdFlags::empty()).stage(stage)?;
    // By descriptor, so that no character of a path means anything.
    let mut open = Vec::new();
    let mut name = |path: &PathBuf| -> Result<String, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let folder = rustix::fs::open(path, flags, Mode::empty())
            .stage_with(|| format!("open the folder {}", path.display()))?;
        let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
        open.push(folder);
        Ok(name)
    };
    let lowers: Result<Vec<String>, Failure> = served.lowers.iter().map(&mut name).collect();
    // What is written is complete when it is closed, and nothing waits for the disk.
    let mut options = format!("writeback=0,volatile,lowerdir={}", lowers?.join(":"));
    if let Some((upper, work)) = &served.upper {
        options.push_str(&format!(
            ",upperdir={},workdir={}",
            name(upper)?,
            name(work)?
        ));
    }
    let at = format!("/dev/fd/{}", device.as_raw_fd());
    let args = ["fuse-overlayfs", "-f", "-o", &options, &at];
    let c = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let args = args.map(|arg| c(arg.as_bytes()));
    Ok(sys::execve(&c(program.as_os_str().as_bytes()), &args, &[]))
}

fn wait_for(server: Server) -> Result<(), Failure> {
    let stage = "wait for fuse-overlayfs";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&server.end, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(0) => return Err(Failure::new(stage, Errno::TIMEDOUT)),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::new(stage, errno)),
        }
    }
    let ended = rustix::process::waitpid(Some(server.pid), WaitOptions::empty()).stage(stage)?;
    match ended {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        _ => {
            Err(Failure::new("serve the root by fuse-overlayfs", Errno::IO)
                .detail(words(server.log)))
        }
    }
}

/// The last thing it said that says something.
fn words(log: OwnedFd) -> String {
    let mut bytes = vec![0; 4096];
    let len = File::from(log).read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
    text.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.starts_with("unknown argument ignored"))
        .unwrap_or("it gave no reason")
        .to_owned()
}
