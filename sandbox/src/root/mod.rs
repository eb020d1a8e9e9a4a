//! Root file systems without the kernel's overlay: a merged copy of the layers, and what a command changed in it.
//!
//! What comes out is an upper folder in overlay form, as if an overlay had been mounted with `userxattr`: whoever makes a
//! layer of it sees no difference. All work goes through descriptors of folders; no link is ever followed.

mod attributes;
mod choose;
mod compare;
mod copy;
mod links;
mod whiteout;

#[cfg(test)]
mod tests;

pub(crate) use choose::choose;
pub(crate) use compare::Prepared;
#[cfg(test)]
pub(crate) use copy::Merged;
pub(crate) use copy::{join, merge, merge_in};
pub(crate) use links::part as part_links;
