//! `cargo xtask bench micro [--markdown]`: the pieces of a build alone (`benches/micro.rs`), in a release build that is not
//! optimised across crates, which changes none of them and takes a minute instead of ten.

use crate::shell;

/// Builds and runs it.
pub fn run(args: &[String]) -> Result<(), String> {
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
        .args(args)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    shell::run(&mut command)
}
