//! The tools: where each is, and how it is started with storage of its own and loopback registries in plain HTTP.

use super::daemon::{Daemon, IN_CHROOT_NAME, ON_HOST_NAME};
use super::find;
use crate::bench::Groups;
use crate::shell;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Limits that a machine without CAP_SYS_RESOURCE can set.
const LIMITS: [&str; 4] = [
    "--ulimit",
    "nofile=1000:1000",
    "--ulimit",
    "nproc=1000:1000",
];

/// What is there.
pub struct Tools {
    work: PathBuf,
    /// dockerd of the host.
    pub host: Option<Daemon>,
    /// dockerd of the chroot, in which crane and buildah are too.
    pub chroot: Option<Daemon>,
}

impl Tools {
    /// Starts the daemons, the one of the chroot with the whole of `work` before its eyes: the host's where it is wanted and there, and the one of a chroot.
    pub fn start(work: &Path, host: bool, chroot: Option<&Path>) -> Result<Self, String> {
        Self::start_in(work, host, chroot, None)
    }

    /// The same, each daemon and its containers in a control group of its own.
    pub fn start_in(
        work: &Path,
        host: bool,
        chroot: Option<&Path>,
        groups: Option<&Groups>,
    ) -> Result<Self, String> {
        let enter = |name: &str| {
            let groups = groups?;
            groups.enter(name);
            groups.parent(name)
        };
        let folder = |name: &str| {
            let path = work.join(name);
            std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
            Ok::<_, String>(path)
        };
        let config = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n";
        std::fs::write(work.join("containers.conf"), config).map_err(|error| error.to_string())?;
        // Newer buildah looks for its network's helper even where none is needed.
        let config = "[engine]\nhelper_binaries_dir = [\"/mnt/helpers\"]\n";
        std::fs::write(work.join("containers-chroot.conf"), config).map_err(|e| e.to_string())?;
        let helper = folder("helpers")?.join("netavark");
        std::fs::write(&helper, "#!/bin/sh\n").map_err(|error| error.to_string())?;
        std::fs::set_permissions(&helper, Permissions::from_mode(0o755))
            .map_err(|e| e.to_string())?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        std::fs::write(work.join("policy.json"), policy).map_err(|error| error.to_string())?;
        let host = match find("dockerd").filter(|_| host) {
            Some(_) => Some(Daemon::on_host(
                &folder("docker-host")?,
                enter(ON_HOST_NAME).as_deref(),
            )?),
            None => None,
        };
        let chroot = match chroot {
            Some(root) => Some(Daemon::in_chroot(
                root,
                work,
                enter(IN_CHROOT_NAME).as_deref(),
            )?),
            None => None,
        };
        Ok(Self {
            work: work.to_owned(),
            host,
            chroot,
        })
    }

    /// Whether the daemons answer.
    pub fn answer(&self) -> bool {
        let mut daemons = self.host.iter().chain(&self.chroot);
        daemons.all(|daemon| shell::output(daemon.docker().arg("version")).is_ok())
    }

    /// podman or buildah of the host.
    pub fn containers(&self, program: &str) -> Option<Command> {
        let mut command = Command::new(find(program)?);
        command
            .arg("--root")
            .arg(self.work.join("containers/root"))
            .arg("--runroot")
            .arg(self.work.join("containers/run"))
            .env("CONTAINERS_CONF", self.work.join("containers.conf"));
        if program == "podman" {
            command
                .arg("--tmpdir")
                .arg(self.work.join("containers/tmp"));
        }
        Some(command)
    }

    /// `podman run` of an image without network.
    pub fn podman_run(&self, reference: &str) -> Option<Command> {
        let mut command = self.containers("podman")?;
        command
            .args(["run", "--rm", "--network", "none"])
            .args(LIMITS)
            .arg(reference);
        Some(command)
    }

    /// skopeo of the host.
    pub fn skopeo(&self) -> Option<Command> {
        let mut command = Command::new(find("skopeo")?);
        command.arg("--policy").arg(self.work.join("policy.json"));
        Some(command)
    }

    /// crane, of the host or the chroot.
    pub fn crane(&self) -> Option<Command> {
        match (find("crane"), &self.chroot) {
            (Some(path), _) => Some(Command::new(path)),
            (None, Some(daemon)) => Some(daemon.program("crane")),
            (None, None) => None,
        }
    }

    /// buildah of the chroot.
    pub fn new_buildah(&self) -> Option<Command> {
        let mut command = self.chroot.as_ref()?.program("buildah");
        command
            .env("CONTAINERS_CONF", "/mnt/containers-chroot.conf")
            .args([
                "--root",
                "/mnt/buildah/root",
                "--runroot",
                "/mnt/buildah/run",
                "--storage-driver",
                "overlay",
            ]);
        Some(command)
    }
}
