//! What the services share: options, storage, faults, counters, the queue.

use super::fault::{Armed, Fault};
use super::operations::Queue;
use super::options::Options;
use super::proto::{self, Digest};
use super::storage::Storage;
use crate::{digest_of, hex};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tonic::{Request, Status};

/// A digest, as `HEX/SIZE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    hash: String,
    size: i64,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hash, self.size)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        let (hash, size) = text.split_once('/').unwrap_or((text, ""));
        Self::new(hash.to_owned(), size.parse().unwrap_or(-1))
    }
}

impl Key {
    pub(super) fn new(hash: String, size: i64) -> Self {
        Self { hash, size }
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        Self::new(hex(&Sha256::digest(bytes)), size)
    }

    /// Checked: 64 hexadecimal digits in lower case, no negative size.
    pub(super) fn parse(digest: Option<&Digest>) -> Result<Self, Status> {
        let digest = digest.ok_or_else(|| Status::invalid_argument("a digest is missing"))?;
        let key = Self::new(digest.hash.clone(), digest.size_bytes);
        key.check()?;
        Ok(key)
    }

    pub(super) fn check(&self) -> Result<(), Status> {
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if self.hash.len() != 64 || !self.hash.bytes().all(lower) || self.size < 0 {
            return Err(Status::invalid_argument(format!("{self} is no digest")));
        }
        Ok(())
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.size).unwrap_or(0)
    }

    pub(super) fn digest(&self) -> Digest {
        Digest {
            hash: self.hash.clone(),
            size_bytes: self.size,
        }
    }

    pub(super) fn is_empty_blob(&self) -> bool {
        self.size == 0 && digest_of(&[]).ends_with(&self.hash)
    }
}

/// What was asked and done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls by the method's name.
    pub calls: BTreeMap<String, u64>,
    /// Bytes of blobs received, as they were sent (compressed ones count compressed).
    pub bytes_in: u64,
    /// Bytes of blobs given, as they were sent.
    pub bytes_out: u64,
    /// Commands started.
    pub actions_run: u64,
    /// Operations cancelled by a client.
    pub cancellations: u64,
    /// Processes of commands that live now, descendants included.
    pub live_children: u64,
    /// Operations that are not done.
    pub open_operations: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// A command that was started.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Digest of the action, as `HEX/SIZE`.
    pub action: String,
    /// Who ran it.
    pub worker: String,
    /// The command's arguments.
    pub arguments: Vec<String>,
    /// When it started.
    pub started: SystemTime,
    /// When it ended, if it has.
    pub ended: Option<SystemTime>,
}

/// What the services share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) storage: Storage,
    pub(super) queue: Queue,
    folder: TempDir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Armed,
    counters: Counters,
    executions: Vec<Execution>,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("kiln-reapi-");
        let folder = match &options.place {
            Some(place) => builder.tempdir_in(place),
            None => builder.tempdir(),
        }
        .expect("a temporary folder");
        let storage = Storage::new(folder.path()).expect("a temporary folder can be written");
        let queue = Queue::new(&options, folder.path());
        Self {
            options,
            storage,
            queue,
            folder,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What every call begins with: counts it, checks its headers and instance, fails or waits if told to.
    pub(super) async fn enter<T>(
        &self,
        method: &str,
        request: &Request<T>,
        instance: &str,
    ) -> Result<(), Status> {
        self.count(|counters| *counters.calls.entry(method.to_owned()).or_default() += 1);
        for (name, value) in &self.options.headers {
            let sent = request.metadata().get(name.as_str());
            if sent.is_none_or(|sent| sent.as_bytes() != value.as_bytes()) {
                return Err(Status::unauthenticated(format!(
                    "{name} is missing or wrong"
                )));
            }
        }
        if let Some(delay) = self.take(|fault| match fault {
            Fault::Slow { method: of, delay } if of.is_empty() || of == method => Some(*delay),
            _ => None,
        }) {
            tokio::time::sleep(delay).await;
        }
        if let Some(code) = self.take(|fault| match fault {
            Fault::Status { method: of, code } if of.is_empty() || of == method => Some(*code),
            _ => None,
        }) {
            return Err(Status::new(
                code.into(),
                format!("{method} was told to fail"),
            ));
        }
        if instance != self.options.instance {
            let text = format!("instance {instance:?} is not served here");
            return Err(Status::not_found(text));
        }
        Ok(())
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.state().counters);
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.state().counters.clone();
        counters.live_children = self.queue.live_processes();
        counters.open_operations = self.queue.open_operations();
        counters
    }

    pub(super) fn inject(&self, fault: Fault, times: Option<u64>) {
        self.state().faults.add(fault, times);
    }

    pub(super) fn clear(self: &Arc<Self>) {
        self.state().faults.clear();
        self.dispatch();
    }

    pub(super) fn applied(&self, fault: &Fault) -> u64 {
        self.state().faults.applied(fault)
    }

    /// The first fault that is on and that `matching` takes.
    pub(super) fn take<T>(&self, matching: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.state().faults.take(matching)
    }

    /// Whether exactly this fault is on.
    pub(super) fn is_on(&self, fault: &Fault) -> bool {
        self.take(|on| (on == fault).then_some(())).is_some()
    }

    pub(super) fn executions(&self) -> Vec<Execution> {
        self.state().executions.clone()
    }

    /// Notes a command that starts; gives its number for [`Shared::ended`].
    pub(super) fn started(&self, execution: Execution) -> usize {
        let mut state = self.state();
        state.counters.actions_run += 1;
        state.executions.push(execution);
        state.executions.len() - 1
    }

    pub(super) fn ended(&self, number: usize) {
        if let Some(execution) = self.state().executions.get_mut(number) {
            execution.ended = Some(SystemTime::now());
        }
    }

    /// Ends all operations and their processes, and waits for them.
    pub(super) fn end_all(&self) {
        self.queue.end_all(Duration::from_secs(20));
    }

    /// Blobs that a result names.
    pub(super) fn outputs(&self, result: &proto::ActionResult) -> Vec<Key> {
        let files = result.output_files.iter().map(|file| &file.digest);
        let trees = result
            .output_directories
            .iter()
            .map(|tree| &tree.tree_digest);
        let logs = [&result.stdout_digest, &result.stderr_digest];
        let all = files.chain(trees).chain(logs).flatten();
        all.map(|digest| Key::new(digest.hash.clone(), digest.size_bytes))
            .collect()
    }
}
