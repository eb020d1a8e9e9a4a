//! What a command writes: read as it comes, passed on in whole lines, kept in a file of the store.

use crate::Error;
use crate::request::OutputLimits;
use planner::plan::StepId;
use planner::scheduler::{Observer, StepEvent};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

/// Lines of output that an error carries.
const TAIL_LINES: usize = 20;
/// Bytes of one of them.
const TAIL_LINE_BYTES: usize = 4096;
/// Bytes of a line that are waited for its end.
const LINE_HELD: usize = 64 << 10;
/// Bytes that are read at once, and that the kernel keeps for a command that writes faster than they are.
const READ: usize = 256 << 10;
/// Logs kept in the store.
const LOGS_KEPT: usize = 200;
/// Bytes of a log: its beginning, and its end, which is in memory until then.
const HEAD: u64 = 8 << 20;
const TAIL: usize = 1 << 20;

/// What one stream of a command is passed on to.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub stderr: bool,
    pub log: &'a Log,
    pub step: StepId,
    pub events: &'a dyn Observer,
}

impl Stream<'_> {
    pub(crate) fn pass(self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let (shown, note) = self.log.write(data);
        let stderr = self.stderr;
        let show = |data: Vec<u8>| {
            self.events
                .event(self.step, StepEvent::Output { stderr, data });
        };
        if shown > 0 {
            show(data[..shown].to_vec());
        }
        if let Some(note) = note {
            show(note.into_bytes());
        }
    }
}

