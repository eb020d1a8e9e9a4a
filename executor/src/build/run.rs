//! RUN: one command in the sandbox over the layers below, its output streamed and logged, its changes captured.

use crate::Error;
use crate::build::backend::{self, Executor, Work};
use crate::build::mounts::{self, Held};
use crate::build::{foreign, secrets, volumes};
use crate::copy::{self, UserIds};
use crate::device::{EditMount, Edits};
use crate::layer::{self, Form};
use crate::snapshot::Snapshot;
use oci_spec::image::Digest;
use planner::plan::{Network, RunMount, RunOp, Step, StepId};
use planner::scheduler::{Cancel, Observer, StepEvent};
use rustix::pipe::{PipeFlags, pipe_with};
use sandbox::{Exit, Mount, Overlay, RunSpec, Sandbox};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Lines of output that an error carries.
const TAIL_LINES: usize = 20;
/// Bytes of one of them.
const TAIL_LINE_BYTES: usize = 4096;
/// Bytes of a line that are waited for its end.
const LINE_HELD: usize = 64 << 10;
/// How often a running command looks whether it is to stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);
/// Logs kept in the store.
const LOGS_KEPT: usize = 200;

/// Carries a RUN out; an empty change gives an empty layer, as BuildKit has it.
pub(crate) fn run(
    executor: &Executor<'_>,
    step: &Step,
    op: &RunOp,
    work: &Work<'_>,
) -> Result<Digest, Error> {
    let base = work.base(op.base);
    executor.ensure_as(Form::Tree, &base.layers, step.id, work)?;
    let sandbox = executor.space.sandbox()?;
    tell_notes(executor, sandbox, step.id, work);
    let scratch = executor.space.store().scratch()?;
    let lowers = lowers(executor, &base, work)?;
    let user = user(executor, &op.user, &base, &lowers)?;
    let mut held = Held::new(executor.space, scratch.path());
    let upper = held.folder("upper")?;
    let overlay_work = held.folder("work")?;
    let root_lowers = mounts::folders(lowers, &mut held)?;
    let (edits, missing) = executor
        .devices
        .edits(&op.devices, &executor.request.devices)?;
    for name in missing {
        let note = format!("optional device {name:?} is not registered");
        work.events.event(step.id, StepEvent::Note(note));
    }
    let env = environment(op, &user, &edits, secrets::env(executor, op)?);
    let network = network(op.network, executor.request.network);
    let mut all_mounts = mounts::files_of_the_runtime(op, network)?;
    all_mounts.extend(edits.mounts.iter().map(edit_mount));
    all_mounts.extend(volumes::mounts(executor, op, &user, &mut held)?);
    all_mounts.extend(mounts::mounts(executor, step, op, work, &mut held)?);
    let mut groups = user.groups;
    groups.extend(edits.groups);
    let spec = RunSpec {
        root: Overlay {
            lowers: root_lowers,
            upper: Some((upper.clone(), overlay_work)),
        },
        mounts: all_mounts,
        args: op.args.clone(),
        env,
        cwd: op.cwd.clone(),
        uid: user.uid,
        gid: user.gid,
        groups,
        network,
        hostname: op.hostname.clone(),
        insecure: op.insecure,
        shm_size: op.shm_size,
        limits: op.ulimits.iter().map(limit).collect(),
        devices: edits.nodes.into_iter().map(device).collect(),
        security: executor.request.run.security.clone(),
        resources: executor.request.run.resources.clone(),
    };
    let log = Log::create(
        &executor.space.store().logs(),
        executor.request.now,
        step.id,
    )?;
    let exit = execute(sandbox, &spec, &log, step.id, work)?;
    // What the sandbox found out by starting a command, such as the network it could give.
    tell_notes(executor, sandbox, step.id, work);
    if exit != Exit::Code(0) {
        let (tail, path) = log.finish();
        return Err(Error::Command {
            command: op.display.clone(),
            exit,
            tail,
            log: Some(path),
            foreign: foreign::explain(&step.platform, exit),
        });
    }
    log.discard_when_empty();
    let written = layer::capture(executor.space, &upper, &base)?;
    executor.known(written)
}

/// Tells what the sandbox could not do, once a build.
fn tell_notes(executor: &Executor<'_>, sandbox: &Sandbox, step: StepId, work: &Work<'_>) {
    let notes = sandbox.notes();
    let told = executor.notes_told.fetch_max(notes.len(), Ordering::SeqCst);
    for note in notes.into_iter().skip(told) {
        work.events.event(step, StepEvent::Note(note));
    }
}

