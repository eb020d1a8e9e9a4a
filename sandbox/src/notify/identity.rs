//! Which credentials a thread has been given. The kernel keeps it: each set of credentials is a number, and a thread
//! carries its number as timer slack, which new threads and processes inherit at the very moment they are made and which
//! outlives execve(2). So nobody's parents have to be looked up, and no number of an ended process is ever mistaken.
//!
//! The slack differs from the usual 50 µs by some nanoseconds. Setting it by prctl(2) is answered without effect.

use super::ids::Credentials;
use super::sys;
use rustix::io::Errno;

/// Timer slack of the first credentials, in nanoseconds.
const FIRST: usize = 50_000;

/// Every set of credentials there has been.
#[derive(Debug)]
pub(super) struct Identities(Vec<Credentials>);

impl Identities {
    /// With the command's own, which is what every unknown thread has.
    pub(super) fn new(command: Credentials) -> Self {
        Self(vec![command])
    }

    /// Those of a thread, by its number in `/proc`.
    pub(super) fn of(&self, number: i32) -> &Credentials {
        if self.0.len() == 1 {
            return &self.0[0];
        }
        let index = std::fs::read_to_string(file(number))
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            .and_then(|slack| slack.checked_sub(FIRST));
        index
            .and_then(|index| self.0.get(index))
            .unwrap_or(&self.0[0])
    }

    /// Gives a thread other credentials.
    pub(super) fn set(&mut self, number: i32, credentials: Credentials) -> Result<(), Errno> {
        let index = match self.0.iter().position(|known| *known == credentials) {
            Some(index) => index,
            None => {
                self.0.push(credentials);
                self.0.len() - 1
            }
        };
        std::fs::write(file(number), (FIRST + index).to_string())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

fn file(number: i32) -> String {
    format!("/proc/{number}/timerslack_ns")
}

/// Marks this thread as one with the first credentials.
pub(crate) fn begin() -> Result<(), Errno> {
    sys::set_timer_slack(FIRST as u64)
}
