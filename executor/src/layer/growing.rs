//! A file that is read while it is still being written: the reader waits where the file ends and nobody has said yet
//! that it is whole.
//!
//! Writer and reader share a pipe, over which the writer tells of growth and of the end. Thus the reader may be in
//! another process, the writer never waits for it, and a writer that dies is noticed.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Read};

/// There is more.
const MORE: u8 = b'+';
/// There is no more.
const WHOLE: u8 = b'.';

/// The reader's descriptors: the file, and the pipe.
#[derive(Debug)]
pub(crate) struct Growing {
    file: File,
    news: File,
    whole: bool,
}

/// The writer's end. Dropped without [`Announcer::whole`] it tells the reader that the file is a torso.
#[derive(Debug)]
pub(crate) struct Announcer {
    pipe: OwnedFd,
}

/// The two ends of the pipe.
pub(crate) fn announcer() -> io::Result<(Announcer, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&write, true)?;
    Ok((Announcer { pipe: write }, read))
}

impl Announcer {
    /// The file has grown. Whether anybody still reads.
    pub(crate) fn grew(&self) -> bool {
        // A full pipe wakes the reader as well.
        !matches!(rustix::io::write(&self.pipe, &[MORE]), Err(Errno::PIPE))
    }

    /// The file is whole and is what it should be.
    pub(crate) fn whole(self) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.pipe, false)?;
        loop {
            match rustix::io::write(&self.pipe, &[WHOLE]) {
                Err(Errno::INTR) => {}
                // Nobody reads any longer; why is the reader's to tell.
                Ok(_) | Err(Errno::PIPE) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Growing {
    /// From the file, opened for reading, and the reader's end of the pipe.
    pub(crate) fn new(file: OwnedFd, news: OwnedFd) -> Self {
        Self {
            file: file.into(),
            news: news.into(),
            whole: false,
        }
    }

    /// Waits until the file has grown or is whole.
    fn wait(&mut self) -> io::Result<()> {
        let mut news = [0; 256];
        loop {
            match rustix::io::read(self.news.as_fd(), &mut news) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the transfer was broken off",
                    ));
                }
                Ok(got) => {
                    self.whole = news[..got].contains(&WHOLE);
                    return Ok(());
                }
            }
        }
    }
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Asked before reading: what came before the news of the end is in the file by then.
            let whole = self.whole;
            let got = self.file.read(buffer)?;
            if got > 0 || whole {
                return Ok(got);
            }
            self.wait()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn pair() -> (File, Announcer, Growing, tempfile::NamedTempFile) {
        let named = tempfile::NamedTempFile::new().unwrap();
        let (announcer, news) = announcer().unwrap();
        let reader = File::open(named.path()).unwrap();
        let writer = named.reopen().unwrap();
        (writer, announcer, Growing::new(reader.into(), news), named)
    }

    #[test]
    fn a_reader_gets_all_that_is_written_and_then_the_end() {
        let (mut writer, announcer, mut growing, _named) = pair();
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            growing.read_to_end(&mut read).map(|_| read)
        });
        let mut expected = Vec::new();
        for round in 0..200_000u32 {
            writer.write_all(&round.to_le_bytes()).unwrap();
            expected.extend(round.to_le_bytes());
            assert!(announcer.grew());
        }
        announcer.whole().unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), expected);
    }

    #[test]
    fn a_writer_that_stops_is_an_error_and_so_is_a_reader() {
        let (mut writer, announcer, mut growing, _named) = pair();
        writer.write_all(b"half").unwrap();
        drop(announcer);
        let mut read = Vec::new();
        let error = growing.read_to_end(&mut read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read, b"half");

        let (_writer, announcer, growing, _named) = pair();
        drop(growing);
        assert!(!announcer.grew());
        announcer.whole().unwrap();
    }
}
