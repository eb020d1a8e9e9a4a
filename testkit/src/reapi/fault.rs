//! The ways to fail, and which of them are on.

use std::time::Duration;

/// A way to fail. Digests are `HEX/SIZE`; `None` means any blob.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Calls of a method fail with a gRPC code (14: UNAVAILABLE). An empty name is every method.
    Status {
        /// Such as `FindMissingBlobs`.
        method: String,
        /// Numeric code.
        code: i32,
    },
    /// Calls of a method are answered late. An empty name is every method.
    Slow {
        /// Such as `FindMissingBlobs`.
        method: String,
        /// How late.
        delay: Duration,
    },
    /// `Read` breaks with UNAVAILABLE after so many bytes.
    BreakRead {
        /// Bytes sent before.
        after: u64,
    },
    /// `Write` breaks with UNAVAILABLE after so many bytes, which are kept for a client that resumes.
    BreakWrite {
        /// Bytes taken before.
        after: u64,
    },
    /// `Write` breaks, and what came before is lost.
    LoseWrite {
        /// Bytes taken before.
        after: u64,
    },
    /// Reads give other bytes of the same length.
    WrongContent(Option<String>),
    /// Reads give one byte too few.
    ShortContent(Option<String>),
    /// Reads give one byte too many.
    LongContent(Option<String>),
    /// The blob is gone when it is read.
    EvictOnRead(Option<String>),
    /// All outputs of a result are gone as soon as `GetActionResult` or `Execute` has given it.
    EvictAfterHit,
    /// `FindMissingBlobs` says that all is there.
    MissingLies,
    /// `BatchUpdateBlobs` refuses a blob of the batch with this code while it takes the others.
    RefuseInBatch {
        /// Numeric code.
        code: i32,
    },
    /// `Execute` answers with this code in the response's status, exit code 0 and no outputs, without running anything.
    StatusInResponse {
        /// Numeric code.
        code: i32,
    },
    /// Results from `GetActionResult` and `Execute` are untrue.
    Result(Lie),
    /// The worker dies in the middle of a command: as soon as its output has this text (at once if empty).
    KillWorker {
        /// Part of the standard output or error.
        after_output: String,
    },
    /// The stream of `Execute` or `WaitExecution` breaks after its first message; the operation goes on.
    BreakOperations,
    /// Operations are forgotten after the stream's first message breaks: `WaitExecution` says NOT_FOUND; the command ends.
    LoseOperations,
    /// Nothing in the queue starts.
    StallQueue,
    /// `CancelOperation` is UNIMPLEMENTED.
    NoCancel,
    /// `WaitExecution` is UNIMPLEMENTED.
    NoWait,
    /// `UpdateActionResult` is refused with this code (7: PERMISSION_DENIED).
    RefuseUpdate {
        /// Numeric code.
        code: i32,
    },
}

impl Fault {
    /// Calls of a method fail with a code.
    #[must_use]
    pub fn status(method: &str, code: i32) -> Self {
        Self::Status {
            method: method.to_owned(),
            code,
        }
    }

    /// Calls of a method are answered late.
    #[must_use]
    pub fn slow(method: &str, delay: Duration) -> Self {
        Self::Slow {
            method: method.to_owned(),
            delay,
        }
    }

    /// The worker dies as soon as its command has said this.
    #[must_use]
    pub fn kill_worker(after_output: &str) -> Self {
        Self::KillWorker {
            after_output: after_output.to_owned(),
        }
    }
}

/// How a result is untrue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lie {
    /// It names blobs that never were.
    AbsentBlobs,
    /// Digests of output files are exchanged for another blob's, which is there.
    WrongDigests,
    /// Sizes are near the largest number.
    AbsurdSizes,
    /// Sizes are negative.
    NegativeSizes,
    /// Digests are no hexadecimal text.
    BrokenDigests,
    /// No outputs at all.
    NoOutputs,
    /// Paths of outputs lead out of the action's folder.
    EscapingPaths,
    /// Exit code 0 whatever the command's was.
    ExitZero,
    /// Exit code 1 whatever the command's was.
    ExitOne,
    /// Exit code 125, and a report of Kiln's workers that files of the input could not be read.
    Unreadable,
}

/// The faults that are on, and how often each was applied.
#[derive(Debug, Default)]
pub(super) struct Armed {
    list: Vec<(Fault, Option<u64>)>,
    applied: Vec<(Fault, u64)>,
}

impl Armed {
    pub(super) fn add(&mut self, fault: Fault, times: Option<u64>) {
        self.list.push((fault, times));
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    pub(super) fn applied(&self, fault: &Fault) -> u64 {
        let found = self.applied.iter().find(|(known, _)| known == fault);
        found.map_or(0, |(_, times)| *times)
    }

    /// The first fault that `matching` takes, which counts as applied.
    pub(super) fn take<T>(&mut self, matching: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let (index, value) = self
            .list
            .iter()
            .enumerate()
            .find_map(|(index, (fault, _))| Some((index, matching(fault)?)))?;
        let fault = self.list[index].0.clone();
        if let Some(times) = &mut self.list[index].1 {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.list.remove(index);
            }
        }
        match self.applied.iter_mut().find(|(known, _)| *known == fault) {
            Some((_, times)) => *times += 1,
            None => self.applied.push((fault, 1)),
        }
        Some(value)
    }
}
