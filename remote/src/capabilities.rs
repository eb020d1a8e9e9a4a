//! What a server says that it can do, checked and reduced to what this client asks about.

use crate::{Client, Error, proto};
use proto::capabilities_client::CapabilitiesClient;
use proto::{compressor, digest_function, symlink_absolute_path_strategy};
use std::sync::Arc;

/// Messages of gRPC are at most 4 MiB unless both sides agreed on more; some of it is for digests and statuses.
pub(crate) const LARGEST_MESSAGE: u64 = 4 * 1024 * 1024 - 64 * 1024;

/// What a server can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// It has a content addressed store and an action cache that use SHA-256.
    pub cache: bool,
    /// It says that this user may write to the action cache. Servers are known to say so and to refuse later, or the contrary.
    pub update_enabled: bool,
    /// It executes actions.
    pub exec_enabled: bool,
    /// Bytes of blobs in one batch: the server's limit and that of messages.
    pub max_batch: u64,
    /// The largest blob that it stores, if it says so.
    pub max_blob: Option<u64>,
    /// `compressed-blobs/zstd` may be read and written.
    pub zstd: bool,
    /// Batches may be written in zstd.
    pub zstd_batch: bool,
    /// Properties of nodes that it carries to workers: `mtime`, `unix_mode` and such, sorted.
    pub node_properties: Vec<String>,
    /// Absolute targets of symbolic links in input roots.
    pub symlinks: SymlinkPolicy,
    /// The oldest version of the protocol that it speaks.
    pub low_api: Option<(u32, u32)>,
    /// The newest one.
    pub high_api: Option<(u32, u32)>,
}

/// Whether symbolic links with absolute targets may be in an input root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SymlinkPolicy {
    /// The server does not say.
    Unknown,
    /// They may.
    Allowed,
    /// They may not.
    Disallowed,
}

impl Capabilities {
    /// Reads the server's answer. `Err` says what it lacks.
    fn of(answer: &proto::ServerCapabilities) -> Result<Self, &'static str> {
        let sha256 = digest_function::Value::Sha256 as i32;
        let cache = answer.cache_capabilities.as_ref();
        let execution = answer.execution_capabilities.as_ref();
        if let Some(cache) = cache
            && !cache.digest_functions.is_empty()
            && !cache.digest_functions.contains(&sha256)
        {
            return Err("does not use SHA-256 for its blobs");
        }
        let executes = execution.is_some_and(|execution| {
            execution.exec_enabled
                && (execution.digest_functions.contains(&sha256)
                    || (execution.digest_functions.is_empty()
                        && [0, sha256].contains(&execution.digest_function)))
        });
        let version = |version: &Option<crate::build_semver::SemVer>| {
            let version = version.as_ref()?;
            Some((
                u32::try_from(version.major).ok()?,
                u32::try_from(version.minor).ok()?,
            ))
        };
        let low_api = version(&answer.low_api_version);
        let high_api = version(&answer.high_api_version);
        if low_api.is_some_and(|(major, _)| major > 2)
            || high_api.is_some_and(|(major, _)| major < 2)
        {
            return Err("does not speak version 2 of the Remote Execution API");
        }
        let zstd = compressor::Value::Zstd as i32;
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        let announced = cache.and_then(|cache| positive(cache.max_batch_total_size_bytes));
        let mut node_properties = execution
            .map(|execution| execution.supported_node_properties.clone())
            .unwrap_or_default();
        node_properties.sort_unstable();
        node_properties.dedup();
        Ok(Self {
            cache: cache.is_some(),
            update_enabled: cache
                .and_then(|cache| cache.action_cache_update_capabilities.as_ref())
                .is_some_and(|update| update.update_enabled),
            exec_enabled: executes,
            max_batch: announced.unwrap_or(LARGEST_MESSAGE).min(LARGEST_MESSAGE),
            max_blob: cache.and_then(|cache| positive(cache.max_cas_blob_size_bytes)),
            zstd: cache.is_some_and(|cache| cache.supported_compressors.contains(&zstd)),
            zstd_batch: cache
                .is_some_and(|cache| cache.supported_batch_update_compressors.contains(&zstd)),
            node_properties,
            symlinks: cache.map_or(SymlinkPolicy::Unknown, policy),
            low_api,
            high_api,
        })
    }

    /// Whether a property of nodes reaches the worker.
    pub fn carries(&self, property: &str) -> bool {
        self.node_properties.iter().any(|known| known == property)
    }
}

