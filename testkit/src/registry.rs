//! A registry inside the test's own process, on loopback, that can be told to fail in the ways real ones do.
//!
//! Serves pulls and takes pushes (with the token service they need) from memory over plain HTTP/1.1, one thread per
//! connection; tests can put content in directly. Understands requests sent to it as a proxy too, so that
//! one server can play registries of any name.

mod fault;
mod http;
mod push;
mod serve;

pub use fault::{Action, Fault};
pub use push::Behaviour;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Host` header, or the authority of a request sent to a proxy.
    pub host: String,
    /// All headers, names in lower case.
    pub headers: HashMap<String, String>,
}

impl Received {
    /// A header by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Clone)]
struct Manifest {
    media_type: String,
    bytes: Arc<Vec<u8>>,
}

/// Who may pull.
struct TokenRule {
    /// Seconds.
    lifetime: u64,
    /// Token to the scope it was given for.
    given: HashMap<String, String>,
    issued: u64,
}

#[derive(Default)]
struct State {
    /// In every repository.
    blobs: HashMap<String, Arc<Vec<u8>>>,
    /// By repository and digest.
    pushed: HashMap<(String, String), Arc<Vec<u8>>>,
    sessions: HashMap<String, push::Session>,
    sessions_made: u64,
    /// Sessions with a request under way.
    busy: HashSet<String>,
    /// Bytes of bodies that came.
    uploaded: u64,
    behaviour: Behaviour,
    /// By repository and digest.
    manifests: HashMap<(String, String), Manifest>,
    /// By repository and tag.
    tags: HashMap<(String, String), String>,
    tokens: Option<TokenRule>,
    faults: Vec<Fault>,
    log: Vec<Received>,
    in_flight: usize,
    most_in_flight: usize,
}

impl State {
    fn blob(&self, repository: &str, digest: &str) -> Option<&Arc<Vec<u8>>> {
        let key = (repository.to_owned(), digest.to_owned());
        self.blobs.get(digest).or_else(|| self.pushed.get(&key))
    }

    fn keep(&mut self, repository: &str, digest: &str, bytes: Arc<Vec<u8>>) {
        let key = (repository.to_owned(), digest.to_owned());
        self.pushed.insert(key, bytes);
    }
}

struct Shared {
    address: SocketAddr,
    stopping: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running registry; stops when dropped.
pub struct FakeRegistry {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRegistry")
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

impl FakeRegistry {
    /// Starts an empty registry on a free loopback port.
    ///
    /// # Panics
    /// No port can be bound.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            address,
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || serve::connection(&shared, &stream));
            }
        });
        Self { shared }
    }

    /// `127.0.0.1:PORT`, to put before a repository.
    #[must_use]
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Stores a blob, which then is in every repository; returns its digest.
    pub fn put_blob(&self, bytes: impl Into<Vec<u8>>) -> String {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        let mut state = self.shared.state();
        state.blobs.insert(digest.clone(), Arc::new(bytes));
        digest
    }

    /// Stores a manifest or index, with a tag if one is given; returns its digest.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> String {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            bytes: Arc::new(bytes),
        };
        let mut state = self.shared.state();
        if let Some(tag) = tag {
            let key = (repository.to_owned(), tag.to_owned());
            state.tags.insert(key, digest.clone());
        }
        let key = (repository.to_owned(), digest.clone());
        state.manifests.insert(key, manifest);
        digest
    }

    /// Stores an image for linux on an architecture, of uncompressed layers; returns the manifest's digest.
    pub fn put_image(
        &self,
        repository: &str,
        tag: Option<&str>,
        architecture: &str,
        layers: &[Vec<u8>],
    ) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let descriptors: Vec<serde_json::Value> = layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "size": layer.len(),
                    "digest": self.put_blob(layer.clone()),
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "size": config.len(),
                "digest": self.put_blob(config),
            },
            "layers": descriptors,
        });
        self.put_manifest(repository, tag, OCI_MANIFEST, manifest.to_string())
    }

    /// Stores an index of images that are in the repository already, as digest and architecture; returns its digest.
    ///
    /// # Panics
    /// An image is not there.
    pub fn put_index(&self, repository: &str, tag: &str, images: &[(&str, &str)]) -> String {
        let entries: Vec<serde_json::Value> = images
            .iter()
            .map(|(digest, architecture)| {
                let key = (repository.to_owned(), (*digest).to_owned());
                let state = self.shared.state();
                let manifest = state
                    .manifests
                    .get(&key)
                    .expect("the image is in the repository");
                json!({
                    "mediaType": manifest.media_type,
                    "size": manifest.bytes.len(),
                    "digest": digest,
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.put_manifest(repository, Some(tag), OCI_INDEX, index.to_string())
    }

    /// Puts a manifest into an index, that into another and so on, and a tag on the last; returns its digest.
    pub fn put_nested(&self, repository: &str, tag: &str, image: &str, depth: usize) -> String {
        let mut digest = image.to_owned();
        for _ in 0..depth {
            digest = self.put_index(repository, tag, &[(&digest, "amd64")]);
        }
        digest
    }

    /// From now on the registry is like this.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.state().behaviour = behaviour;
    }

    /// A blob that was pushed to a repository.
    #[must_use]
    pub fn pushed_blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        let key = (repository.to_owned(), digest.to_owned());
        self.shared.state().pushed.get(&key).cloned()
    }

    /// Bytes of the bodies of all requests so far.
    #[must_use]
    pub fn uploaded(&self) -> u64 {
        self.shared.state().uploaded
    }

    /// A manifest or index of a repository, by digest.
    #[must_use]
    pub fn manifest(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        let key = (repository.to_owned(), digest.to_owned());
        let state = self.shared.state();
        state
            .manifests
            .get(&key)
            .map(|found| Arc::clone(&found.bytes))
    }

    /// The digest that a tag is.
    #[must_use]
    pub fn tagged(&self, repository: &str, tag: &str) -> Option<String> {
        let key = (repository.to_owned(), tag.to_owned());
        self.shared.state().tags.get(&key).cloned()
    }

    /// From now on pulls need a bearer token of this registry's token service, which gives one to anybody.
    pub fn require_tokens(&self, lifetime_seconds: u64) {
        self.shared.state().tokens = Some(TokenRule {
            lifetime: lifetime_seconds,
            given: HashMap::new(),
            issued: 0,
        });
    }

    /// Makes all tokens given so far invalid.
    pub fn revoke_tokens(&self) {
        if let Some(rule) = &mut self.shared.state().tokens {
            rule.given.clear();
        }
    }

    /// Makes matching requests fail; of several matching faults the one set first is used up first.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.shared.state().log.clone()
    }

    /// How many requests of a method had a path that contains a text.
    #[must_use]
    pub fn count(&self, method: &str, path_part: &str) -> usize {
        let state = self.shared.state();
        let matching =
            |request: &&Received| request.method == method && request.path.contains(path_part);
        state.log.iter().filter(matching).count()
    }

    /// Most requests that were being answered at one time.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        self.shared.state().most_in_flight
    }

    /// The digests of all blobs that were asked for by GET.
    #[must_use]
    pub fn pulled_blobs(&self) -> HashSet<String> {
        let state = self.shared.state();
        let paths = state.log.iter().filter(|request| request.method == "GET");
        paths
            .filter_map(|request| request.path.split_once("/blobs/"))
            .map(|(_, digest)| digest.to_owned())
            .collect()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which otherwise waits for a next connection.
        let _ = TcpStream::connect(self.shared.address);
    }
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `sha256:` and the hexadecimal digest of bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
