//! The caller's side: starts the helper, sends requests, reads answers. Never forks.

use crate::cgroup::Group;
use crate::fail::Failure;
use crate::network;
use crate::probe::{Fact, Place};
use crate::wire::{self, Entered, Hello, Kind, RunReply};
use crate::{
    Error, Exit, IdMapping, Isolation, Mode, Network, Options, Pressure, RootKind, RunSpec,
    Security,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketType;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// First argument of a re-executed helper.
pub(crate) const MARKER: &str = "--sandbox-helper--";
/// How long a dropped run is waited for where it has a control group.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// `f_type` of anonymous pipes (statfs(2)).
const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;

/// A started helper and what it said about itself.
#[derive(Debug)]
pub(crate) struct Helper {
    control: OwnedFd,
    process: Mutex<Child>,
    mapping: IdMapping,
    owners: bool,
    mode: Mode,
    root: RootKind,
    notes: Mutex<Vec<String>>,
    /// Settings of commands that the helper has made a filter for.
    filtered: Mutex<Vec<Security>>,
    network: network::Private,
}

impl Helper {
    pub(crate) fn start(options: &Options) -> Result<Self, Error> {
        let mut hello = Hello {
            stores: options.stores.clone(),
            single: None,
            none: None,
            volumes: options.volumes.clone(),
            isolation: options.isolation,
            root: options.root,
        };
        // Each round takes away something more to ask for.
        loop {
            let (control, mut process) = spawn()?;
            let answer = greet(&control, &hello)
                .map_err(|errno| Error::Helper(format!("no answer from it: {errno}")))?;
            let refused: Result<(), Error> = match answer {
                Entered::Ready {
                    mapping,
                    owners,
                    mode,
                    root,
                    lost,
                    mut notes,
                } => {
                    let lost = lost.map(Error::from);
                    notes.splice(0..0, mode_line(mode, options.isolation, lost.as_ref()));
                    return Ok(Self {
                        control,
                        process: Mutex::new(process),
                        mapping,
                        owners,
                        mode,
                        root,
                        notes: Mutex::new(notes),
                        filtered: Mutex::new(vec![Security::default()]),
                        network: network::Private::new(options.network.clone()),
                    });
                }
                Entered::Failed(failure) => Err(failure.into()),
                Entered::NeedsSingle(reason) if hello.single.is_none() => {
                    hello.single = Some(reason);
                    Ok(())
                }
                Entered::NeedsChroot(failure) if hello.none.is_none() => {
                    hello.none = Some(failure);
                    Ok(())
                }
                Entered::NeedsSingle(reason) => Err(Error::Helper(reason)),
                Entered::NeedsChroot(failure) => Err(failure.into()),
            };
            drop(control);
            let _ = process.wait();
            refused?;
        }
    }

    pub(crate) fn id_mapping(&self) -> IdMapping {
        self.mapping
    }

    pub(crate) fn records_owners(&self) -> bool {
        self.owners
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn root_kind(&self) -> RootKind {
        self.root
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note_once(&self, text: &str) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.iter().any(|note| note == text) {
            notes.push(text.to_owned());
        }
    }

    pub(crate) fn prepare_network(&self) {
        self.network.prepare(self.control.as_fd(), self.mode);
    }

    pub(crate) fn network(&self) -> Result<network::Joinable, Error> {
        let (joinable, note) = self.network.get(self.control.as_fd(), self.mode)?;
        if let Some(note) = note {
            self.note_once(&note);
        }
        Ok(joinable)
    }

    pub(crate) fn run(
        &self,
        spec: &RunSpec,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<Started, Error> {
        let (flags, namespace) = match spec.network {
            Network::None => (wire::NEW_NETWORK, None),
            Network::Host => (0, None),
            Network::Private => match self.network()? {
                (_, Some(namespace)) => (wire::JOIN_NETWORK, Some(namespace)),
                (_, None) => (0, None),
            },
        };
        for output in [stdout, stderr] {
            open_to_the_command(output);
        }
        self.prepare_filter(&spec.security)?;
        let payload = serde_json::to_vec(spec).expect("BUG: a RunSpec has only string keys");
        let (near, far) = wire::socket_pair(SocketType::SEQPACKET)
            .map_err(|errno| setup("make a socket", errno))?;
        let group = Group::new(&spec.resources)?;
        let entrances = group.as_ref().map(Group::entrances).transpose()?;
        let entrances = entrances.unwrap_or_default();
        let mut fds = vec![far.as_fd(), stdout, stderr];
        fds.extend(entrances.iter().map(AsFd::as_fd));
        fds.extend(namespace.as_deref().map(AsFd::as_fd));
        let sent = wire::send_request(self.control.as_fd(), Kind::Run, flags, &fds, &payload);
        drop(fds);
        drop(far);
        sent.map_err(|errno| self.gone(errno))?;
        match wire::receive_answer(near.as_fd()) {
            Ok(Some(RunReply::Started)) => Ok(Started {
                socket: near,
                ended: None,
                gone: false,
                group,
                pressure: Pressure::default(),
            }),
            Ok(Some(RunReply::Failed(failure))) => Err(failure.into()),
            Ok(Some(RunReply::Ended(_) | RunReply::Gone)) => Err(Error::Helper(
                "the command's first process was killed".to_owned(),
            )),
            Ok(None) => Err(self.gone(Errno::CONNRESET)),
            Err(errno) => Err(self.gone(errno)),
        }
    }

    pub(crate) fn emulate(&self, emulators: &[crate::Emulator]) -> Result<(), Error> {
        let payload =
            serde_json::to_vec(emulators).map_err(|_| setup("register emulators", Errno::INVAL))?;
        let (near, far) = wire::socket_pair(SocketType::SEQPACKET)
            .map_err(|errno| setup("make a socket", errno))?;
        let control = self.control.as_fd();
        let sent = wire::send_request(control, Kind::Emulate, 0, &[far.as_fd()], &payload);
        drop(far);
        sent.map_err(|errno| self.gone(errno))?;
        match wire::receive_answer::<Option<Failure>>(near.as_fd()) {
            Ok(Some(None)) => Ok(()),
            Ok(Some(Some(failure))) => Err(failure.into()),
            Ok(None) => Err(self.gone(Errno::CONNRESET)),
            Err(errno) => Err(self.gone(errno)),
        }
    }

    /// Has the helper compile the filter of these settings, once.
    fn prepare_filter(&self, security: &Security) -> Result<(), Error> {
        let mut filtered = self.filtered.lock().unwrap_or_else(PoisonError::into_inner);
        if filtered.contains(security) {
            return Ok(());
        }
        security.check().map_err(|reason| Error::Setup {
            stage: "use the security settings".to_owned(),
            detail: Some(reason),
            source: Errno::INVAL.into(),
        })?;
        let payload = serde_json::to_vec(security).expect("BUG: settings have only string keys");
        wire::send_request(self.control.as_fd(), Kind::Security, 0, &[], &payload)
            .map_err(|errno| self.gone(errno))?;
        filtered.push(security.clone());
        Ok(())
    }

    pub(crate) fn task(
        &self,
        name: &str,
        request: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>, Error> {
        let (near, far) =
            wire::socket_pair(SocketType::STREAM).map_err(|errno| setup("make a socket", errno))?;
        let mut all = Vec::with_capacity(fds.len() + 1);
        all.push(far.as_fd());
        all.extend_from_slice(fds);
        if all.len() >= wire::MAX_FDS {
            return Err(setup("pass descriptors to a task", Errno::TOOBIG));
        }
        let payload = wire::task_payload(name, request);
        let sent = wire::send_request(self.control.as_fd(), Kind::Task, 0, &all, &payload);
        drop(all);
        drop(far);
        sent.map_err(|errno| self.gone(errno))?;
        let (ok, bytes) = read_task_answer(near)
            .map_err(|error| Error::Helper(format!("task {name} gave no answer: {error}")))?;
        if ok {
            Ok(bytes)
        } else {
            Err(Error::Task(String::from_utf8_lossy(&bytes).into_owned()))
        }
    }

    /// The error for a helper that does not take requests any longer.
    fn gone(&self, errno: Errno) -> Error {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        match process.try_wait() {
            Ok(Some(status)) => Error::Helper(status.to_string()),
            _ => Error::Helper(format!("its socket failed: {errno}")),
        }
    }
}

impl Drop for Helper {
    /// Closes the control socket, on which the helper kills all it started, and waits for that.
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        let _ = self
            .process
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .wait();
    }
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Started {
    socket: OwnedFd,
    ended: Option<Exit>,
    gone: bool,
    group: Option<Group>,
    pressure: Pressure,
}

impl Drop for Started {
    /// A control group can be removed when its processes are gone, which closing the socket alone does not wait for.
    fn drop(&mut self) {
        if self.group.is_some() && !self.gone {
            self.kill();
            let _ = self.wait_timeout(DROP_PATIENCE);
        }
    }
}

impl Started {
    pub(crate) fn wait(&mut self) -> Result<Exit, Error> {
        while !self.gone {
            self.receive()?;
        }
        Ok(self.exit())
    }

    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Exit>, Error> {
        let deadline = Instant::now() + timeout;
        while !self.gone {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&left)) {
                Ok(0) => return Ok(None),
                Ok(_) => self.receive()?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(setup("wait for the command", errno)),
            }
        }
        Ok(Some(self.exit()))
    }

    pub(crate) fn kill(&self) {
        self.ask(wire::KILL);
    }

    pub(crate) fn stop(&self) {
        self.ask(wire::STOP);
    }

    fn ask(&self, what: u8) {
        // A helper that is gone has taken the command with it.
        let _ = rustix::net::send(&self.socket, &[what], rustix::net::SendFlags::NOSIGNAL);
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.pressure
    }

    fn receive(&mut self) -> Result<(), Error> {
        match wire::receive_answer(self.socket.as_fd()) {
            Ok(Some(RunReply::Ended(exit))) => self.ended = Some(exit),
            Ok(Some(RunReply::Gone)) => {
                self.gone = true;
                if let Some(group) = self.group.take() {
                    self.pressure = group.pressure();
                }
            }
            Ok(Some(RunReply::Failed(failure))) => return Err(failure.into()),
            Ok(Some(RunReply::Started)) => {}
            Ok(None) => return Err(Error::Helper("the command ended with it".to_owned())),
            Err(errno) => return Err(Error::Helper(format!("its socket failed: {errno}"))),
        }
        Ok(())
    }

    /// Without a report of its end, pid 1 was killed and the command with it.
    fn exit(&self) -> Exit {
        self.ended.unwrap_or(Exit::Signal(libc::SIGKILL))
    }
}

/// Re-executes this program as the helper. Its control socket is its standard input, so that nothing has to run between
/// fork and exec and the C library may use vfork whatever this process's size.
fn spawn() -> Result<(OwnedFd, Child), Error> {
    let (near, far) =
        wire::socket_pair(SocketType::SEQPACKET).map_err(|errno| setup("make a socket", errno))?;
    let process = Command::new("/proc/self/exe")
        .arg0("kiln-sandbox")
        .arg(MARKER)
        .env_clear()
        .stdin(Stdio::from(far))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Setup {
            stage: "start the sandbox helper".to_owned(),
            detail: Some("/proc/self/exe".to_owned()),
            source,
        })?;
    Ok((near, process))
}

/// Starts a helper that tries everything and ends.
pub(crate) fn facts(place: &Place) -> Result<Vec<Fact>, Error> {
    let (control, mut process) = spawn()?;
    let payload = serde_json::to_vec(place).expect("BUG: a place has only string keys");
    wire::send_request(control.as_fd(), Kind::Probe, 0, &[], &payload)
        .map_err(|errno| Error::Helper(format!("no answer from it: {errno}")))?;
    let mut facts = Vec::new();
    let ended = loop {
        match wire::receive_answer(control.as_fd()) {
            Ok(Some(fact)) => facts.push(fact),
            Ok(None) => break Ok(()),
            Err(errno) => break Err(Error::Helper(format!("its socket failed: {errno}"))),
        }
    };
    drop(control);
    let _ = process.wait();
    ended.map(|()| facts)
}

/// The mode in one line, with what kept it from being a better one; nothing when it is the best and nothing else was asked
/// for.
fn mode_line(mode: Mode, asked: Isolation, lost: Option<&Error>) -> Option<String> {
    let why = match (mode, asked, lost) {
        (Mode::Full, Isolation::Nested, _) => "possible here, more than was asked for".to_owned(),
        (Mode::Full, ..) => return None,
        (_, _, Some(lost)) => {
            let cause = std::error::Error::source(lost);
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            format!("{lost}{cause}")
        }
        (_, _, None) => "asked for".to_owned(),
    };
    Some(format!("isolation: {mode}: {why}"))
}

fn greet(control: &OwnedFd, hello: &Hello) -> Result<Entered, Errno> {
    let payload = serde_json::to_vec(hello).map_err(|_| Errno::INVAL)?;
    wire::send_request(control.as_fd(), Kind::Hello, 0, &[], &payload)?;
    wire::receive_answer(control.as_fd())?.ok_or(Errno::CONNRESET)
}

/// Lets the command reopen its output by `/dev/stdout`: an anonymous pipe belongs to the caller, whose id may not exist inside.
fn open_to_the_command(output: BorrowedFd<'_>) {
    let anonymous = rustix::fs::fstatfs(output).is_ok_and(|stat| stat.f_type == PIPEFS_MAGIC);
    if anonymous {
        // A pipe made by someone else keeps its mode; only reopening it fails then.
        let _ = rustix::fs::fchmod(output, rustix::fs::Mode::from_raw_mode(0o666));
    }
}

fn read_task_answer(socket: OwnedFd) -> std::io::Result<(bool, Vec<u8>)> {
    let mut stream = File::from(socket);
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [status, len @ ..] = head;
    let len = u64::from_le_bytes(len);
    let mut bytes = Vec::new();
    let read = stream.take(len).read_to_end(&mut bytes)?;
    if u64::try_from(read).ok() != Some(len) {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok((status == 0, bytes))
}

fn setup(stage: &str, errno: Errno) -> Error {
    Failure::new(stage, errno).into()
}
