//! Flags of `kiln build` that say what RUN steps may have and use.

use super::{IsolationArgs, LimitArgs, NetworkArgs, SecurityArgs};
use clap::Args;
use std::path::PathBuf;

// What RUN steps get.
#[derive(Args, Debug, Default)]
pub struct RunArgs {
    /// Allow what commands and outputs ask for: `network.host`, `security.insecure`, `device[=NAME]`, `buildx.local.delete`
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// SSH agent or keys for RUN steps: `default`, `ID=SOCKET` or `ID=KEY[,KEY]`
    #[arg(long, value_name = "ID[=SOCKET|KEY[,KEY]]")]
    pub ssh: Vec<String>,
    /// Limit of resources in RUN steps: `NAME=SOFT[:HARD]`
    #[arg(long = "ulimit", value_name = "LIMIT")]
    pub ulimits: Vec<String>,
    /// Folder or file of the host for RUN steps: `HOST:TARGET[:ro|rw|O|U...]`
    #[arg(short, long = "volume", value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// Folder with CDI specifications of devices [default: /etc/cdi and /var/run/cdi]
    #[arg(long = "cdi-spec-dir", value_name = "DIR")]
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// When a step fails, open a shell in its sandbox, keep that for `kiln debug`, or just fail [default: ask on a terminal]
    #[arg(
        long,
        value_enum,
        value_name = "shell|keep|fail",
        hide_possible_values = true
    )]
    pub on_failure: Option<super::OnFailureMode>,
    /// How much isolation.
    #[command(flatten)]
    pub isolation: IsolationArgs,
    /// What commands may do.
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Their network.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}
