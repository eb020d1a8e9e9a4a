//! The action cache: results by the digests of actions. Who may write is the server's business.

use crate::{Client, Code, Digest, Error, proto};
use proto::action_cache_client::ActionCacheClient;

/// Results are small; what is larger is not a result.
const LARGEST_RESULT: usize = 16 << 20;

impl Client {
    /// The result of an action, if the server has one. Standard output and error are inlined where the server does it, and
    /// so are the output files at the paths in `inline`. Inlined content has been compared with its digest.
    ///
    /// # Errors
    /// All but that there is none; an answer with content that is not what its digest says.
    pub async fn action_result(
        &self,
        action: Digest,
        inline: &[&str],
    ) -> Result<Option<proto::ActionResult>, Error> {
        let attempt = || format!("look up action {action}");
        let answer = self
            .unary(
                &attempt,
                || proto::GetActionResultRequest {
                    instance_name: self.instance(),
                    action_digest: Some(action.to_proto()),
                    inline_stdout: true,
                    inline_stderr: true,
                    inline_output_files: inline.iter().map(|path| (*path).to_owned()).collect(),
                    ..Default::default()
                },
                |channel, request| async move {
                    ActionCacheClient::new(channel)
                        .max_decoding_message_size(LARGEST_RESULT)
                        .get_action_result(request)
                        .await
                },
            )
            .await;
        match answer {
            Ok(result) => {
                self.check_inlined(&result)?;
                Ok(Some(result))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Content that came within a result is what its digest says.
    pub(crate) fn check_inlined(&self, result: &proto::ActionResult) -> Result<(), Error> {
        let files = result
            .output_files
            .iter()
            .map(|file| (&file.contents, file.digest.as_ref()));
        let streams = [
            (&result.stdout_raw, result.stdout_digest.as_ref()),
            (&result.stderr_raw, result.stderr_digest.as_ref()),
        ];
        for (content, digest) in files.chain(streams) {
            let Some(digest) = digest.filter(|_| !content.is_empty()) else {
                continue;
            };
            let digest = Digest::from_proto(digest)?;
            let got = Digest::of(content);
            if got != digest {
                return Err(Error::Corrupt {
                    digest,
                    endpoint: self.endpoint().name(),
                    got: got.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Writes the result of an action. `false`: the server does not take results from this user.
    ///
    /// # Errors
    /// All other refusals, such as blobs that the result names and the server lacks.
    pub async fn update_action_result(
        &self,
        action: Digest,
        result: proto::ActionResult,
    ) -> Result<bool, Error> {
        let answer = self
            .unary(
                &|| format!("record action {action}"),
                || proto::UpdateActionResultRequest {
                    instance_name: self.instance(),
                    action_digest: Some(action.to_proto()),
                    action_result: Some(result.clone()),
                    ..Default::default()
                },
                |channel, request| async move {
                    ActionCacheClient::new(channel)
                        .max_decoding_message_size(LARGEST_RESULT)
                        .update_action_result(request)
                        .await
                },
            )
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(error) if self.is_read_only(&error) => {
                tracing::debug!(%error, "the action cache is read-only");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a refusal to write means that this user is not to write at all.
    fn is_read_only(&self, error: &Error) -> bool {
        let Error::Call { source, .. } = error else {
            return false;
        };
        match source.code {
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => true,
            // Also the answer for results whose blobs are not there, which names them.
            Code::FailedPrecondition => {
                let announced = self.known_capabilities().get();
                source.missing.is_empty() && announced.is_none_or(|server| !server.update_enabled)
            }
            _ => false,
        }
    }
}
