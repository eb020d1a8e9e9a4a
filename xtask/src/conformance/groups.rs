//! Groups of BuildKit's integration cases that need more than contexts, flags and recorded answers: who runs them.
//!
//! A group's own module prepares what the corpus only describes (a Git server, an agent, secrets) and runs the case
//! through [`super::integration::replay`]. Groups without an entry are run from their data alone.

use super::builds::Levels;
use super::harness::Case;

/// Runs one case of a group; an `Err` that begins with [`super::builds::LEFT_OUT`] leaves it out.
pub type Runner = fn(Case<'_>, &mut Levels) -> Result<(), String>;

/// Groups with a runner of their own.
const RUNNERS: &[(&str, Runner)] = &[
    ("ADD git", super::git_group::run),
    ("cache import/export", super::caches::run),
    ("named contexts", super::remote::named),
    ("ONBUILD", super::remote::named),
    ("remote context", super::remote::url),
    ("RUN --device", super::run_groups::device),
    ("RUN --network", super::run_groups::entitled),
    ("RUN --security", super::run_groups::entitled),
    ("resources", super::run_groups::resources),
    ("secrets", super::run_groups::secrets),
];

/// Groups that are not part of the Dockerfile language, with the reason that is printed.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "provenance",
        "asks for attestations, which Kiln does not make",
    ),
    ("SBOM", "asks for attestations, which Kiln does not make"),
    ("gateway/subrequests", "drives BuildKit's gateway API"),
    ("outline subrequest", "drives BuildKit's gateway API"),
    ("targets subrequest", "drives BuildKit's gateway API"),
];

/// Cases whose data cannot be compared, with the reason that is printed.
const UNFIT: &[(&str, &str)] = &[
    (
        "testPullScratch",
        "the corpus asserts a content that its context does not have",
    ),
    (
        "testOnBuildNewDeps",
        "BuildKit itself fails on the stand-in bases",
    ),
];

/// Why a case is left out by its name.
pub fn unfit(name: &str) -> Option<&'static str> {
    UNFIT
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, reason)| *reason)
}

/// The runner of a group that has its own.
pub fn runner(group: &str) -> Option<Runner> {
    RUNNERS
        .iter()
        .find(|(name, _)| *name == group)
        .map(|(_, runner)| *runner)
}

/// Why a group is left out as a whole.
pub fn elsewhere(group: &str) -> Option<&'static str> {
    ELSEWHERE
        .iter()
        .find(|(name, _)| *name == group)
        .map(|(_, reason)| *reason)
}
