//! Flags of `kiln login` and `kiln logout`, as Docker and Podman spell them.

use super::RegistryArgs;
use clap::Args;
use registry_client::Secret;

// `kiln login`.
#[derive(Args, Debug)]
pub struct LoginArgs {
    /// Registry: `host[:port]`, or `host[:port]/name` for a part of it [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or token; others can read it while the command runs, so --password-stdin is better
    #[arg(short, long, value_name = "PASSWORD", value_parser = |text: &str| Ok::<_, String>(Secret::new(text)))]
    pub password: Option<Secret>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Print the name of the user who is logged in
    #[arg(long)]
    pub get_login: bool,
    /// Print nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

// `kiln logout`.
#[derive(Args, Debug)]
pub struct LogoutArgs {
    /// Registry, as it was named at the login [default: Docker Hub]
    #[arg(value_name = "SERVER", conflicts_with = "all")]
    pub server: Option<String>,
    /// Forget all logins
    #[arg(short, long)]
    pub all: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
