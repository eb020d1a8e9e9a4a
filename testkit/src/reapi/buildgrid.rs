//! BuildGrid on loopback, with [`Bot`]s for its workers: another real server of the protocol, with a queue in PostgreSQL.
//!
//! Installed with `pip` into the target folder (some hundred packages: a minute), so tests that use it are not run unless asked for.
//! PostgreSQL and a Python of 3.13 or later must be installed. All that it starts ends with the thread that started it, the database in
//! order: killed, it would leave a segment of shared memory behind.
//!
//! What was found out about 0.9.1:
//!
//! - Capabilities: versions 2.0 to 2.2, SHA-256 only, batches of 4095 KiB, no compression, no node properties, absolute links not
//!   allowed in input roots (and taken all the same), results of clients taken where its configuration says so.
//! - An action that no worker can run waits for ever and without a word, unless its configuration has `queue-timeout` settings. A
//!   property whose name is not in its configuration is refused with `FAILED_PRECONDITION`. A command waits for up to a second in its
//!   queue, the interval of its assigners.
//! - Actions that are alike and in its queue are one, unless they have `do_not_cache`, whatever `skip_cache_lookup` says; that only keeps
//!   it from looking into its cache. A cancelled operation ends the command when no other one waits for it.
//! - The queue is in the database: operations go on after a restart, and `WaitExecution` finds them. The in-memory action cache is lost.
//! - A worker that says it failed (INTERNAL, UNAVAILABLE), or that says nothing for `bot-session-keepalive-timeout` (10 minutes), is
//!   replaced by another one, four times; then the action is ABORTED.
//! - Results of commands that failed are kept unless told otherwise. A result with a blob that is not there any more is not given.

use super::bot::Bot;
use super::buildbox::{free_port, run, target_folder};
use super::options::Options;
use super::process::{Process, Why};
use crate::Scratch;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const VERSION: &str = "0.9.1";

/// What its command does.
const PROGRAM: &str = "from buildgrid.server.app import cli; cli()";

/// Keys of properties that it heeds, and those that it only lets pass.
const HEEDED: &str = "OSFamily, ISA, Pool";
const PASSED: &str = "unixUID, unixGID, network";

/// How long it waits for a word of a worker, in seconds.
const SILENCE: u64 = 15;

/// What ends it, asked in this way, does so in order.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running BuildGrid with its database and workers; ends when dropped.
#[derive(Debug)]
pub struct BuildGrid {
    bot: Option<Bot>,
    server: Option<Running>,
    database: Option<Running>,
    options: Options,
    python: PathBuf,
    port: u16,
    folder: Scratch,
}

#[derive(Debug)]
struct Running {
    child: Child,
    process: Arc<Process>,
}

impl Running {
    /// Starts a program that works in a folder of its own.
    fn start(command: &mut Command, folder: &Path, log: &Path) -> Result<Self, String> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(|error| error.to_string())?;
        let copy = file.try_clone().map_err(|error| error.to_string())?;
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(copy)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let process = Process::of(&child, folder);
        Ok(Self { child, process })
    }

    /// Asks it to end, and waits. Whether it has.
    fn ask(&self, signal: Signal) -> bool {
        let _ = kill_process(Pid::from_child(&self.child), signal);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.process.is_over() {
            thread::sleep(Duration::from_millis(5));
        }
        self.process.is_over()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A database takes its shared memory with it at either signal; the first one is a shutdown in order.
        let _ = self.ask(Signal::INT) || self.ask(Signal::QUIT);
        self.process.kill(Why::Shutdown);
        let _ = self.process.wait(&mut self.child, None);
    }
}

impl Drop for BuildGrid {
    fn drop(&mut self) {
        self.bot = None;
        self.server = None;
        self.database = None;
    }
}

