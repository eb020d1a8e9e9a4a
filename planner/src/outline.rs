//! What a Dockerfile offers without building it: its targets, and what the build of one of them takes.
//!
//! The list of targets needs the parsed file alone; an [`Outline`] comes from [`crate::lower::outline`].

use parser::ast::InstructionInfo;
use parser::{Dockerfile, Lines};

/// What the build of a target takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    /// The target's name in lower case; empty if it has none.
    pub name: String,
    /// What the comment above its FROM says.
    pub description: String,
    /// Arguments that are used, by line.
    pub args: Vec<Arg>,
    /// Secrets of RUN, by line.
    pub secrets: Vec<Need>,
    /// SSH agents of RUN, by line.
    pub ssh: Vec<Need>,
}

/// A build argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arg {
    /// Name.
    pub name: String,
    /// What the comment above it says.
    pub description: String,
    /// Its value in this build.
    pub value: Option<String>,
    /// Where it is declared.
    pub lines: Lines,
}

/// Something that must be given to a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Need {
    /// Id.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
    /// Where it is used.
    pub lines: Lines,
}

/// A stage as a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Name in lower case; empty if it has none.
    pub name: String,
    /// What is built when no target is named: the last stage.
    pub default: bool,
    /// What the comment above its FROM says.
    pub description: String,
    /// What it is based on, unexpanded.
    pub base: String,
    /// `--platform`, unexpanded.
    pub platform: String,
    /// Its FROM.
    pub lines: Lines,
}

/// The stages of a Dockerfile.
#[must_use]
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let last = dockerfile.stages.len().saturating_sub(1);
    let stages = dockerfile.stages.iter().enumerate();
    let target = stages.map(|(index, stage)| {
        let name = stage.name.as_ref().map(|name| name.value.to_lowercase());
        let name = name.unwrap_or_default();
        let platform = stage.platform.as_ref();
        Target {
            default: index == last,
            description: description(&stage.from, &name),
            base: stage.base.value.clone(),
            platform: platform.map_or_else(String::new, |platform| platform.value.clone()),
            lines: stage.from.lines,
            name,
        }
    });
    target.collect()
}

/// What the comments above an instruction say of a name: the first line that begins with it.
pub(crate) fn description(info: &InstructionInfo, name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let said = info
        .comments
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    said.unwrap_or_default().to_owned()
}
