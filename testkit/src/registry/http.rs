//! HTTP/1.1 as far as the registry needs it: request heads in, answers out, with the ways answers can break.

use super::Received;
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest request head.
const HEAD_LIMIT: usize = 32 * 1024;
/// Bytes written at a time.
const PIECE: u64 = 64 * 1024;

/// What a connection brings next.
pub(super) enum Incoming {
    Request(Received, usize),
    /// A greeting of TLS, or nothing HTTP.
    Foreign,
    Nothing,
    Closed,
}

/// Looks at the next request without taking it from the socket: closing a socket with bytes unread makes the
/// kernel reset the connection, and that is how resets are made here.
pub(super) fn peek(stream: &TcpStream) -> Incoming {
    let mut buffer = vec![0; HEAD_LIMIT];
    loop {
        let length = match stream.peek(&mut buffer) {
            Ok(0) => return Incoming::Closed,
            Ok(length) => length,
            Err(error) if is_timeout(&error) => return Incoming::Nothing,
            Err(_) => return Incoming::Closed,
        };
        let seen = &buffer[..length];
        if !seen[0].is_ascii_uppercase() {
            return Incoming::Foreign;
        }
        if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            return match parse_head(&head) {
                Some(request) => Incoming::Request(request, end + 4),
                None => Incoming::Foreign,
            };
        }
        if length == HEAD_LIMIT {
            return Incoming::Foreign;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Takes a request that was looked at from the socket.
pub(super) fn consume(mut stream: &TcpStream, length: usize) -> io::Result<()> {
    let mut head = vec![0; length];
    stream.read_exact(&mut head)
}

/// How a body is read badly.
#[derive(Default)]
pub(super) struct BodyLimits {
    /// Only so many bytes.
    pub(super) cut: Option<u64>,
    /// So many bytes at a time, with a pause after each.
    pub(super) slow: Option<(u64, Duration)>,
}

pub(super) fn has_body(request: &Received) -> bool {
    let length = request.header("content-length");
    length.is_some_and(|length| length != "0") || request.header("transfer-encoding").is_some()
}

/// Reads a request's body, and whether it came to its end.
pub(super) fn read_body(
    stream: &TcpStream,
    request: &Received,
    limits: &BodyLimits,
    stopping: &AtomicBool,
) -> io::Result<(Vec<u8>, bool)> {
    if request.header("expect").is_some() {
        let mut out = stream;
        out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut reader = BodyReader {
        stream,
        limits,
        stopping,
        body: Vec::new(),
    };
    let whole = match request.header("content-length") {
        Some(length) => reader.take(length.parse().unwrap_or_default()),
        None => reader.take_chunks(),
    };
    Ok((reader.body, whole))
}

struct BodyReader<'a> {
    stream: &'a TcpStream,
    limits: &'a BodyLimits,
    stopping: &'a AtomicBool,
    body: Vec<u8>,
}

impl BodyReader<'_> {
    /// Reads so many bytes; `false` when they do not all come.
    fn take(&mut self, length: u64) -> bool {
        let mut left = length;
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let mut most = left.min(buffer.len() as u64);
            if let Some(cut) = self.limits.cut {
                most = most.min(cut.saturating_sub(self.body.len() as u64));
            }
            if let Some((piece, pause)) = self.limits.slow {
                most = most.min(piece.max(1));
                std::thread::sleep(pause);
            }
            if most == 0 || self.stopping.load(Ordering::SeqCst) {
                return false;
            }
            let Some(got) = self.read(&mut buffer, most) else {
                return false;
            };
            self.body.extend_from_slice(&buffer[..got]);
            left -= got as u64;
        }
        true
    }

    /// Reads a body in chunks of HTTP/1.1.
    fn take_chunks(&mut self) -> bool {
        loop {
            let Some(line) = self.line() else {
                return false;
            };
            let size = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = u64::from_str_radix(size, 16) else {
                return false;
            };
            if !self.take(size) || self.line().is_none() {
                return false;
            }
            if size == 0 {
                return true;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            self.read(&mut byte, 1)?;
            line.push(byte[0]);
        }
        String::from_utf8(line).ok()
    }

    fn read(&mut self, buffer: &mut [u8], most: u64) -> Option<usize> {
        let most = usize::try_from(most).unwrap_or(buffer.len());
        let mut stream = self.stream;
        loop {
            match stream.read(&mut buffer[..most]) {
                Ok(0) => return None,
                Ok(got) => return Some(got),
                Err(error) if is_timeout(&error) && !self.stopping.load(Ordering::SeqCst) => {}
                Err(_) => return None,
            }
        }
    }
}

fn parse_head(head: &str) -> Option<Received> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let (host, path) = match target.strip_prefix("http://") {
        Some(rest) => {
            let slash = rest.find('/').unwrap_or(rest.len());
            (rest[..slash].to_owned(), rest[slash..].to_owned())
        }
        None => {
            let host = headers.get("host").cloned().unwrap_or_default();
            (host, target.to_owned())
        }
    };
    Some(Received {
        method: method.to_owned(),
        path,
        host,
        headers,
    })
}

