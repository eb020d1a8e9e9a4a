//! Containers as people run builds in, for tests that must hold in all of them: a bare root whose programs are those of the
//! machine, read-only, with Docker's and Podman's own settings and some that people add to them.

use crate::{Dockerd, Scratch};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Name of the image that the containers have.
const IMAGE: &str = "place";

/// A way to start a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// For people.
    pub name: &'static str,
    /// Podman instead of Docker.
    pub podman: bool,
    /// Flags of `docker run` or `podman run`.
    pub flags: &'static [&'static str],
}

const fn docker(name: &'static str, flags: &'static [&'static str]) -> Place {
    Place {
        name,
        podman: false,
        flags,
    }
}

const fn podman(name: &'static str, flags: &'static [&'static str]) -> Place {
    Place {
        name,
        podman: true,
        flags,
    }
}

impl Place {
    /// All of them. `/tmp` is a part of the container's overlay, in which no overlay can have its upper, or a tmpfs.
    pub const ALL: [Self; 8] = [
        docker("docker", &[]),
        docker("docker-user", &["--user", "1000"]),
        docker(
            "docker-unconfined",
            &["--security-opt", "seccomp=unconfined"],
        ),
        docker(
            "docker-unconfined-user",
            &["--security-opt", "seccomp=unconfined", "--user", "1000"],
        ),
        docker(
            "docker-unconfined-tmpfs",
            &[
                "--security-opt",
                "seccomp=unconfined",
                "--tmpfs",
                "/tmp:exec",
            ],
        ),
        // What `--privileged` comes to for namespaces; the flag itself asks for more than a test machine may have.
        docker(
            "docker-all",
            &[
                "--security-opt",
                "seccomp=unconfined",
                "--security-opt",
                "systempaths=unconfined",
                "--cap-add",
                "SYS_ADMIN",
                "--cap-add",
                "NET_ADMIN",
                "--cap-add",
                "SYS_PTRACE",
                "--tmpfs",
                "/tmp:exec",
            ],
        ),
        podman("podman", &["--tmpfs", "/tmp:exec"]),
        podman(
            "podman-unconfined",
            &[
                "--security-opt",
                "seccomp=unconfined",
                "--tmpfs",
                "/tmp:exec",
            ],
        ),
    ];
}

/// Docker and Podman with the image, ready.
#[derive(Debug)]
pub struct Containers {
    docker: Dockerd,
    folder: Scratch,
}

impl Containers {
    /// Starts dockerd and gives both tools the image. Needs root.
    ///
    /// # Errors
    /// A tool is missing or does not start here.
    pub fn start() -> Result<Self, String> {
        let folder = Scratch::new();
        let tar = folder.join("image.tar");
        image(&tar).map_err(|error| format!("an image for containers: {error}"))?;
        let docker = Dockerd::start(folder.join("d"))?;
        let containers = Self { docker, folder };
        let tar = tar.to_string_lossy();
        let imported = containers.docker.run(&["import", &tar, IMAGE]);
        check("docker import", imported)?;
        let imported = containers.podman().args(["import", &tar, IMAGE]).output();
        check("podman import", imported)?;
        Ok(containers)
    }

    /// Runs a program of the machine in a container and waits for it.
    ///
    /// # Errors
    /// The tool cannot be started.
    pub fn run(&self, place: Place, binds: &[&Path], command: &[&str]) -> std::io::Result<Output> {
        let mut tool = if place.podman {
            let mut tool = self.podman();
            // Its own limits are above what a test machine may allow.
            tool.args([
                "run",
                "--ulimit",
                "nofile=1024:1024",
                "--ulimit",
                "nproc=4096:4096",
            ]);
            tool
        } else {
            let mut tool = Command::new("docker");
            tool.args(["--host", &self.docker.host(), "run"]);
            tool
        };
        tool.args(["--rm", "--network", "none", "-v", "/usr:/usr:ro"]);
        for path in binds {
            tool.arg("-v").arg(format!("{0}:{0}:ro", path.display()));
        }
        tool.args(place.flags).arg(IMAGE).args(command);
        tool.stdin(Stdio::null()).output()
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(self.folder.join("p"));
        podman.arg("--runroot").arg(self.folder.join("r"));
        // crun refuses machines with control groups of both versions.
        podman.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        podman
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // Its storage keeps a mount of its own.
        let _ = self.podman().args(["system", "reset", "--force"]).output();
        for name in ["p/overlay", "p"] {
            let mounted = Command::new("umount")
                .arg("-l")
                .arg(self.folder.join(name))
                .output();
            drop(mounted);
        }
    }
}

fn check(what: &str, result: std::io::Result<Output>) -> Result<(), String> {
    let output = result.map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {}", said.trim()))
}

/// A root in which `/usr` comes from outside.
fn image(path: &Path) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(std::fs::File::create(path)?);
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header
    };
    for (name, mode) in [
        ("usr", 0o755),
        ("etc", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("dev", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("var", 0o755),
        ("tmp", 0o1777),
    ] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut header, name, std::io::empty())?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, name, format!("usr/{name}"))?;
    }
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nuser:x:1000:\n"),
    ];
    for (name, text) in files {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    tar.finish()
}
