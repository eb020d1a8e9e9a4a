//! The context argument, the Dockerfile and its ignore file, as `docker buildx build` takes them.
//!
//! What must be fetched or unpacked is only named here; [`executor::build::prepare`] does it.

use super::usage;
use crate::error::Failure;
use executor::build::Stream;
use executor::context::dockerfile::{DEFAULT_NAME, Place, SIZE_LIMIT};
use executor::request::{ContextSource, DockerfileSource};
use planner::git_url::{GitUrl, redacted};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// Enough of a stream to tell a tar from a Dockerfile.
const PEEKED: u64 = 1024;

/// The main context and its Dockerfile.
#[derive(Debug)]
pub struct Source {
    /// Text, where it is known by now.
    pub dockerfile: String,
    /// Where it is to be found otherwise.
    pub dockerfile_source: DockerfileSource,
    /// Name for messages.
    pub dockerfile_name: String,
    /// Context.
    pub context: ContextSource,
    /// Ignore rules: text and file.
    pub ignore: Option<(String, PathBuf)>,
    /// Standard input, when the context is on it.
    pub stream: Option<Stream>,
}

impl Source {
    /// A context whose Dockerfile is still to be read.
    fn new(context: ContextSource, dockerfile_source: DockerfileSource) -> Self {
        Self {
            dockerfile: String::new(),
            dockerfile_source,
            dockerfile_name: DEFAULT_NAME.to_owned(),
            context,
            ignore: None,
            stream: None,
        }
    }

    fn with_text(self, dockerfile: String) -> Self {
        Self {
            dockerfile,
            dockerfile_source: DockerfileSource::Given,
            ..self
        }
    }
}

/// Resolves `PATH|URL|-` and `--file`.
pub fn resolve(context: &str, file: Option<&Path>) -> Result<Source, Failure> {
    if context.is_empty() {
        return Err(usage(
            "please specify build context (e.g. \".\" for the current directory)",
        ));
    }
    if context == "-" {
        return on_stdin(file);
    }
    let path = Path::new(context);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return in_folder(path, file),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(Failure::Other(format!(
                "could not open context {context:?}: permission denied"
            )));
        }
        Err(_) => {}
    }
    let source = match remote(context)? {
        Some(source) => source,
        None if path.exists() => archive(path)?,
        None => {
            return Err(Failure::Other(format!(
                "unable to prepare context: path {context:?} not found"
            )));
        }
    };
    elsewhere(source, file)
}

/// A URL or a Git repository.
pub fn remote(text: &str) -> Result<Option<ContextSource>, Failure> {
    match GitUrl::parse(text) {
        Ok(Some(_)) => Ok(Some(ContextSource::Git(text.to_owned()))),
        Ok(None) if is_url(text) => Ok(Some(ContextSource::Http(text.to_owned()))),
        Ok(None) => Ok(None),
        Err(reason) => Err(usage(format!(
            "invalid git context {}: {reason}",
            redacted(text)
        ))),
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// A file must be a tar to be a context.
fn archive(path: &Path) -> Result<ContextSource, Failure> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PEEKED).read_to_end(&mut start))
        .map_err(|error| {
            Failure::Other(format!(
                "could not open context {}: {}",
                path.display(),
                plain(&error)
            ))
        })?;
    if !executor::copy::is_archive(&start) {
        return Err(Failure::Other(format!(
            "unable to prepare context: {} is neither a folder nor a tar archive",
            path.display()
        )));
    }
    Ok(ContextSource::Archive(path.to_owned()))
}

/// `kiln build -`: a tar that is the context, or else a Dockerfile without one.
fn on_stdin(file: Option<&Path>) -> Result<Source, Failure> {
    if file == Some(Path::new("-")) {
        return Err(usage(
            "invalid argument: can't use stdin for both build context and dockerfile",
        ));
    }
    let start = read_stdin(PEEKED)?;
    if executor::copy::is_archive(&start) {
        let rest = std::io::stdin().as_fd().try_clone_to_owned();
        let rest = rest.map_err(|error| {
            Failure::Other(format!("could not use standard input: {}", plain(&error)))
        })?;
        let stream = Stream {
            start,
            rest: File::from(rest),
        };
        let source = match file.and_then(Path::to_str).filter(|text| is_url(text)) {
            Some(url) => DockerfileSource::Url(url.to_owned()),
            None => DockerfileSource::InContext(file.map(Path::to_owned)),
        };
        return Ok(Source {
            stream: Some(stream),
            ..Source::new(ContextSource::Stream, source)
        });
    }
    if file.is_some() {
        return Err(usage(
            "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
        ));
    }
    let text = text_of_stdin(start)?;
    Ok(Source::new(ContextSource::Empty, DockerfileSource::Given).with_text(text))
}

