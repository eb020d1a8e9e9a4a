//! What a command writes: read as it comes, passed on in whole lines, kept in a file of the store.

use crate::Error;
use planner::plan::StepId;
use planner::scheduler::{Observer, StepEvent};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Lines of output that an error carries.
const TAIL_LINES: usize = 20;
/// Bytes of one of them.
const TAIL_LINE_BYTES: usize = 4096;
/// Bytes of a line that are waited for its end.
const LINE_HELD: usize = 64 << 10;
/// Logs kept in the store.
const LOGS_KEPT: usize = 200;

/// Passes on what the command writes, in whole lines: its two streams share one log and one display, and a line of one
/// must not end up inside a line of the other.
pub(super) fn drain(pipe: OwnedFd, stderr: bool, log: &Log, step: StepId, events: &dyn Observer) {
    let mut pipe = File::from(pipe);
    let mut buffer = vec![0; 32 << 10];
    let mut held = Vec::new();
    let pass = |data: Vec<u8>| {
        if data.is_empty() {
            return;
        }
        log.write(&data);
        events.event(step, StepEvent::Output { stderr, data });
    };
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                held.extend_from_slice(&buffer[..read]);
                if let Some(end) = whole_lines(&held) {
                    let rest = held.split_off(end);
                    pass(std::mem::replace(&mut held, rest));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    pass(held);
}

/// How much of the data can be passed on: up to its last line end, or all when its only line is too long to wait for.
fn whole_lines(data: &[u8]) -> Option<usize> {
    if let Some(newline) = data.iter().rposition(|&byte| byte == b'\n') {
        return Some(newline + 1);
    }
    (data.len() >= LINE_HELD).then_some(data.len())
}

/// The whole output in a file of the store, and its last lines.
pub(super) struct Log {
    path: PathBuf,
    state: Mutex<LogState>,
}

struct LogState {
    file: File,
    bytes: u64,
    error: Option<std::io::Error>,
    lines: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Log {
    pub(super) fn create(folder: &Path, now: i64, step: StepId) -> Result<Self, Error> {
        let fail = |path: &Path, source| Error::Io {
            op: "create the log",
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
        sweep(folder);
        let path = folder.join(format!("{now}-{}-{}.log", std::process::id(), step.0));
        let file = File::create(&path).map_err(|e| fail(&path, e))?;
        let state = LogState {
            file,
            bytes: 0,
            error: None,
            lines: VecDeque::new(),
            open: Vec::new(),
        };
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, data: &[u8]) {
        let mut state = self.state();
        state.bytes += data.len() as u64;
        if state.error.is_none() {
            state.error = state.file.write_all(data).err();
        }
        for &byte in data {
            if byte == b'\n' {
                let line = std::mem::take(&mut state.open);
                state.lines.push_back(line);
                if state.lines.len() > TAIL_LINES {
                    state.lines.pop_front();
                }
            } else if state.open.len() < TAIL_LINE_BYTES {
                state.open.push(byte);
            }
        }
    }

    /// A full disk must not go unnoticed.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.state().error.take() {
            None => Ok(()),
            Some(source) => Err(Error::Io {
                op: "write the log",
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The last lines, and where the rest is.
    pub(super) fn finish(self) -> (String, PathBuf) {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut lines: Vec<Vec<u8>> = state.lines.into();
        if !state.open.is_empty() {
            lines.push(state.open);
        }
        let from = lines.len().saturating_sub(TAIL_LINES);
        let text: Vec<String> = lines[from..]
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        (text.join("\n"), self.path)
    }

    pub(super) fn discard_when_empty(self) {
        if self.state().bytes == 0 {
            // An empty log left behind harms nobody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the oldest logs; names begin with the time of their build. Best effort.
fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    if names.len() < LOGS_KEPT {
        return;
    }
    names.sort();
    for name in &names[..=names.len() - LOGS_KEPT] {
        let _ = std::fs::remove_file(folder.join(name));
    }
}
