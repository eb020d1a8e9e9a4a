//! Where benchmarks run: what was asked for, a work folder, in memory unless another is named, and in it Kiln's stores, the
//! other tools with theirs, and two registries.

use super::measure::Groups;
use super::sweep::{self, Watch};
use super::table;
use crate::peers::registry::Registry;
use crate::peers::tools::Tools;
use crate::{shell, test};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in memory.
const MEMORY: &str = "/dev/shm";
/// MiB of the big COPY, files of the largest context, records of the largest store and GiB of random bytes, where nothing else
/// is asked for.
const BIG: usize = 1024;
const FILES: usize = 1_000_000;
const RECORDS: usize = 1_000_000;
const RANDOM: u64 = 10;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Workloads; all where there is none.
    pub wanted: Vec<String>,
    /// Tools beside Kiln; all that are here where none is named.
    pub peers: Vec<String>,
    /// A Debian folder with dockerd, buildx, buildah and crane.
    pub chroot: Option<PathBuf>,
    /// The binary to measure.
    pub kiln: Option<PathBuf>,
    /// A second one to measure beside it.
    pub against: Option<PathBuf>,
    /// How often, where something else than usual.
    pub rounds: Option<usize>,
    /// Where the work folder is made.
    pub work: Option<PathBuf>,
    /// MiB of the big COPY.
    pub big: usize,
    /// Files of the largest context.
    pub files: usize,
    /// Records of the largest store.
    pub records: usize,
    /// GiB of the file of random bytes.
    pub random: u64,
    /// A folder on a disk, for what is too large for memory.
    pub disk: PathBuf,
    /// Where results are kept.
    pub out: Option<PathBuf>,
    /// Where results of an earlier run are, and are kept.
    pub resume: Option<PathBuf>,
}

impl Options {
    /// Reads them; `names` are the workloads that there are.
    pub fn read(args: &[String], names: &[&str], usage: &str) -> Result<Self, String> {
        let mut options = Self {
            wanted: Vec::new(),
            peers: Vec::new(),
            chroot: None,
            kiln: None,
            against: None,
            rounds: None,
            work: None,
            big: BIG,
            files: FILES,
            records: RECORDS,
            random: RANDOM,
            disk: std::env::temp_dir(),
            out: None,
            resume: None,
        };
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().ok_or(usage);
            match word.as_str() {
                "--chroot" => options.chroot = Some(PathBuf::from(value()?)),
                "--kiln" => options.kiln = Some(PathBuf::from(value()?)),
                "--against" => options.against = Some(PathBuf::from(value()?)),
                "--rounds" => options.rounds = Some(value()?.parse().map_err(|_| usage)?),
                "--peer" => options.peers.extend(value()?.split(',').map(str::to_owned)),
                "--work" => options.work = Some(PathBuf::from(value()?)),
                "--big" => options.big = value()?.parse().map_err(|_| usage)?,
                "--files" => options.files = value()?.parse().map_err(|_| usage)?,
                "--records" => options.records = value()?.parse().map_err(|_| usage)?,
                "--random" => options.random = value()?.parse().map_err(|_| usage)?,
                "--disk" => options.disk = PathBuf::from(value()?),
                "--out" => options.out = Some(PathBuf::from(value()?)),
                "--resume" => options.resume = Some(PathBuf::from(value()?)),
                "--markdown" => table::use_markdown(),
                name if names.contains(&name) => options.wanted.push(word.clone()),
                _ => return Err(usage.to_owned()),
            }
        }
        Ok(options)
    }

    /// Whether a workload is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == name)
    }

    /// Whether a tool is to be measured.
    pub fn wants_peer(&self, name: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer == name)
    }

    /// The binary to measure, built where none is named.
    pub fn binary(&self) -> Result<PathBuf, String> {
        match &self.kiln {
            Some(path) => Ok(path.clone()),
            None => shell::build_release(),
        }
    }

    /// A new folder for all that is made; removed with the value, and when this process is killed. What dead ones have left
    /// is removed now.
    pub fn folder(&self) -> Result<Folder, String> {
        let memory = Path::new(MEMORY);
        let parent = match &self.work {
            Some(dir) => dir.clone(),
            None if memory.is_dir() => memory.to_owned(),
            None => std::env::temp_dir(),
        };
        Self::folder_in(&parent)
    }

    /// The same in a certain place.
    pub fn folder_in(parent: &Path) -> Result<Folder, String> {
        std::fs::create_dir_all(parent)
            .map_err(|error| format!("{}: {error}", parent.display()))?;
        sweep::sweep_dead(parent);
        let dir = tempfile::Builder::new()
            // In lower case: buildah makes image names of paths.
            .prefix(&sweep::folder_name(std::process::id()))
            .rand_bytes(0)
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .map_err(|error| format!("could not make a folder: {error}"))?;
        Ok(Folder {
            _watch: Watch::start(dir.path())?,
            dir,
        })
    }
}