/// The layers of a root file system as folders, topmost first. Unpacked at the same time where they are not yet.
///
/// A layer that is there twice is given once, where it is topmost: it hides all that its other self could show, and
/// an overlay refuses to have a folder twice (ELOOP).
pub(crate) fn lowers(
    executor: &Executor<'_>,
    base: &Snapshot,
    work: &Work<'_>,
) -> Result<Vec<(Digest, PathBuf)>, Error> {
    let store = executor.space.store();
    let mut layers: Vec<&Digest> = Vec::with_capacity(base.layers.len());
    let mut seen = HashSet::with_capacity(base.layers.len());
    layers.extend(base.layers.iter().rev().filter(|layer| seen.insert(*layer)));
    let missing: Vec<&Digest> = layers
        .iter()
        .filter(|layer| store.layer_tree(layer).is_none())
        .copied()
        .collect();
    let queue = Mutex::new(missing.iter());
    let unpack = || -> Result<(), Error> {
        loop {
            let next = queue
                .lock()
                .expect("BUG: no holder of the queue panics")
                .next();
            let Some(layer) = next else { return Ok(()) };
            if work.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            layer::tree(executor.space, layer)?;
        }
    };
    if missing.len() > 1 {
        let workers = executor.request.jobs.clamp(1, missing.len());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(unpack)).collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().expect("BUG: unpacking does not panic"));
            ended.fold(Ok(()), Result::and)
        })?;
    }
    layers
        .into_iter()
        .map(|layer| Ok((layer.clone(), layer::tree(executor.space, layer)?)))
        .collect()
}

/// Ids of a user by name and by the layers that say anything about users.
pub(crate) type KnownUsers = Mutex<HashMap<(String, Vec<Digest>), UserIds>>;

/// Ids of the user, by the passwd and group files of the root file system. Commands of one build mostly have the
/// same answer: it is looked up again only when a layer holds something of `etc`.
fn user(
    executor: &Executor<'_>,
    name: &str,
    base: &Snapshot,
    lowers: &[(Digest, PathBuf)],
) -> Result<UserIds, Error> {
    let name = if name.is_empty() { "0" } else { name };
    let key = deciding_layers(lowers).map(|layers| (name.to_owned(), layers));
    let known = |users: &KnownUsers, key| {
        let users = users.lock().expect("BUG: no holder of the users panics");
        users.get(key).cloned()
    };
    if let Some(user) = key.as_ref().and_then(|key| known(&executor.users, key)) {
        return Ok(user);
    }
    let view = backend::view(executor.space, base)?;
    let user = copy::resolve_user(name, &view)?;
    if let Some(key) = key {
        executor
            .users
            .lock()
            .expect("BUG: no holder of the users panics")
            .insert(key, user.clone());
    }
    Ok(user)
}

/// Layers with an `etc`, topmost first; `None` when some of it is a link, which may lead anywhere.
fn deciding_layers(lowers: &[(Digest, PathBuf)]) -> Option<Vec<Digest>> {
    let mut layers = Vec::new();
    for (layer, tree) in lowers {
        let kind =
            |path: &str| std::fs::symlink_metadata(tree.join(path)).map(|meta| meta.file_type());
        if kind("etc").is_ok() {
            layers.push(layer.clone());
        }
        for path in ["etc", "etc/passwd", "etc/group"] {
            match kind(path) {
                Ok(kind) if kind.is_symlink() => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // `etc` itself may be a whiteout or a file here.
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {}
                Err(_) => return None,
            }
        }
    }
    Some(layers)
}

fn limit(limit: &planner::plan::Ulimit) -> sandbox::Limit {
    sandbox::Limit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    }
}

fn device((source, target): (PathBuf, String)) -> sandbox::Device {
    sandbox::Device { source, target }
}

fn edit_mount(mount: &EditMount) -> Mount {
    let target = mount.target.clone();
    if mount.tmpfs {
        return Mount::Tmpfs {
            target,
            size: None,
            mode: 0o1777,
        };
    }
    Mount::Bind {
        source: mount.source.clone(),
        subpath: String::new(),
        target,
        readonly: mount.readonly,
        nosuid: true,
        noexec: mount.noexec,
    }
}

fn set(env: &mut Vec<(String, String)>, (name, value): (String, String)) {
    env.retain(|(known, _)| *known != name);
    env.push((name, value));
}

/// The command's environment: as planned, what devices bring, secrets; proxies, HOME and the agent's socket only where
/// nothing else sets them.
fn environment(
    op: &RunOp,
    user: &UserIds,
    edits: &Edits,
    secrets: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let mut env = op.env.clone();
    for (name, value) in &op.proxy_env {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.clone(), value.clone()));
        }
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        let home = if user.home.is_empty() {
            "/"
        } else {
            &user.home
        };
        env.push(("HOME".to_owned(), home.to_owned()));
    }
    let agent = op.mounts.iter().find_map(|mount| match mount {
        RunMount::Ssh { target, .. } => Some(target.clone()),
        _ => None,
    });
    if let Some(target) = agent
        && !env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK")
    {
        env.push(("SSH_AUTH_SOCK".to_owned(), target));
    }
    for pair in edits.env.iter().cloned().chain(secrets) {
        set(&mut env, pair);
    }
    env
}

