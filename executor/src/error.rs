//! The crate's error.

use std::path::PathBuf;

/// Why a build or an image operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O operation failed.
    #[error("could not {op} {}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("store")]
    Store(#[from] store::Error),
    /// The registry.
    #[error("could not pull {reference}")]
    Registry {
        /// Reference.
        reference: String,
        /// Why.
        #[source]
        source: registry_client::Error,
    },
    /// The sandbox.
    #[error("sandbox")]
    Sandbox(#[from] sandbox::Error),
    /// A layer that cannot be trusted or understood.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// diff_id or digest.
        layer: String,
        /// What is wrong, with the entry's path.
        reason: String,
    },
    /// A COPY/ADD that cannot be carried out; BuildKit's wording where it has one.
    #[error("{message}")]
    Copy {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// A command ended badly: `process "/bin/sh -c false" did not complete successfully: exit code: 1`.
    #[error("process {command:?} did not complete successfully: {}", exit_text(*exit))]
    Command {
        /// As displayed.
        command: String,
        /// How.
        exit: sandbox::Exit,
        /// Last lines of output.
        tail: String,
        /// The whole log.
        log: Option<PathBuf>,
    },
    /// An image or archive that cannot be used.
    #[error("{subject}: {reason}")]
    Image {
        /// Name, path or digest.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// A bad request (option combinations, names).
    #[error("{0}")]
    Request(String),
    /// The Dockerfile has errors (already positioned).
    #[error("the Dockerfile has errors")]
    Dockerfile(Vec<parser::Diagnostic>),
    /// Stopped from outside.
    #[error("cancelled")]
    Cancelled,
}

fn exit_text(exit: sandbox::Exit) -> String {
    match exit {
        sandbox::Exit::Code(code) => format!("exit code: {code}"),
        sandbox::Exit::Signal(signal) => format!("exit code: {}", 128 + signal),
    }
}