/// A work folder and who removes it if nobody else does.
pub struct Folder {
    dir: tempfile::TempDir,
    _watch: Watch,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What all workloads use.
pub struct Place {
    /// The binary that is measured.
    pub kiln: PathBuf,
    /// Another to compare it with.
    pub against: Option<PathBuf>,
    /// The other tools. Before the folder in which they work, and before the groups in which they are.
    pub tools: Tools,
    /// Has the base images.
    pub bases: Registry,
    /// Is pushed to.
    pub target: Registry,
    /// What was asked for.
    pub options: Options,
    /// Accounts of processor time.
    pub groups: Groups,
    work: Folder,
}

impl Place {
    /// Starts the daemons and registries.
    pub fn new(options: Options) -> Result<Self, String> {
        test::install()?;
        let kiln = options.binary()?;
        let work = options.folder()?;
        let copy = |from: &Path, name: &str| {
            let to = work.path().join(name);
            std::fs::copy(from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
            Ok::<_, String>(to)
        };
        let folder = |name: &str| {
            let path = work.path().join(name);
            std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
            Ok::<_, String>(path)
        };
        let against = match &options.against {
            Some(path) => Some(copy(path, "kiln-before")?),
            None => None,
        };
        let (bases, target) = (
            Registry::start(&folder("bases")?)?,
            Registry::start(&folder("target")?)?,
        );
        let groups = Groups::new();
        let chroot = options.chroot.as_deref().filter(|_| {
            options.peers.is_empty()
                || ["buildkit", "crane"]
                    .iter()
                    .any(|name| options.wants_peer(name))
        });
        let tools = Tools::start_in(
            work.path(),
            options.wants_peer("docker"),
            chroot,
            Some(&groups),
        )?;
        groups.enter("commands");
        Ok(Self {
            kiln: copy(&kiln, "kiln")?,
            against,
            tools,
            bases,
            target,
            options,
            groups,
            work,
        })
    }

    /// A path in the work folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// How often a contest is run that usually is run this often.
    pub fn rounds(&self, usual: usize) -> usize {
        self.options.rounds.unwrap_or(usual)
    }

    /// Kiln on a store of this name.
    pub fn kiln(&self, store: &str, args: &[&str]) -> Command {
        self.kiln_of(&self.kiln, store, args)
    }

    /// A certain Kiln.
    pub fn kiln_of(&self, program: &Path, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.path("stores").join(store))
            .args(args)
            .env_remove("DOCKER_CONFIG");
        command
    }

    /// Removes a folder of the work folder, mounts in it first.
    pub fn remove(&self, name: &str) -> Result<(), String> {
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
    pub fn copy_store(&self, template: &str, store: &str) -> Result<(), String> {
        self.remove(&format!("stores/{store}"))?;
        let (from, to) = (
            self.path("stores").join(template),
            self.path("stores").join(store),
        );
        shell::output(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
    }
}

/// A command of the shell.
pub fn script_of(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    command
}

/// Writes a file and the folders that it is in.
pub fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