/// Passes on what the command writes, in whole lines: its two streams share one log and one display, and a line of one
/// must not end up inside a line of the other. Gives the last line back when it has no end: the other stream may have
/// more to say.
pub(crate) fn drain(pipe: OwnedFd, stream: Stream<'_>) -> Vec<u8> {
    // Fewer switches between the two; a user may have too many pipes for it.
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, READ);
    let mut pipe = File::from(pipe);
    let mut buffer = vec![0; READ];
    let mut held = 0;
    loop {
        match pipe.read(&mut buffer[held..]) {
            Ok(0) => break,
            Ok(read) => {
                held += read;
                let end = whole_lines(&buffer[..held]);
                stream.pass(&buffer[..end]);
                buffer.copy_within(end..held, 0);
                held -= end;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    buffer.truncate(held);
    buffer
}

/// How much of the data can be passed on: up to its last line end, or all when its only line is too long to wait for.
pub(crate) fn whole_lines(data: &[u8]) -> usize {
    match data.iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => newline + 1,
        None if data.len() >= LINE_HELD => data.len(),
        None => 0,
    }
}

/// The output in a file of the store, without its middle where there is too much of it; its last lines; and how much of it
/// has been shown.
pub(crate) struct Log {
    path: PathBuf,
    limits: OutputLimits,
    state: Mutex<LogState>,
}

struct LogState {
    file: File,
    bytes: u64,
    error: Option<std::io::Error>,
    /// The last of it.
    tail: VecDeque<u8>,
    began: Instant,
    shown: u64,
    clipped: bool,
}

impl Log {
    pub(crate) fn create(
        folder: &Path,
        now: i64,
        step: StepId,
        limits: OutputLimits,
    ) -> Result<Self, Error> {
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
            tail: VecDeque::new(),
            began: Instant::now(),
            shown: 0,
            clipped: false,
        };
        Ok(Self {
            path,
            limits,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes output in. Gives how much of it is to be shown, and what is said instead of the rest.
    fn write(&self, data: &[u8]) -> (usize, Option<String>) {
        let mut state = self.state();
        let head = usize::try_from(HEAD.saturating_sub(state.bytes)).unwrap_or(usize::MAX);
        if head > 0 && state.error.is_none() {
            state.error = state.file.write_all(&data[..head.min(data.len())]).err();
        }
        state.bytes += data.len() as u64;
        let last = &data[data.len().saturating_sub(TAIL)..];
        let excess = (state.tail.len() + last.len()).saturating_sub(TAIL);
        state.tail.drain(..excess);
        state.tail.extend(last);
        self.shown(&mut state, data.len())
    }

    /// Of so many bytes more.
    fn shown(&self, state: &mut LogState, len: usize) -> (usize, Option<String>) {
        let by_size = self.limits.size;
        let by_speed = self
            .limits
            .speed
            .map(|speed| speed.saturating_mul(state.began.elapsed().as_secs() + 1));
        let (most, limit) = match (by_size, by_speed) {
            (None, None) => return (len, None),
            (Some(size), Some(now)) if now < size => (now, LimitHit::Speed),
            (Some(size), _) => (size, LimitHit::Size),
            (None, Some(now)) => (now, LimitHit::Speed),
        };
        let room = usize::try_from(most.saturating_sub(state.shown)).unwrap_or(usize::MAX);
        let shown = len.min(room);
        state.shown += shown as u64;
        let clipped = shown < len;
        let note = (clipped && !state.clipped).then(|| {
            let limit = match limit {
                LimitHit::Size => in_units(by_size.unwrap_or_default()),
                LimitHit::Speed => format!("{}/s", in_units(self.limits.speed.unwrap_or_default())),
            };
            format!("\n[output clipped, log limit {limit} reached]\n")
        });
        state.clipped = clipped;
        (shown, note)
    }

    /// Writes what is still in memory. A full disk must not go unnoticed.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let mut state = self.state();
        let rest = state.bytes.saturating_sub(HEAD);
        if rest > 0 && state.error.is_none() {
            state.error = state.write_rest(rest).err();
        }
        match state.error.take() {
            None => Ok(()),
            Some(source) => Err(Error::Io {
                op: "write the log",
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The last lines, and where the rest is.
    pub(crate) fn finish(self) -> (String, PathBuf) {
        let mut state = self
            .state
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let text: &[u8] = state.tail.make_contiguous();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines: Vec<String> = text
            .rsplit(|&byte| byte == b'\n')
            .take(TAIL_LINES)
            .map(|line| &line[..line.len().min(TAIL_LINE_BYTES)])
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        lines.reverse();
        (lines.join("\n"), self.path)
    }

    pub(crate) fn discard_when_empty(self) {
        if self.state().bytes == 0 {
            // An empty log left behind harms nobody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

enum LimitHit {
    Size,
    Speed,
}

impl LogState {
    /// The last of what the beginning has no room for.
    fn write_rest(&mut self, rest: u64) -> std::io::Result<()> {
        let kept = usize::try_from(rest).map_or(self.tail.len(), |rest| rest.min(self.tail.len()));
        let left_out = rest - kept as u64;
        if left_out > 0 {
            write!(self.file, "\n[... {left_out} bytes left out ...]\n")?;
        }
        let from = self.tail.len() - kept;
        self.file.write_all(&self.tail.make_contiguous()[from..])
    }
}

/// `2MiB`, with what BuildKit shows of a fraction.
fn in_units(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes}B");
    };
    let hundredths = (u128::from(bytes) * 100) >> shift;
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, limits: OutputLimits) -> Log {
        Log::create(folder, 1, StepId(2), limits).unwrap()
    }

    #[test]
    fn the_middle_of_a_long_log_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (lines, left_out) in [
            (1 << 10, None),
            (9 << 10, None),
            (20 << 10, Some("11534336")),
        ] {
            let log = log(folder.path(), OutputLimits::default());
            let line = |number: usize| format!("{number:1023}\n");
            let mut whole = String::new();
            for number in 0..lines {
                log.write(line(number).as_bytes());
                whole.push_str(&line(number));
            }
            log.close().unwrap();
            let (tail, path) = log.finish();
            assert_eq!(tail.lines().count(), TAIL_LINES);
            assert_eq!(tail.lines().last(), Some(line(lines - 1).trim_end()));
            let text = std::fs::read_to_string(path).unwrap();
            match left_out {
                None => assert!(text == whole),
                Some(bytes) => {
                    let note = format!("\n[... {bytes} bytes left out ...]\n");
                    assert_eq!(text.len(), (HEAD as usize) + TAIL + note.len());
                    assert!(text.contains(&note) && text.ends_with(&line(lines - 1)));
                }
            }
        }
    }

    #[test]
    fn what_is_shown_is_clipped_once() {
        let folder = tempfile::tempdir().unwrap();
        let limits = |size, speed| OutputLimits { size, speed };
        for (limits, says) in [
            (limits(Some(2048), None), "2KiB"),
            (limits(Some(1 << 20), Some(2048)), "2KiB/s"),
            (limits(None, Some(2048)), "2KiB/s"),
        ] {
            let log = log(folder.path(), limits);
            assert_eq!(log.write(&[b'x'; 2000]), (2000, None));
            let note = format!("\n[output clipped, log limit {says} reached]\n");
            assert_eq!(log.write(&[b'x'; 100]), (48, Some(note)));
            assert_eq!(log.write(&[b'x'; 100]), (0, None));
        }
        let log = log(folder.path(), limits(None, None));
        assert_eq!(log.write(&[b'x'; 5 << 20]), (5 << 20, None));
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, text) in [
            (2 << 20, "2MiB"),
            (200 << 10, "200KiB"),
            (3 << 29, "1.5GiB"),
            (12, "12B"),
        ] {
            assert_eq!(in_units(bytes), text);
        }
    }
}
