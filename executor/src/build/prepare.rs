//! Contexts that are no folder of the host: fetched, unpacked into scratch space, and the Dockerfile found in them.
//!
//! The main context comes first, since the Dockerfile may be in it; a named one when a base of that name is resolved.
//! How bytes come over the network is [`crate::source`]'s, how an archive becomes a layer is [`crate::copy`]'s.

use super::contexts::Opened;
use super::manifest;
use super::{BuildFailure, Ui};
use crate::Error;
use crate::context::dockerfile::{Place, SIZE_LIMIT};
use crate::context::{Files, Unpacked};
use crate::copy;
use crate::remote::Remote;
use crate::request::{BuildRequest, ContextSource, DockerfileSource};
use crate::source::Sources;
use crate::source::http::HttpFile;
use crate::space::Space;
use planner::git_url::{GitUrl, redacted};
use planner::scheduler::Cancel;
use planner::source::HttpSource;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use store::{Scratch, Store};

/// The name that the file behind a URL has in the context that it is.
const HTTP_NAME: &str = "context";
/// Bytes that tell an archive.
const PEEKED: u64 = 1024;
/// How long a read waits before it looks whether the build is to stop.
const CANCEL_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// A context that comes over a stream.
#[derive(Debug)]
pub struct Stream {
    /// What was read of it already.
    pub start: Vec<u8>,
    /// The rest.
    pub rest: File,
}

/// Fetches and unpacks the main context, and finds the Dockerfile where the request does not have it. Does nothing for
/// a folder whose Dockerfile is known.
///
/// # Errors
/// What cannot be fetched, archives that cannot be used, no Dockerfile.
#[expect(clippy::result_large_err, reason = "a build fails once")]
pub fn prepare(
    store: &Store,
    request: &mut BuildRequest,
    stream: Option<Stream>,
    ui: &dyn Ui,
    cancel: &Cancel,
) -> Result<(), BuildFailure> {
    let space = Space::new(store.clone());
    if request.context.is_pending() {
        let remote = Remote::new(&request.registry, cancel);
        let pending = Pending::new(&space, request, &remote, ui, cancel);
        let unpacked = pending.main(stream)?;
        request.context = ContextSource::Unpacked(unpacked);
    }
    let file = match &request.dockerfile_source {
        DockerfileSource::Given => return Ok(()),
        DockerfileSource::InContext(file) => file.clone(),
        DockerfileSource::Url(url) => {
            let remote = Remote::new(&request.registry, cancel);
            let pending = Pending::new(&space, request, &remote, ui, cancel);
            let text = utf8(pending.dockerfile(url)?, &redacted(url))?;
            request.dockerfile = text;
            request.dockerfile_source = DockerfileSource::Given;
            return Ok(());
        }
    };
    let found = match &request.context {
        ContextSource::Unpacked(unpacked) => {
            let opened = Opened::unpacked(unpacked, request.context_mode)?;
            let file = unpacked.dockerfile().or(file.as_deref());
            Place::Tree(opened.tree()).dockerfile(file)?
        }
        ContextSource::Directory(dir) => Place::Folder(dir).dockerfile(file.as_deref())?,
        _ => {
            let message = "this context holds no Dockerfile: name one with --file";
            return Err(Error::Request(message.to_owned()).into());
        }
    };
    request.dockerfile_name = found
        .path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    request.dockerfile = utf8(found.content, &found.path.display().to_string())?;
    request.dockerfile_source = DockerfileSource::Given;
    Ok(())
}

/// The text of a Dockerfile.
///
/// # Errors
/// The first line that is not UTF-8.
pub fn utf8(bytes: Vec<u8>, name: &str) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::Request(format!("{name}:{line}: the Dockerfile is not valid UTF-8"))
    })
}

/// The contexts of a build that must be fetched, each at most once.
pub(crate) struct Pending<'a> {
    space: &'a Space,
    request: &'a BuildRequest,
    remote: &'a Remote,
    ui: &'a dyn Ui,
    cancel: &'a Cancel,
    named: Mutex<BTreeMap<String, Unpacked>>,
}