fn network(step: Network, build: Network) -> sandbox::Network {
    let chosen = if step == Network::Default {
        build
    } else {
        step
    };
    match chosen {
        Network::Default => sandbox::Network::Private,
        Network::None => sandbox::Network::None,
        Network::Host => sandbox::Network::Host,
    }
}

fn execute(
    sandbox: &Sandbox,
    spec: &RunSpec,
    log: &Log,
    step: StepId,
    work: &Work<'_>,
) -> Result<Exit, Error> {
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| drain(out_read, false, log, step, work.events));
        scope.spawn(|| drain(err_read, true, log, step, work.events));
        let ended = sandbox
            .run(spec, out_write.as_fd(), err_write.as_fd())
            .map_err(Error::from)
            .and_then(|running| wait(running, work.cancel));
        drop((out_write, err_write));
        ended
    });
    log.check()?;
    ended
}

fn wait(mut running: sandbox::Running, cancel: &Cancel) -> Result<Exit, Error> {
    loop {
        if let Some(exit) = running.wait_timeout(CANCEL_INTERVAL)? {
            return Ok(exit);
        }
        if cancel.is_cancelled() {
            running.kill();
            running.wait()?;
            return Err(Error::Cancelled);
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::Io {
        op: "make a pipe for",
        path: "the command's output".into(),
        source: errno.into(),
    })
}

/// Passes on what the command writes, in whole lines: its two streams share one log and one display, and a line of one
/// must not end up inside a line of the other.
fn drain(pipe: OwnedFd, stderr: bool, log: &Log, step: StepId, events: &dyn Observer) {
    let mut pipe = File::from(pipe);
    let mut buffer = vec![0; 32 << 10];
    let mut held = Vec::new();
    let pass = |data: Vec<u8>| {
        if data.is_empty() {
            return;
        }
        log.write(&data);
        events.event(step, StepEvent::Output { stderr, data });
    };
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                held.extend_from_slice(&buffer[..read]);
                if let Some(end) = whole_lines(&held) {
                    let rest = held.split_off(end);
                    pass(std::mem::replace(&mut held, rest));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    pass(held);
}

/// How much of the data can be passed on: up to its last line end, or all when its only line is too long to wait for.
fn whole_lines(data: &[u8]) -> Option<usize> {
    if let Some(newline) = data.iter().rposition(|&byte| byte == b'\n') {
        return Some(newline + 1);
    }
    (data.len() >= LINE_HELD).then_some(data.len())
}

/// The whole output in a file of the store, and its last lines.
struct Log {
    path: PathBuf,
    state: Mutex<LogState>,
}

struct LogState {
    file: File,
    bytes: u64,
    error: Option<std::io::Error>,
    lines: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Log {
    fn create(folder: &Path, now: i64, step: StepId) -> Result<Self, Error> {
        let fail = |path: &Path, source| Error::Io {
            op: "create the log",
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
        sweep(folder);
        let path = folder.join(format!("{now}-{}-{}.log", std::process::id(), step.0));
        let file = File::create(&path).map_err(|e| fail(&path, e))?;
        let state = LogState {
            file,
            bytes: 0,
            error: None,
            lines: VecDeque::new(),
            open: Vec::new(),
        };
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, data: &[u8]) {
        let mut state = self.state();
        state.bytes += data.len() as u64;
        if state.error.is_none() {
            state.error = state.file.write_all(data).err();
        }
        for &byte in data {
            if byte == b'\n' {
                let line = std::mem::take(&mut state.open);
                state.lines.push_back(line);
                if state.lines.len() > TAIL_LINES {
                    state.lines.pop_front();
                }
            } else if state.open.len() < TAIL_LINE_BYTES {
                state.open.push(byte);
            }
        }
    }

    /// A full disk must not go unnoticed.
    fn check(&self) -> Result<(), Error> {
        match self.state().error.take() {
            None => Ok(()),
            Some(source) => Err(Error::Io {
                op: "write the log",
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The last lines, and where the rest is.
    fn finish(self) -> (String, PathBuf) {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut lines: Vec<Vec<u8>> = state.lines.into();
        if !state.open.is_empty() {
            lines.push(state.open);
        }
        let from = lines.len().saturating_sub(TAIL_LINES);
        let text: Vec<String> = lines[from..]
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        (text.join("\n"), self.path)
    }

    fn discard_when_empty(self) {
        if self.state().bytes == 0 {
            // An empty log left behind harms nobody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the oldest logs; names begin with the time of their build. Best effort.
fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    if names.len() < LOGS_KEPT {
        return;
    }
    names.sort();
    for name in &names[..=names.len() - LOGS_KEPT] {
        let _ = std::fs::remove_file(folder.join(name));
    }
}
