//! A cache that travels: a build on an empty store that takes it from a registry, beside the same build without it. The image
//! needs a small part of what the build makes; what a build sends for is counted by the registry.

use super::content::{self, Kind};
use super::place::{Place, write};
use super::race::{self, Bytes, Contestant, Part, Visit};
use super::workloads;
use crate::peers::daemon::Daemon;
use crate::shell;
use std::process::Command;

const CONTEXT: &str = "travel";
/// MiB that only a stage of its own has, and KiB that are copied from the context.
const INNER: usize = 40;
const DATA: usize = 2048;

/// What a build is asked for.
#[derive(Clone, Copy)]
enum Task {
    Cold,
    Cached,
    CachedImage,
}

const TASKS: [Task; 3] = [Task::Cold, Task::Cached, Task::CachedImage];

/// Exports a cache by each builder, then imports it again and again.
pub fn run(place: &Place) -> Result<(), String> {
    place.target.clear()?;
    let base = workloads::push_base(place, &place.target)?;
    let dir = place.path(CONTEXT);
    write(
        &dir.join("data"),
        content::bytes(Kind::Random, 1, DATA << 10),
    )?;
    // Nothing that runs twice makes the same: an image that is the same has come from the cache.
    let text = format!(
        "FROM {base} AS inner\nRUN dd if=/dev/urandom of=/big bs=1M count={INNER} && sha256sum /big > /sum\n\
         FROM {base}\nWORKDIR /app\nCOPY data .\nCOPY --from=inner /sum .\n\
         RUN cat data /proc/sys/kernel/random/uuid > made\nCMD [\"cat\", \"sum\"]\n"
    );
    write(&dir.join("Dockerfile"), text)?;
    let first = export(place)?;
    if let Some(daemon) = &place.tools.chroot {
        let to = format!("type=registry,mode=max,ref={}", reference(place, "buildx"));
        shell::output(by_buildx(place, daemon, Task::Cold).args(["--cache-to", &to]))?;
    }
    let titles = [
        "nothing cached, all steps run".to_owned(),
        "cache of the registry, nothing made of it".to_owned(),
        "cache of the registry, an image".to_owned(),
    ];
    let parts =
        titles.map(|title| Part::new(&format!("Cache of a registry: empty store, {title}"), None));
    let mut visits = vec![visit(|task| Contestant {
        name: "kiln".to_owned(),
        prepare: Box::new(|| place.remove("stores/travel")),
        work: Box::new(move || vec![by_kiln(place, task)]),
        daemon: None,
    })];
    if let Some(daemon) = &place.tools.chroot {
        visits.push(visit(|task| Contestant {
            name: "docker buildx (BuildKit)".to_owned(),
            prepare: Box::new(|| {
                shell::output(daemon.docker().args(["system", "prune", "-af"]))?;
                shell::output(daemon.docker().args(["buildx", "prune", "-af"])).map(drop)
            }),
            work: Box::new(move || vec![by_buildx(place, daemon, task)]),
            daemon: Some(daemon),
        }));
    }
    race::run_parts(place, &parts, visits, 5, Bytes::From(&place.target))?;
    place.remove("stores/travel")?;
    let second = shell::output(&mut by_kiln(place, Task::CachedImage))?;
    place.remove("stores/travel")?;
    place.target.clear()?;
    if first.trim() != second.trim() {
        return Err(format!(
            "a step of the cache ran again: {first} is now {second}"
        ));
    }
    Ok(())
}

fn visit<'a>(part: impl Fn(Task) -> Contestant<'a>) -> Visit<'a> {
    Visit {
        parts: TASKS.into_iter().map(part).enumerate().collect(),
        finish: Box::new(|| Ok(())),
    }
}

fn reference(place: &Place, name: &str) -> String {
    format!("{}/cache/{name}:1", place.target.host())
}

/// Builds with Kiln, exports its cache and gives the image's name.
fn export(place: &Place) -> Result<String, String> {
    let to = format!("type=registry,mode=max,ref={}", reference(place, "kiln"));
    let mut command = place.kiln("travel", &["build", "-q", "--network", "none", "-t", "x"]);
    shell::output(command.args(["--cache-to", &to]).arg(place.path(CONTEXT)))
}

fn by_kiln(place: &Place, task: Task) -> Command {
    let mut command = place.kiln("travel", &["build", "-q", "--network", "none"]);
    if !matches!(task, Task::Cold) {
        command.arg("--cache-from").arg(reference(place, "kiln"));
    }
    if matches!(task, Task::CachedImage) {
        command.args(["-t", "x"]);
    } else {
        command.args(["-o", "type=cacheonly"]);
    }
    command.arg(place.path(CONTEXT));
    command
}

/// Its client takes further options after the context, too.
fn by_buildx(place: &Place, daemon: &Daemon, task: Task) -> Command {
    let mut command = daemon.docker();
    command.args(["buildx", "build", "-q", "--provenance=false"]);
    command.args(["--network=none", "-o"]);
    command.arg(match task {
        Task::CachedImage => "type=image,name=bench/travel",
        _ => "type=cacheonly",
    });
    if !matches!(task, Task::Cold) {
        let from = format!("type=registry,ref={}", reference(place, "buildx"));
        command.arg("--cache-from").arg(from);
    }
    command.arg(daemon.seen(&place.path(CONTEXT)));
    command
}
