//! What can go wrong between this client and a server, and what to make of it.

use crate::Digest;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

/// An attempt that failed. Texts of servers are shortened and freed of control characters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no address.
    #[error(
        "{text} is not the address of a remote execution server (grpc[s]://HOST[:PORT][/INSTANCE]): {reason}"
    )]
    Address {
        /// What was given.
        text: String,
        /// Why it is none.
        reason: &'static str,
    },
    /// The text, or what a server sent, is no digest.
    #[error("{text:?} is not a digest")]
    Digest {
        /// What was given.
        text: String,
    },
    /// Certificates, keys or headers of an endpoint that cannot be used.
    #[error("could not use the {what} for {endpoint}: {reason}")]
    Setup {
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// `client certificate` and such.
        what: &'static str,
        /// Without any of its content.
        reason: String,
    },
    /// No connection, or one over which nobody speaks the protocol.
    #[error("could not connect to {endpoint}")]
    Connect {
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// Why.
        source: ConnectFailure,
    },
    /// The server answered a call with a status.
    #[error("could not {attempt} on {endpoint}")]
    Call {
        /// What was attempted, on what.
        attempt: String,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// The status.
        source: Box<Failure>,
    },
    /// Nothing came in time.
    #[error("could not {attempt} on {endpoint}: no answer within {} s", waited.as_secs_f32())]
    Deadline {
        /// What was attempted, on what.
        attempt: String,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// The time that was given.
        waited: Duration,
    },
    /// The server does not know the instance that the address names.
    #[error("{endpoint} has no instance {instance:?}")]
    Instance {
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// The name that was asked for.
        instance: String,
        /// The status.
        source: Box<Failure>,
    },
    /// The server lacks something that is needed.
    #[error("{endpoint} {lacks}")]
    Unsupported {
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// `does not use SHA-256` and such.
        lacks: &'static str,
    },
    /// An answer that the protocol does not allow.
    #[error("could not {attempt} on {endpoint}: the answer {what}")]
    Answer {
        /// What was attempted, on what.
        attempt: String,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The server has no such blob.
    #[error("{endpoint} has no blob {digest}")]
    NotFound {
        /// The blob.
        digest: Digest,
        /// The endpoint's address.
        endpoint: Arc<str>,
    },
    /// The server sent other bytes than the digest says.
    #[error("{endpoint} sent something else for blob {digest}: {got}")]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// What came.
        got: String,
    },
    /// A blob is larger than the caller, or the server, takes.
    #[error("blob {digest} is larger than {limit} bytes, the limit of {of}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Bytes.
        limit: u64,
        /// Whose limit.
        of: String,
    },
    /// Content to be sent could not be read.
    #[error("could not read the content of blob {digest} to send it")]
    Source {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// Content to be sent is not what its digest says, as when a file changed meanwhile.
    #[error("the content of blob {digest} is now {got}")]
    Changed {
        /// The blob.
        digest: Digest,
        /// What its content is.
        got: Digest,
    },
    /// What was received could not be written.
    #[error("could not write the content of blob {digest}")]
    Sink {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// The server lacks blobs that an action needs: they are to be uploaded (again).
    #[error("{endpoint} lacks {} blobs that action {action} needs", digests.len())]
    Missing {
        /// The action.
        action: Digest,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// The blobs; empty when the server did not name them.
        digests: Vec<Digest>,
    },
    /// No worker took an action.
    #[error("no worker of {endpoint} offers {properties}{}", waited_for(*waited))]
    NoWorker {
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// `ISA=arm-a64, OSFamily=linux`.
        properties: String,
        /// How long the action was queued; zero when the server said at once that there is none.
        waited: Duration,
        /// What the server said, if it did.
        source: Option<Box<Failure>>,
    },
    /// An action ran longer than it may.
    #[error("action {action} did not end within {} s on {endpoint}", limit.as_secs())]
    TimedOut {
        /// The action.
        action: Digest,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// The time that it was given.
        limit: Duration,
    },
    /// The server could not carry an action out; the command's own failure is no error.
    #[error("could not execute action {action} on {endpoint}")]
    Execution {
        /// The action.
        action: Digest,
        /// The endpoint's address.
        endpoint: Arc<str>,
        /// The status.
        source: Box<Failure>,
    },
    /// The caller cancelled.
    #[error("action {action} was cancelled")]
    Cancelled {
        /// The action.
        action: Digest,
    },
}

fn waited_for(waited: Duration) -> String {
    if waited.is_zero() {
        return String::new();
    }
    format!(": it was queued for {} s", waited.as_secs())
}

impl Error {
    /// The server does not have what was asked for.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Call { source, .. } => source.code == Code::NotFound,
            _ => false,
        }
    }

    /// Blobs that must be uploaded before the same is tried again. Empty for other errors, and when the server named none.
    pub fn missing_blobs(&self) -> Vec<Digest> {
        match self {
            Self::Missing { digests, .. } => digests.clone(),
            Self::NotFound { digest, .. } => vec![*digest],
            _ => Vec::new(),
        }
    }

    /// The server lacks inputs of an action, named or not.
    pub fn is_missing_blobs(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// The same may work later; it has been tried repeatedly already.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.is_transient(),
            Self::Call { source, .. } => source.is_transient(),
            Self::Deadline { .. } => true,
            Self::Execution { .. } => self.is_worker_lost(),
            _ => false,
        }
    }

    /// The server took the action, and lost whoever ran it, or something that it needs: it may be executed once more, after the
    /// server has been asked again which blobs it lacks.
    pub fn is_worker_lost(&self) -> bool {
        match self {
            Self::Execution { source, .. } => matches!(
                source.code,
                Code::Unavailable | Code::Aborted | Code::Internal | Code::Unknown | Code::DataLoss
            ),
            _ => false,
        }
    }

    /// The server does not take this from this user: a read-only cache, or missing credentials.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Call { source, .. } => {
                matches!(source.code, Code::PermissionDenied | Code::Unauthenticated)
            }
            _ => false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// Nobody listens.
    #[error("connection refused: nothing listens there")]
    Refused,
    /// The host's name is unknown.
    #[error("the name of the host could not be resolved: {0}")]
    Name(String),
    /// No connection in time.
    #[error("no connection within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// One side's certificate was not accepted.
    #[error("the certificate was not accepted: {0}")]
    Certificate(String),
    /// The server does not speak TLS.
    #[error("the server does not speak TLS there: use grpc:// if it is meant to be plain")]
    NotTls,
    /// The server speaks TLS where it should not, or another protocol.
    #[error("no gRPC server: it does not speak HTTP/2 (a TLS port wants grpcs://): {0}")]
    NotHttp2(String),
    /// An HTTP/2 server that is no gRPC server, or a proxy before it.
    #[error("no gRPC server: {0}")]
    NotGrpc(String),
    /// The connection was closed before the server had answered anything, which often has this reason.
    #[error("the server hung up before it answered anything: {0}")]
    HungUp(&'static str),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
}

