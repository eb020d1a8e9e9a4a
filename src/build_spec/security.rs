//! `--cap-add`, `--cap-drop`, `--security-opt`: what RUN steps may do, in Docker's and Buildah's words.

use super::usage;
use crate::args::SecurityArgs;
use crate::error::Failure;
use sandbox::{Seccomp, Security};

/// What is asked for. A profile of system calls is read here.
pub fn resolve(args: &SecurityArgs) -> Result<Security, Failure> {
    let mut security = Security {
        cap_add: capabilities("--cap-add", &args.cap_add)?,
        cap_drop: capabilities("--cap-drop", &args.cap_drop)?,
        ..Security::default()
    };
    security.check().map_err(usage)?;
    for text in &args.security_opts {
        option(text, &mut security)?;
    }
    Ok(security)
}

/// Each once, in any order: the same set is the same setting.
fn capabilities(flag: &str, raw: &[String]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for text in raw.iter().flat_map(|text| text.split(',')) {
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let Some(name) = sandbox::capability_name(text) else {
            return Err(usage(format!(
                "invalid value {text:?} for '{flag}': unknown capability"
            )));
        };
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn option(text: &str, security: &mut Security) -> Result<(), Failure> {
    let invalid = |reason: &str| {
        usage(format!(
            "invalid value {text:?} for '--security-opt': {reason}"
        ))
    };
    // Docker takes a colon as well.
    let (key, value) = text
        .split_once(['=', ':'])
        .map_or((text, None), |(key, value)| (key, Some(value)));
    match (key, value) {
        ("no-new-privileges", None) => security.no_new_privileges = true,
        ("no-new-privileges", Some(value)) => {
            security.no_new_privileges = match value {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => return Err(invalid("expected true or false")),
            };
        }
        ("seccomp", Some("unconfined")) => security.seccomp = Seccomp::Unconfined,
        ("seccomp", Some("builtin" | "default")) => security.seccomp = Seccomp::Default,
        ("seccomp", Some(path)) if !path.is_empty() => {
            security.seccomp = Seccomp::Profile(profile(path)?);
            security.check().map_err(|reason| {
                Failure::Other(format!("the seccomp profile {path} is not valid: {reason}"))
            })?;
        }
        ("seccomp", _) => return Err(invalid("expected seccomp=FILE or seccomp=unconfined")),
        ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
        ("apparmor", Some(_)) => {
            return Err(invalid(
                "profiles of AppArmor are not supported: only apparmor=unconfined is",
            ));
        }
        ("label", Some(_)) => {
            return Err(invalid(
                "labels of SELinux are not supported: only label=disable is",
            ));
        }
        ("systempaths", Some(_)) => {
            return Err(invalid(
                "paths of the kernel stay masked: RUN --security=insecure opens them",
            ));
        }
        _ => {
            return Err(invalid(
                "expected seccomp=FILE, seccomp=unconfined, no-new-privileges, label=disable or apparmor=unconfined",
            ));
        }
    }
    Ok(())
}

fn profile(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::Other(format!(
            "could not read the seccomp profile {path}: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(add: &[&str], drop: &[&str], opts: &[&str]) -> Result<Security, String> {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let args = SecurityArgs {
            cap_add: owned(add),
            cap_drop: owned(drop),
            security_opts: owned(opts),
        };
        resolve(&args).map_err(|failure| match failure {
            Failure::Usage(text) | Failure::Other(text) => text,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn capabilities_in_any_form() {
        let security = resolved(&["sys_time,CAP_Net_Admin", "SYS_TIME"], &["all"], &[]).unwrap();
        assert_eq!(security.cap_add, ["NET_ADMIN", "SYS_TIME"]);
        assert_eq!(security.cap_drop, ["ALL"]);
        for (add, drop, says) in [
            (&["foo"][..], &[][..], "\"foo\" for '--cap-add'"),
            (&[], &["cap_"], "\"cap_\" for '--cap-drop'"),
            (&["chown"], &["CHOWN"], "cannot be dropped and added"),
            (&["all"], &["all"], "is not possible"),
        ] {
            let error = resolved(add, drop, &[]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn options_are_taken_or_refused() {
        assert_eq!(resolved(&[], &[], &[]).unwrap(), Security::default());
        let last = resolved(&[], &[], &["seccomp=/nowhere", "seccomp=unconfined"]);
        assert!(last.unwrap_err().contains("/nowhere"));
        let taken = resolved(
            &[],
            &[],
            &["seccomp:unconfined", "label=disable", "apparmor=unconfined"],
        );
        assert_eq!(taken.unwrap().seccomp, Seccomp::Unconfined);
        for (text, expected) in [
            ("no-new-privileges", true),
            ("no-new-privileges=true", true),
            ("no-new-privileges:false", false),
        ] {
            let security = resolved(&[], &[], &[text]).unwrap();
            assert_eq!(security.no_new_privileges, expected, "{text}");
        }
        for text in [
            "seccomp",
            "seccomp=",
            "label=type:x",
            "apparmor=mine",
            "systempaths=unconfined",
            "no-new-privileges=maybe",
            "other",
            "",
        ] {
            let error = resolved(&[], &[], &[text]).unwrap_err();
            assert!(error.contains("for '--security-opt'"), "{text}: {error}");
        }
    }
}
