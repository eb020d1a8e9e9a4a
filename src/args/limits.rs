//! Flags of `kiln build` that limit what RUN steps use. `build_spec::limits` judges them.

use clap::Args;

// Limits of each RUN step.
#[derive(Args, Debug, Default)]
pub struct LimitArgs {
    /// Memory of a RUN step (bytes; suffixes k, m, g)
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory and swap of a RUN step together; -1 for any amount of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors of a RUN step, such as 1.5
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// Weight of a RUN step where processors are short (1024 is usual)
    #[arg(short, long, value_name = "WEIGHT", allow_hyphen_values = true)]
    pub cpu_shares: Option<String>,
    /// Scheduling period in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// Processor time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Processors that RUN steps may run on (`0-3`, `0,1`)
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that RUN steps may use (`0-3`, `0,1`)
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads of a RUN step; -1 for any number
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// Control group to run RUN steps in: a path below /sys/fs/cgroup, or a slice of systemd
    #[arg(long, value_name = "GROUP")]
    pub cgroup_parent: Option<String>,
    /// Limits as buildx has them: `memory|memory-swap|cpu-shares|cpu-period|cpu-quota|cpuset-cpus|cpuset-mems=VALUE`
    #[arg(long = "resource", value_name = "KEY=VALUE")]
    pub resources: Vec<String>,
    /// Longest time that one RUN step may take (`90s`, `1h30m`)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub timeout: Option<String>,
}
