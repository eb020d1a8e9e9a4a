//! Flags of `kiln build` that say which capabilities and system calls RUN steps have.

use clap::Args;

// What RUN steps may do.
#[derive(Args, Debug, Default)]
pub struct SecurityArgs {
    /// Capabilities for RUN steps besides the default ones: `NAME[,NAME...]`, `ALL`
    #[arg(long = "cap-add", value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Capabilities that RUN steps lose: `NAME[,NAME...]`, `ALL`
    #[arg(long = "cap-drop", value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Security options of RUN steps: `seccomp=FILE|unconfined`, `no-new-privileges`, `label=disable`, `apparmor=unconfined`
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub security_opts: Vec<String>,
}
