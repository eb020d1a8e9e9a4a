//! A context and a store in a scratch folder, and runs of the binary on them. No assertion about one feature is here.

use base64::Engine as _;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use testkit::Scratch;

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Variables of the host that change what the program does.
const VARIABLES: [&str; 39] = [
    "BUILDAH_ISOLATION",
    "BUILDKIT_PROGRESS",
    "CI",
    "CI_DEPENDENCY_PROXY_SERVER",
    "CI_REGISTRY",
    "CI_REGISTRY_PASSWORD",
    "CI_REGISTRY_USER",
    "CLICOLOR_FORCE",
    "CONTAINERS_REGISTRIES_CONF",
    "DOCKER_AUTH_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "XDG_RUNTIME_DIR",
    "BUILDX_METADATA_WARNINGS",
    "DOCKER_DEFAULT_PLATFORM",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "KILN_CACHE_MAX",
    "KILN_CONTEXT_MODE",
    "KILN_EXECUTOR",
    "KILN_EXECUTOR_FALLBACK",
    "KILN_ISOLATION",
    "KILN_LOG",
    "KILN_REMOTE_CACHE",
    "KILN_ROOT",
    "NO_COLOR",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "http_proxy",
    "https_proxy",
];

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    /// Exit status; 128 and the number for a signal.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// It succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self
    }

    /// It ended with this status and says all of this.
    #[track_caller]
    pub fn fails(self, status: i32, says: &[&str]) -> Self {
        assert_eq!(self.status, status, "{}", self.stderr);
        for text in says {
            assert!(
                self.stderr.contains(text),
                "no {text:?} in:\n{}",
                self.stderr
            );
        }
        self
    }

    /// Standard output as text, without the last line feed.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }

    /// Steps of a plain log and how each ended: `CACHED`, `DONE`, `ERROR` ...
    pub fn steps(&self) -> Vec<(String, String)> {
        let mut names: BTreeMap<usize, (String, String)> = BTreeMap::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            let step = names
                .entry(number)
                .or_insert_with(|| (rest.to_owned(), String::new()));
            let word = rest.split([' ', ':']).next().unwrap_or_default();
            if ["CACHED", "DONE", "ERROR", "CANCELED"].contains(&word) {
                step.1 = word.to_owned();
            }
        }
        names.into_values().collect()
    }

    /// How the step whose name contains this text ended.
    #[track_caller]
    pub fn step(&self, part: &str) -> String {
        let steps = self.steps();
        let found: Vec<_> = steps
            .iter()
            .filter(|(name, _)| name.contains(part))
            .collect();
        assert_eq!(found.len(), 1, "{part:?} in:\n{}", self.stderr);
        found[0].1.clone()
    }
}

/// A folder with a context (`context/`) and a store (`store/`).
#[derive(Debug)]
pub struct Project {
    scratch: Scratch,
}

impl Project {
    /// A context with this Dockerfile.
    pub fn new(dockerfile: &str) -> Self {
        Self::at(Scratch::quick(), dockerfile)
    }

    /// The same in the usual folder for temporary files: for much that would fill memory, and for paths that mean the same to
    /// commands, which have a `/dev/shm` of their own.
    pub fn on_disk(dockerfile: &str) -> Self {
        Self::at(Scratch::new(), dockerfile)
    }

    fn at(scratch: Scratch, dockerfile: &str) -> Self {
        let project = Self { scratch };
        project.write("Dockerfile", dockerfile);
        project
    }

