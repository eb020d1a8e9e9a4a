//! The network of a build: one namespace that all its private commands share, with a way out through pasta or slirp4netns.
//!
//! The caller finds the programs and asks its helper for a network when the first command needs one; the helper forks a
//! keeper (process 1 of a pid namespace, so that all below it ends with it), which makes the network namespace, starts a
//! program outside of it, and sends a descriptor of the namespace back. A command gets that descriptor with its request and
//! joins the namespace before anything is mounted. Names, addresses and files of commands are the caller's business.

mod keeper;
mod launch;
mod programs;
mod resolver;
mod routes;
mod tun;

pub(crate) use keeper::{CLONE_FLAGS, main as keep};
pub(crate) use tun::PATH as TUN_DEVICE;

use crate::fail::Failure;
use crate::sys::{self, SingleThreaded};
use crate::wire::{self, Kind};
use crate::{Error, Mode};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A program that connects a network namespace to the host's network without privileges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NetworkProgram {
    /// pasta (passt.top).
    Pasta,
    /// slirp4netns.
    Slirp4netns,
}

impl NetworkProgram {
    /// Name of its file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }

    /// Debian's package.
    fn package(self) -> &'static str {
        match self {
            Self::Pasta => "passt",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

/// How the private network of a build is made.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// Folders in which programs are looked for, as in `PATH`; empty: the usual ones. Those that everyone may write to
    /// and relative ones are left out.
    pub search_path: String,
    /// This program or an error; `None`: the first that works, else the host's network with a note.
    pub program: Option<NetworkProgram>,
    /// Commands may reach the host's own services, those on its loopback too.
    pub host_access: bool,
}

/// What a private network turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NetworkKind {
    /// A namespace behind this program.
    Program(NetworkProgram),
    /// A namespace with loopback only: the host has no network either.
    Loopback,
    /// The host's.
    Host,
}

/// The private network of a build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrivateNetwork {
    /// How it is connected.
    pub kind: NetworkKind,
    /// Where questions are passed on to the host's first name server, when commands cannot reach that themselves.
    pub name_server: Option<IpAddr>,
    /// Where the host is; only with [`NetworkOptions::host_access`].
    pub host: Option<IpAddr>,
}

impl PrivateNetwork {
    const HOST: Self = Self {
        kind: NetworkKind::Host,
        name_server: None,
        host: None,
    };
}

/// Request of [`Kind::Network`].
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    programs: Vec<(NetworkProgram, PathBuf)>,
    host_access: bool,
    /// Why there may be nothing to start, for the note.
    missing: String,
    forced: bool,
}

/// Its answer; with the namespace's descriptor unless it is the host's.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Made {
        network: PrivateNetwork,
        note: Option<String>,
    },
    Failed(Failure),
}

/// A network and its namespace, unless it is the host's.
pub(crate) type Joinable = (PrivateNetwork, Option<Arc<OwnedFd>>);

#[derive(Debug)]
enum State {
    Idle,
    Asked(OwnedFd),
    Made(PrivateNetwork, Option<Arc<OwnedFd>>),
    Failed(Failure),
}

/// The caller's side.
#[derive(Debug)]
pub(crate) struct Private {
    options: NetworkOptions,
    state: Mutex<State>,
}

impl Private {
    pub(crate) fn new(options: NetworkOptions) -> Self {
        Self {
            options,
            state: Mutex::new(State::Idle),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it made, without waiting for it.
    pub(crate) fn prepare(&self, control: BorrowedFd<'_>, mode: Mode) {
        let mut state = self.state();
        if matches!(*state, State::Idle) && mode != Mode::Chroot {
            *state = self.ask(control);
        }
    }

    /// The network and its namespace, made when it is not yet; and what is to be told of it, the first time.
    pub(crate) fn get(
        &self,
        control: BorrowedFd<'_>,
        mode: Mode,
    ) -> Result<(Joinable, Option<String>), Error> {
        let mut state = self.state();
        let mut told = None;
        if matches!(*state, State::Idle) {
            *state = if mode == Mode::Chroot {
                let (next, note) = self.without_namespaces();
                told = note;
                next
            } else {
                self.ask(control)
            };
        }
        if let State::Asked(socket) = &*state {
            let (next, note) = receive(socket);
            *state = next;
            told = note;
        }
        match &*state {
            State::Made(network, namespace) => Ok(((*network, namespace.clone()), told)),
            State::Failed(failure) => Err(failure.clone().into()),
            State::Idle | State::Asked(_) => unreachable!("BUG: the answer was received"),
        }
    }

    fn ask(&self, control: BorrowedFd<'_>) -> State {
        let (programs, missing) = programs::find(&self.options);
        if let (Some(program), []) = (self.options.program, programs.as_slice()) {
            return State::Failed(
                Failure::new(format!("find {}", program.name()), Errno::NOENT).detail(missing),
            );
        }
        let wanted = Wanted {
            programs,
            host_access: self.options.host_access,
            missing,
            forced: self.options.program.is_some(),
        };
        let payload = serde_json::to_vec(&wanted).expect("BUG: a request has string keys only");
        let asked = wire::socket_pair(SocketType::SEQPACKET).and_then(|(near, far)| {
            wire::send_request(control, Kind::Network, 0, &[far.as_fd()], &payload)?;
            Ok(near)
        });
        match asked {
            Ok(near) => State::Asked(near),
            Err(errno) => State::Failed(Failure::new("ask for a network", errno)),
        }
    }

    fn without_namespaces(&self) -> (State, Option<String>) {
        const STAGE: &str = "make a network namespace";
        if self.options.program.is_some() {
            let failure = Failure::new(STAGE, Errno::PERM)
                .detail("there are no namespaces in this isolation mode");
            return (State::Failed(failure), None);
        }
        let note = host_note("there are no network namespaces in this isolation mode", "");
        (State::Made(PrivateNetwork::HOST, None), Some(note))
    }
}

fn receive(socket: &OwnedFd) -> (State, Option<String>) {
    let lost = |errno| State::Failed(Failure::new("make the network of the build", errno));
    let mut request = match wire::receive_request(socket.as_fd(), &mut Vec::new()) {
        Ok(Some(request)) => request,
        Ok(None) => return (lost(Errno::CONNRESET), None),
        Err(errno) => return (lost(errno), None),
    };
    let answer = request.payload.take().ok();
    match answer.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        Some(Answer::Made { network, note }) => {
            let namespace = request.fds.pop().map(Arc::new);
            (State::Made(network, namespace), note)
        }
        Some(Answer::Failed(failure)) => (State::Failed(failure), None),
        None => (lost(Errno::BADMSG), None),
    }
}

/// The host's network, why, and what would help.
fn host_note(why: &str, fix: &str) -> String {
    let fix = if fix.is_empty() {
        String::new()
    } else {
        format!(" ({fix})")
    };
    format!(
        "commands use the host's network and reach its local services: {why}{fix}; `--network=none` isolates"
    )
}

/// Moves a process of one thread into the build's network namespace.
pub(crate) fn join(_one: SingleThreaded, namespace: &OwnedFd) -> Result<(), Failure> {
    let kind = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
        .map_err(|errno| Failure::new("join the build's network namespace", errno))
}

/// A new network namespace for this process, with loopback up.
fn make_namespace(one: SingleThreaded) -> Result<(), Failure> {
    use crate::fail::Stage;
    sys::unshare(one, rustix::thread::UnshareFlags::NEWNET).stage("make a network namespace")?;
    sys::loopback_up().stage("bring the loopback interface up")
}
