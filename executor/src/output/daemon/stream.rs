//! Connections to daemons: a Unix socket, TCP with or without TLS, a remote socket through `ssh`.
//! Reads and writes end soon after the build is cancelled.

use crate::request::{DockerEndpoint, DockerTls};
use planner::scheduler::Cancel;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a waiting connection looks whether the build is cancelled.
const TICK: Duration = Duration::from_millis(100);
/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// A connection.
pub(super) struct Stream {
    inner: Box<dyn Duplex>,
    cancel: Cancel,
    /// How long the other side may say nothing; without end when `None`.
    pub(super) patience: Option<Duration>,
    /// `ssh`, ended with the connection.
    _helper: Option<Helper>,
}

impl Stream {
    /// Connects.
    pub(super) fn connect(
        endpoint: &DockerEndpoint,
        search_path: &str,
        cancel: &Cancel,
    ) -> io::Result<Self> {
        let host = endpoint.host.as_str();
        let (inner, helper): (Box<dyn Duplex>, _) = match host.split_once("://") {
            Some(("unix", path)) => (Box::new(ticking(UnixStream::connect(path)?)?), None),
            Some(("tcp" | "http" | "https", address)) => {
                (tcp(address, endpoint.tls.as_ref())?, None)
            }
            Some(("ssh", _)) => {
                let (socket, helper) = ssh(host, search_path)?;
                (Box::new(ticking(socket)?), Some(helper))
            }
            _ => {
                let reason =
                    format!("unsupported address {host:?}: expected unix://, tcp:// or ssh://");
                return Err(io::Error::new(ErrorKind::InvalidInput, reason));
            }
        };
        Ok(Self {
            inner,
            cancel: cancel.clone(),
            patience: None,
            _helper: helper,
        })
    }

    fn patiently<T>(
        &mut self,
        mut attempt: impl FnMut(&mut dyn Duplex) -> io::Result<T>,
    ) -> io::Result<T> {
        let started = Instant::now();
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            match attempt(self.inner.as_mut()) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.patience.is_some_and(|limit| started.elapsed() > limit) {
                        return Err(io::Error::new(ErrorKind::TimedOut, "no answer"));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|inner| inner.read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|inner| inner.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.patiently(|inner| inner.flush())
    }
}

fn ticking(socket: UnixStream) -> io::Result<UnixStream> {
    socket.set_read_timeout(Some(TICK))?;
    socket.set_write_timeout(Some(TICK))?;
    Ok(socket)
}

fn tcp(address: &str, tls: Option<&DockerTls>) -> io::Result<Box<dyn Duplex>> {
    let address = address.split('/').next().unwrap_or_default();
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let default = if tls.is_some() { 2376 } else { 2375 };
    let address = if has_port {
        address.to_owned()
    } else {
        format!("{address}:{default}")
    };
    let mut last = io::Error::new(ErrorKind::NotFound, format!("no address of {address}"));
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_LIMIT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(TICK))?;
                socket.set_write_timeout(Some(TICK))?;
                let name = address.rsplit_once(':').map_or(&*address, |(name, _)| name);
                return match tls {
                    None => Ok(Box::new(socket)),
                    Some(tls) => secured(socket, name, tls),
                };
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn secured(socket: TcpStream, name: &str, tls: &DockerTls) -> io::Result<Box<dyn Duplex>> {
    let bad = |path: &Path| {
        let path = path.display().to_string();
        move |error: rustls::pki_types::pem::Error| {
            io::Error::new(ErrorKind::InvalidData, format!("{path}: {error}"))
        }
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&tls.ca).map_err(bad(&tls.ca))? {
        roots
            .add(certificate.map_err(bad(&tls.ca))?)
            .map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(bad(certificate))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(bad(key))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(io::Error::other)?
        }
    };
    let name = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let server = ServerName::try_from(name).map_err(io::Error::other)?;
    let session =
        rustls::ClientConnection::new(Arc::new(config), server).map_err(io::Error::other)?;
    Ok(Box::new(rustls::StreamOwned::new(session, socket)))
}

struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon's socket on another machine, as the docker client reaches it: `docker system dial-stdio` over `ssh`.
fn ssh(host: &str, search_path: &str) -> io::Result<(UnixStream, Helper)> {
    let bad = |reason: &str| io::Error::new(ErrorKind::InvalidInput, format!("{host}: {reason}"));
    let address = host.trim_start_matches("ssh://");
    let (address, path) = address.split_once('/').unwrap_or((address, ""));
    if !path.is_empty() {
        return Err(bad("a path is not supported"));
    }
    let (user, address) = match address.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, address),
    };
    let (name, port) = match address.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') => (name, Some(port)),
        _ => (address, None),
    };
    // Whatever begins with a dash would be an option.
    if name.is_empty()
        || [Some(name), user]
            .iter()
            .flatten()
            .any(|word| word.starts_with('-'))
    {
        return Err(bad("no host"));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new("ssh");
    if !search_path.is_empty() {
        command.env("PATH", search_path);
    }
    command.args(["-o", "ConnectTimeout=30", "-T"]);
    if let Some(user) = user {
        command.args(["-l", user]);
    }
    if let Some(port) = port {
        command.args(["-p", port]);
    }
    command.args(["--", name, "docker", "system", "dial-stdio"]);
    command
        .stdin(Stdio::from(theirs.try_clone()?))
        .stdout(Stdio::from(theirs))
        .stderr(Stdio::null());
    sandbox::end_with_caller(&mut command);
    let child = command.spawn()?;
    Ok((ours, Helper(child)))
}
