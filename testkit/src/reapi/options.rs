//! How a server is set up; what can change while it runs is a [`super::Fault`].

use crate::Pair;
use std::path::PathBuf;

/// How a server is set up. The default: one worker of two slots for `OSFamily=linux` and `ISA=x86-64`, all features on.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent features of servers, each of which some lack"
)]
pub struct Options {
    /// The only instance name it answers to.
    pub instance: String,
    /// Who runs actions.
    pub workers: Vec<Worker>,
    /// Announces and does execution.
    pub execution: bool,
    /// Announces SHA-256; without it, SHA-1 only.
    pub sha256: bool,
    /// Announces `mtime` and `unix_mode`, and gives them to staged entries. Without: 0444, 0555, times of now.
    pub node_properties: bool,
    /// Announces zstd and takes it.
    pub zstd: bool,
    /// Bytes of the largest batch, announced and enforced.
    pub max_batch: u64,
    /// Symbolic links may have absolute targets.
    pub absolute_symlinks: bool,
    /// Takes results of clients (`UpdateActionResult`).
    pub cache_writes: bool,
    /// Keeps results of commands that failed, too.
    pub cache_failed: bool,
    /// `GetActionResult` only gives results whose blobs are all there.
    pub complete_results: bool,
    /// `Execute` looks into the action cache unless told not to.
    pub execute_looks: bool,
    /// What happens to an action that no worker can run.
    pub no_match: NoMatch,
    /// What a client sees of a worker that died.
    pub lost_worker: LostWorker,
    /// Names streams of output while commands run.
    pub log_streams: bool,
    /// An action ends when the stream of the client that asked for it does.
    pub cancel_on_drop: bool,
    /// Bytes of output that a result has inline; more is only in a blob.
    pub inline_output: usize,
    /// How files come to the command.
    pub staging: Staging,
    /// Permission bits of staged directories whose `unix_mode` is not known or not heeded.
    pub directory_mode: u32,
    /// Serves TLS.
    pub tls: Option<Tls>,
    /// Metadata that every call must have, or it is UNAUTHENTICATED (names in lower case).
    pub headers: Vec<(String, String)>,
    /// What workers give to every command beside its own variables.
    pub environment: Vec<(String, String)>,
    /// Where its folders are made, such as `/dev/shm`; otherwise where temporary files are.
    pub place: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            instance: String::new(),
            workers: vec![Worker::new("worker-1", 2)],
            execution: true,
            sha256: true,
            node_properties: true,
            zstd: true,
            max_batch: 4 << 20,
            absolute_symlinks: true,
            cache_writes: true,
            cache_failed: false,
            complete_results: false,
            execute_looks: true,
            no_match: NoMatch::Queue,
            lost_worker: LostWorker::Unavailable,
            log_streams: false,
            cancel_on_drop: false,
            inline_output: 64 << 10,
            staging: Staging::Copy,
            directory_mode: 0o755,
            tls: None,
            headers: Vec::new(),
            environment: Vec::new(),
            place: None,
        }
    }
}

/// Who runs actions.
#[derive(Clone, Debug)]
pub struct Worker {
    /// As in the metadata of results.
    pub name: String,
    /// Commands at the same time.
    pub slots: usize,
    /// What it offers; every property of an action must be among these. A name may be there several times.
    pub properties: Vec<(String, String)>,
}

impl Worker {
    /// One for `OSFamily=linux` and `ISA=x86-64`.
    #[must_use]
    pub fn new(name: &str, slots: usize) -> Self {
        let properties = [("OSFamily", "linux"), ("ISA", "x86-64")];
        Self {
            name: name.to_owned(),
            slots,
            properties: properties
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// With one more property.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another `ISA` than x86-64.
    #[must_use]
    pub fn isa(mut self, value: &str) -> Self {
        self.properties.retain(|(name, _)| name != "ISA");
        self.with("ISA", value)
    }
}

/// What happens to an action that no worker can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMatch {
    /// It waits for ever, as with BuildGrid and NativeLink.
    Queue,
    /// `FAILED_PRECONDITION` in the response, beside exit code 0, as with buildbox-casd.
    Error,
}

/// What a client sees of a worker that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostWorker {
    /// The response has the status UNAVAILABLE.
    Unavailable,
    /// The response has the status ABORTED.
    Aborted,
    /// The stream of the operation ends with UNAVAILABLE.
    Stream,
    /// Nothing: another worker gets the action.
    Retried,
}

/// How files come to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// Every file is the action's own, and a file of its own.
    Copy,
    /// Every file is the action's own, but paths of equal content, mode and time are hard links to one file: where a root has one
    /// program under hundreds of names, hundreds of copies less.
    CopyOnce,
    /// Files are hard links into the storage where their mode and time allow it: fast, and a command that writes into them breaks
    /// the storage.
    HardLink,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate and key.
    pub pair: Pair,
    /// Who signs the certificates of clients; all must have one then.
    pub client_ca: Option<PathBuf>,
}
