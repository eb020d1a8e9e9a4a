//! The OCI distribution protocol: resolve, pull, push, lists, referrers.
//!
//! Hands over bytes and descriptors; knows nothing of disks, stores or what layers hold.
//! Layers, bottom up: `transport` sends one request, `auth` meets a registry's demands, `registry` knows hosts,
//! `manifest` and `blob` are the operations, and [`Client`] goes through mirrors.
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod client;
mod credentials;
mod download;
mod error;
mod failure;
mod lists;
mod login;
mod manifest;
mod options;
mod policy;
mod push;
mod reference;
mod registries_conf;
mod registry;
mod registry_message;
mod transport;
mod verify;
#[doc(hidden)]
pub mod wire;

pub use client::{Client, FetchedManifest};
pub use credentials::{
    Credential, CredentialFile, CredentialSource, HelperSettings, Kept, Login, Secret,
};
pub use download::{Download, DownloadHead, Downloaded, Flow, Receiver};
pub use error::Error;
pub use lists::Found;
pub use login::LoggedIn;
pub use options::{CertificateOptions, ClientOptions, RetryPolicy, Timeouts};
pub use push::{BlobSource, MemoryBlob, PushedBlob, PushedHow};
pub use reference::Reference;
pub use registries_conf::{
    MirrorRule, PullFromMirror, PullSource, RegistriesConf, RegistryRule, ShortNameMode,
};
pub use registry_message::{ErrorCode, RegistryMessage};
