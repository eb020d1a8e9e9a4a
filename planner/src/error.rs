//! The crate's error: what cannot be read from plain text. Findings about Dockerfiles are diagnostics instead.

/// Why a value could not be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not `os[(version)]/arch[/variant]`.
    #[error("{what}: invalid argument")]
    InvalidPlatform {
        /// The text given.
        platform: String,
        /// What is wrong with it, the text included.
        what: String,
    },
}