impl ConnectFailure {
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Refused | Self::TimedOut(_) | Self::HungUp(_) | Self::Broken(_)
        )
    }
}

/// The status that a server gave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", name(*code), if message.is_empty() { "" } else { ": " })]
#[non_exhaustive]
pub struct Failure {
    /// The code of gRPC.
    pub code: Code,
    /// In the server's words.
    pub message: String,
    /// When the server wants it to be tried again.
    pub retry_after: Option<Duration>,
    /// Blobs that the server lacks, as it says.
    pub missing: Vec<Digest>,
}

impl Failure {
    pub(crate) fn of(status: &Status) -> Self {
        let mut failure = Self {
            code: status.code(),
            message: told(status.message()),
            retry_after: None,
            missing: Vec::new(),
        };
        if let Ok(details) = crate::google::rpc::Status::decode(status.details()) {
            failure.take_details(&details);
        }
        failure
    }

    pub(crate) fn of_rpc(status: &crate::google::rpc::Status) -> Self {
        let mut failure = Self {
            code: Code::from_i32(status.code),
            message: told(&status.message),
            retry_after: None,
            missing: Vec::new(),
        };
        failure.take_details(status);
        failure
    }

    fn take_details(&mut self, status: &crate::google::rpc::Status) {
        for any in &status.details {
            match any.type_url.rsplit('/').next() {
                Some("google.rpc.RetryInfo") => {
                    if let Ok(info) = RetryInfo::decode(any.value.as_slice()) {
                        self.retry_after = info.delay();
                    }
                }
                Some("google.rpc.PreconditionFailure") => {
                    if let Ok(failure) = PreconditionFailure::decode(any.value.as_slice()) {
                        self.missing.extend(failure.missing());
                    }
                }
                _ => {}
            }
        }
        self.missing.sort_unstable();
        self.missing.dedup();
    }

    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted | Code::Internal
        )
    }
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<crate::google::protobuf::Duration>,
}

