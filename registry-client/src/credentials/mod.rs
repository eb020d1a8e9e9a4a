//! Credentials of registries: where they are looked for, in order.
//!
//! Nothing here knows the protocol in which they are used, and no value of them is ever shown.

mod secret;
mod source;

pub use secret::Secret;
pub use source::{CredentialSource, Login};
