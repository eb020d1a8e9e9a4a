//! One step on a worker, from a specification to a report.

use super::Place;
use super::scratch::{self, Work};
use super::spec::{Ended, LAYER_BLOB, LAYER_INDEX, Millis, PackedLayer, REPORT, Report, Spec};
use super::staged::Input;
use crate::Error;
use crate::build::mounts::{self, Held};
use crate::build::network::Reach;
use crate::build::{run, secrets};
use crate::device::Edits;
use crate::layer::index::{Index, io_error};
use crate::layer::{self, Compression, Written};
use crate::request::RunSettings;
use crate::space::Space;
use planner::plan::Network;
use planner::scheduler::Cancel;
use sandbox::{Exit, Keep, Overlay, Resources, RunSpec};
use std::fs::Permissions;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Level of the layer's zstd, as it is by default.
const LEVEL: i32 = 3;

/// Where a command's output goes.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
}

/// Carries a step out and writes what came of it into the input root, the report last. Nothing else stays.
///
/// # Errors
/// The report cannot be written, or the step was cancelled; all else is in the report.
pub fn run_step(
    place: &Place,
    spec: Result<Spec, String>,
    output: Output<'_>,
    cancel: &Cancel,
) -> Result<Report, Error> {
    let report = match spec {
        Err(reason) => Report::of(Ended::Error(format!("the step {reason}"))),
        Ok(spec) => match carried_out(place, &spec, output, cancel) {
            Ok(report) => report,
            Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(error) => Report {
                errno: crate::error::errno(&error),
                ..Report::of(Ended::Error(crate::error::chain(&error)))
            },
        },
    };
    write_report(place, &report)?;
    Ok(report)
}

/// The file is there complete or not at all.
fn write_report(place: &Place, report: &Report) -> Result<(), Error> {
    let path = place.input.join(REPORT);
    let partial = path.with_extension("partial");
    make_parent(&path)?;
    std::fs::write(&partial, report.to_json()).map_err(|e| io_error("write", &partial, e))?;
    std::fs::rename(&partial, &path).map_err(|e| io_error("move", &partial, e))
}

fn make_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| io_error("create", parent, e))
}

fn carried_out(
    place: &Place,
    spec: &Spec,
    output: Output<'_>,
    cancel: &Cancel,
) -> Result<Report, Error> {
    let began = Instant::now();
    let settings = RunSettings {
        isolation: spec.isolation,
        root: spec.root,
        ..RunSettings::default()
    };
    if let Some(caches) = &place.caches {
        std::fs::create_dir_all(caches).map_err(|e| io_error("create", caches, e))?;
    }
    let mut tried = Vec::new();
    let work = scratch::find(place, &settings, &mut tried)?;
    let start = millis(began);
    let report = in_scratch((place, spec), &work, output, (cancel, start));
    work.end();
    report
}

fn in_scratch(
    (place, spec): (&Place, &Spec),
    work: &Work,
    output: Output<'_>,
    (cancel, start): (&Cancel, u64),
) -> Result<Report, Error> {
    let began = Instant::now();
    let space = &work.space;
    let sandbox = space.sandbox()?;
    let input = Input::open((place, spec), space, cancel)?;
    let held_in = space.store().scratch()?;
    let mut held = Held::new(space, held_in.path());
    let changes = Changes::make(&mut held)?;
    let mut command = command(&input, &mut held)?;
    command.root.upper = Some((changes.upper.clone(), changes.work.clone()));
    let mut ms = Millis {
        start,
        stage: millis(began),
        ..Millis::default()
    };
    let oom_kills = sandbox::machine_oom_kills();
    let began = Instant::now();
    let ended = execute(&input, &mut command, output)?;
    ms.run = millis(began);
    let mut report = Report::of(match ended.exit {
        Exit::Code(code) => Ended::Code(code),
        Exit::Signal(signal) => Ended::Signal(signal),
    });
    if ended.exit == Exit::Code(0) {
        let began = Instant::now();
        let upper = (changes.upper.as_path(), Some(changes.work.as_path()));
        let captured = layer::capture_over(space, upper.0, upper.1, input.layers()?)?;
        ms.capture = millis(began);
        captured
            .notes
            .into_iter()
            .for_each(|note| input.add_note(note));
        let began = Instant::now();
        hand_over(place, space, &captured.written, &mut report)?;
        ms.pack = millis(began);
    } else {
        report.verdict = run::stop::verdict(&ended, &command.resources, oom_kills);
    }
    let told = input.take_told();
    report.isolation = sandbox.mode().to_string();
    report.root = sandbox.root_kind().to_string();
    report.ids = sandbox.id_mapping().to_string();
    report.scratch = work.folder.path().display().to_string();
    report.notes = sandbox.notes();
    report.notes.extend(told.notes);
    if rustix::thread::no_new_privs().is_ok_and(|is_set| is_set) {
        let note = "set-user-id programs and file capabilities do not work in commands, since the worker runs with no_new_privs";
        report.notes.push(note.to_owned());
    }
    report.staged = told.staged;
    report.ms = ms;
    Ok(report)
}

