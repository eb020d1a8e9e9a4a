//! Work on images where they are: manifest lists, joining what several machines pushed, copying between registries, searching.
//!
//! It reads manifests and configs; layers only pass through, and only where one repository cannot mount them from another.

mod combine;
mod copy;
mod document;
mod entry;
mod files;
mod indented;
mod inspect;
mod join;
mod list;
mod parallel;
mod parts;
mod place;
mod push;
mod say;
mod source;
mod stored;
mod transfer;
mod view;

pub use combine::{Combine, CombineSource, Combined};
pub use copy::{Copied, CopyOptions, copy};
pub use entry::EntryOptions;
pub use indented::{ordered, reindented};
pub use list::{CreateOptions, Lists};
pub use place::Place;
pub use push::ListPush;
pub use say::Say;
pub use view::RemoteImage;
