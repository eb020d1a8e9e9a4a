//! Credentials of registries: where they are looked for, in order, and where a login keeps them.
//!
//! Nothing here knows the protocol in which they are used, and no value of them is ever shown.

mod file;
mod helper;
mod json;
mod key;
mod keyring;
mod secret;
mod source;
mod store;

pub use helper::HelperSettings;
pub(crate) use key::canonical_host;
pub(crate) use keyring::{Found, Keyring};
pub use secret::Secret;
pub use source::{CredentialSource, Login};
pub use store::{CredentialFile, Kept};

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Credential {
    /// User name and password.
    Password {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// A token that its token service gives access tokens for (an OAuth 2 refresh token).
    Identity(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

impl From<Login> for Credential {
    fn from(login: Login) -> Self {
        Self::Password {
            username: login.username,
            password: login.password,
        }
    }
}
