//! How a build's sandbox is set up: isolation, ids, what of the host it reaches.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How ids are mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IdMapping {
    /// Root: a user namespace over idmapped mounts; files on disk keep container ids.
    Idmapped,
    /// Subordinate id ranges by newuidmap/newgidmap: files on disk have shifted ids.
    Subordinate,
    /// Only the user's own id: all files belong to it.
    Single,
    /// Root with the ids of whoever runs the build: no user namespace, or one of the same ids.
    Host,
}

impl std::fmt::Display for IdMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idmapped => "id-mapped",
            Self::Subordinate => "subordinate",
            Self::Single => "single",
            Self::Host => "host",
        })
    }
}

/// How much of the isolation is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Isolation {
    /// The best that this place allows; what was lost is said.
    #[default]
    Auto,
    /// [`Mode::Full`] or an error.
    Full,
    /// At least [`Mode::Nested`].
    Nested,
    /// [`Mode::Chroot`].
    Chroot,
}

/// How commands are isolated, from best to least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// All namespaces, with file systems of their own.
    Full,
    /// The same inside a container that keeps some mounts from us: `/proc` is the surrounding one's.
    Nested,
    /// No namespaces: a changed root, fenced by Landlock and seccomp.
    Chroot,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Nested => "nested",
            Self::Chroot => "chroot",
        })
    }
}

/// How a command's root file system is put together, from best to slowest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum RootKind {
    /// The kernel's overlay.
    Overlay,
    /// fuse-overlayfs.
    Fuse,
    /// A copy whose files share their blocks with the layers (FICLONE); changes are found by comparing.
    Reflink,
    /// A plain copy; changes are found by comparing.
    Copy,
}

impl std::fmt::Display for RootKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlay",
            Self::Fuse => "fuse-overlayfs",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        })
    }
}

impl std::str::FromStr for RootKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = [Self::Overlay, Self::Fuse, Self::Reflink, Self::Copy];
        let found = kinds.into_iter().find(|kind| kind.to_string() == text);
        found
            .ok_or_else(|| format!("{text:?} is none of overlay, fuse-overlayfs, reflink and copy"))
    }
}

/// How to set up the build's namespace.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Folders the sandbox must reach as they are (the store root): idmapped when root.
    pub stores: Vec<PathBuf>,
    /// Parts of the host that commands may be given.
    pub volumes: Vec<Volume>,
    /// How much isolation is asked for.
    pub isolation: Isolation,
    /// The way to put roots together; `None` takes the best that works here.
    pub root: Option<RootKind>,
    /// How [`Network::Private`](crate::Network::Private) is made.
    pub network: crate::NetworkOptions,
}

/// A part of the host made available inside a store, so that it keeps its ids as the store does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Folder or file of the host.
    pub source: PathBuf,
    /// An empty folder or file in a store, of the same kind, to mount it on.
    pub at: PathBuf,
}
