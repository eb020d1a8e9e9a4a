//! Tests of the registry client through its public surface, against an in-process registry and a real one.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod auth;
mod blobs;
mod certificates;
mod credentials;
mod cuts;
mod docker_registry;
mod downloads;
mod faults;
mod lists;
mod logins;
mod manifests;
mod mirrors;
mod network;
mod parallel;
mod push;
mod push_faults;
mod references;
mod registries_conf;
mod support;
mod wire;
