//! A dockerd of the machine's, as root, on folders of its own, without a network; ended with the value.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd {
    process: Child,
    folder: PathBuf,
}

impl Dockerd {
    /// Starts one; its folder is removed in the end. A short path: a socket's has 107 bytes at most.
    ///
    /// # Errors
    /// It is not installed or does not start, with what it said.
    pub fn start(folder: PathBuf) -> Result<Self, String> {
        let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
        fs::create_dir_all(&folder).map_err(|e| failed("a folder for dockerd", e))?;
        let path = folder.join("log");
        let log = File::create(&path).map_err(|e| failed("a log for dockerd", e))?;
        let copy = log
            .try_clone()
            .map_err(|e| failed("a log for dockerd", e))?;
        let mut command = Command::new("dockerd");
        command
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--host",
            ])
            .arg(format!("unix://{}/sock", folder.display()));
        for (flag, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(flag).arg(folder.join(name));
        }
        command.stdin(Stdio::null()).stdout(copy).stderr(log);
        let process = command.spawn().map_err(|e| failed("dockerd", e))?;
        let daemon = Self { process, folder };
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if daemon
                .run(&["version"])
                .is_ok_and(|output| output.status.success())
            {
                return Ok(daemon);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = fs::read_to_string(path).unwrap_or_default();
        Err(format!("dockerd does not start here; it said:\n{said}"))
    }

    /// Where it listens, as `DOCKER_HOST` has it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}/sock", self.folder.display())
    }

    /// Runs its client.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn run(&self, args: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(args);
        command.stdin(Stdio::null()).output()
    }

    /// Runs its client, which must succeed; gives what it prints.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        let output = self.run(args).expect("docker can be started");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
