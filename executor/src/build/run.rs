//! RUN: one command in the sandbox over the layers below, its output streamed and logged, its changes captured.

pub(crate) mod copies;
pub(crate) mod log;
pub(crate) mod spec;
pub(crate) mod stop;

pub(crate) use spec::spec;

use crate::Error;
use crate::build::backend::{self, Executor, Work};
use crate::build::foreign;
use crate::build::mounts::Held;
use crate::build::network;
use crate::copy::UserIds;
use crate::debug::{self, CHANGES};
use crate::error::LeftBehind;
use crate::layer::{self, Form};
use crate::request::OnFailure;
use crate::snapshot::Snapshot;
use log::{Log, Stream, drain};
use oci_spec::image::Digest;
use planner::plan::{RunOp, Step, StepId};
use planner::scheduler::{Cancel, StepEvent};
use rustix::pipe::{PipeFlags, pipe_with};
use sandbox::{Exit, RunSpec, Sandbox};
use std::collections::{HashMap, HashSet};
use std::fs::Permissions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;
use stop::Ended;

/// Carries a RUN out; an empty change gives an empty layer, as BuildKit has it.
pub(crate) fn run(
    executor: &Executor<'_>,
    step: &Step,
    op: &RunOp,
    work: &Work<'_>,
) -> Result<Digest, Error> {
    let base = work.base(op.base);
    let sandbox = executor.space.sandbox()?;
    // It takes longer than all else that a command needs, but for layers that must be fetched.
    if network::of(op.network, executor.request.network) == sandbox::Network::Private {
        sandbox.prepare_network();
    }
    executor.ensure_as(Form::Tree, &base.layers, step.id, work)?;
    executor.emulation.register(sandbox);
    tell_notes(executor, sandbox, step.id, work);
    let scratch = executor.space.store().scratch()?;
    let mut held = Held::new(executor.space, scratch.path());
    let changes = held.folder(CHANGES)?;
    // A command may give its root to somebody else, and what is theirs cannot be moved: the folder around it can.
    let upper = changes.join("upper");
    // The command's root directory, whatever the umask.
    let made = std::fs::create_dir(&upper)
        .and_then(|()| std::fs::set_permissions(&upper, Permissions::from_mode(0o755)));
    made.map_err(|source| Error::Io {
        op: "create",
        path: upper.clone(),
        source,
    })?;
    let upper_work = held.folder("work")?;
    let mut spec = spec(executor, step, op, work, &mut held)?;
    spec.root.upper = Some((upper.clone(), upper_work.clone()));
    let copy = copies::keep(executor, &base.layers, &mut spec.keep)?;
    let foreign = executor.emulation.of_step(step, || {
        foreign::made_for(&spec, || backend::view(executor.space, &base))
    });
    if let Some(foreign) = &foreign {
        executor.emulation.check(foreign)?;
        if let Some(note) = foreign.note() {
            work.events.event(step.id, note);
        }
    }
    let log = Log::create(
        &executor.space.store().logs(),
        executor.request.now,
        step.id,
        executor.request.run.output,
    )?;
    let began = Instant::now();
    let oom_kills = *executor.oom_kills.get_or_init(sandbox::machine_oom_kills);
    let ended = execute(executor, sandbox, &spec, &log, (step.id, work))?;
    let exit = ended.exit;
    if let Some(foreign) = &foreign {
        if let Some(error) = executor.emulation.explain(foreign, exit) {
            return Err(error);
        }
        executor.emulation.ran(foreign, step, began);
    }
    // What the sandbox found out by starting a command, such as the network it could give.
    tell_notes(executor, sandbox, step.id, work);
    if ended.timeout.is_some() || exit != Exit::Code(0) {
        let kept = keep(executor, step, work, (&changes, &held), exit);
        let (tail, path) = log.finish();
        let left = Box::new(LeftBehind {
            tail,
            log: Some(path),
            kept,
        });
        let command = op.display.clone();
        return Err(match ended.timeout {
            Some(limit) => Error::Timeout {
                command,
                limit,
                left,
            },
            None => Error::Command {
                command,
                exit,
                verdict: stop::verdict(&ended, &spec.resources, oom_kills),
                left,
            },
        });
    }
    log.discard_when_empty();
    cut_authorities(executor, &upper, &held)?;
    let (written, left_out) = layer::capture_run(executor.space, (&upper, &upper_work), &base)?;
    let made = executor.known(written)?;
    // The copy lacks what was in the upper, and the layer brings not all of that back.
    let copy = copy.filter(|_| !left_out);
    copies::give_back(copy, executor.plan, step.id, (&base.layers, &made));
    Ok(made)
}

/// Keeps the sandbox of a failed command where that is asked for. That it could not be kept must not hide why the command
/// failed.
fn keep(
    executor: &Executor<'_>,
    step: &Step,
    work: &Work<'_>,
    (changes, held): (&Path, &Held<'_>),
    exit: Exit,
) -> Option<String> {
    let plan = executor.plan?;
    if executor.request.run.on_failure == OnFailure::Fail {
        return None;
    }
    let kept = cut_authorities(executor, &changes.join("upper"), held)
        .and_then(|()| debug::keep(executor, (plan, step), work, changes, exit));
    kept.unwrap_or_else(|error| {
        let why = crate::error::chain(&error);
        let note = format!("the sandbox of the failed step could not be kept: {why}");
        work.events.event(step.id, StepEvent::Note(note));
        None
    })
}

/// What `--ca` lends to a command is in nothing that stays of it.
fn cut_authorities(executor: &Executor<'_>, upper: &Path, held: &Held<'_>) -> Result<(), Error> {
    match &executor.authorities {
        Some(authorities) => authorities.cut(executor.space, upper, &held.bundles),
        None => Ok(()),
    }
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

fn execute(
    executor: &Executor<'_>,
    sandbox: &Sandbox,
    spec: &RunSpec,
    log: &Log,
    (step, work): (StepId, &Work<'_>),
) -> Result<Ended, Error> {
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let [out, err] = [false, true].map(|stderr| Stream {
        stderr,
        log,
        step,
        events: work.events,
    });
    let ended = std::thread::scope(|scope| {
        let threads = [
            (out, scope.spawn(move || drain(out_read, out))),
            (err, scope.spawn(move || drain(err_read, err))),
        ];
        let ended = sandbox
            .run(spec, out_write.as_fd(), err_write.as_fd())
            .map_err(Error::from)
            .and_then(|running| stop::wait(running, work.cancel, executor.request.run.timeout));
        drop((out_write, err_write));
        let unfinished = threads.map(|(stream, thread)| {
            (
                stream,
                thread.join().expect("BUG: reading output does not panic"),
            )
        });
        for (stream, line) in unfinished {
            stream.pass(&line);
        }
        ended
    });
    log.close()?;
    ended
}

/// Waits for a command's end, however long that takes.
pub(crate) fn until_end(running: sandbox::Running, cancel: &Cancel) -> Result<Exit, Error> {
    Ok(stop::wait(running, cancel, None)?.exit)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::Io {
        op: "make a pipe for",
        path: "the command's output".into(),
        source: errno.into(),
    })
}