impl BuildGrid {
    /// Starts one with the workers of some options. `None`, said loudly, where what it needs is not installed.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn start(options: Options) -> Option<Self> {
        match Self::try_start(options) {
            Ok(server) => Some(server),
            Err(reason) => {
                let _ = writeln!(io::stderr(), "SKIPPED: no BuildGrid: {reason}");
                None
            }
        }
    }

    fn try_start(options: Options) -> Result<Self, String> {
        let programs = postgres()?;
        let python = installed()?;
        let folder = match &options.place {
            Some(place) => Scratch::in_folder(place),
            None => Scratch::new(),
        };
        let mut grid = Self {
            bot: None,
            server: None,
            database: None,
            options,
            python,
            port: free_port(),
            folder,
        };
        grid.start_database(&programs)?;
        let connection = format!("postgresql://kiln@/kiln?host={}", grid.sockets().display());
        run(Command::new(&grid.python)
            .args(["-c", PROGRAM, "migrate", "apply"])
            .arg(&connection))?;
        let text = configuration(grid.port, &connection, &grid.folder.join("cas"));
        fs::write(grid.folder.join("configuration.yml"), text)
            .and_then(|()| fs::create_dir(grid.folder.join("server")))
            .map_err(|error| error.to_string())?;
        grid.start_server()?;
        grid.bot = Some(Bot::start(&grid.url(), grid.options.clone()));
        Ok(grid)
    }

    fn start_server(&mut self) -> Result<(), String> {
        let mut command = ending_with_us();
        command
            .arg(&self.python)
            .args(["-c", PROGRAM, "server", "start"])
            .arg(self.folder.join("configuration.yml"));
        let (folder, log) = (self.folder.join("server"), self.folder.join("log"));
        self.server = Some(Running::start(&mut command, &folder, &log)?);
        self.wait_for(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        Ok(())
    }

    /// Ends the server without any notice, as a crash does, and starts it again over its database and storage.
    ///
    /// # Panics
    /// It does not answer.
    pub fn crash(&mut self) {
        if let Some(mut running) = self.server.take() {
            running.process.kill(Why::Lost);
            let _ = running.process.wait(&mut running.child, None);
        }
        self.start_server().expect("BuildGrid can be started again");
    }

    /// All workers vanish with what they run, without a word to the server; others come.
    pub fn lose_workers(&mut self) {
        self.bot = None;
        self.bot = Some(Bot::start(&self.url(), self.options.clone()));
    }

    /// Removes all blobs from its storage. How many there were.
    #[must_use]
    pub fn evict_all(&self) -> usize {
        let objects = self.folder.join("cas/cas/objects");
        let folders = fs::read_dir(objects).into_iter().flatten();
        folders
            .flatten()
            .filter_map(|folder| fs::read_dir(folder.path()).ok())
            .flat_map(Iterator::flatten)
            .filter(|entry| fs::remove_file(entry.path()).is_ok())
            .count()
    }

    fn sockets(&self) -> PathBuf {
        self.folder.join("sockets")
    }

    fn start_database(&mut self, programs: &Path) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        let (data, sockets) = (self.folder.join("data"), self.sockets());
        for path in [&data, &sockets] {
            fs::create_dir(path).map_err(failed)?;
        }
        let mut user_options = Vec::new();
        if rustix::process::geteuid().is_root() {
            // PostgreSQL refuses to be root.
            let (user, group) = account("postgres")?;
            for path in [&data, &sockets] {
                chown(path, Some(user), Some(group)).map_err(failed)?;
            }
            let mode = fs::Permissions::from_mode(0o711);
            fs::set_permissions(self.folder.path(), mode).map_err(failed)?;
            user_options.push("--clear-groups".to_owned());
            user_options.push(format!("--reuid={user}"));
            user_options.push(format!("--regid={group}"));
        }
        let command = |name: &str| {
            let mut command = ending_with_us();
            command.args(&user_options).arg(programs.join(name));
            command.current_dir("/");
            command
        };
        run(command("initdb")
            .args(["-A", "trust", "-U", "kiln", "-N", "-D"])
            .arg(&data))?;
        let mut server = command("postgres");
        server.arg("-D").arg(&data);
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "synchronous_commit=off",
            "dynamic_shared_memory_type=mmap",
        ] {
            server.args(["-c", setting]);
        }
        server
            .arg("-c")
            .arg(format!("unix_socket_directories={}", sockets.display()));
        let log = self.folder.join("database.log");
        self.database = Some(Running::start(&mut server, &data, &log)?);
        let socket = sockets.join(".s.PGSQL.5432");
        let create = || {
            let mut create = command("createdb");
            create.args(["-U", "kiln", "-h"]).arg(&sockets).arg("kiln");
            socket.exists() && run(&mut create).is_ok()
        };
        self.wait_for(create);
        Ok(())
    }

    fn wait_for(&self, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "BuildGrid does not start: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `grpc://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    /// Its workers.
    ///
    /// # Panics
    /// Never: they are there as long as it is.
    #[must_use]
    pub fn bot(&self) -> &Bot {
        self.bot.as_ref().expect("BUG: workers end with the server")
    }

    /// What it has logged, with what its database has.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        format!("{}\n{}", read("log"), read("database.log"))
    }
}

