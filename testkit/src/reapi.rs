//! A Remote Execution API v2 server inside the test's own process, on loopback: content-addressable storage, byte streams, action
//! cache, capabilities, and execution of real commands by workers with properties and slots.
//!
//! It can be told to fail in the ways that real servers do ([`Fault`]), counts what it is asked ([`Counters`]), and leaves no
//! process and no folder behind when it is dropped. It does not isolate the commands it runs: they are the test's own.
//!
//! ```no_run
//! use testkit::reapi::{Fault, Options, Server};
//! let server = Server::start(Options::default());
//! let address = server.url(); // grpc://127.0.0.1:PORT
//! server.inject_times(Fault::status("GetActionResult", 14), 2);
//! // ... the client under test ...
//! assert_eq!(server.counters().actions_run, 0);
//! # let _ = address;
//! ```

mod bot;
mod buildbox;
mod buildgrid;
mod bytestream;
mod cache;
mod cas;
mod execution;
mod fault;
mod listen;
mod operations;
mod options;
mod process;
mod resource;
mod run;
mod stage;
mod state;
mod storage;

pub use bazel_remote_apis as apis;
pub use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
pub use bot::Bot;
pub use buildbox::{Buildbox, BuildboxSetup};
pub use buildgrid::BuildGrid;
pub use fault::{Fault, Lie};
pub use options::{LostWorker, NoMatch, Options, Staging, Tls, Worker};
pub use state::{Counters, Execution};

use listen::Listener;
use state::{Key, Shared};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// A running server; stops when dropped, with all that it has started.
pub struct Server {
    shared: Arc<Shared>,
    listener: Listener,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.close();
        self.shared.end_all();
        // Threads of connections may hold on to what is shared for a while: not their business any more.
        let _ = stage::remove(self.shared.folder());
    }
}

impl Server {
    /// Starts one on a free port of loopback.
    ///
    /// # Panics
    /// No port can be bound, no temporary folder be made, or the certificates not be read.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let shared = Arc::new(Shared::new(options));
        let listener = Listener::open(&shared);
        Self { shared, listener }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// `grpc://127.0.0.1:PORT` (`grpcs` with TLS), with the instance name as its path if there is one.
    #[must_use]
    pub fn url(&self) -> String {
        let options = &self.shared.options;
        let scheme = if options.tls.is_some() {
            "grpcs"
        } else {
            "grpc"
        };
        let slash = if options.instance.is_empty() { "" } else { "/" };
        format!("{scheme}://{}{slash}{}", self.address(), options.instance)
    }

    /// Cuts all connections and refuses new ones until [`Server::up`]. Operations and their processes end and are forgotten.
    pub fn down(&mut self) {
        self.listener.close();
        self.shared.end_all();
    }

    /// Listens again after [`Server::down`], on the same port.
    ///
    /// # Panics
    /// The port was taken by somebody else meanwhile.
    pub fn up(&mut self) {
        self.listener.reopen(&self.shared);
    }

    /// [`Server::down`] and [`Server::up`]: connections are cut, operations lost, blobs and results kept.
    pub fn restart(&mut self) {
        self.down();
        self.up();
    }

    /// Forgets all blobs and results, as a server without a disk does when it is restarted.
    pub fn forget(&self) {
        self.shared.storage.clear();
    }

    /// Makes it fail in this way from now on, until [`Server::clear`].
    pub fn inject(&self, fault: Fault) {
        self.shared.inject(fault, None);
    }

    /// Makes it fail in this way the next `times` times that it could.
    pub fn inject_times(&self, fault: Fault, times: u64) {
        self.shared.inject(fault, Some(times));
    }

    /// Ends all faults. What they have done stays counted.
    pub fn clear(&self) {
        self.shared.clear();
    }

    /// How often a fault was applied since the start.
    #[must_use]
    pub fn applied(&self, fault: &Fault) -> u64 {
        self.shared.applied(fault)
    }

    /// What it was asked and has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Calls of a method, such as `FindMissingBlobs` or `Write`.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        let counters = self.shared.counters();
        counters.calls.get(method).copied().unwrap_or(0)
    }

    /// Every command that was started, in the order of starting.
    #[must_use]
    pub fn executions(&self) -> Vec<Execution> {
        self.shared.executions()
    }

    /// Puts a blob in. Gives its digest as `HEX/SIZE`.
    pub fn put(&self, bytes: &[u8]) -> String {
        self.shared.storage.put(bytes)
    }

    /// A blob by `HEX/SIZE`.
    #[must_use]
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.shared.storage.read(&Key::from(digest)).ok()
    }

    /// Digests of all blobs, as `HEX/SIZE`, sorted.
    #[must_use]
    pub fn blobs(&self) -> Vec<String> {
        self.shared.storage.keys()
    }

    /// Removes a blob as garbage collection does. Whether it was there.
    pub fn evict(&self, digest: &str) -> bool {
        self.shared.storage.remove(&Key::from(digest))
    }

    /// Removes a blob, and empties its copies in actions that run: what those see whose files are brought when they are
    /// read, but for the error. How many copies there were.
    ///
    /// # Panics
    /// A copy cannot be emptied.
    pub fn lose(&self, content: &[u8]) -> usize {
        self.shared.storage.remove(&Key::of(content));
        stage::empty(self.shared.queue.folder(), content).expect("a copy can be emptied")
    }

    /// Digests of the actions whose results are kept, as `HEX/SIZE`, sorted.
    #[must_use]
    pub fn actions(&self) -> Vec<String> {
        self.shared.storage.actions()
    }

    /// The result kept for an action.
    #[must_use]
    pub fn result(&self, action: &str) -> Option<proto::ActionResult> {
        self.shared.storage.result(&Key::from(action))
    }

    /// Keeps a result for an action, as another client would.
    pub fn set_result(&self, action: &str, result: proto::ActionResult) {
        self.shared.storage.set_result(&Key::from(action), result);
    }
}
