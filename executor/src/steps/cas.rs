//! Shared steps on a server of the Remote Execution API: records in its action cache, layers in its content addressed store.
//!
//! A key stands there as an action that nobody runs: the command `kiln-step KEY` over an empty input root. Its digest is all that is asked
//! by; neither action nor command is sent. The result has the record (JSON) as standard output, inline and as a blob, and each
//! layer of the chain as an output file, so that servers that look after the blobs of results keep or drop all together.

use super::{Answer, PACKING, RECORD_LIMIT, Recorded, Sink, StepCache, in_parallel};
use crate::Error;
use crate::build::fetch::Origin;
use crate::build::manifest::Desc;
use crate::cache::{CachedLayer, Records, Site, described, packed_ahead, packed_here};
use crate::layer::packed::Packed;
use crate::remote::{Network, Remote};
use crate::request::EndpointSettings;
use oci_spec::image::Digest;
use planner::key::CacheKey;
use planner::scheduler::Cancel;
use reapi::{Blob, Client, Content, Deadlines, Endpoint, Retry, Source, proto};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The command of a key's action, before the key.
const COMMAND: &str = "kiln-step";
/// How long is waited for a connection and for an answer: a build can do without either.
const PATIENCE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(20)];
/// Tries of a call.
const TRIES: u32 = 3;

/// A server.
pub(super) struct CasCache {
    name: String,
    client: Result<Client, String>,
    network: Arc<Network>,
    cancel: Cancel,
}

impl std::fmt::Debug for CasCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CasCache")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl CasCache {
    /// Asks nobody.
    pub(super) fn new(settings: &EndpointSettings, remote: &Remote) -> Self {
        let client = Endpoint::parse(&settings.url).map(|endpoint| {
            let mut endpoint = endpoint
                .with_deadlines(Deadlines {
                    connect: PATIENCE[0],
                    call: PATIENCE[1],
                    ..Deadlines::default()
                })
                .with_retry(Retry {
                    tries: TRIES,
                    ..Retry::default()
                });
            if let Some(ca) = &settings.ca {
                endpoint = endpoint.with_authorities(ca.clone());
            }
            if let Some((certificate, key)) = &settings.identity {
                endpoint = endpoint.with_identity(certificate.clone(), key.clone());
            }
            for (name, value) in &settings.headers {
                endpoint = endpoint.with_header(name, value);
            }
            Client::new(endpoint)
        });
        Self {
            name: settings.url.clone(),
            client: client.map_err(|error| error.to_string()),
            network: Arc::clone(remote.network()),
            cancel: remote.cancel().clone(),
        }
    }

    fn client(&self) -> Result<&Client, Error> {
        self.client
            .as_ref()
            .map_err(|reason| Error::Request(reason.clone()))
    }

    fn run<T>(
        &self,
        cancel: &Cancel,
        call: impl Future<Output = Result<T, reapi::Error>>,
    ) -> Result<T, Error> {
        let ended = self.network.run(cancel, call)?;
        ended.map_err(|source| Error::StepCache {
            name: self.name.clone(),
            source: Box::new(source),
        })
    }

    fn one(&self, key: &CacheKey) -> Result<Answer, Error> {
        let client = self.client()?;
        let result = self.run(&self.cancel, client.action_result(action_of(key), &[]))?;
        let Some(result) = result else {
            return Ok(Answer::Missing);
        };
        if result.exit_code != 0 {
            return Ok(Answer::Damaged("it is of a command that failed".to_owned()));
        }
        let bytes = match (&result.stdout_raw, &result.stdout_digest) {
            (raw, _) if !raw.is_empty() => raw.clone(),
            (_, Some(digest)) => {
                let read = async {
                    let digest = reapi::Digest::from_proto(digest)?;
                    client.read(digest, RECORD_LIMIT).await
                };
                match self.run(&self.cancel, read) {
                    Ok(bytes) => bytes.to_vec(),
                    Err(Error::StepCache { source, .. }) if source.is_not_found() => {
                        return Ok(Answer::Missing);
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => return Ok(Answer::Damaged("it has no record".to_owned())),
        };
        if bytes.len() as u64 > RECORD_LIMIT {
            return Ok(Answer::Damaged(format!(
                "it is larger than {RECORD_LIMIT} bytes"
            )));
        }
        Ok(match Records::decode_plain(&bytes) {
            Ok(records) => Answer::Found(Box::new(records)),
            Err(reason) => Answer::Damaged(reason),
        })
    }

    fn has(&self, digest: reapi::Digest, stop: &Cancel) -> Result<bool, Error> {
        let client = self.client()?;
        let missing = self.run(stop, client.find_missing(&[digest]))?;
        Ok(missing.is_empty())
    }

    fn upload(&self, packed: &Packed, site: Site<'_>, stop: &Cancel) -> Result<(), Error> {
        let blob = Blob {
            digest: digest_of(packed)?,
            content: Content::Source(Arc::new(File(
                site.space.store().blob_path(packed.descriptor.digest()),
            ))),
        };
        let client = self.client()?;
        self.run(stop, client.upload(vec![blob], &|_| {})).map(drop)
    }
}

/// A blob of the store.
struct File(PathBuf);

impl Source for File {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::fs::File::open(&self.0)?))
    }
}

