//! As much of HTTP/1.1 as Docker's API needs: requests one after the other on a connection, bodies of any length
//! sent in chunks, answers read whole.

use super::stream::Stream;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};

/// Largest head of an answer, and largest body.
const HEAD_LIMIT: u64 = 64 << 10;
const BODY_LIMIT: u64 = 64 << 20;

/// A connection under use.
pub(super) struct Connection {
    stream: BufReader<Stream>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Whether the connection can be used again.
    pub keeps: bool,
}

/// How the end of a body is told.
enum Framing {
    Length(u64),
    Chunked,
    Close,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// A request without a body.
    pub(super) fn request(&mut self, method: &str, path: &str) -> io::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: kiln\r\nContent-Length: 0\r\n\r\n"
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.flush()?;
        self.answer()
    }

    /// Begins a POST whose body is written next; its [`Upload::finish`] gives the answer.
    pub(super) fn upload(&mut self, path: &str, content_type: &str) -> io::Result<Upload<'_>> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: kiln\r\nContent-Type: {content_type}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        Ok(Upload {
            chunks: BufWriter::with_capacity(256 << 10, Chunks { connection: self }),
        })
    }

    pub(super) fn answer(&mut self) -> io::Result<Answer> {
        loop {
            let (status, framing, keeps) = self.head()?;
            let body = match framing {
                _ if status == 204 || status == 304 => Vec::new(),
                // More is to come.
                _ if (100..200).contains(&status) => continue,
                Framing::Length(length) => self.exactly(length)?,
                Framing::Chunked => self.chunks()?,
                Framing::Close => {
                    let mut body = Vec::new();
                    (&mut self.stream).take(BODY_LIMIT).read_to_end(&mut body)?;
                    body
                }
            };
            return Ok(Answer {
                status,
                body,
                keeps,
            });
        }
    }

    fn head(&mut self) -> io::Result<(u16, Framing, bool)> {
        let mut left = HEAD_LIMIT;
        let status = self.line(&mut left)?;
        let code = status
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1))
            .and_then(|code| code.parse::<u16>().ok())
            .ok_or_else(|| bad("the answer is not HTTP"))?;
        let (mut framing, mut keeps) = (Framing::Close, status.starts_with("HTTP/1.1"));
        loop {
            let line = self.line(&mut left)?;
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(bad("a header without a colon"));
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" if !matches!(framing, Framing::Chunked) => {
                    let length = value.parse().map_err(|_| bad("a bad Content-Length"))?;
                    framing = Framing::Length(length);
                }
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => {
                    framing = Framing::Chunked;
                }
                "connection" if value.eq_ignore_ascii_case("close") => keeps = false,
                _ => {}
            }
        }
        let keeps = keeps && !matches!(framing, Framing::Close);
        Ok((code, framing, keeps))
    }

    fn line(&mut self, left: &mut u64) -> io::Result<String> {
        let mut line = Vec::new();
        let read = (&mut self.stream)
            .take(*left)
            .read_until(b'\n', &mut line)?;
        *left -= read as u64;
        if line.pop() != Some(b'\n') {
            let reason = if *left == 0 {
                "the head of the answer is too long"
            } else {
                "the connection was closed before an answer"
            };
            return Err(io::Error::new(ErrorKind::UnexpectedEof, reason));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| bad("the head of the answer is no text"))
    }

    fn exactly(&mut self, length: u64) -> io::Result<Vec<u8>> {
        if length > BODY_LIMIT {
            return Err(bad("the answer is too long"));
        }
        let mut body = Vec::new();
        let read = (&mut self.stream).take(length).read_to_end(&mut body)?;
        if (read as u64) < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line(&mut { HEAD_LIMIT })?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| bad("a bad chunk"))?;
            if size == 0 {
                // Trailers, up to an empty line.
                while !self.line(&mut { HEAD_LIMIT })?.is_empty() {}
                return Ok(body);
            }
            if size.saturating_add(body.len() as u64) > BODY_LIMIT {
                return Err(bad("the answer is too long"));
            }
            body.extend(self.exactly(size)?);
            self.line(&mut { HEAD_LIMIT })?;
        }
    }
}

/// A body under way.
pub(super) struct Upload<'a> {
    chunks: BufWriter<Chunks<'a>>,
}

impl Upload<'_> {
    /// Ends the body; the answer.
    pub(super) fn finish(mut self) -> io::Result<Answer> {
        self.chunks.flush()?;
        let Chunks { connection } = self.chunks.get_mut();
        let stream = connection.stream.get_mut();
        stream.write_all(b"0\r\n\r\n")?;
        stream.flush()?;
        connection.answer()
    }

    /// What the other side has to say after it stopped reading.
    pub(super) fn give_up(self) -> Option<Answer> {
        let (chunks, _) = self.chunks.into_parts();
        chunks.connection.answer().ok()
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunks.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.chunks.flush()
    }
}

struct Chunks<'a> {
    connection: &'a mut Connection,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let stream = self.connection.stream.get_mut();
        write!(stream, "{:x}\r\n", bytes.len())?;
        stream.write_all(bytes)?;
        stream.write_all(b"\r\n")?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.connection.stream.get_mut().flush()
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}
