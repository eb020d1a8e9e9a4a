//! Flags of `kiln build` that say how much isolation RUN steps get.

use clap::Args;

// The isolation of RUN steps.
#[derive(Args, Debug, Default)]
pub struct IsolationArgs {
    /// Isolation of RUN steps: `auto`, `full`, `nested` or `chroot` [default: $KILN_ISOLATION, $BUILDAH_ISOLATION, else auto]
    #[arg(long, value_name = "MODE")]
    pub isolation: Option<String>,

    /// Way to put root file systems of RUN steps together: `overlay`, `fuse-overlayfs`, `reflink` or `copy` [default: $KILN_SANDBOX_ROOT, else the best that works]
    #[arg(long, value_name = "KIND", hide = true)]
    pub sandbox_root: Option<String>,
}