/// A context that is no folder. Its Dockerfile is in it, unless `--file` is `-`, a URL, or an absolute path of the host.
fn elsewhere(context: ContextSource, file: Option<&Path>) -> Result<Source, Failure> {
    let Some(file) = file else {
        return Ok(Source::new(context, DockerfileSource::InContext(None)));
    };
    if file == Path::new("-") {
        let text = text_of_stdin(Vec::new())?;
        return Ok(Source::new(context, DockerfileSource::Given).with_text(text));
    }
    if let Some(url) = file.to_str().filter(|text| is_url(text)) {
        return Ok(Source::new(context, DockerfileSource::Url(url.to_owned())));
    }
    if file.is_absolute() {
        let (name, text, _) = read_named(file)?;
        return Ok(Source {
            dockerfile_name: name,
            ..Source::new(context, DockerfileSource::Given).with_text(text)
        });
    }
    let wanted = DockerfileSource::InContext(Some(file.to_owned()));
    Ok(Source::new(context, wanted))
}

/// A folder of the host.
fn in_folder(dir: &Path, file: Option<&Path>) -> Result<Source, Failure> {
    let source = Source::new(
        ContextSource::Directory(dir.to_owned()),
        DockerfileSource::Given,
    );
    let (source, beside) = match file {
        Some(file) if file == Path::new("-") => {
            (source.with_text(text_of_stdin(Vec::new())?), None)
        }
        Some(file) => match file.to_str().filter(|text| is_url(text)) {
            Some(url) => {
                let dockerfile_source = DockerfileSource::Url(url.to_owned());
                let source = Source {
                    dockerfile_source,
                    ..source
                };
                (source, None)
            }
            None => {
                let (name, text, ignore) = read_named(file)?;
                let source = Source {
                    dockerfile_name: name,
                    ..source.with_text(text)
                };
                (source, ignore)
            }
        },
        None => {
            let (name, text, ignore) = read_in(dir, None)?;
            let source = Source {
                dockerfile_name: name,
                ..source.with_text(text)
            };
            (source, ignore)
        }
    };
    let ignore = match beside {
        Some(found) => Some(found),
        None => ignore(dir, Place::Folder(dir).ignore()?),
    };
    Ok(Source { ignore, ..source })
}

/// Name, text and own ignore file of a Dockerfile.
type Named = (String, String, Option<(String, PathBuf)>);

/// The file that `--file` names.
fn read_named(file: &Path) -> Result<Named, Failure> {
    let name = file.file_name().map(Path::new);
    // A shell's `<(command)` is a pipe behind a link of /proc, which has no folder to stay in.
    let is_pipe = std::fs::metadata(file)
        .is_ok_and(|meta| meta.file_type().is_fifo() || meta.file_type().is_char_device());
    match (file.parent(), name) {
        (Some(dir), Some(name)) if !is_pipe => {
            let dir = if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            };
            read_in(dir, Some(name))
        }
        _ => {
            let failed = |error: std::io::Error| {
                Failure::Other(format!(
                    "failed to read dockerfile: open {}: {}",
                    file.display(),
                    plain(&error)
                ))
            };
            let mut bytes = Vec::new();
            File::open(file)
                .and_then(|pipe| pipe.take(SIZE_LIMIT + 1).read_to_end(&mut bytes))
                .map_err(failed)?;
            Ok((DEFAULT_NAME.to_owned(), text(bytes, file)?, None))
        }
    }
}

fn read_in(dir: &Path, name: Option<&Path>) -> Result<Named, Failure> {
    let place = Place::Folder(dir);
    let found = place.dockerfile(name).map_err(|error| match error {
        executor::Error::ReadDockerfile { .. } if name.is_none() => {
            let message = executor::error::chain(&error);
            Failure::Other(format!("{message} (name another with --file)"))
        }
        error => error.into(),
    })?;
    let beside = place.ignore_beside(&found.path)?;
    let shown = found.path.file_name().unwrap_or_default();
    Ok((
        shown.to_string_lossy().into_owned(),
        text(found.content, &dir.join(&found.path))?,
        ignore(dir, beside),
    ))
}

fn ignore(
    dir: &Path,
    found: Option<executor::context::dockerfile::Found>,
) -> Option<(String, PathBuf)> {
    found.map(|found| {
        let text = String::from_utf8_lossy(&found.content).into_owned();
        (text, dir.join(found.path))
    })
}

/// At most so many bytes of standard input, unbuffered, so that another can read on.
fn read_stdin(limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let fd = std::io::stdin().as_fd().try_clone_to_owned();
    fd.and_then(|fd| File::from(fd).take(limit).read_to_end(&mut bytes))
        .map_err(|error| {
            Failure::Other(format!("could not read standard input: {}", plain(&error)))
        })?;
    Ok(bytes)
}

/// The Dockerfile on standard input, of which `start` was read.
fn text_of_stdin(mut start: Vec<u8>) -> Result<String, Failure> {
    start.extend(read_stdin(SIZE_LIMIT + 1)?);
    text(start, Path::new("standard input"))
}

fn text(bytes: Vec<u8>, path: &Path) -> Result<String, Failure> {
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(Failure::Other(format!(
            "failed to read dockerfile: open {}: larger than {SIZE_LIMIT} bytes",
            path.display()
        )));
    }
    Ok(executor::build::utf8(bytes, &path.display().to_string())?)
}

/// The operating system's words without its number.
pub fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