/// Folders for what the command writes.
struct Changes {
    upper: PathBuf,
    work: PathBuf,
}

impl Changes {
    fn make(held: &mut Held<'_>) -> Result<Self, Error> {
        // A command may give its root to somebody else, and what is theirs cannot be moved: the folder around it can.
        let upper = held.folder("changes")?.join("upper");
        // The command's root directory, whatever the umask.
        let made = std::fs::create_dir(&upper)
            .and_then(|()| std::fs::set_permissions(&upper, Permissions::from_mode(0o755)));
        made.map_err(|e| io_error("create", &upper, e))?;
        let work = held.folder("work")?;
        Ok(Self { upper, work })
    }
}

/// The command for the sandbox, without an upper.
fn command(input: &Input<'_>, held: &mut Held<'_>) -> Result<RunSpec, Error> {
    let op = &input.spec.op;
    let user = input.user()?;
    let lowers = input.root(held)?;
    // A worker's network is what the cluster gives it.
    let (network, reach) = match op.network {
        Network::None => (sandbox::Network::None, Reach::Nothing),
        Network::Default | Network::Host => (sandbox::Network::Host, Reach::Host),
    };
    let mut mounts = mounts::files_of_the_runtime(op, reach, &input.spec.resolver())?;
    mounts.extend(mounts::mounts(input, op, held)?);
    let secrets = secrets::env(input, op)?;
    let env = run::spec::environment(op, &user, &Edits::default(), secrets);
    Ok(RunSpec {
        root: Overlay {
            lowers,
            upper: None,
        },
        keep: Keep::default(),
        mounts,
        args: op.args.clone(),
        env,
        cwd: op.cwd.clone(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        network,
        hostname: op.hostname.clone(),
        insecure: op.insecure,
        shm_size: op.shm_size,
        limits: op.ulimits.iter().map(run::spec::limit).collect(),
        devices: Vec::new(),
        security: input.spec.security.clone(),
        resources: input.spec.resources.clone(),
        terminal: false,
    })
}

/// Runs the command. Limits that cannot be set are left out, unless they were asked for strictly.
fn execute(
    input: &Input<'_>,
    command: &mut RunSpec,
    output: Output<'_>,
) -> Result<run::stop::Ended, Error> {
    let sandbox = input.space.sandbox()?;
    let started = match sandbox.run(command, output.stdout, output.stderr) {
        Err(error) if command.resources != Resources::default() && !input.spec.strict_limits => {
            command.resources = Resources::default();
            let started = sandbox.run(command, output.stdout, output.stderr)?;
            let reason = crate::error::chain(&Error::from(error));
            input.add_note(format!("the step ran without its limits: {reason}"));
            started
        }
        started => started?,
    };
    run::stop::wait(started, input.cancel, None)
}

/// Puts the layer where the engine fetches it.
fn hand_over(
    place: &Place,
    space: &Space,
    written: &Written,
    report: &mut Report,
) -> Result<(), Error> {
    let store = space.store();
    let blob = layer::blob(space, &written.diff_id, Compression::Zstd(LEVEL), true)?;
    let index = store.layer_index(&written.diff_id).ok_or_else(|| {
        io_error(
            "find",
            &store.layer_path(&written.diff_id),
            std::io::ErrorKind::NotFound.into(),
        )
    })?;
    report.entries = Index::load(&index)?.nodes().count() as u64;
    hand(
        &store.blob_path(blob.digest()),
        &place.input.join(LAYER_BLOB),
    )?;
    hand(&index, &place.input.join(LAYER_INDEX))?;
    report.blob = Some(PackedLayer {
        digest: blob.digest().clone(),
        size: blob.size(),
        media_type: blob.media_type().to_string(),
    });
    report.diff_id = Some(written.diff_id.clone());
    report.identity = Some(written.identity.clone());
    report.bytes = written.size;
    Ok(())
}

/// A file of the store, copied where it may have another owner or file system.
fn hand(from: &Path, to: &Path) -> Result<(), Error> {
    make_parent(to)?;
    let _ = std::fs::remove_file(to);
    std::fs::copy(from, to).map_err(|e| io_error("write", to, e))?;
    std::fs::set_permissions(to, Permissions::from_mode(0o644))
        .map_err(|e| io_error("set the mode of", to, e))
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
