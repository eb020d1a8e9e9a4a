//! Lines of what a pull or a push has done, and on a terminal below them one line of what is being done.
//!
//! What they say is the command's.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the line of a terminal is written anew.
const TICK: Duration = Duration::from_millis(100);
/// Digits of a digest that are shown.
const SHORT: usize = 12;

/// Where the lines go: stderr, unless all is to be quiet.
pub struct Lines {
    quiet: bool,
    terminal: bool,
    /// When the line below was written, while there is one.
    drawn: Mutex<Option<Instant>>,
}

impl Lines {
    /// Writes nothing yet.
    pub fn new(quiet: bool, terminal: bool) -> Self {
        Self {
            quiet,
            terminal: terminal && !quiet,
            drawn: Mutex::default(),
        }
    }

    /// Whether nothing is written.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes a line that stays.
    pub fn say(&self, line: &str) {
        if self.quiet {
            return;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = drawn.take().map_or("", |_| "\r\x1b[K");
        let _ = writeln!(std::io::stderr(), "{clear}{line}");
    }

    /// Removes the line below.
    pub fn clear(&self) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// Writes the line below anew, if it is time to.
    pub fn draw(&self, line: impl FnOnce() -> String) {
        if !self.terminal {
            return;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.is_some_and(|drawn| drawn.elapsed() < TICK) {
            return;
        }
        *drawn = Some(Instant::now());
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", line());
    }
}

/// The digits of a digest that people are shown.
pub fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..SHORT).unwrap_or(hex)
}

/// So many layers, in words.
pub fn layers(count: usize) -> String {
    match count {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    }
}
