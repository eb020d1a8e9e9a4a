//! Flags of `kiln build` that say what network RUN steps have, and whom they trust there.

use clap::Args;
use std::path::PathBuf;

// The network of RUN steps.
#[derive(Args, Debug, Default)]
pub struct NetworkArgs {
    /// Network of RUN steps: `default`, `none`, `host`; `pasta` or `slirp4netns` to choose the program behind the default
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: String,
    /// Name server for RUN steps in place of this machine's; `none` keeps the image's resolv.conf
    #[arg(long = "dns", value_name = "IP")]
    pub dns: Vec<String>,
    /// Domain that names are looked up in; `.` for none
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the resolver
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Certificates (PEM) of an authority that RUN steps trust; not kept in the image
    #[arg(long = "ca", value_name = "FILE")]
    pub ca: Vec<PathBuf>,
}
