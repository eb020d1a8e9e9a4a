//! Receivers of images beside the store: daemons with Docker's API, Podman, containerd. Which image goes there, and
//! in what form, is the exporter's to say.

pub(crate) mod archive;
pub(crate) mod docker;
mod http;
pub(crate) mod program;
mod stream;

use crate::Error;
use crate::request::{LoadTarget, Receiver};
use docker::Docker;
use planner::scheduler::Cancel;
use program::Program;

/// Asks whether there is somebody to take images.
///
/// # Errors
/// Nobody answers, or the program is not installed.
pub fn probe(target: &LoadTarget, search_path: &str, cancel: &Cancel) -> Result<(), Error> {
    match &target.receiver {
        Receiver::Docker(endpoint) => {
            let mut docker = Docker::new(endpoint, search_path, cancel);
            docker.ping().map_err(|source| docker.failed(source))
        }
        receiver => match Program::of(receiver, search_path, cancel) {
            Some(program) => program.probe(),
            None => Ok(()),
        },
    }
}
