//! A look at a cluster from outside, for who sets one up: is it there, what does it say of itself, does it store, and what can
//! its workers do. It judges nothing and builds nothing; all that it leaves there is some small blobs, Kiln's program, and one
//! entry of the action cache where that is asked for.

use super::program::Programs;
use super::{action, endpoint, platform};
use crate::Error;
use crate::error::chain;
use crate::remote::Network;
use crate::request::ExecutorSettings;
use planner::platform::Platform;
use planner::scheduler::Cancel;
use reapi::{Blob, Client, Content, Digest, ExecuteOptions, Executed, proto};
pub use reapi::{Capabilities, SymlinkPolicy};
use serde_json::Value;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lookups whose median is told.
const LOOKUPS: usize = 9;
/// Longest time of a worker's probe.
const LONGEST_PROBE: Duration = Duration::from_secs(120);
/// Most bytes of what a probe says.
const MOST_SAID: u64 = 1 << 20;

/// What was found; what comes after the first failure of the first four is not tried.
#[derive(Debug)]
pub struct Check {
    /// The address that was asked.
    pub url: String,
    /// Its addresses.
    pub addresses: Result<Vec<SocketAddr>, String>,
    /// What the server says of itself, and how long the first answer took.
    pub capabilities: Option<Result<(Arc<Capabilities>, Duration), String>>,
    /// Median time of a lookup in the action cache that finds nothing.
    pub lookup: Option<Result<Duration, String>>,
    /// A blob sent and read again.
    pub storage: Option<Result<Duration, String>>,
    /// Whether the action cache takes results from us, where that was tried.
    pub writes: Option<Result<bool, String>>,
    /// A worker of each platform.
    pub workers: Vec<WorkerCheck>,
}

/// What a worker says of itself.
#[derive(Debug)]
pub struct WorkerCheck {
    /// `linux/amd64`.
    pub platform: String,
    /// What the action asked of a worker.
    pub properties: Vec<(String, String)>,
    /// What `kiln run-step --probe` found there, and how long all of it took.
    pub probe: Result<(Value, Duration), String>,
    /// The worker's name, as the server tells it.
    pub name: String,
}

struct Asking<'a> {
    settings: &'a ExecutorSettings,
    client: Client,
    network: Network,
    cancel: &'a Cancel,
}

/// Asks. `writes`: an entry is put into the action cache, under an action that nobody executes.
///
/// # Errors
/// The address is none; it was cancelled.
pub fn check(
    settings: &ExecutorSettings,
    platforms: &[Platform],
    writes: bool,
    cancel: &Cancel,
) -> Result<Check, Error> {
    let url = settings.endpoint.url.clone();
    let asking = Asking {
        client: Client::new(endpoint(&settings.endpoint)?),
        settings,
        network: Network::default(),
        cancel,
    };
    let mut check = Check {
        addresses: addresses(&url),
        url,
        capabilities: None,
        lookup: None,
        storage: None,
        writes: None,
        workers: Vec::new(),
    };
    if check.addresses.is_err() {
        return Ok(check);
    }
    let began = Instant::now();
    let answer = asking.told(asking.client.capabilities())?;
    let found = answer.map(|server| (server, began.elapsed()));
    let executes = found.as_ref().ok().map(|(server, _)| server.exec_enabled);
    check.capabilities = Some(found);
    let Some(executes) = executes else {
        return Ok(check);
    };
    check.lookup = Some(asking.lookup()?);
    let storage = asking.storage()?;
    let stores = storage.is_ok();
    check.storage = Some(storage);
    if writes && stores {
        check.writes = Some(asking.writes()?);
    }
    if executes && stores {
        let programs = Programs::default();
        for platform in platforms {
            check.workers.push(asking.worker(platform, &programs)?);
        }
    }
    Ok(check)
}

/// Where a name leads.
fn addresses(url: &str) -> Result<Vec<SocketAddr>, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let authority = match (has_port, scheme) {
        (true, _) => authority.to_owned(),
        (false, "grpcs") => format!("{authority}:443"),
        (false, _) => format!("{authority}:80"),
    };
    let found = authority.to_socket_addrs().map_err(|e| e.to_string())?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.dedup();
    if found.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(found)
}

