//! The helper process: one per build, single-threaded, small.
//!
//! It enters the build's namespace once and then forks a child for every run and task. It never works itself, so that its
//! loop always notices the caller's end: the control socket closes, it kills all its children and exits. Children die with
//! it by their parent-death signal.

use crate::TaskFn;
use crate::client::MARKER;
use crate::fail::{Failure, Stage};
use crate::notify::{self, mknod, mknod::Nodes};
use crate::probe::{self, fixes};
use crate::root::fuse;
use crate::seccomp::{Filters, Watch};
use crate::sys::{self, Forked, SingleThreaded};
use crate::wire::{self, Entered, Hello, Kind, Request, RunReply};
use crate::{
    IdMapping, Mode as IsolationMode, RootKind, Volume, binfmt, chroot, init, ladder, network, task,
};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use std::path::PathBuf;

type Tasks<'a> = &'a [(&'static str, TaskFn)];

/// Becomes the helper when this process was started as one; returns otherwise.
pub(crate) fn run_if_child(tasks: Tasks<'_>) {
    if std::env::args_os()
        .nth(1)
        .is_none_or(|first| first != MARKER)
    {
        return;
    }
    let code = if run(tasks).is_some() { 0 } else { 2 };
    sys::exit_now(code)
}

/// `None` when this is not a helper's surroundings: someone typed the marker by hand.
fn run(tasks: Tasks<'_>) -> Option<()> {
    let control = take_control()?;
    // SAFETY: `init_if_child` is called first in main, before any thread, and nothing here starts one.
    #[allow(unsafe_code)]
    let one = unsafe { SingleThreaded::assume() };
    let caller = rustix::process::getppid()
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let _ = rustix::thread::set_name(c"kiln-sandbox");
    // Signals of the caller's terminal are the caller's business.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    forget_protection();
    let mut buffer = Vec::new();
    let request = wire::receive_request(control.as_fd(), &mut buffer).ok()??;
    if request.kind == Kind::Probe {
        probe::serve(one, control.as_fd(), request);
        return Some(());
    }
    // Outside of the namespace that is entered next.
    let nodes = mknod::start(one);
    let (answer, hello) = enter(one, request);
    wire::send_answer(control.as_fd(), &answer).ok()?;
    let Entered::Ready {
        mode,
        root,
        mapping,
        owners,
        ..
    } = answer
    else {
        return Some(());
    };
    if mode == IsolationMode::Chroot {
        chroot::inherit_orphans();
    }
    let hello = hello?;
    let (life, life_of_children) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
    let mut helper = Helper {
        one,
        mode,
        root,
        stores: hello.stores,
        volumes: hello.volumes,
        tasks,
        control,
        caller,
        filters: Filters::new(if owners {
            notify::watch()
        } else {
            Watch::default()
        }),
        // What fuse-overlayfs serves only processes inside the user namespace may enter.
        nodes: nodes.filter(|_| mapping == IdMapping::Idmapped && root != RootKind::Fuse),
        owners,
        life,
        _life_of_children: life_of_children,
        children: Vec::new(),
        emulators: None,
        buffer,
    };
    helper.serve();
    helper.end_all();
    Some(())
}

/// A service that the kernel is to spare when memory is short does not want that for the commands of its builds.
fn forget_protection() {
    const FILE: &str = "/proc/self/oom_score_adj";
    if std::fs::read_to_string(FILE).is_ok_and(|text| text.starts_with('-')) {
        let _ = std::fs::write(FILE, "0");
    }
}

/// Moves the control socket away from descriptor 0 and closes everything else that was inherited.
fn take_control() -> Option<OwnedFd> {
    let control = sys::take_stdin().ok()?;
    if rustix::net::sockopt::socket_type(&control).ok()? != SocketType::SEQPACKET {
        return None;
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
    for standard in 0..3 {
        sys::dup_onto(&null, standard).ok()?;
    }
    drop(null);
    close_all_but(&[&control]).ok()?;
    Some(control)
}

/// Closes every descriptor from 3 on but those given.
pub(crate) fn close_all_but(kept: &[&OwnedFd]) -> Result<(), Errno> {
    use rustix::fd::AsRawFd;
    let mut kept: Vec<u32> = kept
        .iter()
        .map(|fd| fd.as_raw_fd().cast_unsigned())
        .collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            sys::close_range(first, fd - 1, false)?;
        }
        first = first.max(fd + 1);
    }
    sys::close_range(first, u32::MAX, false)
}

fn enter(one: SingleThreaded, mut request: Request) -> (Entered, Option<Hello>) {
    let hello = match request.payload.take() {
        Ok(bytes) if request.kind == Kind::Hello => serde_json::from_slice::<Hello>(&bytes).ok(),
        _ => None,
    };
    match hello {
        Some(hello) => (ladder::enter(one, &hello), Some(hello)),
        None => {
            let failure = Failure::new("read the first request", Errno::BADMSG);
            (Entered::Failed(failure), None)
        }
    }
}

/// A run or task under way.
struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    is_run: bool,
    /// Where a run's end is told; readable or closed when the caller wants it killed.
    reply: Option<OwnedFd>,
}

