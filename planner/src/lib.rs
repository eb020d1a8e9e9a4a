//! Plans builds: a parsed Dockerfile becomes a DAG of steps with cache keys, and a scheduler runs it over a backend.
//!
//! No I/O, no clock, no environment: bases, build args and results come in as data.
#![forbid(unsafe_code)]

pub mod checks;
pub mod config;
pub mod context_name;
mod error;
pub mod explain;
pub mod git_url;
pub mod key;
pub mod lower;
pub mod outline;
pub mod plan;
pub mod platform;
pub mod scheduler;
pub mod source;

pub use error::Error;
