//! `cargo xtask demo`: the main job on a fresh machine, offline, with the base image that ships.

use crate::shell;
use std::process::Command;

/// Builds Kiln, then the multi-stage example, and shows what came out.
pub fn run() -> Result<(), String> {
    let kiln = shell::build_static()?;
    let root = shell::root();
    let store = shell::target_dir().join("demo-store");
    let base = format!(
        "busybox=oci-layout://{}",
        root.join("testdata/images/busybox").display()
    );
    let archive = shell::target_dir().join("demo.tar");
    shell::run(
        Command::new(&kiln)
            .arg("build")
            .arg("--root")
            .arg(&store)
            .args(["--build-context", &base, "-t", "site"])
            .arg("-o")
            .arg("type=image")
            .arg("-o")
            .arg(format!("type=docker,dest={}", archive.display()))
            .arg(root.join("examples/generated-site")),
    )?;
    shell::run(Command::new(&kiln).arg("--root").arg(&store).arg("images"))?;
    println!(
        "\nkiln:    {}\narchive: {}",
        kiln.display(),
        archive.display()
    );
    Ok(())
}
