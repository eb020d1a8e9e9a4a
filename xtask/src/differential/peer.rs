//! The real BuildKit: dockerd in a chroot, in mount and process namespaces of its own, so that nothing stays mounted or
//! running once the one process that holds them has ended; and a registry on loopback with the base images.
//!
//! The chroot is a Debian folder with docker.io and docker-buildx; it is made with mmdebstrap where it is missing.

use super::base;
use crate::shell;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Packages of the chroot.
const PACKAGES: &str =
    "--include=docker.io,docker-cli,docker-buildx,ca-certificates,iptables,procps,xz-utils";

/// Mounts what dockerd needs and becomes dockerd. `$1` is the chroot, `$2` the work folder, which appears as `/mnt`.
const START: &str = r#"
mount --bind "$1" "$2/root"
mount -t proc proc "$2/root/proc"
mount --rbind /sys "$2/root/sys"
mount --rbind /dev "$2/root/dev"
mount --bind "$2" "$2/root/mnt"
exec chroot "$2/root" dockerd --config-file /mnt/daemon.json --data-root /mnt/data --exec-root /mnt/exec \
    --pidfile /mnt/pid --host unix:///mnt/docker.sock --iptables=false --ip6tables=false --bridge=none
"#;

/// Where the peer comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A chroot folder, made if missing.
    Chroot(PathBuf),
    /// A running dockerd's socket; `docker` with buildx must be on the path.
    Socket(PathBuf),
}

/// A running peer and its registry; both end with it.
#[derive(Debug)]
pub struct Peer {
    work: PathBuf,
    daemon: Option<Child>,
    /// dockerd's process, whose mounts a client must see.
    pid: String,
    socket: PathBuf,
    registry: Child,
    port: u16,
}

impl Peer {
    /// Starts everything; `work` is an empty folder that holds all of its data.
    pub fn start(source: &Source, work: &Path) -> Result<Self, String> {
        let (registry, port) = start_registry(work)?;
        let mut peer = Self {
            work: work.to_owned(),
            daemon: None,
            pid: String::new(),
            socket: PathBuf::new(),
            registry,
            port,
        };
        peer.push_bases()?;
        match source {
            Source::Socket(path) => peer.socket.clone_from(path),
            Source::Chroot(root) => {
                make_chroot(root)?;
                peer.start_daemon(root)?;
            }
        }
        Ok(peer)
    }

    /// Address of a base image.
    pub fn base(&self, variant: &str) -> String {
        format!("127.0.0.1:{}/base:{variant}", self.port)
    }

    fn push_bases(&self) -> Result<(), String> {
        let images = self.work.join("images");
        base::write(
            &shell::root().join("testdata/images/busybox"),
            &images,
            &self.base("plain"),
        )?;
        for variant in base::VARIANTS {
            shell::output(
                Command::new("skopeo")
                    .args(["copy", "-q", "--dest-tls-verify=false"])
                    .arg(format!("oci:{}", images.join(variant).display()))
                    .arg(format!("docker://{}", self.base(variant))),
            )?;
        }
        Ok(())
    }

    fn start_daemon(&mut self, root: &Path) -> Result<(), String> {
        let log =
            std::fs::File::create(self.work.join("dockerd.log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        for dir in ["root", "data", "exec", "home"] {
            std::fs::create_dir_all(self.work.join(dir)).map_err(|error| error.to_string())?;
        }
        let config = r#"{"features":{"containerd-snapshotter":true}}"#;
        std::fs::write(self.work.join("daemon.json"), config).map_err(|e| e.to_string())?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--pid", "--fork", "--kill-child=TERM"])
            .args(["--propagation", "private", "sh", "-ec", START, "sh"])
            .args([root, &self.work])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("could not start setpriv: {error}"))?;
        let holder = child.id();
        self.daemon = Some(child);
        self.socket = PathBuf::from("/mnt/docker.sock");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let children = format!("/proc/{holder}/task/{holder}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            self.pid = children.trim().to_owned();
            if !self.pid.is_empty() && shell::output(self.docker().arg("version")).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.work.join("dockerd.log"));
                return Err(format!(
                    "dockerd does not answer: {}",
                    log.unwrap_or_default()
                ));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn docker(&self) -> Command {
        let mut command;
        if self.daemon.is_some() {
            command = Command::new("nsenter");
            command
                .args(["--target", &self.pid, "--mount", "chroot"])
                .arg(self.work.join("root"))
                .arg("docker")
                .env("HOME", "/mnt/home");
        } else {
            command = Command::new("docker");
        }
        let mut host = std::ffi::OsString::from("unix://");
        host.push(&self.socket);
        command.arg("--host").arg(host).env_remove("DOCKER_HOST");
        command
    }

    /// The command that builds the case in a folder below the work folder (its context, `Dockerfile`) into `theirs`.
    pub fn build(&self, case: &Path, args: &[String]) -> Command {
        let seen = match (&self.daemon, case.strip_prefix(&self.work)) {
            (Some(_), Ok(below)) => Path::new("/mnt").join(below),
            _ => case.to_owned(),
        };
        let mut command = self.docker();
        command
            .args([
                "buildx",
                "build",
                "--progress",
                "plain",
                "--network",
                "none",
            ])
            .args(["--provenance=false", "--file"])
            .arg(seen.join("Dockerfile"))
            .arg("--output")
            .arg(format!(
                "type=oci,tar=false,dest={}",
                seen.join("theirs").display()
            ))
            .args(args)
            .arg(seen.join(super::context_name(case)))
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
        if let Some(daemon) = &mut self.daemon {
            // dockerd ends well when asked; the rest of its namespace ends with it.
            let _ = Command::new("kill").arg(&self.pid).status();
            let deadline = Instant::now() + Duration::from_secs(20);
            while matches!(daemon.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn make_chroot(root: &Path) -> Result<(), String> {
    if root.join("usr/sbin/dockerd").exists() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    shell::run(
        Command::new("mmdebstrap")
            .args([
                "--variant=minbase",
                "--aptopt=Acquire::Check-Valid-Until \"false\"",
            ])
            .arg(PACKAGES)
            .arg("forky")
            .arg(root),
    )
}

fn start_registry(work: &Path) -> Result<(Child, u16), String> {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("could not find a free port: {error}"))?
        .port();
    let config = work.join("registry.yml");
    let data = work.join("registry");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            data.display()
        ),
    )
    .map_err(|error| error.to_string())?;
    let log = std::fs::File::create(work.join("registry.log")).map_err(|e| e.to_string())?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("could not start setpriv: {error}"))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            return Err("docker-registry does not answer".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((child, port))
}
