//! Debian's docker-registry on loopback, with its content in a folder.

use crate::shell;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running registry without TLS and passwords.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    port: u16,
    storage: PathBuf,
}

impl Registry {
    /// Starts it; `work` holds its settings, log and content.
    pub fn start(work: &Path) -> Result<Self, String> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("could not find a free port: {error}"))?
            .port();
        let config = work.join("registry.yml");
        let storage = work.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            storage.display()
        );
        std::fs::write(&config, text).map_err(|error| error.to_string())?;
        let log = std::fs::File::create(work.join("registry.log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("could not start setpriv: {error}"))?;
        let registry = Self {
            process,
            port,
            storage,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err("docker-registry does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Bytes of all blobs, manifests and configs among them.
    pub fn bytes(&self) -> Result<u64, String> {
        let blobs = self.storage.join("docker/registry/v2/blobs");
        if !blobs.exists() {
            return Ok(0);
        }
        let script = format!(
            "find '{}' -type f -name data -printf '%s\\n'",
            blobs.display()
        );
        let list = shell::output(Command::new("sh").args(["-c", &script]))?;
        Ok(list
            .lines()
            .filter_map(|line| line.parse::<u64>().ok())
            .sum())
    }

    /// Bytes that it has written since its start, to files and connections.
    pub fn written(&self) -> u64 {
        crate::bench::written(&self.process.id().to_string())
    }

    /// Forgets all content.
    pub fn clear(&self) -> Result<(), String> {
        match std::fs::remove_dir_all(&self.storage) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!(
                "could not remove {}: {error}",
                self.storage.display()
            )),
            _ => Ok(()),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
