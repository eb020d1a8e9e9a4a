//! Commands of actions as processes: their output, and their end with all that they started.

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Why a command was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its time was over.
    Timeout,
    /// A client did not want it any more.
    Cancelled,
    /// The worker died.
    Lost,
    /// The server goes down.
    Shutdown,
}

/// What a command says, as it says it.
#[derive(Debug)]
pub(super) struct Log {
    bytes: Mutex<Vec<u8>>,
    /// Length and whether that is all.
    state: watch::Sender<(usize, bool)>,
}

/// Somebody who reads along.
pub(super) struct Follow {
    log: Arc<Log>,
    state: watch::Receiver<(usize, bool)>,
}

impl Log {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::default(),
            state: watch::Sender::new((0, false)),
        })
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let length = {
            let mut all = self.bytes();
            all.extend_from_slice(bytes);
            all.len()
        };
        self.state.send_replace((length, false));
    }

    pub(super) fn end(&self) {
        self.state.send_modify(|state| state.1 = true);
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.bytes().clone()
    }

    fn says(&self, text: &[u8]) -> bool {
        let bytes = self.bytes();
        text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
    }

    pub(super) fn follow(self: &Arc<Self>) -> Follow {
        Follow {
            log: Arc::clone(self),
            state: self.state.subscribe(),
        }
    }
}

impl Follow {
    /// What comes after an offset, as soon as there is something; `None` at the end.
    pub(super) async fn next(&mut self, offset: usize) -> Option<Vec<u8>> {
        let seen = self.state.wait_for(|&(length, end)| length > offset || end);
        let _ = seen.await;
        let bytes = self.log.bytes();
        let rest = bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        Some(rest.to_vec())
    }
}

/// A command that runs, and what belongs to it.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// Processes that have their working folder or root here are its too.
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    reaped: bool,
    why: Option<Why>,
}

/// What to start.
pub(super) struct Program<'a> {
    pub(super) arguments: &'a [String],
    pub(super) environment: Vec<(&'a str, &'a str)>,
    /// Working folder.
    pub(super) folder: &'a Path,
    /// The action's folder.
    pub(super) root: &'a Path,
}

impl Program<'_> {
    /// Starts it in a process group of its own.
    pub(super) fn start(&self) -> io::Result<(Child, Arc<Process>)> {
        let program = self.arguments.first();
        let program = program.ok_or_else(|| io::Error::other("a command without arguments"))?;
        let path = if program.contains('/') {
            self.folder.join(program)
        } else {
            PathBuf::from(program)
        };
        let mut command = Command::new(path);
        command
            .arg0(program)
            .args(&self.arguments[1..])
            .env_clear()
            .envs(self.environment.iter().copied())
            .current_dir(self.folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn()?;
        let process = Process::of(&child, self.root);
        Ok((child, process))
    }
}

impl Process {
    /// A child that leads a process group, and the folder in which it and its descendants work.
    pub(super) fn of(child: &Child, folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            pid: Pid::from_child(child),
            folder: folder.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it and what it started. The first reason counts.
    pub(super) fn kill(&self, why: Why) {
        let mut state = self.state();
        if state.reaped {
            return;
        }
        state.why.get_or_insert(why);
        // The lock is held: the number is this process's until it is reaped.
        self.sweep();
    }

    fn sweep(&self) {
        let living = self.living();
        let _ = kill_process_group(self.pid, Signal::KILL);
        for id in living {
            if let Some(id) = Pid::from_raw(id) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }

    /// Its living processes: descendants, its process group, and whoever is in its folder.
    pub(super) fn living(&self) -> Vec<i32> {
        let leader = self.pid.as_raw_nonzero().get();
        let all = processes();
        let descends = |mut id: i32| {
            for _ in 0..100 {
                if id == leader {
                    return true;
                }
                match all.get(&id) {
                    Some(entry) if entry.parent > 1 => id = entry.parent,
                    _ => return false,
                }
            }
            false
        };
        let inside = |id: i32| {
            ["cwd", "root"].iter().any(|link| {
                fs::read_link(format!("/proc/{id}/{link}"))
                    .is_ok_and(|path| path.starts_with(&self.folder))
            })
        };
        let ours = |id: i32, entry: &Entry| {
            !entry.zombie && (entry.group == leader || descends(id) || inside(id))
        };
        let found = all.iter().filter(|(id, entry)| ours(**id, entry));
        found.map(|(id, _)| *id).collect()
    }

    /// Whether it has ended; its number is not given to another process before [`Process::wait`].
    pub(super) fn is_over(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Waits for its end, ends what it left behind, and says why it was ended if it was.
    pub(super) fn wait(
        self: &Arc<Self>,
        child: &mut Child,
        timeout: Option<Duration>,
    ) -> io::Result<(ExitStatus, Option<Why>)> {
        let watchdog = timeout.map(|timeout| {
            let process = Arc::clone(self);
            thread::spawn(move || process.guard(timeout))
        });
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(error) = waitid(WaitId::Pid(self.pid), options) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.living().is_empty() && Instant::now() < deadline {
            self.sweep();
            thread::sleep(Duration::from_millis(2));
        }
        let status = {
            let mut state = self.state();
            state.reaped = true;
            self.changed.notify_all();
            child.wait()?
        };
        if let Some(watchdog) = watchdog {
            let _ = watchdog.join();
        }
        Ok((status, self.state().why))
    }

    fn guard(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        while !state.reaped {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(state);
                self.kill(Why::Timeout);
                return;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Copies what a command says into a log; ends the command when it has said a certain thing.
pub(super) fn listen(
    mut pipe: impl Read + Send + 'static,
    log: &Arc<Log>,
    fatal: Option<(String, Arc<Process>)>,
) -> thread::JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => log.push(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if let Some((text, process)) = &fatal
                && log.says(text.as_bytes())
            {
                process.kill(Why::Lost);
            }
        }
        log.end();
    })
}

/// As shells count it: 128 and the signal's number for a signal.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    let signal = || 128 + status.signal().unwrap_or(0);
    status.code().unwrap_or_else(signal)
}

struct Entry {
    parent: i32,
    group: i32,
    zombie: bool,
}

fn processes() -> HashMap<i32, Entry> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let ids = entries.flatten().filter_map(|entry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let mut words = text.rsplit_once(')')?.1.split_whitespace();
        let zombie = matches!(words.next()?, "Z" | "X");
        let parent = words.next()?.parse().ok()?;
        let group = words.next()?.parse().ok()?;
        let entry = Entry {
            parent,
            group,
            zombie,
        };
        Some((id, entry))
    });
    ids.collect()
}
