//! `cargo xtask test`: installs what the tests need and runs them all.

use crate::shell;
use std::path::Path;
use std::process::Command;

/// Program that a test uses, and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("bwrap", "bubblewrap"),
    ("curl", "curl"),
    ("docker-registry", "docker-registry"),
    ("fuse-overlayfs", "fuse-overlayfs"),
    ("git", "git"),
    ("htpasswd", "apache2-utils"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("newuidmap", "uidmap"),
    ("mkfs.xfs", "xfsprogs"),
    ("pasta", "passt"),
    ("pip3", "python3-pip"),
    ("setpriv", "util-linux"),
    ("ssh-keygen", "openssh-client"),
    ("skopeo", "skopeo"),
    ("slirp4netns", "slirp4netns"),
    ("umoci", "umoci"),
];

/// Installs missing tools (root on Debian), then runs every test of the workspace. Arguments go to `cargo test`.
pub fn run(args: &[String]) -> Result<(), String> {
    install()?;
    let mut command = shell::cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(args);
    shell::run(&mut command)
}

/// Installs what is missing of [`TOOLS`], or says loudly that it cannot.
pub fn install() -> Result<(), String> {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let root = shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || !on_path("apt-get") {
        eprintln!(
            "xtask: LOUD NOTE: not installed: {}; tests that need them skip",
            missing.join(" ")
        );
        return Ok(());
    }
    shell::run(Command::new("apt-get").args(["update", "-qq"]))?;
    shell::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|dir| Path::new(&dir).join(program).is_file())
}
