//! The remote execution server of the tests does what such servers do, well-behaved or not; so does the real one.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy's own exception does not reach helper functions"
)]

mod buildbox;
mod buildgrid;
mod client;
mod faults;
mod server;
