//! What RUN steps get: `--allow`, `--ulimit`, `--volume`.

use super::usage;
use crate::error::Failure;
use executor::request::DeviceGrants;
use planner::lower::Allowed;
use planner::plan::{Ulimit, Volume, VolumeAccess};
use std::path::Path;

/// Limits that Docker knows by these names (setrlimit(2)).
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--allow`, all of them.
pub fn allow(raw: &[String]) -> Result<(Allowed, DeviceGrants), Failure> {
    let mut allowed = Allowed::default();
    let mut devices = DeviceGrants::default();
    for text in raw {
        let (key, rest) = text
            .split_once('=')
            .map_or((text.as_str(), None), |(key, rest)| (key, Some(rest)));
        match (key, rest) {
            // `may_delete` looks for it.
            (LOCAL_DELETE, None) => {}
            (LOCAL_DELETE, Some(_)) => {
                return Err(usage(format!(
                    "invalid value {text:?} for '--allow': {LOCAL_DELETE} does not accept a value"
                )));
            }
            ("network.host", None) => allowed.network_host = true,
            ("security.insecure", None) => allowed.security_insecure = true,
            ("device", None | Some("")) => devices.all = true,
            ("device", Some(rest)) => {
                let (name, alias) = device(rest).map_err(|reason| {
                    usage(format!("invalid value {text:?} for '--allow': {reason}"))
                })?;
                devices.names.insert(alias.unwrap_or(name.clone()), name);
            }
            _ => {
                return Err(usage(format!(
                    "invalid value {text:?} for '--allow': unknown entitlement {text}: expected network.host, security.insecure, device[=NAME] or buildx.local.delete"
                )));
            }
        }
    }
    Ok((allowed, devices))
}

/// Lets `mode=delete` of a local output empty any folder.
const LOCAL_DELETE: &str = "buildx.local.delete";

/// Whether `--allow` has it.
pub fn may_delete(raw: &[String]) -> bool {
    raw.iter().any(|text| text == LOCAL_DELETE)
}

/// `NAME[,alias=OTHER]`.
fn device(text: &str) -> Result<(String, Option<String>), String> {
    let mut fields = text.split(',');
    let name = fields.next().unwrap_or_default().to_owned();
    let mut alias = None;
    for field in fields {
        match field.split_once('=') {
            Some(("alias", value)) => alias = Some(value.to_owned()),
            Some((key, _)) => return Err(format!("unknown device config key {key:?}")),
            None => return Err(format!("invalid device config {field:?}")),
        }
    }
    Ok((name, alias))
}

/// `NAME=SOFT[:HARD]`; -1 is no limit.
pub fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    let invalid =
        |reason: String| usage(format!("invalid value {text:?} for '--ulimit': {reason}"));
    let Some((name, limits)) = text.split_once('=') else {
        return Err(invalid(format!("invalid ulimit argument: {text}")));
    };
    if !ULIMITS.contains(&name) {
        return Err(invalid(format!(
            "invalid ulimit type: {name}: expected one of {}",
            ULIMITS.join(", ")
        )));
    }
    let number = |text: &str| match text {
        "-1" => Ok(None),
        text => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| invalid(format!("{text:?} is not a number"))),
    };
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>()[..] {
        [both] => (number(both)?, number(both)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(invalid(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            )));
        }
    };
    let shown =
        |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
    if let Some(most) = hard
        && soft.is_none_or(|soft| soft > most)
    {
        return Err(invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {most}",
            shown(soft)
        )));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// `HOST:TARGET[:OPTIONS]`, as Buildah has it.
pub fn volume(text: &str) -> Result<Volume, Failure> {
    let invalid =
        |reason: String| usage(format!("invalid value {text:?} for '--volume': {reason}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => {
            return Err(invalid(
                "expected HOST:TARGET[:OPTIONS], both paths absolute".to_owned(),
            ));
        }
    };
    if !source.starts_with('/') {
        return Err(invalid(format!(
            "invalid host path, must be an absolute path {source:?}"
        )));
    }
    if !target.starts_with('/') || target.trim_matches('/').is_empty() {
        return Err(invalid(format!(
            "invalid container path, must be an absolute path {target:?}"
        )));
    }
    if let Err(error) = std::fs::metadata(Path::new(source)) {
        return Err(Failure::Other(format!(
            "could not use the volume {source}: {error}"
        )));
    }
    let mut volume = Volume {
        source: source.to_owned(),
        target: target.to_owned(),
        access: VolumeAccess::ReadWrite,
        chown: false,
        noexec: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.access = VolumeAccess::ReadOnly,
            "rw" => volume.access = VolumeAccess::ReadWrite,
            "O" => volume.access = VolumeAccess::Discard,
            "U" => volume.chown = true,
            "noexec" => volume.noexec = true,
            // A volume is always private to the build and without devices and set-uid programs; without SELinux there is
            // nothing to label.
            "z" | "Z" | "exec" | "nodev" | "nosuid" | "bind" | "rbind" | "private" | "rprivate" => {
            }
            "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                return Err(invalid(format!(
                    "mount propagation {option:?} is not possible: volumes are private to the build"
                )));
            }
            _ => {
                return Err(invalid(format!(
                    "unknown option {option:?}: expected ro, rw, O, U, z, Z or noexec"
                )));
            }
        }
    }
    if volume.chown && volume.access == VolumeAccess::ReadOnly {
        return Err(invalid("options U and ro exclude each other".to_owned()));
    }
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        match result.unwrap_err() {
            Failure::Usage(message) | Failure::Other(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ru19_ulimits() {
        let limit = |text: &str| {
            let limit = ulimit(text).ok().unwrap();
            (limit.name, limit.soft, limit.hard)
        };
        assert_eq!(
            limit("nofile=1024"),
            ("nofile".into(), Some(1024), Some(1024))
        );
        assert_eq!(limit("core=0:5"), ("core".into(), Some(0), Some(5)));
        assert_eq!(limit("stack=1:-1"), ("stack".into(), Some(1), None));
        assert_eq!(limit("cpu=-1"), ("cpu".into(), None, None));
        for (text, says) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("files=1", "invalid ulimit type: files"),
            ("nofile=x", "\"x\" is not a number"),
            ("nofile=1:2:3", "can only have up to two"),
            (
                "nofile=3:2",
                "soft limit must be less than or equal to hard limit: 3 > 2",
            ),
            ("nofile=-1:2", "-1 > 2"),
        ] {
            let reason = reason(ulimit(text));
            assert!(reason.contains(says), "{reason}");
        }
    }

    #[test]
    fn entitlements() {
        let texts = [
            "network.host",
            "security.insecure",
            "device=a/b=c,alias=x",
            "device=d/e",
        ];
        let (allowed, devices) = allow(&texts.map(str::to_owned)).ok().unwrap();
        assert!(allowed.network_host && allowed.security_insecure && !devices.all);
        assert_eq!(devices.names["x"], "a/b=c");
        assert_eq!(devices.names["d/e"], "d/e");
        assert!(allow(&["device".to_owned()]).ok().unwrap().1.all);
        for bad in ["", "network", "network.host=1", "device=a/b,other=x"] {
            assert!(reason(allow(&[bad.to_owned()])).contains("--allow"));
        }
    }

    #[test]
    fn volumes() {
        let parsed = volume("/:/host:ro,z").ok().unwrap();
        assert_eq!(
            (parsed.source.as_str(), parsed.target.as_str()),
            ("/", "/host")
        );
        assert_eq!(parsed.access, VolumeAccess::ReadOnly);
        assert_eq!(volume("/:/x:O").ok().unwrap().access, VolumeAccess::Discard);
        assert!(volume("/:/x:U,noexec").ok().unwrap().chown);
        for (text, says) in [
            ("/x", "expected HOST:TARGET"),
            ("x:/y", "invalid host path, must be an absolute path \"x\""),
            (
                "/:y",
                "invalid container path, must be an absolute path \"y\"",
            ),
            ("/:/", "invalid container path"),
            ("/:/y:what", "unknown option \"what\""),
            ("/:/y:rshared", "private to the build"),
            ("/:/y:U,ro", "exclude each other"),
            ("/not/there:/y", "could not use the volume /not/there"),
        ] {
            let reason = reason(volume(text));
            assert!(reason.contains(says), "{reason}");
        }
    }
}