impl Asking<'_> {
    /// An answer, or its failure in words.
    fn told<T>(
        &self,
        call: impl Future<Output = Result<T, reapi::Error>>,
    ) -> Result<Result<T, String>, Error> {
        let answer = self.network.run(self.cancel, call)?;
        Ok(answer.map_err(|error| chain(&error.into())))
    }

    fn lookup(&self) -> Result<Result<Duration, String>, Error> {
        let mut times = Vec::new();
        for number in 0..LOOKUPS {
            let nobodys = Digest::of(format!("kiln doctor lookup {number}").as_bytes());
            let began = Instant::now();
            if let Err(error) = self.told(self.client.action_result(nobodys, &[]))? {
                return Ok(Err(error));
            }
            times.push(began.elapsed());
        }
        times.sort_unstable();
        Ok(Ok(times[LOOKUPS / 2]))
    }

    fn storage(&self) -> Result<Result<Duration, String>, Error> {
        let content = b"kiln doctor: a blob to see whether blobs are kept\n";
        let digest = Digest::of(content);
        let began = Instant::now();
        let blob = Blob {
            digest,
            content: Content::Bytes(content.to_vec().into()),
        };
        if let Err(error) = self.told(self.client.upload(vec![blob], &|_| {}))? {
            return Ok(Err(error));
        }
        // It is compared with its digest there.
        let read = self.told(self.client.read(digest, content.len() as u64))?;
        Ok(read.map(|_| began.elapsed()))
    }

    /// An action without a command that runs: an empty root, and a result of nothing.
    fn writes(&self) -> Result<Result<bool, String>, Error> {
        let command = proto::Command {
            arguments: vec!["kiln-doctor".to_owned()],
            ..proto::Command::default()
        };
        let (command, command_bytes) = reapi::message_digest(&command);
        let (root, root_bytes) = reapi::message_digest(&proto::Directory::default());
        let (action, action_bytes) = reapi::message_digest(&proto::Action {
            command_digest: Some(command.to_proto()),
            input_root_digest: Some(root.to_proto()),
            salt: self.settings.salt.clone().into_bytes(),
            ..proto::Action::default()
        });
        let blobs = [
            (command, command_bytes),
            (root, root_bytes),
            (action, action_bytes),
        ];
        let blobs = blobs.map(|(digest, bytes)| Blob {
            digest,
            content: Content::Bytes(bytes),
        });
        if let Err(error) = self.told(self.client.upload(blobs.to_vec(), &|_| {}))? {
            return Ok(Err(error));
        }
        let result = proto::ActionResult {
            stdout_raw: b"kiln doctor\n".to_vec(),
            ..proto::ActionResult::default()
        };
        self.told(self.client.update_action_result(action, result))
    }

    fn worker(&self, platform: &Platform, programs: &Programs) -> Result<WorkerCheck, Error> {
        let architecture = platform::worker_architecture(self.settings, platform);
        let mut check = WorkerCheck {
            platform: platform.to_string(),
            properties: platform::properties(self.settings, "linux", architecture),
            probe: Err(String::new()),
            name: String::new(),
        };
        let program = programs.of(self.settings, architecture);
        let program = match program.as_ref() {
            Ok(program) => program,
            Err(reason) => {
                check.probe = Err(reason.clone());
                return Ok(check);
            }
        };
        let limit = self.settings.timeout.min(LONGEST_PROBE);
        let prepared = action::probe(self.settings, architecture, program, limit);
        let began = Instant::now();
        let executed = self.told(self.execute(&prepared))?;
        check.probe = match executed {
            Err(error) => Err(error),
            Ok(executed) => {
                let metadata = executed.result.execution_metadata.clone();
                check.name = metadata.map(|it| it.worker).unwrap_or_default();
                let said = self.said(&executed)?;
                said.map(|probe| (probe, began.elapsed()))
            }
        };
        Ok(check)
    }

    async fn execute(&self, prepared: &action::Prepared) -> Result<Executed, reapi::Error> {
        let all = prepared.without_trees();
        let digests: Vec<Digest> = all.iter().map(|blob| blob.digest).collect();
        let missing = self.client.find_missing(&digests).await?;
        let missing = all
            .into_iter()
            .filter(|blob| missing.contains(&blob.digest));
        self.client.upload(missing.collect(), &|_| {}).await?;
        let options = ExecuteOptions {
            skip_cache_lookup: true,
            queue_timeout: Some(self.settings.queue_timeout),
            run_timeout: prepared.limit,
            priority: 0,
            properties: prepared.properties.clone(),
        };
        let cancelled = crate::remote::cancelled(self.cancel);
        self.client
            .execute(prepared.action, &options, &|_| {}, cancelled)
            .await
    }

    /// What the program printed.
    fn said(&self, executed: &Executed) -> Result<Result<Value, String>, Error> {
        let result = &executed.result;
        let out = self.stream(&result.stdout_raw, result.stdout_digest.as_ref())?;
        if result.exit_code != 0 {
            let err = self.stream(&result.stderr_raw, result.stderr_digest.as_ref())?;
            let err = String::from_utf8_lossy(&err.unwrap_or_default()).into_owned();
            let err: String = err.chars().filter(|c| !c.is_control()).take(300).collect();
            let code = result.exit_code;
            return Ok(Err(format!(
                "Kiln's program ended with status {code}: {err}"
            )));
        }
        Ok(out.and_then(|out| {
            serde_json::from_slice(&out)
                .map_err(|error| format!("Kiln's program said something else: {error}"))
        }))
    }

    fn stream(
        &self,
        raw: &[u8],
        digest: Option<&proto::Digest>,
    ) -> Result<Result<Vec<u8>, String>, Error> {
        let Some(digest) = digest.filter(|_| raw.is_empty()) else {
            return Ok(Ok(raw.to_vec()));
        };
        match Digest::from_proto(digest) {
            Err(error) => Ok(Err(chain(&error.into()))),
            Ok(digest) => {
                let read = self.told(self.client.read(digest, MOST_SAID))?;
                Ok(read.map(|bytes| bytes.to_vec()))
            }
        }
    }
}
