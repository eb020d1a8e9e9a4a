//! A client of the Remote Execution API, version 2: what a server can do, its content addressed store, its action cache
//! and its workers.
//!
//! It knows nothing of images, steps or layers, touches no file by itself, reads no environment and has no runtime of its own:
//! every method is async and needs one of tokio's. What a server says is not trusted: sizes are bounded, content is compared
//! with its digest, and an answer that makes no sense is an error.
#![forbid(unsafe_code)]

pub use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
pub(crate) use bazel_remote_apis::build::bazel::semver as build_semver;
pub use bazel_remote_apis::google;
pub use prost;
pub use tonic::Code;

mod action_cache;
mod capabilities;
mod cas;
mod channel;
mod client;
mod digest;
mod endpoint;
mod error;
mod execute;
mod retry;
mod trouble;

pub use capabilities::{Capabilities, SymlinkPolicy};
pub use cas::{Blob, Content, Source, Uploaded};
pub use client::Client;
pub use digest::{Digest, message_digest};
pub use endpoint::{Deadlines, Endpoint, Retry};
pub use error::{ConnectFailure, Error, Failure};
pub use execute::{ExecuteOptions, Executed, Stage, Timing};
