//! A web server on loopback: fixed answers by path, and the bare Git repositories of a folder by Git's own `http-backend`.
//!
//! One request a connection, HTTP/1.1, no TLS. It remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// One answer of status 200.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Content.
    pub body: Vec<u8>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
}

impl Answer {
    /// Content without further headers.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

struct Shared {
    answers: Mutex<BTreeMap<String, Answer>>,
    repositories: Option<PathBuf>,
    asked: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// A server; it stops when dropped.
pub struct WebServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for WebServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl WebServer {
    /// Starts on a free port. Repositories in the folder are under `/git/`.
    ///
    /// # Panics
    /// No port of loopback can be had.
    #[must_use]
    pub fn start(repositories: Option<&Path>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a bound port has an address");
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            repositories: repositories.map(Path::to_owned),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.stop.load(Ordering::Acquire) {
                    break;
                }
                let own = Arc::clone(&own);
                // A client that goes away is its own affair.
                std::thread::spawn(move || drop(own.serve(stream)));
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Answers a path (with a slash at its start) from now on.
    ///
    /// # Panics
    /// A thread of the server panicked.
    pub fn answer(&self, path: &str, answer: Answer) {
        let mut answers = self.shared.answers.lock().expect("no holder panics");
        answers.insert(path.to_owned(), answer);
    }

    /// `http://127.0.0.1:PORT` and a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Paths asked for so far, in order.
    ///
    /// # Panics
    /// A thread of the server panicked.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().expect("no holder panics").clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let mut words = first.split_whitespace();
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let Ok(mut asked) = self.asked.lock() {
            asked.push(path.to_owned());
        }
        let answer = self
            .answers
            .lock()
            .map_or(None, |known| known.get(path).cloned());
        if let Some(answer) = answer {
            return send(&stream, "200 OK", &answer.headers, &answer.body);
        }
        if let (Some(folder), Some(inside)) = (&self.repositories, path.strip_prefix("/git")) {
            let request = Git {
                folder,
                method,
                path: inside,
                query,
                headers: &headers,
            };
            return request.answer(&mut reader, &stream);
        }
        send(&stream, "404 Not Found", &[], b"")
    }
}

fn send(
    mut stream: &TcpStream,
    status: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

/// A request for a repository.
struct Git<'a> {
    folder: &'a Path,
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: &'a BTreeMap<String, String>,
}

impl Git<'_> {
    /// By `git http-backend` (a CGI program, RFC 3875).
    fn answer(&self, reader: &mut impl BufRead, stream: &TcpStream) -> io::Result<()> {
        let header = |name: &str| self.headers.get(name).map_or("", String::as_str);
        let length = header("content-length").parse().unwrap_or(0);
        let mut body = vec![0; length];
        if header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            body = chunks(reader)?;
        } else {
            reader.read_exact(&mut body)?;
        }
        let mut child = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", self.folder)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REQUEST_METHOD", self.method)
            .env("PATH_INFO", self.path)
            .env("QUERY_STRING", self.query)
            .env("CONTENT_TYPE", header("content-type"))
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
            .env("GIT_PROTOCOL", header("git-protocol"))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&body)?;
        }
        let output = child.wait_with_output()?.stdout;
        let end = output
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or(output.len());
        let head = String::from_utf8_lossy(&output[..end]).into_owned();
        let mut status = "200 OK".to_owned();
        let mut headers = Vec::new();
        for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("status") {
                value.trim().clone_into(&mut status);
            } else {
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        let body = output.get(end + 4..).unwrap_or_default();
        send(stream, &status, &headers, body)
    }
}

/// A chunked body (RFC 9112, 7.1).
fn chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
