//! `--build-context NAME=SOURCE`.

use super::{context, usage};
use crate::error::Failure;
use executor::request::{self, ContextSource};
use planner::context_name;
use planner::platform::Platform;
use std::path::{Path, PathBuf};

/// Parses one; `None` for a name that replaces nothing (`scratch`, `context`), as in BuildKit.
pub fn parse(text: &str) -> Result<Option<(String, ContextSource)>, Failure> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(usage(format!(
            "invalid context value: {text}, expected key=value"
        )));
    };
    let key = key(name)?;
    let source = source(name, value)?;
    let reserved = context_name::is_reserved(context_name::split_platform(&key).0);
    Ok((!reserved).then_some((key, source)))
}

/// The name as contexts are kept by: short, with the platform it is for, if any, in its normal form.
fn key(name: &str) -> Result<String, Failure> {
    let (reference, platform) = context_name::split_platform(name);
    request::reference(reference).map_err(|error| {
        usage(format!(
            "invalid context name {name}: {}",
            crate::render::chain(&error)
        ))
    })?;
    let short = context_name::familiar(reference);
    let Some(platform) = platform else {
        return Ok(short.to_owned());
    };
    let platform = Platform::parse(platform, &Platform::host())
        .map_err(|error| usage(format!("invalid context name {name}: {error}")))?;
    Ok(format!("{short}::{}", platform.normalise()))
}

fn source(name: &str, value: &str) -> Result<ContextSource, Failure> {
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        return oci_layout(value, layout);
    }
    if let Some(reference) = value.strip_prefix("docker-image://") {
        if reference == "scratch" {
            return Ok(ContextSource::Empty);
        }
        request::reference(reference).map_err(|error| {
            let reason = crate::render::chain(&error);
            usage(format!("invalid context {name}: {reason}"))
        })?;
        return Ok(ContextSource::Image(reference.to_owned()));
    }
    if let Some(stage) = value.strip_prefix("target:") {
        if stage.is_empty() {
            return Err(usage(format!(
                "invalid context specifier {value} for {name}"
            )));
        }
        return Ok(ContextSource::Target(stage.to_owned()));
    }
    if let Some(remote) = context::remote(value)? {
        return Ok(remote);
    }
    match std::fs::metadata(value) {
        Ok(meta) if meta.is_dir() => Ok(ContextSource::Directory(PathBuf::from(value))),
        Ok(_) => Err(Failure::Other(format!(
            "failed to get build context path {name}: {value}: not a directory"
        ))),
        Err(error) => {
            if let Some((scheme, _)) = value.split_once("://") {
                return Err(usage(format!(
                    "unsupported context source {scheme} for {name}: expected a folder, docker-image://, oci-layout://, \
                     http(s)://, a Git URL or target:STAGE"
                )));
            }
            Err(Failure::Other(format!(
                "failed to get build context {name}: stat {value}: {}",
                context::plain(&error)
            )))
        }
    }
}

/// `DIR[:TAG][@DIGEST]`; a colon belongs to the folder's name when it is followed by a slash, or when there is such a folder.
fn oci_layout(value: &str, text: &str) -> Result<ContextSource, Failure> {
    let (rest, digest) = match text.rsplit_once('@') {
        Some((rest, digest)) if digest.contains(':') => (rest, Some(digest.to_owned())),
        _ => (text, None),
    };
    let (dir, tag) = match rest.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') && !tag.is_empty() && !Path::new(rest).is_dir() => {
            (dir, Some(tag.to_owned()))
        }
        _ => (rest, None),
    };
    if dir.is_empty() {
        return Err(usage(format!("oci-layout reference {value:?} has no name")));
    }
    if !Path::new(dir).is_dir() {
        return Err(Failure::Other(format!(
            "oci-layout reference {value:?} could not be resolved: {dir} is not a folder"
        )));
    }
    Ok(ContextSource::OciLayout {
        dir: PathBuf::from(dir),
        tag,
        digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<Option<(String, ContextSource)>, String> {
        parse(text).map_err(|failure| match failure {
            Failure::Usage(message) | Failure::Other(message) => message,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn sources() {
        let image = |text: &str| ContextSource::Image(text.to_owned());
        let layout = |tag: Option<&str>, digest: Option<&str>| ContextSource::OciLayout {
            dir: "/tmp".into(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        };
        for (text, key, source) in [
            ("a=/tmp", "a", ContextSource::Directory("/tmp".into())),
            (
                "docker.io/library/a:latest=docker-image://b",
                "a",
                image("b"),
            ),
            (
                "a:1=docker-image://b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "a:1",
                image("b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
            ),
            (
                "a::linux/x86_64=docker-image://b",
                "a::linux/amd64",
                image("b"),
            ),
            ("a=docker-image://scratch", "a", ContextSource::Empty),
            ("a=target:b", "a", ContextSource::Target("b".to_owned())),
            ("a=oci-layout:///tmp", "a", layout(None, None)),
            (
                "a=oci-layout:///tmp:v1@sha256:00",
                "a",
                layout(Some("v1"), Some("sha256:00")),
            ),
            (
                "a=http://h/x",
                "a",
                ContextSource::Http("http://h/x".to_owned()),
            ),
            (
                "a=git@h:x.git",
                "a",
                ContextSource::Git("git@h:x.git".to_owned()),
            ),
        ] {
            assert_eq!(named(text), Ok(Some((key.to_owned(), source))), "{text}");
        }
        assert_eq!(named("context=/tmp"), Ok(None));
        assert_eq!(named("scratch=/tmp"), Ok(None));
    }

    #[test]
    fn refusals() {
        for (text, says) in [
            ("a", "invalid context value: a, expected key=value"),
            ("A=/tmp", "invalid context name A: "),
            ("=/tmp", "invalid context name : "),
            ("a::x=/tmp", "invalid context name a::x: "),
            (
                "a=",
                "failed to get build context a: stat : no such file or directory",
            ),
            (
                "a=/no/where",
                "failed to get build context a: stat /no/where: no such file or directory",
            ),
            ("a=/proc/version", "not a directory"),
            ("a=foo://b", "unsupported context source foo for a"),
            ("a=docker-image://B", "invalid context a: "),
            ("a=target:", "invalid context specifier target: for a"),
            (
                "a=oci-layout://",
                "oci-layout reference \"oci-layout://\" has no name",
            ),
            ("a=oci-layout:///no:1", "could not be resolved"),
        ] {
            let message = named(text).unwrap_err();
            assert!(message.contains(says), "{text}: {message}");
        }
    }
}
