//! Tests of the client through its public surface, against an in-process server that can fail, and servers that are none.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod cache;
mod casd;
mod connect;
mod execute;
mod faults;
mod foreign;
mod store;
mod support;
