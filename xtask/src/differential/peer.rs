//! The real BuildKit: dockerd in a chroot or on a socket, and a registry on loopback with the base images.

use super::base;
use crate::peers::daemon::Daemon;
use crate::peers::registry::Registry;
use crate::shell;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    builder: Builder,
    registry: Registry,
}

#[derive(Debug)]
enum Builder {
    Daemon(Daemon),
    Socket(PathBuf),
}

impl Peer {
    /// Starts everything; `work` is an empty folder that holds all of its data.
    pub fn start(source: &Source, work: &Path) -> Result<Self, String> {
        let registry = Registry::start(work)?;
        let builder = match source {
            Source::Socket(path) => Builder::Socket(path.clone()),
            Source::Chroot(root) => Builder::Daemon(Daemon::in_chroot(root, work, None)?),
        };
        let peer = Self {
            work: work.to_owned(),
            builder,
            registry,
        };
        peer.push_bases()?;
        Ok(peer)
    }

    /// Address of a base image.
    pub fn base(&self, variant: &str) -> String {
        format!("{}/base:{variant}", self.registry.host())
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

    fn docker(&self) -> Command {
        match &self.builder {
            Builder::Daemon(daemon) => daemon.docker(),
            Builder::Socket(path) => {
                let mut host = std::ffi::OsString::from("unix://");
                host.push(path);
                let mut command = Command::new("docker");
                command.arg("--host").arg(host).env_remove("DOCKER_HOST");
                command
            }
        }
    }

    /// The command that builds the case in a folder below the work folder (its context, `Dockerfile`) into `theirs`.
    pub fn build(&self, case: &Path, args: &[String]) -> Command {
        let seen = match &self.builder {
            Builder::Daemon(daemon) => daemon.seen(case),
            Builder::Socket(_) => case.to_owned(),
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
