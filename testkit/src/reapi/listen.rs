//! The socket, the connections and the threads that serve them.

use super::apis::google::bytestream::byte_stream_server::ByteStreamServer;
use super::apis::google::longrunning::operations_server::OperationsServer;
use super::bytestream::Bytes;
use super::cache::Cache;
use super::cas::Cas;
use super::execution::Executor;
use super::options::Tls;
use super::proto::action_cache_server::ActionCacheServer;
use super::proto::capabilities_server::CapabilitiesServer;
use super::proto::content_addressable_storage_server::ContentAddressableStorageServer;
use super::proto::execution_server::ExecutionServer;
use super::state::Shared;
use futures_util::stream;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tonic::transport::server::{Connected, Server, TcpConnectInfo};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Bytes of the largest message taken; batches have a limit of their own below this.
const MESSAGE: usize = 256 << 20;

pub(super) struct Listener {
    runtime: Option<Runtime>,
    address: SocketAddr,
    sockets: Arc<Sockets>,
    serving: Option<Serving>,
}

struct Serving {
    stop: oneshot::Sender<()>,
    stopped: mpsc::Receiver<()>,
}

/// Open connections, to be cut.
#[derive(Default)]
struct Sockets(Mutex<(u64, HashMap<u64, TcpStream>)>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
        if let Some(runtime) = self.runtime.take() {
            // Not by dropping it, which an asynchronous test may not do.
            runtime.shutdown_background();
        }
    }
}

impl Listener {
    pub(super) fn open(shared: &Arc<Shared>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("reapi-server")
            .enable_all()
            .build()
            .expect("threads can be started");
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let address = socket.local_addr().expect("a bound socket has an address");
        let mut listener = Self {
            runtime: Some(runtime),
            address,
            sockets: Arc::default(),
            serving: None,
        };
        listener.serve(shared, socket);
        listener
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections and refuses others.
    pub(super) fn close(&mut self) {
        let Some(serving) = self.serving.take() else {
            return;
        };
        let _ = serving.stop.send(());
        let _ = serving.stopped.recv();
        self.sockets.cut();
    }

    pub(super) fn reopen(&mut self, shared: &Arc<Shared>) {
        if self.serving.is_some() {
            return;
        }
        let socket = TcpListener::bind(self.address).expect("the port is still free");
        self.serve(shared, socket);
    }

    fn serve(&mut self, shared: &Arc<Shared>, socket: TcpListener) {
        let (stop, stopping) = oneshot::channel();
        let (done, stopped) = mpsc::channel();
        let (shared, sockets) = (Arc::clone(shared), Arc::clone(&self.sockets));
        let runtime = self.runtime.as_ref().expect("BUG: served after the end");
        runtime.spawn(async move {
            let serving = run(shared, sockets, socket);
            tokio::select! {
                () = serving => {}
                _ = stopping => {}
            }
            let _ = done.send(());
        });
        self.serving = Some(Serving { stop, stopped });
    }
}

async fn run(shared: Arc<Shared>, sockets: Arc<Sockets>, socket: TcpListener) {
    socket
        .set_nonblocking(true)
        .expect("a socket can be set up");
    let listener = tokio::net::TcpListener::from_std(socket).expect("a socket can be served");
    let mut server = Server::builder();
    if let Some(tls) = &shared.options.tls {
        server = server
            .tls_config(tls_config(tls))
            .expect("the certificates of the test are sound");
    }
    let cas = ContentAddressableStorageServer::new(Cas(Arc::clone(&shared)));
    let bytes = ByteStreamServer::new(Bytes::new(Arc::clone(&shared)));
    let results = ActionCacheServer::new(Cache(Arc::clone(&shared)));
    let router = server
        .add_service(CapabilitiesServer::new(Cache(Arc::clone(&shared))))
        .add_service(cas.max_decoding_message_size(MESSAGE))
        .add_service(bytes.max_decoding_message_size(MESSAGE))
        .add_service(results.max_decoding_message_size(MESSAGE))
        .add_service(ExecutionServer::new(Executor(Arc::clone(&shared))))
        .add_service(OperationsServer::new(Executor(Arc::clone(&shared))));
    let incoming = stream::unfold(listener, move |listener| {
        let (shared, sockets) = (Arc::clone(&shared), Arc::clone(&sockets));
        async move {
            let accepted = listener.accept().await;
            shared.count(|counters| counters.connections += 1);
            let connection = accepted.and_then(|(stream, _)| Connection::new(stream, &sockets));
            Some((connection, listener))
        }
    });
    let _ = router.serve_with_incoming(incoming).await;
}

fn tls_config(tls: &Tls) -> ServerTlsConfig {
    let read = |path| fs::read(path).expect("a certificate of the test can be read");
    let identity = Identity::from_pem(read(&tls.pair.certificate), read(&tls.pair.key));
    let config = ServerTlsConfig::new().identity(identity);
    match &tls.client_ca {
        Some(path) => config.client_ca_root(Certificate::from_pem(read(path))),
        None => config,
    }
}

impl Sockets {
    fn list(&self) -> MutexGuard<'_, (u64, HashMap<u64, TcpStream>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, socket: TcpStream) -> u64 {
        let mut list = self.list();
        list.0 += 1;
        let number = list.0;
        list.1.insert(number, socket);
        number
    }

    fn end(&self, number: u64) {
        if let Some(socket) = self.list().1.remove(&number) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn cut(&self) {
        for (_, socket) in self.list().1.drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A connection that can be cut from outside.
struct Connection {
    stream: tokio::net::TcpStream,
    sockets: Arc<Sockets>,
    number: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.sockets.end(self.number);
    }
}

impl Connection {
    fn new(stream: tokio::net::TcpStream, sockets: &Arc<Sockets>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let number = sockets.add(stream.try_clone()?);
        Ok(Self {
            stream: tokio::net::TcpStream::from_std(stream)?,
            sockets: Arc::clone(sockets),
            number,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
