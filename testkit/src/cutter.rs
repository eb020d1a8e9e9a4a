//! A TCP proxy on loopback that cuts connections at given places of the stream, as bad lines do.
//!
//! Knows nothing of what goes through it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

#[derive(Default)]
struct State {
    up: u64,
    down: u64,
    /// Places that are still to be cut at, the next one last.
    places: Vec<u64>,
    cuts: usize,
}

struct Shared {
    target: String,
    way: Way,
    stopping: AtomicBool,
    state: Mutex<State>,
}

/// The running proxy; it stops when dropped.
pub struct Cutter {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Cutter {
    /// Starts a proxy before `target` (`127.0.0.1:PORT`). The connection over which the byte at one of the
    /// places would go is cut before it; bytes of all connections that go that way are counted together.
    ///
    /// # Panics
    /// No port can be bound.
    #[must_use]
    pub fn start(target: &str, way: Way, places: &[u64]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let mut places = places.to_vec();
        places.sort_unstable_by(|a, b| b.cmp(a));
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            way,
            stopping: AtomicBool::new(false),
            state: Mutex::new(State {
                places,
                ..State::default()
            }),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(&accepting.target) else {
                    continue;
                };
                for (from, to, way) in [(&client, &server, Way::Up), (&server, &client, Way::Down)]
                {
                    if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                        let shared = Arc::clone(&accepting);
                        std::thread::spawn(move || shared.pass(&from, &to, way));
                    }
                }
            }
        });
        Self { address, shared }
    }

    /// `127.0.0.1:PORT` of the proxy.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Connections cut so far.
    #[must_use]
    pub fn cuts(&self) -> usize {
        self.shared.state().cuts
    }

    /// Bytes passed on so far.
    #[must_use]
    pub fn passed(&self, way: Way) -> u64 {
        let state = self.shared.state();
        match way {
            Way::Up => state.up,
            Way::Down => state.down,
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that are about to go, and says how many may, and whether the connection is cut then.
    fn admit(&self, way: Way, bytes: usize) -> (usize, bool) {
        let mut state = self.state();
        let passed = match way {
            Way::Up => state.up,
            Way::Down => state.down,
        };
        let mut admitted = bytes;
        let mut cut = false;
        if way == self.way
            && let Some(place) = state.places.last().copied()
            && place < passed + bytes as u64
        {
            admitted = usize::try_from(place.saturating_sub(passed)).unwrap_or(bytes);
            state.places.pop();
            state.cuts += 1;
            cut = true;
        }
        match way {
            Way::Up => state.up += admitted as u64,
            Way::Down => state.down += admitted as u64,
        }
        (admitted, cut)
    }

    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, way: Way) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer) else {
                let _ = to.shutdown(Shutdown::Write);
                return;
            };
            let (admitted, cut) = self.admit(way, read);
            let written = to.write_all(&buffer[..admitted]);
            if cut || written.is_err() {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