struct Helper<'a> {
    one: SingleThreaded,
    mode: IsolationMode,
    root: RootKind,
    stores: Vec<PathBuf>,
    volumes: Vec<Volume>,
    tasks: Tasks<'a>,
    control: OwnedFd,
    /// The caller's process; none when it was gone already, which the control socket tells as well.
    caller: Option<OwnedFd>,
    filters: Filters,
    nodes: Option<Nodes>,
    /// Process 1 of a run answers calls of its command, which has a single id.
    owners: bool,
    /// Read end of a pipe of which only this process holds the other: children see its end by it.
    life: OwnedFd,
    _life_of_children: OwnedFd,
    children: Vec<Child>,
    /// The mount that holds the registered emulators.
    emulators: Option<OwnedFd>,
    buffer: Vec<u8>,
}

/// What a round of polling found.
#[derive(Default)]
struct Events {
    caller_gone: bool,
    request: bool,
    ended: Vec<Pid>,
    asked: Vec<Pid>,
}

impl Helper<'_> {
    /// Serves until the caller is gone.
    fn serve(&mut self) {
        loop {
            let Ok(events) = self.poll() else { return };
            if events.caller_gone {
                return;
            }
            for pid in events.ended {
                self.reap(pid);
            }
            for pid in events.asked {
                self.end(pid);
            }
            if events.request && !self.accept() {
                return;
            }
        }
    }

    fn poll(&self) -> Result<Events, Errno> {
        let mut polled = vec![PollFd::new(&self.control, PollFlags::IN)];
        let mut owners = vec![None];
        if let Some(caller) = &self.caller {
            polled.push(PollFd::new(caller, PollFlags::IN));
            owners.push(None);
        }
        for child in &self.children {
            polled.push(PollFd::new(&child.pidfd, PollFlags::IN));
            owners.push(Some((child.pid, true)));
            if let Some(reply) = &child.reply {
                polled.push(PollFd::new(reply, PollFlags::IN));
                owners.push(Some((child.pid, false)));
            }
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
        let mut events = Events::default();
        for (index, (polled, owner)) in polled.iter().zip(&owners).enumerate() {
            if polled.revents().is_empty() {
                continue;
            }
            match owner {
                Some((pid, true)) => events.ended.push(*pid),
                Some((pid, false)) => events.asked.push(*pid),
                None if index == 0 => events.request = true,
                None => events.caller_gone = true,
            }
        }
        Ok(events)
    }

    /// Takes one request; false when the caller is gone.
    fn accept(&mut self) -> bool {
        match wire::receive_request(self.control.as_fd(), &mut self.buffer) {
            Ok(Some(request)) => {
                self.start(request);
                true
            }
            Ok(None) => false,
            // The descriptors of a broken request are closed, which its sender sees.
            Err(errno) => errno == Errno::BADMSG,
        }
    }

    fn start(&mut self, mut request: Request) {
        if request.kind == Kind::Security {
            return self.prepare_filter(&mut request);
        }
        if request.fds.is_empty() {
            return;
        }
        let reply = request.fds.remove(0);
        match request.kind {
            Kind::Run => self.start_run(request, reply),
            Kind::Task => self.start_task(request, reply),
            Kind::Emulate => self.emulate(request, &reply),
            Kind::Network => self.start_network(request, reply),
            Kind::Hello | Kind::Security | Kind::Probe | Kind::Serve => {}
        }
    }

    /// Settings that commands will come with: their filter is compiled once, here, and each command inherits it.
    fn prepare_filter(&mut self, request: &mut Request) {
        let security = request
            .payload
            .take()
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(security) = security {
            self.filters.add(security);
        }
    }

    fn start_run(&mut self, request: Request, reply: OwnedFd) {
        let new_network = request.flags & wire::NEW_NETWORK != 0;
        let namespaces = match self.mode {
            IsolationMode::Full | IsolationMode::Nested => init::clone_flags(new_network),
            IsolationMode::Chroot => 0,
        };
        // Held by the run alone: it ends with that.
        let keeper = match self.start_keeper() {
            Ok(keeper) => keeper,
            Err(failure) => {
                let _ = wire::send_answer(reply.as_fd(), &RunReply::Failed(failure));
                return;
            }
        };
        match sys::clone_process(self.one, namespaces).stage("start a process in new namespaces") {
            Ok(Forked::Parent { pid, pidfd }) => self.children.push(Child {
                pid,
                pidfd,
                is_run: true,
                reply: Some(reply),
            }),
            Ok(Forked::Child) => {
                let start = init::Start {
                    one: self.one,
                    filters: &self.filters,
                    nodes: self.nodes.as_ref(),
                    life: &self.life,
                    new_network,
                    joins_network: request.flags & wire::JOIN_NETWORK != 0,
                    mode: self.mode,
                    root: self.root,
                    keeper: keeper.as_ref(),
                    stores: &self.stores,
                    volumes: &self.volumes,
                    owners: self.owners,
                };
                if self.mode == IsolationMode::Chroot {
                    chroot::main(&start, request, &reply)
                }
                init::main(&start, request, &reply)
            }
            Err(failure) => {
                let fixes = fixes::here().namespaces(failure.errno());
                let failure = failure.detail(fixes);
                let _ = wire::send_answer(reply.as_fd(), &RunReply::Failed(failure));
            }
        }
    }

    /// What serves a run's roots, where fuse-overlayfs does.
    fn start_keeper(&mut self) -> Result<Option<fuse::Keeper>, Failure> {
        if self.root != RootKind::Fuse {
            return Ok(None);
        }
        let (keeper, pid, pidfd) = fuse::start(self.one)?;
        self.children.push(Child {
            pid,
            pidfd,
            is_run: false,
            reply: None,
        });
        Ok(Some(keeper))
    }

    fn emulate(&mut self, mut request: Request, reply: &OwnedFd) {
        let emulators: Option<Vec<crate::Emulator>> = request
            .payload
            .take()
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let registered = emulators
            .ok_or(Errno::BADMSG)
            .stage("read the request")
            .and_then(|emulators| binfmt::register(&emulators));
        let failure = registered.map(|mount| self.emulators = Some(mount)).err();
        let _ = wire::send_answer(reply.as_fd(), &failure);
    }

    fn start_task(&mut self, request: Request, reply: OwnedFd) {
        match sys::fork(self.one) {
            Ok(None) => task::main(self.tasks, request, reply, &self.life),
            Ok(Some(pid)) => match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => self.children.push(Child {
                    pid,
                    pidfd,
                    is_run: false,
                    reply: None,
                }),
                Err(_) => {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                }
            },
            Err(errno) => task::answer(reply, Err(format!("could not fork: {errno}"))),
        }
    }

    /// The process that makes and keeps the build's network. Its end needs no answer: it gives its own.
    fn start_network(&mut self, request: Request, reply: OwnedFd) {
        match sys::clone_process(self.one, network::CLONE_FLAGS) {
            Ok(Forked::Parent { pid, pidfd }) => self.children.push(Child {
                pid,
                pidfd,
                reply: None,
                is_run: false,
            }),
            Ok(Forked::Child) => network::keep(self.one, request, reply, &self.life),
            // Seen by the asker as an answer that does not come.
            Err(_) => {}
        }
    }

    /// An ended child: a run's init is reaped only after all processes of its pid namespace are.
    fn reap(&mut self, pid: Pid) {
        let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        let Some(index) = self.children.iter().position(|child| child.pid == pid) else {
            return;
        };
        let child = self.children.swap_remove(index);
        let killed = ended.is_ok_and(|ended| ended.is_some_and(|(_, status)| status.signaled()));
        if killed && self.mode == IsolationMode::Chroot {
            let known: Vec<Pid> = self.children.iter().map(|child| child.pid).collect();
            chroot::end_orphans(&known);
        }
        if let Some(reply) = child.reply {
            let _ = wire::send_answer(reply.as_fd(), &RunReply::Gone);
        }
    }

    /// The caller asked for a run's end, by a message or by closing its socket.
    fn end(&mut self, pid: Pid) {
        let kill = self.kill_signal();
        let Some(child) = self.children.iter_mut().find(|child| child.pid == pid) else {
            return;
        };
        let Some(reply) = &child.reply else { return };
        let mut byte = [0];
        let message = rustix::net::recv(reply, &mut byte, RecvFlags::DONTWAIT);
        let signal = match (message, byte) {
            // The first process passes it on to all others.
            (Ok((1.., _)), [wire::STOP]) => Signal::TERM,
            _ => kill,
        };
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, signal);
        if !matches!(message, Ok((1.., _))) {
            child.reply = None;
        }
    }

    /// By which a run's first process ends. One without namespaces has to clean up.
    fn kill_signal(&self) -> Signal {
        match self.mode {
            IsolationMode::Full | IsolationMode::Nested => Signal::KILL,
            IsolationMode::Chroot => chroot::END,
        }
    }

    fn end_all(&mut self) {
        for child in &self.children {
            // A task has nothing to clean up.
            let signal = if child.is_run {
                self.kill_signal()
            } else {
                Signal::KILL
            };
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, signal);
        }
        for child in self.children.drain(..) {
            let _ = rustix::process::waitpid(Some(child.pid), WaitOptions::empty());
        }
    }
}
