//! Flags of every command that talks to registries.

use clap::Args;

/// How registries are reached.
#[derive(Args, Debug, Default)]
pub struct RegistryArgs {
    /// Registry reached without TLS or without verification
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
}
