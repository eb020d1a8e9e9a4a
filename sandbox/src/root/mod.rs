//! Root file systems without the kernel's overlay: by fuse-overlayfs, or a merged copy of the layers and what a command
//! changed in it.
//!
//! What comes out is an upper folder in overlay form, as if an overlay had been mounted with `userxattr`: whoever makes a
//! layer of it sees no difference. All work goes through descriptors of folders; no link is ever followed.

mod attributes;
mod choose;
mod compare;
mod content;
mod copy;
pub(crate) mod fuse;
mod joins;
mod kept;
mod links;
mod state;
pub mod whiteout;

#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod tests;

pub(crate) use attributes::stat;
pub(crate) use choose::choose;
pub(crate) use compare::Prepared;
pub(crate) use copy::merge_in;
#[cfg(test)]
pub(crate) use copy::{Merged, merge};
pub(crate) use joins::joined;
pub(crate) use kept::copy;
pub(crate) use links::part as part_links;

use crate::fail::Failure;

/// What a command changed in its root, where that is not in the upper folder yet as an overlay has it.
#[derive(Debug)]
pub(crate) enum Changes {
    /// In a copy.
    Copied(Box<Prepared>),
    /// In the upper folder, as fuse-overlayfs has it.
    Served(fuse::Upper),
}

impl Changes {
    /// Brings the upper folder into an overlay's form. Nothing may run in the root any longer, nor serve it.
    pub(crate) fn collect(self) -> Result<(), Failure> {
        match self {
            Self::Copied(copy) => copy.collect().map(drop),
            Self::Served(upper) => upper.translate(),
        }
    }
}
