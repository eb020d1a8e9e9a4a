//! dockerd, either the host's own or one in a chroot, in namespaces of its own, so that nothing stays mounted or running
//! once the one process that holds them has ended. Its data is in the folder that it is given.
//!
//! The chroot is a Debian folder with docker.io, docker-buildx and other tools; it is made with mmdebstrap where it is missing.

use crate::shell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Packages of the chroot.
const PACKAGES: &str = "--include=docker.io,docker-cli,docker-buildx,buildah,crane,ca-certificates,iptables,procps,xz-utils";

/// What the two are called.
pub const IN_CHROOT_NAME: &str = "chroot";
pub const ON_HOST_NAME: &str = "host";

/// Mounts what dockerd needs and becomes dockerd. `$1` is the chroot, `$2` the work folder, which appears as `/mnt`.
const IN_CHROOT: &str = r#"
mount --bind "$1" "$2/root"
mount -t proc proc "$2/root/proc"
mount --rbind /sys "$2/root/sys"
mount --rbind /dev "$2/root/dev"
mount --bind "$2" "$2/root/mnt"
exec chroot "$2/root" dockerd --config-file /mnt/daemon.json --data-root /mnt/data --exec-root /mnt/exec \
    --pidfile /mnt/pid --host unix:///mnt/docker.sock --iptables=false --ip6tables=false --bridge=none
"#;

/// The same for the host's own.
const ON_HOST: &str = r#"
mount -t proc proc /proc
exec dockerd --config-file "$2/daemon.json" --data-root "$2/data" --exec-root "$2/exec" \
    --pidfile "$2/pid" --host "unix://$2/docker.sock" --iptables=false --ip6tables=false --bridge=none
"#;

/// A running dockerd; ends with the value.
#[derive(Debug)]
pub struct Daemon {
    work: PathBuf,
    in_chroot: bool,
    process: Child,
    /// dockerd's process, whose mounts a client must see.
    pid: String,
}

impl Daemon {
    /// Starts the one of a chroot, which is made when it is missing. `groups` is the control group below which its containers' are.
    pub fn in_chroot(root: &Path, work: &Path, groups: Option<&str>) -> Result<Self, String> {
        make_chroot(root)?;
        Self::start(IN_CHROOT, root, work, groups)
    }

    /// Starts the host's.
    pub fn on_host(work: &Path, groups: Option<&str>) -> Result<Self, String> {
        Self::start(ON_HOST, Path::new("/"), work, groups)
    }

    fn start(script: &str, root: &Path, work: &Path, groups: Option<&str>) -> Result<Self, String> {
        let in_chroot = script == IN_CHROOT;
        for dir in ["root", "data", "exec", "home"] {
            std::fs::create_dir_all(work.join(dir)).map_err(|error| error.to_string())?;
        }
        let log = std::fs::File::create(work.join("dockerd.log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut config = serde_json::json!({});
        if in_chroot {
            config["features"] = serde_json::json!({"containerd-snapshotter": true});
        }
        if let Some(groups) = groups {
            config["cgroup-parent"] = groups.into();
        }
        std::fs::write(work.join("daemon.json"), config.to_string()).map_err(|e| e.to_string())?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--pid", "--fork", "--kill-child=TERM"])
            .args(["--propagation", "private", "sh", "-ec", script, "sh"])
            .args([root, work])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("could not start setpriv: {error}"))?;
        let mut daemon = Self {
            work: work.to_owned(),
            in_chroot,
            process,
            pid: String::new(),
        };
        daemon.wait_for_answer()?;
        Ok(daemon)
    }

    fn wait_for_answer(&mut self) -> Result<(), String> {
        let holder = self.process.id();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let children = format!("/proc/{holder}/task/{holder}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            children.trim().clone_into(&mut self.pid);
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

    /// A program among dockerd's mounts, in its chroot if it has one.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--pid"]);
        if self.in_chroot {
            command
                .arg("chroot")
                .arg(self.work.join("root"))
                .env("HOME", "/mnt/home");
        } else {
            command.env("HOME", self.work.join("home"));
        }
        command.arg(name).env_remove("DOCKER_HOST");
        command
    }

    /// Its client.
    pub fn docker(&self) -> Command {
        let mut host = OsString::from("unix://");
        host.push(self.seen(&self.work.join("docker.sock")));
        let mut command = self.program("docker");
        command.arg("--host").arg(host);
        command
    }

    /// A path below the work folder as its programs see it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.work) {
            Ok(below) if self.in_chroot => Path::new("/mnt").join(below),
            _ => path.to_owned(),
        }
    }

    /// Which of the two it is.
    pub fn name(&self) -> &'static str {
        if self.in_chroot {
            IN_CHROOT_NAME
        } else {
            ON_HOST_NAME
        }
    }

    /// Processes of dockerd and what it has started, by the host's count.
    pub fn processes(&self) -> Vec<u32> {
        self.pid.parse().map(super::below).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // dockerd ends well when asked; the rest of its namespace ends with it.
        let _ = Command::new("kill").arg(&self.pid).status();
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
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
