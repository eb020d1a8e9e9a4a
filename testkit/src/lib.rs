//! Test fixtures: an image validator of our own, makers of small images, readers of layers, scratch folders.
//!
//! A development dependency only: nothing that ships links it. It shares no code with what it checks.
#![forbid(unsafe_code)]

mod base;
mod certificates;
mod cutter;
mod docker_daemon;
mod docker_registry;
mod dockerd;
pub mod http;
mod merge;
mod places;
pub mod reapi;
pub mod registry;
mod scratch;
mod tarball;
mod token_server;
mod validate;
mod web;

pub use base::{BaseImage, Compression, Entry, archive, base_layout};
pub use certificates::{Authority, Pair};
pub use cutter::{Cutter, Way};
pub use docker_daemon::{FakeDocker, LoadedImage, Storage};
pub use docker_registry::{DockerRegistry, RegistrySetup, TokenService};
pub use dockerd::Dockerd;
pub use merge::{MergedTree, layer_files, manifest_of, merged_tree};
pub use places::{Containers, Place};
pub use scratch::{Scratch, busybox_layout, workspace_root};
pub use tarball::{Kind, TarEntry, open_layer, read_entries, tar_entries};
pub use token_server::{TokenServer, TokenSetup, pairs};
pub use validate::{validate, validate_foreign};
pub use web::{Answer, WebServer};

use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `sha256:...` of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// `sha256:...` and the length in bytes of all that a reader gives.
///
/// # Errors
/// The reader's.
pub fn digest_reader(mut reader: impl Read) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok((format!("sha256:{}", hex(&hasher.finalize())), size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}
