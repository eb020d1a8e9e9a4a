//! `--ssh`: `default`, `ID`, `ID=SOCKET`, `ID=KEY[,KEY]`, as `docker buildx build` takes them.

use super::usage;
use crate::environment::Environment;
use crate::error::Failure;
use executor::request::SshSource;
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

/// All `--ssh`, by id.
pub fn parse(
    raw: &[String],
    environment: &Environment,
) -> Result<BTreeMap<String, SshSource>, Failure> {
    let mut sources = BTreeMap::new();
    for text in raw {
        let (id, source) = one(text, environment)
            .map_err(|reason| usage(format!("invalid value {text:?} for '--ssh': {reason}")))?;
        if sources.insert(id.clone(), source).is_some() {
            return Err(usage(format!(
                "invalid value {text:?} for '--ssh': invalid duplicate ID {id}"
            )));
        }
    }
    Ok(sources)
}

fn one(text: &str, environment: &Environment) -> Result<(String, SshSource), String> {
    let (id, rest) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut raw = false;
    for field in rest.split(',').filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            Some(("raw", "true" | "1")) => raw = true,
            Some(("raw", "false" | "0")) => raw = false,
            _ => paths.push(field.into()),
        }
    }
    if raw && paths.len() != 1 {
        return Err("raw mode must supply exactly one socket path".to_owned());
    }
    if paths.is_empty() {
        let socket = environment.get("SSH_AUTH_SOCK").ok_or(
            "invalid empty ssh agent socket, make sure SSH_AUTH_SOCK is set, or name a socket or key",
        )?;
        paths.push(socket.into());
    }
    let mut sockets = 0;
    for path in &paths {
        let kind = std::fs::metadata(path)
            .map_err(|error| format!("failed to open {}: {error}", path.display()))?
            .file_type();
        sockets += usize::from(kind.is_socket());
    }
    if sockets > 0 && paths.len() > 1 {
        return Err("only single socket allowed".to_owned());
    }
    let source = match paths.pop() {
        Some(path) if sockets == 1 => SshSource::Socket { path, raw },
        _ if raw => return Err("raw mode only supported with socket paths".to_owned()),
        last => {
            paths.extend(last);
            SshSource::Keys(paths)
        }
    };
    Ok((id.to_owned(), source))
}
