//! Set-up failures as they travel from the helper's processes to the caller: stage, detail, errno.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What could not be set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) stage: String,
    pub(crate) detail: Option<String>,
    pub(crate) errno: i32,
}

impl Failure {
    pub(crate) fn new(stage: impl Into<String>, errno: Errno) -> Self {
        Self {
            stage: stage.into(),
            detail: None,
            errno: errno.raw_os_error(),
        }
    }

    /// Adds a path, a setting or a fix to the message.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        if detail.is_empty() {
            return self;
        }
        self.detail = Some(match self.detail {
            Some(first) => format!("{first}; {detail}"),
            None => detail,
        });
        self
    }

    pub(crate) fn errno(&self) -> Errno {
        Errno::from_raw_os_error(self.errno)
    }
}

impl From<Failure> for crate::Error {
    fn from(failure: Failure) -> Self {
        let source = std::io::Error::from_raw_os_error(failure.errno);
        Self::Setup {
            stage: failure.stage,
            detail: failure.detail,
            source,
        }
    }
}

/// Names the stage of a failing system call.
pub(crate) trait Stage<T> {
    fn stage(self, stage: &str) -> Result<T, Failure>;
    fn stage_with(self, stage: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Stage<T> for Result<T, Errno> {
    fn stage(self, stage: &str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(stage, errno))
    }

    fn stage_with(self, stage: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(stage(), errno))
    }
}

impl<T> Stage<T> for std::io::Result<T> {
    fn stage(self, stage: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(stage, errno_of(&error)))
    }

    fn stage_with(self, stage: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(stage(), errno_of(&error)))
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
