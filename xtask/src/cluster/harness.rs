//! Machines with stores of their own that build a context here or there, and what came of it.

use super::server::Server;
use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use testkit::Scratch;

/// No build of the suite takes this long on a machine that does anything.
const LONGEST: Duration = Duration::from_secs(180);
/// How often a running build is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What a case needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing that is not always there.
    Nothing,
    /// The builder to be root.
    Root,
    /// The builder and the workers to be root.
    RootThere,
    /// A server that says that an action waits.
    Queue,
}

/// A case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it cannot do without.
    pub needs: Needs,
    /// Runs it; an error says what is wrong.
    pub run: fn(&mut Bench) -> Result<(), String>,
}

/// A server and the program under test.
pub struct Bench {
    /// Which is asked to run steps.
    pub server: Server,
    /// How many workers it has.
    pub workers: usize,
    /// The program for workers, if that under test is not.
    pub binary: Option<PathBuf>,
    kiln: PathBuf,
    count: Cell<usize>,
    place: Scratch,
}

/// A build that has ended.
#[derive(Debug)]
pub struct Built {
    /// Its exit code, if it was not ended.
    pub code: Option<i32>,
    /// What it said.
    pub said: String,
    /// Of the image, if there is one.
    pub digest: String,
}

/// A build that may not have ended yet.
pub struct Running {
    child: Child,
    log: PathBuf,
    metadata: PathBuf,
    since: Instant,
}

/// A store of its own.
pub struct Machine {
    store: PathBuf,
}

impl Bench {
    /// With a folder for stores and contexts in a place, or in the usual one for temporary files.
    pub fn new(server: Server, kiln: PathBuf, place: Option<&Path>) -> Result<Self, String> {
        if !kiln.is_file() {
            return Err(format!("{} is no file", kiln.display()));
        }
        Ok(Self {
            server,
            workers: 0,
            binary: None,
            kiln,
            count: Cell::new(0),
            place: place.map_or_else(Scratch::new, Scratch::in_folder),
        })
    }

    /// Why a case cannot be run here.
    pub fn cannot(&self, case: &Case) -> Option<&'static str> {
        match case.needs {
            Needs::RootThere if matches!(self.server, Server::Buildbox(_)) => {
                Some("the workers are not root")
            }
            Needs::Root | Needs::RootThere if !rustix::process::geteuid().is_root() => {
                Some("needs root")
            }
            Needs::Queue if self.server.running().is_none() => {
                Some("the server says nothing before an action ends")
            }
            _ => None,
        }
    }

    /// A path that nobody has.
    pub fn unique(&self, name: &str) -> PathBuf {
        let number = self.count.get();
        self.count.set(number + 1);
        self.place.join(format!("{name}-{number}"))
    }

    /// An empty store.
    pub fn machine(&self) -> Machine {
        Machine {
            store: self.unique("store"),
        }
    }

    /// A context of this Dockerfile and some files, whose times do not depend on when this runs.
    pub fn context(&self, dockerfile: &str) -> Result<PathBuf, String> {
        let dir = self.unique("context");
        let files = [
            ("Dockerfile", dockerfile),
            ("file", "content\n"),
            ("tree/a", "a\n"),
            ("tree/deep/b", "b\n"),
        ];
        for (name, content) in files {
            crate::bench::write_file(&dir.join(name), content)?;
            let file = File::open(dir.join(name)).map_err(|error| error.to_string())?;
            let time = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
            file.set_modified(time).map_err(|error| error.to_string())?;
        }
        Ok(dir)
    }

    /// The flag that gives steps to the server, with more fields.
    pub fn executor(&self, fields: &str) -> String {
        let (url, preset) = (self.server.url(), self.server.preset());
        let binary = self.binary.as_ref().map_or_else(String::new, |file| {
            let architecture = if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "amd64"
            };
            format!(",binary={architecture}={}", file.display())
        });
        format!("--executor={url},preset={preset}{binary}{fields}")
    }

    /// A build to its end.
    pub fn build(&self, on: &Machine, context: &Path, flags: &[&str]) -> Result<Built, String> {
        self.start(on, context, flags)?.finish()
    }

    /// A build that goes well.
    pub fn good(&self, on: &Machine, context: &Path, flags: &[&str]) -> Result<Built, String> {
        let built = self.build(on, context, flags)?;
        match built.code {
            Some(0) => Ok(built),
            code => Err(format!("exit code {code:?} of {flags:?}:\n{}", built.said)),
        }
    }

    /// A build that has begun.
    pub fn start(&self, on: &Machine, context: &Path, flags: &[&str]) -> Result<Running, String> {
        let (log, metadata) = (self.unique("log"), self.unique("metadata"));
        let file = File::create(&log).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.kiln);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KILN_") {
                command.env_remove(name);
            }
        }
        let layout = testkit::busybox_layout();
        command
            .arg("--root")
            .arg(&on.store)
            .args([
                "build",
                "--progress",
                "plain",
                "-t",
                "it",
                "--metadata-file",
            ])
            .arg(&metadata)
            .arg("--build-context")
            .arg(format!("busybox=oci-layout://{}", layout.display()))
            .args(flags)
            .arg(context)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let child = command.spawn().map_err(|error| error.to_string())?;
        Ok(Running {
            child,
            log,
            metadata,
            since: Instant::now(),
        })
    }

    /// What two machines have under the name of the build, compared; for whoever reads of a failure.
    pub fn difference(&self, one: &Machine, other: &Machine) -> String {
        let archive = self.unique("archive").display().to_string();
        let command = |machine: &Machine, args: &[&str]| {
            let mut command = Command::new(&self.kiln);
            command.arg("--root").arg(&machine.store).args(args);
            crate::shell::output(&mut command)
        };
        let compare = || {
            command(one, &["tag", "it", "first"])?;
            command(other, &["save", "-o", &archive, "it"])?;
            command(one, &["load", "-i", &archive])?;
            command(one, &["diff", "--times", "first", "it"])
        };
        compare().unwrap_or_else(|error| error)
    }
}

impl Running {
    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said something or what runs on the server makes a condition true.
    pub fn wait(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !is(self) {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || self.since.elapsed() > LONGEST {
                return Err(format!("{what} never came:\n{}", self.said()));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal);
    }

    /// Waits for its end; kills it where that does not come.
    pub fn finish(mut self) -> Result<Built, String> {
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if self.since.elapsed() > LONGEST {
                return Err(format!("it did not end:\n{}", self.said()));
            }
            thread::sleep(LOOK);
        };
        let metadata = fs::read(&self.metadata).unwrap_or_default();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap_or_default();
        let digest = metadata["containerimage.digest"].as_str();
        Ok(Built {
            code: status.code(),
            said: self.said(),
            digest: digest.unwrap_or_default().to_owned(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Built {
    /// That it failed in this way.
    pub fn failed(&self, code: i32, texts: &[&str]) -> Result<(), String> {
        if self.code != Some(code) {
            return Err(format!(
                "exit code {:?}, not {code}:\n{}",
                self.code, self.said
            ));
        }
        match texts.iter().find(|text| !self.said.contains(**text)) {
            Some(text) => Err(format!("it does not say {text:?}:\n{}", self.said)),
            None => Ok(()),
        }
    }

    /// How often it says something.
    pub fn count(&self, text: &str) -> usize {
        self.said.matches(text).count()
    }
}

/// Two things that must be the same.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, one: &T, other: &T) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    Err(format!("{what}: {one:?} is not {other:?}"))
}
