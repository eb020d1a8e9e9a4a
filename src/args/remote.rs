//! Flags for other machines that a build uses; `build_spec::remote` reads what they say.

use clap::{Args, ValueEnum};

// A cluster, and caches that are shared.
#[derive(Args, Debug, Default)]
pub struct RemoteArgs {
    /// Cluster that runs RUN steps, by the Remote Execution API, or a pool of remote.toml: `grpc[s]://HOST[:PORT][/INSTANCE][,preset=NAME][,property=KEY=VALUE][,jobs=N][,queue-timeout=5m]...`; `none` for none [default: $KILN_EXECUTOR]
    #[arg(long, value_name = "URL|POOL[,KEY=VALUE...]")]
    pub executor: Option<String>,
    /// What becomes of a step that the cluster cannot take: it runs here, or the build fails [default: $KILN_EXECUTOR_FALLBACK, else fail]
    #[arg(
        long,
        value_enum,
        value_name = "local|fail",
        hide_possible_values = true
    )]
    pub executor_fallback: Option<ExecutorFallback>,
    /// Cache of steps that machines share: `grpc[s]://HOST[:PORT][/INSTANCE]` or `registry://REPOSITORY[,branch=NAME]`, with `mode=ro|rw`, `ignore-error=false`...; `none` for none; may be given several times [default: $KILN_REMOTE_CACHE]
    #[arg(long = "remote-cache", value_name = "URL[,KEY=VALUE...]")]
    pub caches: Vec<String>,
}

/// What becomes of a step that the cluster cannot take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ExecutorFallback {
    /// It runs here.
    Local,
    /// The build fails.
    Fail,
}
