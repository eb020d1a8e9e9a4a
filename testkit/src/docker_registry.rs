//! Debian's docker-registry (distribution 2.8) on loopback, as tests want it set up: plain or TLS, client certificates, htpasswd, a
//! token service, a pull-through mirror.
//!
//! The program must be installed; making keys and passwords is the caller's.

use crate::Scratch;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a registry is set up.
#[derive(Clone, Debug, Default)]
pub struct RegistrySetup {
    /// Certificate and key files (PEM).
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Certificate authorities of clients; all must have a certificate then.
    pub client_cas: Vec<PathBuf>,
    /// An htpasswd file (bcrypt only).
    pub htpasswd: Option<PathBuf>,
    /// Token service.
    pub token: Option<TokenService>,
    /// URL of the registry that this one is a pull-through mirror of.
    pub mirror_of: Option<String>,
    /// Blobs and manifests can be deleted.
    pub deletes: bool,
}

/// Whose tokens are trusted.
#[derive(Clone, Debug)]
pub struct TokenService {
    /// URL.
    pub realm: String,
    /// Audience.
    pub service: String,
    /// Issuer.
    pub issuer: String,
    /// Certificates of the keys that sign (PEM).
    pub root_certificates: PathBuf,
}

/// A running registry; ends when dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    port: u16,
    scheme: &'static str,
    folder: Scratch,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl DockerRegistry {
    /// Starts it with an empty storage. `None`, said loudly, where it is not installed.
    ///
    /// # Panics
    /// It does not answer, or its folder cannot be written.
    #[must_use]
    pub fn start(setup: &RegistrySetup) -> Option<Self> {
        let folder = Scratch::new();
        let port = free_port();
        let path = folder.path().join("config.yml");
        // JSON is YAML too.
        std::fs::write(&path, config(setup, port, folder.path()).to_string())
            .expect("a scratch folder can be written");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log can be made");
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(process) = started else {
            let mut stderr = std::io::stderr();
            let _ = std::io::Write::write_all(
                &mut stderr,
                b"SKIPPED: docker-registry is not installed\n",
            );
            return None;
        };
        let registry = Self {
            process,
            port,
            scheme: if setup.tls.is_some() { "https" } else { "http" },
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "docker-registry does not answer: {}",
                registry.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:PORT` or with `https`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.host())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where it keeps its content (`docker/registry/v2/...`).
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn config(setup: &RegistrySetup, port: u16, folder: &Path) -> Value {
    let mut http = json!({"addr": format!("127.0.0.1:{port}"), "secret": "of a test"});
    if let Some((certificate, key)) = &setup.tls {
        http["tls"] = json!({"certificate": certificate, "key": key});
        if !setup.client_cas.is_empty() {
            http["tls"]["clientcas"] = json!(setup.client_cas);
        }
    }
    let mut config = json!({
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": false}},
        "storage": {
            "filesystem": {"rootdirectory": folder.join("data")},
            "delete": {"enabled": setup.deletes},
        },
        "http": http,
    });
    if let Some(path) = &setup.htpasswd {
        config["auth"] = json!({"htpasswd": {"realm": "test", "path": path}});
    }
    if let Some(token) = &setup.token {
        config["auth"] = json!({"token": {
            "realm": token.realm, "service": token.service, "issuer": token.issuer,
            "rootcertbundle": token.root_certificates,
        }});
    }
    if let Some(url) = &setup.mirror_of {
        config["proxy"] = json!({"remoteurl": url});
    }
    config
}

/// A loopback port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
    let address = listener.local_addr();
    address.expect("a bound socket has an address").port()
}
