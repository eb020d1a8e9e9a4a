//! `Capabilities` and `ActionCache`.

use super::apis::build::bazel::semver::SemVer;
use super::fault::{Fault, Lie};
use super::proto::action_cache_server::ActionCache;
use super::proto::capabilities_server::Capabilities;
use super::proto::{
    ActionCacheUpdateCapabilities, ActionResult, CacheCapabilities, Digest, ExecutionCapabilities,
    GetActionResultRequest, GetCapabilitiesRequest, OutputFile, ServerCapabilities,
    UpdateActionResultRequest, compressor, digest_function, symlink_absolute_path_strategy,
};
use super::state::{Key, Shared};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) struct Cache(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Capabilities for Cache {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0.enter("GetCapabilities", &request, instance).await?;
        let options = &self.0.options;
        let function = if options.sha256 {
            digest_function::Value::Sha256
        } else {
            digest_function::Value::Sha1
        } as i32;
        let compressors = if options.zstd {
            vec![compressor::Value::Zstd as i32]
        } else {
            Vec::new()
        };
        let links = if options.absolute_symlinks {
            symlink_absolute_path_strategy::Value::Allowed
        } else {
            symlink_absolute_path_strategy::Value::Disallowed
        };
        let properties = if options.node_properties {
            vec!["mtime".to_owned(), "unix_mode".to_owned()]
        } else {
            Vec::new()
        };
        let version = |major, minor| {
            Some(SemVer {
                major,
                minor,
                ..SemVer::default()
            })
        };
        Ok(Response::new(ServerCapabilities {
            cache_capabilities: Some(CacheCapabilities {
                digest_functions: vec![function],
                action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                    update_enabled: options.cache_writes,
                }),
                max_batch_total_size_bytes: i64::try_from(options.max_batch).unwrap_or(i64::MAX),
                symlink_absolute_path_strategy: links as i32,
                supported_compressors: compressors.clone(),
                supported_batch_update_compressors: compressors,
                ..CacheCapabilities::default()
            }),
            execution_capabilities: options.execution.then(|| ExecutionCapabilities {
                digest_function: function,
                exec_enabled: true,
                supported_node_properties: properties,
                digest_functions: vec![function],
                ..ExecutionCapabilities::default()
            }),
            deprecated_api_version: None,
            low_api_version: version(2, 0),
            high_api_version: version(2, 3),
        }))
    }
}

#[tonic::async_trait]
impl ActionCache for Cache {
    async fn get_action_result(
        &self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let asked = request.get_ref();
        self.0
            .enter("GetActionResult", &request, &asked.instance_name)
            .await?;
        let key = Key::parse(asked.action_digest.as_ref())?;
        let mut result =
            kept(&self.0, &key).ok_or_else(|| Status::not_found(format!("no result of {key}")))?;
        inline(&self.0, &mut result, asked);
        Ok(Response::new(untrue(&self.0, result)))
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0
            .enter("UpdateActionResult", &request, instance)
            .await?;
        if let Some(code) = self.0.take(|fault| match fault {
            Fault::RefuseUpdate { code } => Some(*code),
            _ => None,
        }) {
            return Err(Status::new(code.into(), "results are not taken from you"));
        }
        if !self.0.options.cache_writes {
            return Err(Status::permission_denied(
                "results are not taken from clients",
            ));
        }
        let request = request.into_inner();
        let key = Key::parse(request.action_digest.as_ref())?;
        let result = request
            .action_result
            .ok_or_else(|| Status::invalid_argument("a result is missing"))?;
        if self.0.options.complete_results {
            for output in self.0.outputs(&result) {
                if !self.0.storage.has(&output) {
                    let text = format!("the result names {output}, which is not here");
                    return Err(Status::failed_precondition(text));
                }
            }
        }
        self.0.storage.set_result(&key, result.clone());
        Ok(Response::new(result))
    }
}

/// The result kept for an action, if the server gives it.
pub(super) fn kept(shared: &Shared, key: &Key) -> Option<ActionResult> {
    let result = shared.storage.result(key)?;
    let complete = || {
        let outputs = shared.outputs(&result);
        outputs.iter().all(|output| shared.storage.has(output))
    };
    if shared.options.complete_results && !complete() {
        return None;
    }
    Some(result)
}

fn inline(shared: &Shared, result: &mut ActionResult, asked: &GetActionResultRequest) {
    let content = |digest: &Option<Digest>| {
        let key = Key::parse(digest.as_ref()).ok()?;
        shared.storage.read(&key).ok()
    };
    if asked.inline_stdout && result.stdout_raw.is_empty() {
        result.stdout_raw = content(&result.stdout_digest).unwrap_or_default();
    }
    if asked.inline_stderr && result.stderr_raw.is_empty() {
        result.stderr_raw = content(&result.stderr_digest).unwrap_or_default();
    }
    for file in &mut result.output_files {
        if asked.inline_output_files.contains(&file.path) {
            file.contents = content(&file.digest).unwrap_or_default();
        }
    }
}

/// A result as a client gets it: what faults make of it.
pub(super) fn untrue(shared: &Shared, mut result: ActionResult) -> ActionResult {
    if shared.is_on(&Fault::EvictAfterHit) {
        for output in shared.outputs(&result) {
            shared.storage.remove(&output);
        }
    }
    let Some(lie) = shared.take(|fault| match fault {
        Fault::Result(lie) => Some(*lie),
        _ => None,
    }) else {
        return result;
    };
    let mut each =
        |change: &dyn Fn(&mut OutputFile)| result.output_files.iter_mut().for_each(change);
    match lie {
        Lie::AbsentBlobs => each(&|file| {
            let invented = format!("never uploaded: {}", file.path);
            file.digest = Some(Key::of(invented.as_bytes()).digest());
            file.contents.clear();
        }),
        Lie::WrongDigests => {
            let other = shared.storage.put(b"another blob");
            each(&|file| {
                file.digest = Some(Key::from(other.as_str()).digest());
                file.contents.clear();
            });
        }
        Lie::AbsurdSizes => each(&|file| sized(file, i64::MAX - 1)),
        Lie::NegativeSizes => each(&|file| sized(file, -5)),
        Lie::BrokenDigests => each(&|file| {
            if let Some(digest) = &mut file.digest {
                digest.hash = "../../etc/passwd".to_owned();
            }
        }),
        Lie::NoOutputs => {
            result.output_files.clear();
            result.output_directories.clear();
            result.output_symlinks.clear();
        }
        Lie::EscapingPaths => each(&|file| file.path = format!("../../{}", file.path)),
        Lie::ExitZero => result.exit_code = 0,
        Lie::ExitOne => result.exit_code = 1,
        Lie::Unreadable => {
            let report = br#"{"version":1,"exit":{"error":"it was not to be read"},"errno":5}"#;
            let report = shared.storage.put(report);
            result.exit_code = 125;
            each(&|file| {
                file.digest = Some(Key::from(report.as_str()).digest());
                file.contents.clear();
            });
        }
    }
    result
}

fn sized(file: &mut OutputFile, size: i64) {
    if let Some(digest) = &mut file.digest {
        digest.size_bytes = size;
    }
    file.contents.clear();
}