impl<'a> Pending<'a> {
    pub(crate) fn new(
        space: &'a Space,
        request: &'a BuildRequest,
        remote: &'a Remote,
        ui: &'a dyn Ui,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            space,
            request,
            remote,
            ui,
            cancel,
            named: Mutex::default(),
        }
    }

    /// What fetching for this build needs.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources {
            store: self.space.store(),
            request: self.request,
            remote: self.remote,
            cancel: self.cancel,
        }
    }

    /// Shows a piece of work as a task of its own.
    fn show<T>(&self, title: &str, work: impl FnOnce(u64) -> Result<T, Error>) -> Result<T, Error> {
        let task = self.ui.task_started(title);
        let done = work(task);
        let error = done.as_ref().err().map(crate::error::chain);
        self.ui.task_finished(task, error.as_deref());
        done
    }

    /// The main context.
    fn main(&self, stream: Option<Stream>) -> Result<Unpacked, Error> {
        const TITLE: &str = "[internal] load remote build context";
        match &self.request.context {
            ContextSource::Archive(path) => self.show(TITLE, |_| {
                self.unpack(open(path)?, &path.display().to_string(), None)
            }),
            ContextSource::Stream => self.show(TITLE, |_| {
                let stream = stream.ok_or_else(|| {
                    Error::Request("the context is on a stream, and none was given".to_owned())
                })?;
                let rest = Interruptible {
                    input: stream.rest,
                    cancel: self.cancel,
                };
                let content = io::Cursor::new(stream.start).chain(rest);
                self.unpack(content, "standard input", None)
            }),
            ContextSource::Http(url) => self.show(TITLE, |task| self.http_main(url, task)),
            ContextSource::Git(url) => {
                let keep = self
                    .request
                    .build_args
                    .get("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
                    .is_some_and(|value| is_true(value));
                self.git(url, keep)
            }
            _ => Err(Error::Request("the context needs no fetching".to_owned())),
        }
    }

    /// A named context, fetched when it is first asked for.
    pub(crate) fn named(&self, name: &str, source: &ContextSource) -> Result<Unpacked, Error> {
        self.space.in_turn(format!("context {name}"), || {
            if let Some(known) = self.lock().get(name) {
                return Ok(known.clone());
            }
            let unpacked = match source {
                ContextSource::Git(url) => self.git(url, false)?,
                ContextSource::Http(url) => {
                    let title = format!("[context {name}] {}", redacted(url));
                    self.show(&title, |task| self.http_file(url, task))?
                }
                ContextSource::Archive(path) => self
                    .show(&format!("[context {name}] {}", path.display()), |_| {
                        self.unpack(open(path)?, &path.display().to_string(), None)
                    })?,
                _ => {
                    return Err(Error::Request(format!(
                        "context {name:?} cannot be fetched"
                    )));
                }
            };
            self.lock().insert(name.to_owned(), unpacked.clone());
            Ok(unpacked)
        })
    }

    /// When a context was made; nothing for folders, whose files say when they were checked out.
    pub(crate) fn time(&self, name: &str, source: &ContextSource) -> Result<Option<i64>, Error> {
        match source {
            ContextSource::Unpacked(unpacked) => Ok(unpacked.time()),
            source if source.is_pending() => Ok(self.named(name, source)?.time()),
            _ => Ok(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Unpacked>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of a Dockerfile behind a URL.
    fn dockerfile(&self, url: &str) -> Result<Vec<u8>, Error> {
        self.show("[internal] load remote Dockerfile", |task| {
            let (file, path) = self.download(url, None, task)?;
            if file.size > SIZE_LIMIT {
                return Err(Error::ReadDockerfile {
                    path: redacted(url).into(),
                    reason: format!("larger than {SIZE_LIMIT} bytes"),
                });
            }
            let mut text = Vec::new();
            open(&path)?
                .read_to_end(&mut text)
                .map_err(|source| Error::Io {
                    op: "read",
                    path,
                    source,
                })?;
            Ok(text)
        })
    }

    fn download(
        &self,
        url: &str,
        name: Option<&str>,
        task: u64,
    ) -> Result<(HttpFile, PathBuf), Error> {
        let source = HttpSource {
            url: url.to_owned(),
            checksum: None,
            filename: name.map(str::to_owned),
        };
        let progress = |done, total| self.ui.task_progress(task, "context", done, total);
        let file = self.sources().download(&source, &progress)?;
        let digest = manifest::digest(&file.digest)?;
        let path = self.space.store().blob_path(&digest);
        Ok((file, path))
    }

    /// An archive becomes the context; anything else is the Dockerfile, and the only file.
    fn http_main(&self, url: &str, task: u64) -> Result<Unpacked, Error> {
        let (file, path) = self.download(url, Some(HTTP_NAME), task)?;
        let mut start = Vec::new();
        open(&path)?
            .take(PEEKED)
            .read_to_end(&mut start)
            .map_err(|source| Error::Io {
                op: "read",
                path: path.clone(),
                source,
            })?;
        if copy::is_archive(&start) {
            return self.unpack(open(&path)?, &redacted(url), time_of(&file));
        }
        let (scratch, folder) = self.folder_with(&file, &path)?;
        let name = PathBuf::from(HTTP_NAME);
        Ok(Unpacked::single(scratch, folder, name, time_of(&file)))
    }

    /// A folder with the file that a URL gives, as it is.
    fn http_file(&self, url: &str, task: u64) -> Result<Unpacked, Error> {
        let (file, path) = self.download(url, None, task)?;
        let (scratch, folder) = self.folder_with(&file, &path)?;
        Ok(Unpacked::new(
            scratch,
            Files::Folder(folder),
            time_of(&file),
        ))
    }

    /// A folder with a downloaded file, mode 0600 as BuildKit has it.
    fn folder_with(&self, file: &HttpFile, blob: &Path) -> Result<(Scratch, PathBuf), Error> {
        let (scratch, folder) = self.folder()?;
        let path = folder.join(&file.name);
        let fail = |source| Error::Io {
            op: "write",
            path: path.clone(),
            source,
        };
        let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(file.mtime).unwrap_or(0));
        let mut from = open(blob)?;
        let mut to = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        io::copy(&mut from, &mut to)
            .and_then(|_| to.set_modified(modified))
            .map_err(fail)?;
        Ok((scratch, folder))
    }

    fn folder(&self) -> Result<(Scratch, PathBuf), Error> {
        let scratch = self.space.store().scratch()?;
        let folder = scratch.path().join("context");
        std::fs::create_dir(&folder).map_err(|source| Error::Io {
            op: "create",
            path: folder.clone(),
            source,
        })?;
        Ok((scratch, folder))
    }

    fn git(&self, url: &str, keep_git_dir: bool) -> Result<Unpacked, Error> {
        let invalid = |reason: String| Error::Source {
            message: format!("invalid git context {}: {reason}", redacted(url)),
            help: None,
        };
        let parsed = GitUrl::parse(url)
            .map_err(invalid)?
            .ok_or_else(|| invalid("it names no repository".to_owned()))?;
        let mut source = parsed.source(None, None).map_err(invalid)?;
        source.keep_git_dir |= keep_git_dir;
        let title = format!("[internal] load git source {}", redacted(url));
        self.show(&title, |_| {
            let sources = self.sources();
            let commit = sources.resolve_git(&source)?;
            let (scratch, folder) = self.folder()?;
            let folder = sources.checkout(&source, &commit, &folder)?;
            let time = sources.commit_time(&source, &commit)?;
            Ok(Unpacked::new(scratch, Files::Folder(folder), Some(time)))
        })
    }

    fn unpack(&self, content: impl Read, name: &str, time: Option<i64>) -> Result<Unpacked, Error> {
        let scratch = self.space.store().scratch()?;
        let content = Stoppable {
            content,
            cancel: self.cancel,
        };
        let files = copy::unpack_archive(content, name, scratch.path());
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(Unpacked::new(scratch, Files::Layer(files?), time))
    }
}

/// What the server says; nothing when it says nothing.
fn time_of(file: &HttpFile) -> Option<i64> {
    (file.mtime != 0).then_some(file.mtime)
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Io {
        op: "open",
        path: path.to_owned(),
        source,
    })
}

/// As Go's `strconv.ParseBool` reads it; what it cannot read is false.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// A read of a stream that may never come ends with the build.
struct Interruptible<'c> {
    input: File,
    cancel: &'c Cancel,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let mut ready = [PollFd::new(&self.input, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&CANCEL_INTERVAL)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.input.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Content that ends with the build.
struct Stoppable<'c, R> {
    content: R,
    cancel: &'c Cancel,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.content.read(buffer)
    }
}