/// Gives what is written to a sink.
struct Writer<'s, 'k>(&'s mut Sink<'k>);

impl Write for Writer<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StepCache for CasCache {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn origin(&self) -> Origin {
        Origin::Cas(self.name.clone())
    }

    /// It tells nothing of keys. An instance that is not there looks like a cache that is empty, but not in this call.
    fn overview(&self) -> Result<Option<Records>, Error> {
        let capabilities = self.client()?.capabilities();
        self.run(&self.cancel, capabilities).map(|_| None)
    }

    fn lookup(&self, keys: &[CacheKey]) -> Result<Vec<Answer>, Error> {
        in_parallel(keys, &|key| self.one(key))
    }

    fn takes_writes(&self, stop: &Cancel) -> Result<bool, Error> {
        let client = self.client()?;
        let capabilities = self.run(stop, client.capabilities())?;
        Ok(capabilities.update_enabled)
    }

    fn send(&self, site: Site<'_>, layer: &Digest, stop: &Cancel) -> Result<CachedLayer, Error> {
        if let Some(ahead) = packed_ahead(site, layer, PACKING)?
            && self.has(digest_of(&ahead)?, stop)?
        {
            return described(site, layer, &ahead);
        }
        let packed = packed_here(site, layer, PACKING, stop)?;
        if !self.has(digest_of(&packed)?, stop)? {
            self.upload(&packed, site, stop)?;
        }
        described(site, layer, &packed)
    }

    fn record(
        &self,
        keys: &[CacheKey],
        record: &Records,
        stop: &Cancel,
    ) -> Result<Recorded, Error> {
        let client = self.client()?;
        let bytes = record.encode_plain();
        let blob = Blob::of(bytes.clone().into());
        let stdout_digest = Some(blob.digest.to_proto());
        self.run(stop, client.upload(vec![blob], &|_| {}))?;
        let mut output_files = Vec::new();
        for (number, layer) in record.layers().iter().enumerate() {
            output_files.push(proto::OutputFile {
                path: format!("layers/{number:03}"),
                digest: Some(digest_of_blob(&layer.blob)?.to_proto()),
                ..Default::default()
            });
        }
        let result = proto::ActionResult {
            output_files,
            stdout_raw: bytes,
            stdout_digest,
            ..Default::default()
        };
        for key in keys {
            let written = client.update_action_result(action_of(key), result.clone());
            if !self.run(stop, written)? {
                return Ok(Recorded::ReadOnly);
            }
        }
        Ok(Recorded::Done)
    }

    fn fetch(&self, blob: &Desc, mut sink: Sink<'_>) -> Result<(), Error> {
        let client = self.client()?;
        let digest = digest_of_blob(blob)?;
        let mut into = Writer(&mut sink);
        self.run(&self.cancel, client.read_to(digest, &mut into, &|_| {}))
    }
}

/// The digest of the action that stands for a key.
fn action_of(key: &CacheKey) -> reapi::Digest {
    let command = proto::Command {
        arguments: vec![COMMAND.to_owned(), key.to_string()],
        ..Default::default()
    };
    let (command, _) = reapi::message_digest(&command);
    let action = proto::Action {
        command_digest: Some(command.to_proto()),
        input_root_digest: Some(reapi::Digest::EMPTY.to_proto()),
        ..Default::default()
    };
    reapi::message_digest(&action).0
}

fn digest_of(packed: &Packed) -> Result<reapi::Digest, Error> {
    digest_of_blob(&Desc::of(&packed.descriptor))
}

fn digest_of_blob(blob: &Desc) -> Result<reapi::Digest, Error> {
    let digest = blob.digest()?;
    let hex = digest.digest();
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        let pair = hex.get(2 * at..2 * at + 2).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).map_err(|_| Error::Image {
            subject: blob.digest.clone(),
            reason: "not a sha256 digest".to_owned(),
        })?;
    }
    Ok(reapi::Digest::new(hash, blob.size))
}

#[cfg(test)]
mod tests {
    use super::action_of;
    use planner::key::CacheKey;

    /// What is asked by is what other versions of this program have written.
    #[test]
    fn actions_of_keys_stay_what_they_are() {
        let digests = [0, 1].map(|byte| action_of(&CacheKey([byte; 32])).to_string());
        assert_ne!(digests[0], digests[1]);
        let known = "720df08c44b3de504f2c5c9d900e51dd8d62cf3547cfd2d3bf2c1940f53209ae/138";
        assert_eq!(digests[0], known);
    }
}
