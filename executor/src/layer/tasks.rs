//! The pieces of layer work that touch files of container ids: requests, and what is done for them. They run in this
//! process for root, inside the user namespace otherwise (see [`crate::space`]).

pub(crate) use super::capture::{CaptureRequest, Captured, capture};
use super::collect::Limits;
use super::decode::{Input, Source};
use super::extract::ExtractOptions;
use super::growing::Growing;
pub(crate) use super::rewrite::{SerialiseRequest, serialise};
use super::unpack::{extract_blob, extract_input};
use super::writer::Written;
use crate::Error;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Unpacks a blob.
pub(crate) const EXTRACT: &str = "extract-layer";

/// Makes a layer of an upper directory.
pub(crate) const CAPTURE: &str = "capture-layer";
/// Writes the tar of an unpacked layer.
pub(crate) const SERIALISE: &str = "serialise-layer";

/// Request of [`EXTRACT`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExtractRequest {
    /// What.
    pub(crate) source: Source,
    /// Bounds.
    pub(crate) limits: Limits,
    /// Tree to be made.
    pub(crate) dest: PathBuf,
    /// How far the process may go.
    pub(crate) options: ExtractOptions,
    /// Index file to be made.
    pub(crate) index: PathBuf,
}

/// The task [`EXTRACT`]. With descriptors, they are those of a [`Growing`] file that takes the place of the source's.
pub(crate) fn extract(request: ExtractRequest, fds: Vec<OwnedFd>) -> Result<Written, Error> {
    let ExtractRequest {
        source,
        limits,
        dest,
        options,
        index,
    } = request;
    match <[OwnedFd; 2]>::try_from(fds) {
        Ok([file, news]) => {
            let input = Input::Growing(Growing::new(file, news));
            extract_input(input, &source, &limits, (&dest, options), &index)
        }
        Err(_) => extract_blob(&source, &limits, &dest, options, &index),
    }
}
