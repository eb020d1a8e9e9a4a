//! The program as its users meet it: every test runs the `kiln` binary on a store and a context of its own and looks at
//! exit statuses, messages and files. What single crates promise is tested beside them.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test may panic, says what it skips, and has no public surface"
)]

mod accounting;
mod accounts;
mod add_remote;
mod arguments;
mod bad_input;
mod cache;
mod cache_mounts;
mod caches;
mod caches_elsewhere;
mod caches_ended;
mod caches_explained;
mod checks;
mod cluster;
mod cluster_faults;
mod cluster_secrets;
mod confined;
mod context_mode;
mod contexts;
mod copied_roots;
mod copy;
mod copying;
mod corruption;
mod debug;
mod doctor_cluster;
mod emulation;
mod epoch;
mod errors;
mod examples;
mod explain;
mod full_disk;
mod guides;
mod histories;
mod hostile;
mod hostile_caches;
mod hostile_registry;
mod image_diff;
mod images;
mod imagetools;
mod import_export;
mod inspect;
mod isolation;
mod killed;
mod layer_entries;
mod limits;
mod load;
mod login;
mod machines;
mod manifest;
mod missing_layers;
mod modes;
mod mounts;
mod output_files;
mod output_images;
mod outputs;
mod plan;
mod platforms;
mod pull;
mod push;
mod push_outputs;
mod push_refused;
mod registries;
mod remote_contexts;
mod repo_digests;
mod reproducible;
mod run_caches;
mod run_flags;
mod run_mounts;
mod run_names;
mod run_network;
mod run_ssh;
mod run_step;
mod search;
mod secrets;
mod security;
mod short_names;
mod steps;
mod steps_cas;
mod store_commands;
mod stress;

mod support;
mod transcript;
mod triggers;
mod users;
mod verify;