fn configuration(port: u16, connection: &str, storage: &Path) -> String {
    format!(
        "server:
  - !channel
    address: \"127.0.0.1:{port}\"
    insecure-mode: true
authorization:
  method: none
connections:
  - !sql-connection &sql
    connection-string: \"{connection}\"
storages:
  - !disk-storage &storage
    path: {}
caches:
  - !lru-action-cache &results
    storage: *storage
    max-cached-refs: 100000
    allow-updates: true
    cache-failed-actions: true
schedulers:
  - !sql-scheduler &scheduler
    sql: *sql
    storage: *storage
    action-cache: *results
    bot-session-keepalive-timeout: {SILENCE}
    session-expiry-timer-interval: 1
    property-set: !dynamic-property-set
      match-property-keys: [{HEEDED}]
      wildcard-property-keys: [{PASSED}]
instances:
  - name: \"\"
    services:
      - !action-cache {{cache: *results}}
      - !execution {{scheduler: *scheduler}}
      - !bots {{scheduler: *scheduler}}
      - !cas {{storage: *storage}}
      - !bytestream {{storage: *storage}}
monitoring:
  enabled: false
thread-pool-size: 100
",
        storage.display()
    )
}

/// A program that is asked to end when the thread that starts it does; its path and arguments follow.
fn ending_with_us() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    command
}

/// The folder of PostgreSQL's programs.
fn postgres() -> Result<PathBuf, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = versions.flatten().map(|entry| entry.path().join("bin"));
    let mut found: Vec<PathBuf> = folders
        .filter(|path| path.join("initdb").is_file())
        .collect();
    found.sort();
    found
        .pop()
        .ok_or_else(|| "PostgreSQL is not installed".to_owned())
}

/// User and group of an account.
fn account(name: &str) -> Result<(u32, u32), String> {
    let text = fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let user = fields.nth(1)?.parse().ok()?;
        Some((user, fields.next()?.parse().ok()?))
    });
    found.ok_or_else(|| format!("there is no account {name}"))
}

/// The Python of an environment that has BuildGrid, made if it was not before.
fn installed() -> Result<PathBuf, String> {
    let target = target_folder()?;
    let failed = |error: io::Error| error.to_string();
    let lock = File::create(target.join("buildgrid.lock")).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    let environment = target.join(format!("buildgrid-{VERSION}"));
    let (python, done) = (environment.join("bin/python"), environment.join("complete"));
    if done.is_file() {
        return Ok(python);
    }
    run(Command::new(new_python()?)
        .args(["-m", "venv", "--clear"])
        .arg(&environment))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-cache-dir"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .arg(format!("buildgrid=={VERSION}")))?;
    File::create(done).map_err(failed)?;
    Ok(python)
}

/// A Python of 3.13 or later: one on the path, or one of pyenv's.
fn new_python() -> Result<PathBuf, String> {
    let text = |command: &mut Command| {
        let output = command.output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let versions = text(Command::new("pyenv").args(["versions", "--bare"])).unwrap_or_default();
    let of_pyenv = versions.lines().filter_map(|version| {
        let folder = text(Command::new("pyenv").args(["prefix", version]))?;
        Some(PathBuf::from(folder).join("bin/python3"))
    });
    let on_path = ["python3", "python3.13", "python3.14"].map(PathBuf::from);
    let check = "import sys; sys.exit(sys.version_info < (3, 13))";
    on_path
        .into_iter()
        .chain(of_pyenv)
        .find(|python| text(Command::new(python).args(["-c", check])).is_some())
        .ok_or_else(|| "there is no Python of 3.13 or later".to_owned())
}
