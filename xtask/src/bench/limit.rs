//! What the machine can do at best: the same work by the simplest tool that does it.

use super::measure::{median, shell_median, time};
use std::path::Path;
use std::process::Command;

/// Spawn and exit of a program that does nothing.
pub fn spawn(repeats: usize) -> Result<f64, String> {
    Ok(median(&time(|_| Command::new("/bin/true"), repeats)?))
}

/// `unshare` of all namespaces that a RUN has, and `true`.
pub fn namespaces(repeats: usize) -> Result<f64, String> {
    let command = |_| {
        let mut command = Command::new("unshare");
        command.args(["-m", "-p", "-i", "-u", "-n", "-C", "-f", "/bin/true"]);
        command
    };
    Ok(median(&time(command, repeats)?))
}

/// tar of a folder through SHA-256 with the processor's instructions.
pub fn tar_and_hash(dir: &Path, repeats: usize) -> Result<f64, String> {
    shell_median(
        &format!("tar -C '{}' -cf - . | openssl dgst -sha256", dir.display()),
        repeats,
    )
}

/// Walk and stat.
pub fn find_and_stat(dir: &Path, repeats: usize) -> Result<f64, String> {
    shell_median(
        &format!("find '{}' -type f -size -1 -mtime +1", dir.display()),
        repeats,
    )
}

/// Copy of a folder, page cache to page cache.
pub fn copy_file_tree(dir: &Path, work: &Path, repeats: usize) -> Result<f64, String> {
    let copy = work.join("limit-copy");
    shell_median(
        &format!(
            "rm -rf '{1}' && cp -r '{0}' '{1}'",
            dir.display(),
            copy.display()
        ),
        repeats,
    )
}
