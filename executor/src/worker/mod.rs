//! A RUN step carried out for another machine: an input root that a remote execution engine has staged becomes the
//! command's root file system, and what the command changed becomes a layer and a report.
//!
//! It knows nothing of protocols: what asks for a step is in [`Spec`], what became of it in [`Report`], and the files of both
//! have fixed names in the input root.

mod spec;

pub use spec::{
    Ended, LAYER_BLOB, LAYER_INDEX, META, MOUNTS, Millis, PROGRAM, PackedLayer, REPORT, ROOTFS,
    Report, SPEC_FILE, SUBCOMMAND, Spec, SpecError, Staged, StagedReport,
};
