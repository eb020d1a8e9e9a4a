//! The context argument, the Dockerfile, its ignore file, and `--build-context`.

use super::usage;
use crate::error::Failure;
use executor::request::ContextSource;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A Dockerfile larger than this is no Dockerfile; BuildKit's frontend reads no more either.
const DOCKERFILE_LIMIT: u64 = 16 * 1024 * 1024;

/// The main context and its Dockerfile.
pub struct Source {
    /// Text.
    pub dockerfile: String,
    /// Name for messages.
    pub dockerfile_name: String,
    /// Context.
    pub context: ContextSource,
    /// Ignore rules: text and file.
    pub ignore: Option<(String, PathBuf)>,
}

/// Resolves `PATH|-` and `--file`.
pub fn resolve(context: &str, file: Option<&Path>) -> Result<Source, Failure> {
    let file_is_stdin = file == Some(Path::new("-"));
    if context == "-" {
        if file_is_stdin {
            return Err(usage(
                "the context and the Dockerfile cannot both come from standard input",
            ));
        }
        return from_stdin(file);
    }
    refuse_remote(context)?;
    let dir = PathBuf::from(context);
    match std::fs::metadata(&dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => {
            return Err(Failure::Other(format!(
                "context {context:?} is not a folder"
            )));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::Other(format!(
                "unable to prepare context: path {context:?} not found"
            )));
        }
        Err(error) => {
            return Err(Failure::Other(format!(
                "could not open context {context:?}: {error}"
            )));
        }
    }
    let (dockerfile, name, path) = if file_is_stdin {
        (read_stdin()?, "Dockerfile".to_owned(), None)
    } else {
        let path = locate(&dir, file)?;
        let name = path.file_name().map_or_else(
            || "Dockerfile".to_owned(),
            |n| n.to_string_lossy().into_owned(),
        );
        let text = read_text(&path)?;
        (text, name, Some(path))
    };
    let ignore = ignore_file(&dir, path.as_deref())?;
    Ok(Source {
        dockerfile,
        dockerfile_name: name,
        context: ContextSource::Directory(dir),
        ignore,
    })
}

/// `kiln build -`: the Dockerfile is on standard input and there is no context.
fn from_stdin(file: Option<&Path>) -> Result<Source, Failure> {
    if file.is_some() {
        return Err(usage(
            "'--file' has no meaning when the context is '-' (the Dockerfile is read from standard input)",
        ));
    }
    Ok(Source {
        dockerfile: read_stdin()?,
        dockerfile_name: "Dockerfile".to_owned(),
        context: ContextSource::Empty,
        ignore: None,
    })
}

fn refuse_remote(context: &str) -> Result<(), Failure> {
    let remote = [
        "http://",
        "https://",
        "git://",
        "git@",
        "ssh://",
        "github.com/",
    ];
    if remote.iter().any(|prefix| context.starts_with(prefix)) {
        return Err(usage(format!(
            "remote contexts are not supported yet: fetch {context} into a folder and build that"
        )));
    }
    Ok(())
}

/// The Dockerfile's path: `--file` as given, else `Dockerfile` or `dockerfile` in the context.
fn locate(dir: &Path, file: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(file) = file {
        return Ok(file.to_owned());
    }
    let usual = dir.join("Dockerfile");
    if usual.exists() || usual.is_symlink() {
        return Ok(usual);
    }
    let lower = dir.join("dockerfile");
    if lower.exists() {
        return Ok(lower);
    }
    Err(Failure::Other(format!(
        "failed to read dockerfile: open {}: no such file or directory (name another with --file)",
        usual.display()
    )))
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let failed = |reason: String| {
        Failure::Other(format!(
            "failed to read dockerfile: open {}: {reason}",
            path.display()
        ))
    };
    let meta = std::fs::metadata(path).map_err(|error| failed(plain(&error)))?;
    if meta.is_dir() {
        return Err(failed("is a directory".to_owned()));
    }
    if meta.len() > DOCKERFILE_LIMIT {
        return Err(failed(format!("larger than {DOCKERFILE_LIMIT} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(plain(&error)))?;
    text(bytes, &path.display().to_string())
}

fn read_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(DOCKERFILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Other(format!("could not read standard input: {error}")))?;
    if is_archive(&bytes) {
        return Err(Failure::Other(
            "standard input is a tar archive; tar contexts are not supported yet: unpack it and build the folder".to_owned(),
        ));
    }
    if bytes.len() as u64 > DOCKERFILE_LIMIT {
        return Err(Failure::Other(
            "the Dockerfile on standard input is too large".to_owned(),
        ));
    }
    text(bytes, "standard input")
}

fn is_archive(bytes: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    magics.iter().any(|magic| bytes.starts_with(magic))
        || bytes.get(257..262) == Some(b"ustar".as_slice())
}

fn text(bytes: Vec<u8>, name: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1;
        Failure::Other(format!("{name}:{line}: the Dockerfile is not valid UTF-8"))
    })
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in the context.
fn ignore_file(
    dir: &Path,
    dockerfile: Option<&Path>,
) -> Result<Option<(String, PathBuf)>, Failure> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside.into_iter().chain([dir.join(".dockerignore")]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((text, path))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::Other(format!(
                    "could not read {}: {}",
                    path.display(),
                    plain(&error)
                )));
            }
        }
    }
    Ok(None)
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Parses `--build-context NAME=SOURCE`.
pub fn named(text: &str) -> Result<(String, ContextSource), Failure> {
    let invalid = |reason: &str| {
        usage(format!(
            "invalid value {text:?} for '--build-context': {reason}"
        ))
    };
    let Some((name, value)) = text
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
    else {
        return Err(invalid("expected NAME=SOURCE"));
    };
    let source = if let Some(layout) = value.strip_prefix("oci-layout://") {
        oci_layout(layout)
    } else if let Some(reference) = value.strip_prefix("docker-image://") {
        ContextSource::Image(reference.to_owned())
    } else if value.starts_with("target:") || value.contains("://") || value.starts_with("git@") {
        return Err(invalid(
            "expected a folder, oci-layout://DIR[:TAG] or docker-image://REF; other sources are not supported yet",
        ));
    } else {
        ContextSource::Directory(PathBuf::from(value))
    };
    if let ContextSource::Directory(dir) | ContextSource::OciLayout { dir, .. } = &source
        && !dir.is_dir()
    {
        return Err(Failure::Other(format!(
            "build context {name:?}: {} is not a folder",
            dir.display()
        )));
    }
    Ok((name.to_owned(), source))
}

/// `DIR[:TAG][@DIGEST]`; a colon belongs to the folder's name when it is followed by a slash.
fn oci_layout(text: &str) -> ContextSource {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.to_owned())),
        None => (text, None),
    };
    let (dir, tag) = match rest.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') && !tag.is_empty() && !Path::new(rest).is_dir() => {
            (dir, Some(tag.to_owned()))
        }
        _ => (rest, None),
    };
    ContextSource::OciLayout {
        dir: PathBuf::from(dir),
        tag,
        digest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let parsed = oci_layout("a/b:v1@sha256:00");
        let ContextSource::OciLayout { dir, tag, digest } = parsed else {
            panic!("not a layout")
        };
        assert_eq!(
            (dir, tag.as_deref(), digest.as_deref()),
            ("a/b".into(), Some("v1"), Some("sha256:00"))
        );
    }

    #[test]
    fn archives_on_stdin_are_seen() {
        assert!(is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM scratch\n"));
    }
}
