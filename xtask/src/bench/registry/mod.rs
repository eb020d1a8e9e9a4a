//! `cargo xtask bench registry [pull|push|repush|index ..] [--chroot DIR] [--kiln BINARY] [--rounds N]`: Kiln beside skopeo,
//! podman, buildah, crane and docker with BuildKit against one docker-registry on loopback, and beside the bare requests.
//!
//! Everything lies on tmpfs where there is one, so that no disk is measured. Needs root.

mod content;
mod moves;
mod race;
mod small;

use crate::peers::registry::Registry;
use crate::peers::tools::Tools;
use crate::{shell, test};
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "usage: cargo xtask bench registry [pull|push|repush|index ..] [--chroot DIR] [--kiln BINARY] [--rounds N]";
/// A folder in memory.
const MEMORY: &str = "/dev/shm";

/// What all workloads use.
struct Place {
    kiln: PathBuf,
    work: tempfile::TempDir,
    tools: Tools,
    /// Has the base images.
    bases: Registry,
    /// Is pushed to.
    target: Registry,
    rounds: usize,
}

/// Runs the workloads named, or all.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut chroot, mut kiln, mut rounds, mut wanted) = (None, None, 3, Vec::new());
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or(USAGE);
        match word.as_str() {
            "--chroot" => chroot = Some(PathBuf::from(value()?)),
            "--kiln" => kiln = Some(PathBuf::from(value()?)),
            "--rounds" => rounds = value()?.parse().map_err(|_| USAGE)?,
            "pull" | "push" | "repush" | "index" => wanted.push(word.as_str()),
            _ => return Err(USAGE.to_owned()),
        }
    }
    test::install()?;
    let kiln = match kiln {
        Some(path) => path,
        None => shell::build_static()?,
    };
    let memory = Path::new(MEMORY);
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let work = tempfile::Builder::new()
        // In lower case: buildah makes image names of paths.
        .prefix(&format!("kiln-bench{}", std::process::id()))
        .rand_bytes(0)
        .tempdir_in(parent)
        .map_err(|error| format!("could not make a folder: {error}"))?;
    let folder = |name: &str| {
        let path = work.path().join(name);
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok::<_, String>(path)
    };
    let place = Place {
        kiln,
        tools: Tools::start(work.path(), true, chroot.as_deref())?,
        bases: Registry::start(&folder("bases")?)?,
        target: Registry::start(&folder("target")?)?,
        work,
        rounds,
    };
    let all = wanted.is_empty();
    let is_wanted = |name| all || wanted.contains(&name);
    if is_wanted("pull") {
        moves::pull(&place)?;
    }
    if is_wanted("push") {
        moves::push(&place)?;
    }
    if is_wanted("repush") {
        small::repush(&place)?;
    }
    if is_wanted("index") {
        small::index(&place)?;
    }
    Ok(())
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Kiln on a store of this name.
    fn kiln(&self, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kiln);
        command
            .arg("--root")
            .arg(self.path("stores").join(store))
            .args(args)
            .env_remove("DOCKER_CONFIG");
        command
    }

    /// Removes a folder of the work folder, mounts in it first.
    fn remove(&self, name: &str) -> Result<(), String> {
        let script = format!(
            "umount -q '{0}'/root/overlay 2>/dev/null || true; rm -rf '{0}'",
            self.path(name).display()
        );
        script_of(&script)
            .status()
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// A store as it was when this was first called for its template.
    fn copy_store(&self, template: &str, store: &str) -> Result<(), String> {
        self.remove(&format!("stores/{store}"))?;
        let (from, to) = (
            self.path("stores").join(template),
            self.path("stores").join(store),
        );
        shell::output(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
    }
}

/// A command of the shell.
fn script_of(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    command
}