/// A body in memory, or one of zeros that needs none.
#[derive(Clone)]
pub(super) enum Body {
    Bytes(Arc<Vec<u8>>, usize),
    Zeros(u64),
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Arc::new(bytes), 0)
    }
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes, start) => (bytes.len() - start) as u64,
            Self::Zeros(size) => *size,
        }
    }

    pub(super) fn flip_bit(&mut self) {
        if let Self::Bytes(bytes, start) = self {
            let mut changed = bytes[*start..].to_vec();
            if let Some(byte) = changed.last_mut() {
                *byte ^= 1;
            }
            *self = Self::from(changed);
        }
    }

    fn write(&self, from: u64, to: u64, stream: &mut &TcpStream) -> io::Result<()> {
        match self {
            Self::Bytes(bytes, start) => {
                let index = |offset: u64| start + usize::try_from(offset).unwrap_or(usize::MAX);
                stream.write_all(&bytes[index(from)..index(to)])
            }
            Self::Zeros(_) => {
                let count = usize::try_from(to - from).unwrap_or_default();
                stream.write_all(&vec![0; count])
            }
        }
    }
}

/// An answer, and how its delivery goes wrong.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
    pub(super) chunked: bool,
    pub(super) no_length: bool,
    /// After so many bytes the connection ends; `true` by a reset.
    pub(super) cut: Option<(u64, bool)>,
    pub(super) delay: Duration,
    pub(super) slow: Option<(u64, Duration)>,
}

impl Answer {
    pub(super) fn new(status: u16, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            chunked: false,
            no_length: false,
            cut: None,
            delay: Duration::ZERO,
            slow: None,
        }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn resets(&self) -> bool {
        matches!(self.cut, Some((_, true)))
    }

    /// Sends the answer; `false` when the connection is to be closed. `ending` is called before the last of it
    /// is written, when the other side cannot have gone on yet.
    pub(super) fn send(
        &self,
        mut stream: &TcpStream,
        head_only: bool,
        ending: &mut dyn FnMut(),
    ) -> io::Result<bool> {
        std::thread::sleep(self.delay);
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = self.body.len();
        let stated = self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if stated {
            // A fault's, which need not be true.
        } else if self.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if self.no_length {
            head.push_str("Connection: close\r\n");
        } else {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        let end = self.cut.map_or(length, |(at, _)| at.min(length));
        let without_body = head_only || end == 0;
        if without_body {
            ending();
        }
        stream.write_all(head.as_bytes())?;
        if !head_only {
            self.send_body(&mut stream, end, ending)?;
        }
        if self.cut.is_some() {
            // The other side must have read what came before a reset, which may overtake it.
            std::thread::sleep(Duration::from_millis(30));
            return Ok(false);
        }
        Ok(!self.no_length)
    }

    fn send_body(
        &self,
        stream: &mut &TcpStream,
        end: u64,
        ending: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let piece = self.slow.map_or(PIECE, |(piece, _)| piece.max(1));
        let mut at = 0;
        while at < end {
            let next = (at + piece).min(end);
            if next == end {
                ending();
            }
            if self.chunked {
                write!(stream, "{:x}\r\n", next - at)?;
            }
            self.body.write(at, next, stream)?;
            if self.chunked {
                stream.write_all(b"\r\n")?;
            }
            at = next;
            if let Some((_, pause)) = self.slow {
                std::thread::sleep(pause);
            }
        }
        if self.chunked && self.cut.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
