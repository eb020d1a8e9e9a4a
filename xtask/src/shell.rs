//! Running commands, finding the project's root, building the binary.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("BUG: xtask lies inside the workspace")
        .to_owned()
}

/// Runs a command and shows it; an error when it fails.
pub fn run(command: &mut Command) -> Result<(), String> {
    eprintln!("+ {}", shown(command));
    let status = command
        .status()
        .map_err(|error| format!("could not start {}: {error}", shown(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed: {status}", shown(command)))
    }
}

/// Runs a command and gives its standard output; an error with its stderr when it fails.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("could not start {}: {error}", shown(command)))?;
    if !output.status.success() {
        return Err(format!(
            "{} failed: {}",
            shown(command),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// `cargo`, as this program was started by it.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo tells this program about its own package makes build scripts run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// Cargo's target folder.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the static binary in the profile `quick`: for tasks that look at what it does.
pub fn build_static() -> Result<PathBuf, String> {
    build_static_in("quick")
}

/// Builds the static binary as it is released: for tasks that measure it.
pub fn build_release() -> Result<PathBuf, String> {
    build_static_in("release")
}

/// `--target` is named so that the static C runtime does not apply to build scripts and procedural macros, which must stay
/// dynamic.
fn build_static_in(profile: &str) -> Result<PathBuf, String> {
    let host = host_triple()?;
    let mut command = cargo();
    command
        .args(["build", "--profile", profile, "--package", "kiln"])
        .args(["--target", &host])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut command)?;
    Ok(target_dir().join(host).join(profile).join("kiln"))
}

/// Builds the development binary: quick to make, slow to run.
pub fn build_debug() -> Result<PathBuf, String> {
    run(cargo().args(["build", "--package", "kiln"]))?;
    Ok(target_dir().join("debug/kiln"))
}

fn host_triple() -> Result<String, String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| "rustc -vV names no host".to_owned())
}
