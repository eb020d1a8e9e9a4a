//! Flags that other builders know: what asks for nothing passes, what asks for something that is not there is refused.

use super::{csv, usage};
use crate::args::CompatArgs;
use crate::error::Failure;

/// Checks them; gives the warnings to show.
pub fn check(args: &CompatArgs) -> Result<Vec<String>, Failure> {
    for text in &args.attestations {
        attestation(text)?;
    }
    shorthand("provenance", args.provenance.as_deref())?;
    shorthand("sbom", args.sbom.as_deref())?;
    if !args.policies.is_empty() {
        return Err(usage("--policy is not supported yet"));
    }
    let mut warnings = Vec::new();
    if args.rm || args.force_rm || args.compress {
        warnings.push("--rm, --force-rm and --compress have no meaning here".to_owned());
    }
    Ok(warnings)
}

/// `type=sbom,...`: only a disabled one passes.
fn attestation(text: &str) -> Result<(), Failure> {
    let invalid =
        |reason: String| usage(format!("invalid value {text:?} for '--attest': {reason}"));
    let (mut kind, mut disabled) = (None, false);
    for (key, value) in csv::pairs(text).map_err(invalid)? {
        match key.as_str() {
            "type" => kind = value,
            "disabled" => {
                let value = value.unwrap_or_default();
                disabled = boolean(&value).ok_or_else(|| {
                    invalid(format!("disabled must be true or false, not {value:?}"))
                })?;
            }
            _ => {}
        }
    }
    match kind.as_deref() {
        None | Some("") => Err(invalid("attestation type not specified".to_owned())),
        Some("sbom" | "provenance") if disabled => Ok(()),
        Some(kind @ ("sbom" | "provenance")) => Err(unsupported(kind)),
        Some(kind) => Err(invalid(format!("unknown attestation type {kind:?}"))),
    }
}

/// `--provenance`, `--sbom`: a truth value, or attributes, which ask for an attestation.
fn shorthand(kind: &str, value: Option<&str>) -> Result<(), Failure> {
    let Some(value) = value else { return Ok(()) };
    match boolean(value) {
        Some(false) => Ok(()),
        Some(true) => Err(unsupported(kind)),
        None if value.contains('=') => attestation(&format!("type={kind},{value}")),
        None => Err(usage(format!("invalid value {value:?} for '--{kind}'"))),
    }
}

fn unsupported(kind: &str) -> Failure {
    usage(format!(
        "attestations are not supported yet: leave out {kind}, or give --{kind}=false"
    ))
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
