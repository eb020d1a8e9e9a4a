//! Questions on the terminal that the program was started from.

use crate::error::Failure;
use registry_client::Secret;
use rustix::termios::{self, LocalModes, OptionalActions};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};

/// Longest answer read, in bytes.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// There is a terminal to ask on.
pub fn available() -> bool {
    open().is_some()
}

/// Asks for a line; `None` without a terminal.
pub fn line(question: &str) -> Result<Option<String>, Failure> {
    let Some(mut terminal) = open() else {
        return Ok(None);
    };
    ask(&mut terminal, question).map(Some)
}

/// Asks for a line that is not shown; `None` without a terminal.
pub fn password(question: &str) -> Result<Option<Secret>, Failure> {
    let Some(mut terminal) = open() else {
        return Ok(None);
    };
    let before = termios::tcgetattr(&terminal).map_err(|error| failed(&error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    termios::tcsetattr(&terminal, OptionalActions::Flush, &silent)
        .map_err(|error| failed(&error.into()))?;
    let signals = Restoring::watch(&terminal, &before);
    let answer = ask(&mut terminal, question);
    drop(signals);
    let restored = termios::tcsetattr(&terminal, OptionalActions::Now, &before);
    let answer = answer?;
    restored.map_err(|error| failed(&error.into()))?;
    Ok(Some(Secret::new(answer)))
}

/// Gives the terminal its echo back when the question is broken off.
struct Restoring(Option<signal_hook::iterator::Handle>);

impl Restoring {
    fn watch(terminal: &File, before: &termios::Termios) -> Self {
        let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
        let (Ok(terminal), Ok(mut signals)) = (
            terminal.try_clone(),
            signal_hook::iterator::Signals::new(signals),
        ) else {
            return Self(None);
        };
        let handle = signals.handle();
        let before = before.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let _ = termios::tcsetattr(&terminal, OptionalActions::Now, &before);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
        Self(Some(handle))
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}

fn open() -> Option<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()
}

fn ask(terminal: &mut File, question: &str) -> Result<String, Failure> {
    use std::io::Read as _;
    write!(terminal, "{question}").map_err(|error| failed(&error))?;
    let mut answer = String::new();
    BufReader::new(terminal.take(ANSWER_LIMIT))
        .read_line(&mut answer)
        .map_err(|error| failed(&error))?;
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::Other(format!("could not ask on the terminal: {error}"))
}