impl RetryInfo {
    fn delay(&self) -> Option<Duration> {
        let delay = self.retry_delay.as_ref()?;
        let seconds = u64::try_from(delay.seconds).ok()?;
        let nanos = u32::try_from(delay.nanos).ok()?;
        // An hour is as good as never here, and additions cannot overflow.
        Some(Duration::from_secs(seconds.min(3600)) + Duration::from_nanos(u64::from(nanos)))
    }
}

/// `google.rpc.PreconditionFailure`.
#[derive(Clone, PartialEq, Message)]
struct PreconditionFailure {
    #[prost(message, repeated, tag = "1")]
    violations: Vec<Violation>,
}

#[derive(Clone, PartialEq, Message)]
struct Violation {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    subject: String,
    #[prost(string, tag = "3")]
    description: String,
}

impl PreconditionFailure {
    /// Subjects are `blobs/HASH/SIZE`, with an instance or a digest function before or within.
    fn missing(&self) -> impl Iterator<Item = Digest> + '_ {
        self.violations
            .iter()
            .filter(|violation| violation.kind == "MISSING")
            .filter_map(|violation| {
                let mut parts = violation.subject.rsplit('/');
                let (size, hash) = (parts.next()?, parts.next()?);
                format!("{hash}/{size}").parse().ok()
            })
    }
}

/// The name of a code as the protocol's documents have it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A server's text, fit for a terminal.
pub(crate) fn told(text: &str) -> String {
    const LONGEST: usize = 600;
    let mut told: String = text
        .trim()
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.trim().chars().nth(LONGEST).is_some() {
        told.push('…');
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::{protobuf::Any, rpc};
    use proptest::prelude::*;

    fn status(code: i32, kind: &str, value: Vec<u8>) -> rpc::Status {
        rpc::Status {
            code,
            message: "m\u{1b}[2Jm".to_owned(),
            details: vec![Any {
                type_url: format!("type.googleapis.com/google.rpc.{kind}"),
                value,
            }],
        }
    }

    #[test]
    fn missing_blobs_are_read_out_of_details() {
        let digest = Digest::of(b"x");
        let violation = |kind: &str, subject: String| Violation {
            kind: kind.to_owned(),
            subject,
            description: String::new(),
        };
        let details = PreconditionFailure {
            violations: vec![
                violation("MISSING", format!("blobs/{digest}")),
                violation("MISSING", format!("an/instance/blobs/sha256/{digest}")),
                violation("MISSING", "blobs/nonsense".to_owned()),
                violation("OTHER", format!("blobs/{}", Digest::of(b"y"))),
            ],
        };
        let status = status(9, "PreconditionFailure", details.encode_to_vec());
        let failure = Failure::of_rpc(&status);
        assert_eq!(failure.missing, [digest]);
        assert_eq!(failure.to_string(), "FAILED_PRECONDITION: m [2Jm");
    }

    #[test]
    fn delays_are_read_out_of_details() {
        for (seconds, nanos, delay) in [
            (2, 5, Some(Duration::new(2, 5))),
            (i64::MAX, i32::MAX, Some(Duration::new(3602, 147_483_647))),
            (-1, 0, None),
            (1, -1, None),
        ] {
            let info = RetryInfo {
                retry_delay: Some(crate::google::protobuf::Duration { seconds, nanos }),
            };
            let failure = Failure::of_rpc(&status(14, "RetryInfo", info.encode_to_vec()));
            assert_eq!(failure.retry_after, delay);
        }
    }

    proptest! {
        #[test]
        fn any_status_is_taken(
            code: i32,
            kind in "RetryInfo|PreconditionFailure|Other",
            value in prop::collection::vec(any::<u8>(), 0..100),
            message in ".{0,700}",
        ) {
            let mut status = status(code, &kind, value);
            status.message = message;
            let failure = Failure::of_rpc(&status);
            prop_assert!(!failure.to_string().contains(char::is_control));
            prop_assert!(failure.message.chars().count() <= 601);
        }
    }
}
