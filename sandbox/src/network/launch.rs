//! Starts a network program for a namespace and waits until it serves it.
//!
//! The program runs in the build's user namespace and the host's network namespace: it has no rights on the host that its
//! user lacks. Nothing is forwarded into the namespace, and of the host's loopback nothing is reachable unless asked for.

use super::resolver::{self, Forward};
use super::{NetworkProgram, PrivateNetwork, routes};
use crate::sys::{self, SingleThreaded};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::ffi::CString;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest that a program may take to get ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of slirp4netns (its manual).
const SLIRP_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const SLIRP_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A forked process in the host's network namespace that becomes the program when it is told to.
pub(super) struct Waiting {
    program: NetworkProgram,
    forward: Forward,
    pid: Pid,
    go: OwnedFd,
    log: OwnedFd,
    ready: OwnedFd,
}

/// Forks it. The namespace it will serve is at `namespace` by the time it goes.
pub(super) fn fork(
    one: SingleThreaded,
    program: NetworkProgram,
    path: &Path,
    namespace: &str,
    host_access: bool,
) -> Result<Waiting, Errno> {
    let (go_read, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (ready, ready_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let log = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC)?;
    let forward = match program {
        NetworkProgram::Pasta => resolver::forward(routes::read()),
        NetworkProgram::Slirp4netns => Forward::At(SLIRP_NAME_SERVER.into()),
    };
    let Some(pid) = sys::fork(one)? else {
        drop((go, ready));
        let args = match program {
            NetworkProgram::Pasta => pasta_arguments(namespace, host_access, &forward),
            NetworkProgram::Slirp4netns => {
                slirp4netns_arguments(namespace, host_access, ready_write.as_raw_fd())
            }
        };
        let go = rustix::io::read(&go_read, &mut [0]);
        if go == Ok(1) {
            let errno = execute(program, path, &args, &log, &ready_write);
            let text = format!("could not execute {}: {errno}\n", path.display());
            let _ = rustix::io::write(&log, text.as_bytes());
        }
        sys::exit_now(127)
    };
    Ok(Waiting {
        program,
        forward,
        pid,
        go,
        log,
        ready,
    })
}

/// It goes into the background when it serves, which tells that it is ready; its pid namespace still ends it.
fn pasta_arguments(namespace: &str, host_access: bool, forward: &Forward) -> Vec<String> {
    let mut args = vec!["pasta", "--quiet", "--config-net", "--no-netns-quit"];
    args.extend(["--tcp-ports", "none", "--udp-ports", "none"]);
    args.extend(["--tcp-ns", "none", "--udp-ns", "none"]);
    if !host_access {
        args.push("--no-map-gw");
    }
    let address;
    if let Forward::At(at) = forward {
        address = at.to_string();
        args.extend(["--dns-forward", &address]);
    }
    args.extend(["--netns", namespace]);
    args.into_iter().map(str::to_owned).collect()
}

fn slirp4netns_arguments(namespace: &str, host_access: bool, ready: i32) -> Vec<String> {
    let mut args = vec!["slirp4netns", "--configure", "--mtu=65520", "--enable-ipv6"];
    args.extend(["--enable-sandbox", "--enable-seccomp"]);
    if !host_access {
        args.push("--disable-host-loopback");
    }
    let ready = format!("--ready-fd={ready}");
    args.extend([&ready, "--netns-type=path", namespace, "tap0"]);
    args.into_iter().map(str::to_owned).collect()
}

/// Returns only on failure.
fn execute(
    program: NetworkProgram,
    path: &Path,
    args: &[String],
    log: &OwnedFd,
    ready: &OwnedFd,
) -> Errno {
    sys::reset_signals();
    for standard in [1, 2] {
        if let Err(errno) = sys::dup_onto(log, standard) {
            return errno;
        }
    }
    if program == NetworkProgram::Slirp4netns
        && let Err(errno) = rustix::io::fcntl_setfd(ready, FdFlags::empty())
    {
        return errno;
    }
    let c = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let args: Vec<CString> = args.iter().map(|arg| c(arg.as_bytes())).collect();
    sys::execve(&c(path.as_os_str().as_bytes()), &args, &[])
}

impl Waiting {
    /// Lets it start and waits until it serves the namespace; else its own words, or what happened to it.
    pub(super) fn start(self) -> Result<(PrivateNetwork, Option<String>), String> {
        let name = self.program.name();
        let failed = |errno: Errno| format!("{name} could not be started: {errno}");
        let end = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()).map_err(failed)?;
        rustix::io::write(&self.go, b"g").map_err(failed)?;
        let is_ready = match self.program {
            NetworkProgram::Pasta => wait_for(&end)
                .map_err(failed)?
                .then(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()))
                .is_some_and(|ended| {
                    matches!(ended, Ok(Some((_, status))) if status.exit_status() == Some(0))
                }),
            // One byte, or its end.
            NetworkProgram::Slirp4netns => {
                wait_for(&self.ready).map_err(failed)?
                    && rustix::io::read(&self.ready, &mut [0]) == Ok(1)
            }
        };
        if is_ready {
            let note = match &self.forward {
                Forward::Impossible(why) => Some(why.clone()),
                _ => None,
            };
            return Ok((self.network(), note));
        }
        let _ = rustix::process::pidfd_send_signal(&end, Signal::KILL);
        Err(format!("{name} failed: {}", self.words()))
    }

    fn network(&self) -> PrivateNetwork {
        let host = match self.program {
            NetworkProgram::Pasta => routes::read().gateway,
            NetworkProgram::Slirp4netns => Some(IpAddr::V4(SLIRP_HOST)),
        };
        let name_server = match self.forward {
            Forward::At(address) => Some(address),
            _ => None,
        };
        PrivateNetwork {
            kind: super::NetworkKind::Program(self.program),
            name_server,
            host,
        }
    }

    /// The last thing it said that says something.
    fn words(&self) -> String {
        let mut bytes = vec![0; 4096];
        let read = self.log.as_fd().try_clone_to_owned().map(File::from);
        let len = read
            .and_then(|file| file.read_at(&mut bytes, 0))
            .unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
        text.lines()
            .map(str::trim)
            .rfind(|line| {
                !line.is_empty()
                    && !line.starts_with("Failed to send ")
                    && !line.starts_with("WARNING: Support for ")
            })
            .unwrap_or("it gave no reason")
            .to_owned()
    }
}

/// False when patience ends first.
fn wait_for(fd: &OwnedFd) -> Result<bool, Errno> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(fd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
