//! A command's output from afar: as it comes where the server streams it, and the rest when the command has ended.

use super::Cluster;
use crate::build::run::log::{Log, Stream, whole_lines};
use planner::plan::StepId;
use planner::scheduler::{Cancel, Observer};
use reapi::{Digest, Executed, Stage, proto};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// The two streams of a command, in whole lines.
pub(super) struct Output<'a> {
    streams: [Mutex<Lines<'a>>; 2],
}

/// A stream, and the beginning of its next line.
struct Lines<'a> {
    stream: Stream<'a>,
    held: Vec<u8>,
}

impl<'a> Output<'a> {
    pub(super) fn new(log: &'a Log, step: StepId, events: &'a dyn Observer) -> Self {
        let stream = |stderr| Stream {
            stderr,
            log,
            step,
            events,
        };
        Self {
            streams: [false, true].map(|stderr| {
                Mutex::new(Lines {
                    stream: stream(stderr),
                    held: Vec::new(),
                })
            }),
        }
    }

    fn lines(&self, stderr: bool) -> std::sync::MutexGuard<'_, Lines<'a>> {
        self.streams[usize::from(stderr)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the server tells while the command runs.
    pub(super) fn stage(&self, stage: Stage) {
        match stage {
            Stage::Stdout(bytes) => self.lines(false).take(&bytes),
            Stage::Stderr(bytes) => self.lines(true).take(&bytes),
            _ => {}
        }
    }

    /// Takes what has not come yet of a command that has ended. Output that cannot be had makes no result wrong.
    pub(super) fn rest(&self, cluster: &Cluster<'_>, cancel: &Cancel, executed: &Executed) {
        let result = &executed.result;
        let both = [
            (
                false,
                &result.stdout_raw,
                &result.stdout_digest,
                executed.streamed_stdout,
            ),
            (
                true,
                &result.stderr_raw,
                &result.stderr_digest,
                executed.streamed_stderr,
            ),
        ];
        for (stderr, raw, digest, streamed) in both {
            let mut lines = self.lines(stderr);
            if !raw.is_empty() {
                let skipped = usize::try_from(streamed).unwrap_or(usize::MAX);
                lines.take(raw.get(skipped..).unwrap_or_default());
            } else if let Some(digest) = digest {
                fetch(cluster, cancel, digest, &mut lines.after(streamed));
            }
        }
        self.end();
    }

    /// Passes on what has no line end.
    pub(super) fn end(&self) {
        for stderr in [false, true] {
            let mut lines = self.lines(stderr);
            let held = std::mem::take(&mut lines.held);
            lines.stream.pass(&held);
        }
    }
}

fn fetch(cluster: &Cluster<'_>, cancel: &Cancel, digest: &proto::Digest, out: &mut Rest<'_, '_>) {
    let Ok(digest) = Digest::from_proto(digest) else {
        return;
    };
    if digest.size() <= out.skip {
        return;
    }
    let read = cluster.client.read_to(digest, out, &|_| {});
    match cluster.network.run(cancel, read) {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => {
            let why = crate::error::chain(&error.into());
            let note = format!("[its output could not be had: {why}]\n");
            out.lines.take(note.as_bytes());
        }
    }
}

impl<'a> Lines<'a> {
    fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let end = whole_lines(&self.held);
        self.stream.pass(&self.held[..end]);
        self.held.drain(..end);
    }

    fn after(&mut self, skip: u64) -> Rest<'_, 'a> {
        Rest { lines: self, skip }
    }
}

/// What comes after the bytes that were told already.
struct Rest<'l, 'a> {
    lines: &'l mut Lines<'a>,
    skip: u64,
}

impl Write for Rest<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip -= skipped as u64;
        self.lines.take(&bytes[skipped..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
