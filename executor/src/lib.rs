//! Carries builds out: sources, COPY/ADD, RUN, layer capture, image assembly, outputs.
//!
//! It parses no Dockerfile, prints nothing and reads no environment; the command line gives it a [`request::BuildRequest`].
#![forbid(unsafe_code)]

pub mod build;
mod cache;
pub mod cluster;
pub mod context;
pub mod copy;
pub mod debug;
mod device;
pub mod error;
pub mod layer;
pub mod output;
mod places;
pub mod pull;

pub mod push;
pub mod remote;
mod repo_digests;
pub mod request;
pub mod snapshot;
mod source;
pub mod space;
mod ssh;
mod steps;
pub mod tools;
pub mod tree;
pub mod worker;

pub use cache::wire;
pub use error::Error;

/// Tasks that run inside the build's user namespace; `main` hands them to `sandbox::init_if_child`.
pub const TASKS: &[(&str, sandbox::TaskFn)] = &ALL_TASKS;

const ALL_TASKS: [(&str, sandbox::TaskFn); space::TASKS.len() + 1] = {
    let own: (&str, sandbox::TaskFn) = (
        build::mounts::TASK_OWN_FOLDER,
        build::mounts::own_folder_task,
    );
    let mut all = [own; space::TASKS.len() + 1];
    let mut next = 0;
    while next < space::TASKS.len() {
        all[next] = space::TASKS[next];
        next += 1;
    }
    all
};
