//! How much isolation RUN steps get: `--isolation`, `KILN_ISOLATION`, and Buildah's variable and words for it.

use super::usage;
use crate::args::IsolationArgs;
use crate::environment::Environment;
use crate::error::Failure;
use sandbox::{Isolation, RootKind};

/// Variables that say it where no flag does; the first that is set counts.
const VARIABLES: [&str; 2] = ["KILN_ISOLATION", "BUILDAH_ISOLATION"];

/// What is asked for.
pub fn isolation(args: &IsolationArgs, environment: &Environment) -> Result<Isolation, Failure> {
    if let Some(text) = args.isolation.as_deref().filter(|text| !text.is_empty()) {
        return parse(text, "--isolation");
    }
    VARIABLES
        .iter()
        .find_map(|name| Some(parse(environment.get(name)?, name)))
        .unwrap_or(Ok(Isolation::Auto))
}

/// The way to put root file systems together that is asked for, if any: `--sandbox-root`, `KILN_SANDBOX_ROOT`.
pub fn root_kind(
    args: &IsolationArgs,
    environment: &Environment,
) -> Result<Option<RootKind>, Failure> {
    const VARIABLE: &str = "KILN_SANDBOX_ROOT";
    let (text, place) = match args.sandbox_root.as_deref() {
        Some(text) => (text, "--sandbox-root"),
        None => (environment.get(VARIABLE).unwrap_or_default(), VARIABLE),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let kind = text.parse().map_err(|_| {
        usage(format!(
            "invalid value {text:?} for '{place}': expected overlay, fuse-overlayfs, reflink or copy"
        ))
    })?;
    Ok(Some(kind))
}

/// Our words, Buildah's, and Docker's, which knows only `default` outside of Windows.
fn parse(text: &str, place: &str) -> Result<Isolation, Failure> {
    match text.to_ascii_lowercase().as_str() {
        "auto" | "default" => Ok(Isolation::Auto),
        "full" | "oci" | "rootless" => Ok(Isolation::Full),
        "nested" => Ok(Isolation::Nested),
        "chroot" => Ok(Isolation::Chroot),
        "process" | "hyperv" => Err(usage(format!(
            "{place} {text} is for Windows containers, which are not supported"
        ))),
        _ => Err(usage(format!(
            "invalid value {text:?} for '{place}': expected auto, full, nested or chroot"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_builders() {
        for (text, expected) in [
            ("auto", Isolation::Auto),
            ("default", Isolation::Auto),
            ("full", Isolation::Full),
            ("OCI", Isolation::Full),
            ("rootless", Isolation::Full),
            ("nested", Isolation::Nested),
            ("chroot", Isolation::Chroot),
        ] {
            assert_eq!(parse(text, "--isolation").ok(), Some(expected), "{text}");
        }
        for text in ["process", "hyperv", "none", "no"] {
            assert!(parse(text, "--isolation").is_err(), "{text}");
        }
    }
}
