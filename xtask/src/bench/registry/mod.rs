//! Kiln beside skopeo, podman, buildah, crane and docker with BuildKit against one docker-registry on loopback, and beside
//! the bare requests. Needs root.

mod moves;
mod small;

pub use moves::{pull, push};
pub use small::{index, repush};
