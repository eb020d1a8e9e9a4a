//! SSH agents for commands: sockets that a RUN step reaches for as long as it runs.
//!
//! Behind a socket is an agent of the user's, which is only asked what keys it has and for signatures, or keys of the
//! request, which never leave this process. Which step gets what is the caller's business.

mod agent;
mod der;
mod key;

use crate::Error;
use crate::request::SshSource;
use key::Key;
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Connections of one socket at the same time; more are closed at once.
const MOST_CONNECTIONS: usize = 64;

/// What stands behind a socket, keys read.
#[derive(Clone, Debug)]
enum Source {
    Agent(PathBuf),
    Raw(PathBuf),
    Keys(Arc<Vec<Key>>),
}

/// The agents of a request, by id.
#[derive(Debug, Default)]
pub(crate) struct Agents(BTreeMap<String, Source>);

impl Agents {
    /// Reads the keys of a request.
    pub(crate) fn load(sources: &BTreeMap<String, SshSource>) -> Result<Self, Error> {
        let load = |source: &SshSource| -> Result<Source, Error> {
            Ok(match source {
                SshSource::Socket { path, raw: true } => Source::Raw(path.clone()),
                SshSource::Socket { path, raw: false } => Source::Agent(path.clone()),
                SshSource::Keys(paths) => {
                    let keys = paths.iter().map(|path| key::read(path));
                    Source::Keys(Arc::new(keys.collect::<Result<_, Error>>()?))
                }
            })
        };
        let loaded = sources
            .iter()
            .map(|(id, source)| Ok((id.clone(), load(source)?)));
        Ok(Self(loaded.collect::<Result<_, Error>>()?))
    }

    /// Listens on a new socket in a folder for an agent; `None` when there is none and need not be.
    pub(crate) fn forward(
        &self,
        id: &str,
        required: bool,
        folder: &Path,
    ) -> Result<Option<Forward>, Error> {
        match self.0.get(id) {
            Some(source) => Forward::start(source.clone(), folder)
                .map(Some)
                .map_err(|source| Error::Io {
                    op: "listen in",
                    path: folder.to_owned(),
                    source,
                }),
            None if required => Err(Error::Ssh {
                id: id.to_owned(),
                any: !self.0.is_empty(),
            }),
            None => Ok(None),
        }
    }
}

/// A socket that is served until this is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    path: PathBuf,
    open: Arc<Open>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Connections to be closed in the end.
#[derive(Debug, Default)]
struct Open(Mutex<Vec<(u64, UnixStream)>>);

impl Open {
    fn list(&self) -> MutexGuard<'_, Vec<(u64, UnixStream)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_all(&self) {
        for (_, stream) in self.list().drain(..) {
            // A stream that is closed already needs no end.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Forward {
    /// Listens on a new socket in a folder for the agent behind another socket.
    pub(crate) fn to_agent(socket: PathBuf, folder: &Path) -> Result<Self, Error> {
        Self::start(Source::Agent(socket), folder).map_err(|source| Error::Io {
            op: "listen in",
            path: folder.to_owned(),
            source,
        })
    }

    fn start(source: Source, folder: &Path) -> io::Result<Self> {
        // The path of a socket may have 107 bytes; that of the folder may be longer.
        let dir = File::open(folder)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/agent", dir.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let open = Arc::new(Open::default());
        let for_thread = Arc::clone(&open);
        let thread = std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || listen(&listener, &stopped, &source, &for_thread))?;
        Ok(Self {
            path: folder.join("agent"),
            open,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            self.open.close_all();
            // A thread that panicked has closed its connections as well.
            let _ = thread.join();
        }
    }
}

fn listen(listener: &UnixListener, stopped: &OwnedFd, source: &Source, open: &Arc<Open>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for number in 0.. {
        let mut polled = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).is_err()
            || !polled[1].revents().is_empty()
        {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if threads.len() >= MOST_CONNECTIONS || stream.set_nonblocking(false).is_err() {
            continue;
        }
        let (source, open) = (source.clone(), Arc::clone(open));
        let serve = move || {
            // A client that breaks off has no one to tell.
            let _ = serve(stream, &source, &open, number);
        };
        threads.extend(std::thread::Builder::new().spawn(serve).ok());
    }
    open.close_all();
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(client: UnixStream, source: &Source, open: &Open, number: u64) -> io::Result<()> {
    let upstream = match source {
        Source::Keys(_) => None,
        Source::Agent(path) | Source::Raw(path) => Some(UnixStream::connect(path)?),
    };
    {
        let mut list = open.list();
        list.push((number, client.try_clone()?));
        if let Some(upstream) = &upstream {
            list.push((number, upstream.try_clone()?));
        }
    }
    let ended = match (source, upstream) {
        (Source::Keys(keys), _) => agent::serve(client, |request| agent::answer(request, keys)),
        (Source::Raw(_), Some(upstream)) => copy_both_ways(&client, &upstream),
        (_, Some(mut upstream)) => {
            agent::serve(client, |request| agent::ask(request, &mut upstream))
        }
        (_, None) => Ok(()),
    };
    let mut list = open.list();
    for (_, stream) in list.iter().filter(|(owner, _)| *owner == number) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    list.retain(|(owner, _)| *owner != number);
    ended
}

fn copy_both_ways(client: &UnixStream, upstream: &UnixStream) -> io::Result<()> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*upstream, &mut &*client);
            let _ = client.shutdown(Shutdown::Both);
        });
        let copied = io::copy(&mut &*client, &mut &*upstream);
        let _ = upstream.shutdown(Shutdown::Write);
        copied.map(drop)
    })
}

#[cfg(test)]
mod tests;
