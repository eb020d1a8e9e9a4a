//! Validates OCI layouts: `cargo run -p kiln-testkit --example validate [--foreign] DIR...`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (flags, layouts): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|word| word == "--foreign");
    let mut status = ExitCode::SUCCESS;
    for layout in &layouts {
        let path = Path::new(layout);
        let result = if flags.is_empty() {
            testkit::validate(path)
        } else {
            testkit::validate_foreign(path)
        };
        let Err(findings) = result else {
            println!("{layout}: sound");
            continue;
        };
        status = ExitCode::FAILURE;
        for finding in findings {
            println!("{layout}: {finding}");
        }
    }
    status
}
