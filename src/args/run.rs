//! Flags of `kiln build` that say what RUN steps may have and use.

use super::{IsolationArgs, SecurityArgs};
use clap::Args;
use std::path::PathBuf;

/// What RUN steps get.
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
    /// How much isolation.
    #[command(flatten)]
    pub isolation: IsolationArgs,
    /// What commands may do.
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Limits of control groups, which no build has yet.
    #[command(flatten)]
    pub cgroup: CgroupArgs,
}

/// Flags that are understood and refused.
#[derive(Args, Debug, Default)]
pub struct CgroupArgs {
    #[arg(long, hide = true)]
    cgroup_parent: Option<String>,
    #[arg(short, long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    memory_swap: Option<String>,
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_quota: Option<String>,
    #[arg(short, long, hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
}

impl CgroupArgs {
    /// The first flag given.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--cgroup-parent", &self.cgroup_parent),
            ("--memory", &self.memory),
            ("--memory-swap", &self.memory_swap),
            ("--cpu-period", &self.cpu_period),
            ("--cpu-quota", &self.cpu_quota),
            ("--cpu-shares", &self.cpu_shares),
            ("--cpuset-cpus", &self.cpuset_cpus),
            ("--cpuset-mems", &self.cpuset_mems),
        ];
        flags
            .iter()
            .find(|(_, value)| value.as_ref().is_some_and(|value| !value.is_empty()))
            .map(|(name, _)| *name)
    }
}