    /// Writes a file of the context.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = Path::new("context").join(path);
        self.scratch.write(path, content).unwrap()
    }

    /// A path beside the context and the store.
    pub fn path(&self, path: &str) -> PathBuf {
        self.scratch.join(path)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The program on this store.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = program(Path::new(env!("CARGO_BIN_EXE_kiln")));
        command.arg("--root").arg(self.store()).args(args);
        command.current_dir(self.scratch.path());
        command
    }

    /// `kiln build` of the context with plain progress and the base that ships.
    pub fn build_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(&["build", "--progress", "plain"]);
        command.args(with_busybox()).args(args).arg("context");
        command
    }

    /// Runs `kiln` to its end.
    pub fn kiln(&self, args: &[&str]) -> Run {
        self.run(self.command(args))
    }

    /// Runs `kiln build` to its end.
    pub fn build(&self, args: &[&str]) -> Run {
        self.run(self.build_command(args))
    }

    /// Runs a command to its end.
    pub fn run(&self, command: Command) -> Run {
        self.start(command).finish()
    }

    /// Runs a command to its end with these bytes on standard input.
    pub fn run_with(&self, command: Command, stdin: impl AsRef<[u8]>) -> Run {
        let path = self.scratch.write("stdin", stdin).unwrap();
        self.start_with(command, Stdio::from(File::open(path).unwrap()))
            .finish()
    }

    /// Starts a command with nothing on standard input.
    pub fn start(&self, command: Command) -> Started {
        self.start_with(command, Stdio::null())
    }

    /// Starts a command.
    pub fn start_with(&self, mut command: Command, stdin: Stdio) -> Started {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stdout = self.path(&format!("stdout.{number}"));
        let stderr = self.path(&format!("stderr.{number}"));
        command.stdin(stdin);
        command.stdout(File::create(&stdout).unwrap());
        command.stderr(File::create(&stderr).unwrap());
        Started {
            child: command.spawn().unwrap(),
            stdout,
            stderr,
        }
    }

    /// Names of the images in the store.
    #[track_caller]
    pub fn images(&self) -> Vec<String> {
        let listed = self.kiln(&["images", "--format", "json"]).ok();
        let names = listed.text().lines().map(|line| {
            let image: serde_json::Value = serde_json::from_str(line).unwrap();
            image["Name"].as_str().unwrap_or_default().to_owned()
        });
        names.collect()
    }

    /// Builds once more into a layout, which must be valid. Returns its folder.
    #[track_caller]
    pub fn valid_layout(&self, name: &str, args: &[&str]) -> PathBuf {
        let dest = self.path(name);
        let output = format!("type=oci,tar=false,dest={}", dest.display());
        let mut args = args.to_vec();
        args.extend(["-o", &output]);
        self.build(&args).ok();
        testkit::validate(&dest).unwrap();
        dest
    }
}

/// A run that has not been waited for.
#[derive(Debug)]
pub struct Started {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Started {
    /// Standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// Waits until standard error has this text.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let done = wait_until(Duration::from_secs(30), || {
            self.stderr().contains(text) || self.child.try_wait().unwrap().is_some()
        });
        assert!(
            done && self.stderr().contains(text),
            "no {text:?} in:\n{}",
            self.stderr()
        );
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Waits for the end.
    #[track_caller]
    pub fn finish(mut self) -> Run {
        use std::os::unix::process::ExitStatusExt as _;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("no end after {PATIENCE:?}:\n{}", self.stderr());
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        let run = Run {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: fs::read(&self.stdout).unwrap(),
            stderr: self.stderr(),
        };
        assert!(!run.stderr.contains("panicked at"), "{}", run.stderr);
        assert_ne!(run.status, 101, "{}", run.stderr);
        run
    }
}

/// A program without the host's settings.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
}

/// Flags that make `FROM busybox` the base that ships.
pub fn with_busybox() -> [String; 2] {
    let layout = testkit::busybox_layout();
    [
        "--build-context".into(),
        format!("busybox=oci-layout://{}", layout.display()),
    ]
}

/// Asks again and again.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test can run; one that cannot says so, and is a failure where `CI` is `true`.
#[track_caller]
pub fn able(condition: bool, what: &str) -> bool {
    if condition {
        return true;
    }
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "cannot be tested here: needs {what}");
    eprintln!("SKIPPED: needs {what}");
    false
}

/// A text that no other run of any test has.
pub fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    format!("{name}-{}-{number}-{}", std::process::id(), now.as_nanos())
}

/// All files below a folder that are not symbolic links.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.map(Result::unwrap) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// Unpacks an archive with the system's `tar`. Returns the folder.
#[track_caller]
pub fn unpack(archive: &Path, dest: &Path) -> PathBuf {
    fs::create_dir_all(dest).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(dest);
    assert!(tar.status().unwrap().success(), "{}", archive.display());
    dest.to_owned()
}

/// Looks enough like a certificate in PEM to be taken for one.
pub fn certificate(fill: u8) -> String {
    let mut der = vec![fill; 300];
    der[..4].copy_from_slice(&[0x30, 0x82, 1, 0x28]);
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
