//! All tests of the planner's public surface, in one binary.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod keys;
mod platforms;
mod scheduler;
