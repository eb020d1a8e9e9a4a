//! All tests of the planner's public surface, in one binary.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod build;
mod checks;
mod common;
mod corpus;
mod epoch;
mod error_table;
mod errors;
mod explain;
mod history;
mod keys;
mod language;
mod metadata;
mod outline;
mod plans;
mod platforms;
mod random;
mod remote;
mod run_flags;
mod scheduler;
mod stages;
