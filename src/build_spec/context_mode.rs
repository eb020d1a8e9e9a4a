//! How modes of context files are taken: `--context-mode`, `KILN_CONTEXT_MODE`.

use super::usage;
use crate::args::ContextArgs;
use crate::environment::Environment;
use crate::error::Failure;
use executor::request::ContextMode;

const VARIABLE: &str = "KILN_CONTEXT_MODE";

/// What is asked for.
pub fn resolve(args: &ContextArgs, environment: &Environment) -> Result<ContextMode, Failure> {
    let (text, place) = match args.context_mode.as_deref() {
        Some(text) => (text, "--context-mode"),
        None => (environment.get(VARIABLE).unwrap_or("exact"), VARIABLE),
    };
    match text {
        "exact" => Ok(ContextMode::Exact),
        "git" => Ok(ContextMode::Git),
        _ => Err(usage(format!(
            "invalid value {text:?} for '{place}': expected exact or git"
        ))),
    }
}
