//! Flags of `kiln build` that say how much isolation RUN steps get.

use clap::Args;

/// The isolation of RUN steps.
#[derive(Args, Debug, Default)]
pub struct IsolationArgs {
    /// Isolation of RUN steps: `auto`, `full`, `nested` or `chroot` [default: $KILN_ISOLATION, $BUILDAH_ISOLATION, else auto]
    #[arg(long, value_name = "MODE")]
    pub isolation: Option<String>,
}
