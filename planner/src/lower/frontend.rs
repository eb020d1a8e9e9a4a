//! `# syntax=` and `BUILDKIT_SYNTAX`: the frontend of the Dockerfile language is built in, whatever tag and registry it is
//! named with; no other is run.

use super::LowerOptions;
use super::context::nowhere;
use parser::{Diagnostic, Dockerfile};

/// Build arg that names a frontend in place of the directive; empty for the built-in one.
const ARGUMENT: &str = "BUILDKIT_SYNTAX";
/// Repositories of the frontend that is built in.
const BUILT_IN: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Refuses a frontend that is not built in.
pub(super) fn check(dockerfile: &Dockerfile, options: &LowerOptions) -> Result<(), Diagnostic> {
    if let Some(wanted) = options.build_args.get(ARGUMENT) {
        let found = nowhere(message(wanted));
        return refuse(wanted, found, "leave the build arg out");
    }
    let Some(directive) = &dockerfile.directives.syntax else {
        return Ok(());
    };
    let found = Diagnostic {
        span: Some(directive.span),
        ..nowhere(message(&directive.value))
    };
    refuse(&directive.value, found, "remove the line")
}

fn message(wanted: &str) -> String {
    format!("frontend {} is not built in", first_word(wanted))
}

fn refuse(wanted: &str, found: Diagnostic, remedy: &str) -> Result<(), Diagnostic> {
    if is_built_in(wanted) {
        return Ok(());
    }
    let help = format!(
        "only docker/dockerfile is, in any version: {remedy} if the file is written in its language"
    );
    Err(Diagnostic {
        help: Some(help),
        ..found
    })
}

/// Arguments for the frontend may follow its name.
fn first_word(value: &str) -> &str {
    value.split_whitespace().next().unwrap_or_default()
}

fn is_built_in(value: &str) -> bool {
    let name = first_word(value);
    if name.is_empty() || name == "dockerfile.v0" {
        return true;
    }
    let name = name.split('@').next().unwrap_or(name);
    let tag = name.rfind(':').filter(|at| !name[*at..].contains('/'));
    let repository = tag.map_or(name, |at| &name[..at]);
    BUILT_IN.iter().any(|known| {
        repository
            .strip_suffix(known)
            .is_some_and(|host| host.is_empty() || host.ends_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::is_built_in;

    #[test]
    fn d06_the_dockerfile_frontend_by_any_name() {
        for name in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker/dockerfile:1@sha256:aa",
            "docker.io/docker/dockerfile-upstream:master",
            "localhost:5000/docker/dockerfile",
            "mirror.example/hub/docker/dockerfile:1.4 --arg",
            "dockerfile.v0",
            "",
        ] {
            assert!(is_built_in(name), "{name}");
        }
        for name in [
            "foobar",
            "docker/dockerfile-other",
            "mydocker/dockerfile",
            "docker/dockerfile/x:1",
            "r2d4/mockerfile",
        ] {
            assert!(!is_built_in(name), "{name}");
        }
    }
}
