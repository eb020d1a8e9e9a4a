//! Starts a network program for a namespace and waits until it serves it.
//!
//! The program runs in the build's user namespace and the host's network namespace: it has no rights on the host that its
//! user lacks. Nothing is forwarded into the namespace, and of the host's loopback nothing is reachable unless asked for.

use super::{NetworkProgram, PrivateNetwork};
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
/// Where pasta answers questions for names: an address of no network (RFC 3927), as Podman uses it.
const PASTA_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Addresses of slirp4netns (its manual).
const SLIRP_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const SLIRP_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A forked process in the host's network namespace that becomes the program when it is told to.
pub(super) struct Waiting {
    program: NetworkProgram,
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
    let Some(pid) = sys::fork(one)? else {
        drop((go, ready));
        let args = arguments(program, namespace, host_access, ready_write.as_raw_fd());
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
        pid,
        go,
        log,
        ready,
    })
}

fn arguments(
    program: NetworkProgram,
    namespace: &str,
    host_access: bool,
    ready: i32,
) -> Vec<String> {
    let mut args: Vec<String> = vec![program.name().to_owned()];
    let mut add = |more: &[&str]| args.extend(more.iter().map(|arg| (*arg).to_owned()));
    match program {
        // It goes into the background when it serves, which tells that it is ready; its pid namespace still ends it.
        NetworkProgram::Pasta => {
            add(&["--quiet", "--config-net", "--no-netns-quit"]);
            add(&["--tcp-ports", "none", "--udp-ports", "none"]);
            add(&["--tcp-ns", "none", "--udp-ns", "none"]);
            if !host_access {
                add(&["--no-map-gw"]);
            }
            add(&["--dns-forward", &PASTA_NAME_SERVER.to_string()]);
            add(&["--netns", namespace]);
        }
        NetworkProgram::Slirp4netns => {
            add(&["--configure", "--mtu=65520", "--enable-ipv6"]);
            add(&["--enable-sandbox", "--enable-seccomp"]);
            if !host_access {
                add(&["--disable-host-loopback"]);
            }
            add(&[&format!("--ready-fd={ready}"), "--netns-type=path"]);
            add(&[namespace, "tap0"]);
        }
    }
    args
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
    pub(super) fn start(self) -> Result<PrivateNetwork, String> {
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
            return Ok(self.network());
        }
        let _ = rustix::process::pidfd_send_signal(&end, Signal::KILL);
        Err(format!("{name} failed: {}", self.words()))
    }

    fn network(&self) -> PrivateNetwork {
        let (name_server, host) = match self.program {
            NetworkProgram::Pasta => (PASTA_NAME_SERVER, super::routes::read().gateway),
            NetworkProgram::Slirp4netns => (SLIRP_NAME_SERVER, Some(IpAddr::V4(SLIRP_HOST))),
        };
        PrivateNetwork {
            kind: super::NetworkKind::Program(self.program),
            name_server: Some(IpAddr::V4(name_server)),
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