fn policy(cache: &proto::CacheCapabilities) -> SymlinkPolicy {
    use symlink_absolute_path_strategy::Value;
    match Value::try_from(cache.symlink_absolute_path_strategy) {
        Ok(Value::Allowed) => SymlinkPolicy::Allowed,
        Ok(Value::Disallowed) => SymlinkPolicy::Disallowed,
        Ok(Value::Unknown) | Err(_) => SymlinkPolicy::Unknown,
    }
}

impl Client {
    /// What the server can do; asked once.
    ///
    /// # Errors
    /// No connection, no remote execution server, an unknown instance, or a server that does not use SHA-256.
    pub async fn capabilities(&self) -> Result<Arc<Capabilities>, Error> {
        self.known_capabilities()
            .get_or_try_init(|| self.ask_capabilities())
            .await
            .cloned()
    }

    async fn ask_capabilities(&self) -> Result<Arc<Capabilities>, Error> {
        let answer = self
            .unary(
                &|| "ask for capabilities".to_owned(),
                || proto::GetCapabilitiesRequest {
                    instance_name: self.instance(),
                },
                |channel, request| async move {
                    CapabilitiesClient::new(channel)
                        .get_capabilities(request)
                        .await
                },
            )
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.why_no_capabilities(error)),
        };
        let capabilities = Capabilities::of(&answer).map_err(|lacks| Error::Unsupported {
            endpoint: self.endpoint().name(),
            lacks,
        })?;
        tracing::debug!(endpoint = %self.endpoint(), ?capabilities, "server");
        Ok(Arc::new(capabilities))
    }

    /// A status of this call says more than the same of another one.
    fn why_no_capabilities(&self, error: Error) -> Error {
        use crate::Code;
        match error {
            Error::Call { source, .. } if source.code == Code::Unimplemented => {
                Error::Unsupported {
                    endpoint: self.endpoint().name(),
                    lacks: "is no remote execution server: it speaks gRPC, and does not answer GetCapabilities",
                }
            }
            Error::Call { source, .. }
                if matches!(source.code, Code::NotFound | Code::InvalidArgument) =>
            {
                Error::Instance {
                    endpoint: self.endpoint().name(),
                    instance: self.instance(),
                    source,
                }
            }
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(digest_functions: Vec<i32>, max: i64) -> proto::ServerCapabilities {
        proto::ServerCapabilities {
            cache_capabilities: Some(proto::CacheCapabilities {
                digest_functions,
                max_batch_total_size_bytes: max,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn limits_and_functions() {
        let sha256 = digest_function::Value::Sha256 as i32;
        for (announced, used) in [
            (0, LARGEST_MESSAGE),
            (-5, LARGEST_MESSAGE),
            (i64::MAX, LARGEST_MESSAGE),
            (1000, 1000),
        ] {
            let capabilities = Capabilities::of(&cache(vec![sha256], announced)).unwrap();
            assert_eq!(capabilities.max_batch, used);
            assert!(capabilities.cache && !capabilities.exec_enabled);
        }
        assert!(Capabilities::of(&cache(vec![2], 0)).is_err());
        assert!(Capabilities::of(&cache(vec![2, sha256], 0)).is_ok());
        let nothing = Capabilities::of(&proto::ServerCapabilities::default()).unwrap();
        assert!(!nothing.cache && !nothing.exec_enabled);
    }

    #[test]
    fn versions() {
        let of = |low: i32, high: i32| {
            let version = |major| {
                Some(crate::build_semver::SemVer {
                    major,
                    ..Default::default()
                })
            };
            Capabilities::of(&proto::ServerCapabilities {
                low_api_version: version(low),
                high_api_version: version(high),
                ..Default::default()
            })
        };
        assert!(of(2, 2).is_ok());
        assert!(of(1, 2).is_ok());
        assert!(of(3, 3).is_err());
        assert!(of(1, 1).is_err());
        assert_eq!(of(-1, 2).unwrap().low_api, None);
    }
}
