//! `cargo xtask bench micro [--markdown]`: the pieces of a build alone (`benches/micro.rs`), in a release build that is not
//! optimised across crates, which changes none of them and takes a minute instead of ten.

use super::table;
use crate::shell;

/// Builds and runs it.
pub fn run() -> Result<(), String> {
    let mut command = shell::cargo();
    command
        .args([
            "bench",
            "--quiet",
            "--package",
            "kiln",
            "--bench",
            "micro",
            "--",
        ])
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    if !table::is_markdown() {
        return shell::run(&mut command);
    }
    table::print_markdown(&shell::output(command.arg("--markdown"))?);
    Ok(())
}
