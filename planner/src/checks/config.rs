//! Which checks run: `# check=skip=A,B;error=true;experimental=C`, the build arg `BUILDKIT_DOCKERFILE_CHECK`, and
//! `# check=` comments above an instruction.

use super::Rule;
use parser::{Dockerfile, quote};
use std::collections::BTreeMap;

/// The build arg that takes the place of the directive.
const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Options in one text at most; more `;` belong to the last one.
const OPTIONS: usize = 3;

/// A set of rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Names {
    #[default]
    None,
    All,
    These(Vec<String>),
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            text => Self::These(text.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(names) => names.iter().any(|known| known == name),
        }
    }
}

/// What is asked of the checks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    skip: Names,
    experimental: Names,
    /// A finding of a check fails the build.
    pub error: bool,
}

impl Config {
    /// The configuration of a Dockerfile: the build arg where it is given, else the directive.
    ///
    /// # Errors
    /// BuildKit's text for options that cannot be read.
    pub fn of(
        dockerfile: &Dockerfile,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let directive = dockerfile.directives.check.as_ref();
        let text = match build_args.get(BUILD_ARG) {
            Some(given) => given,
            // What stands behind a blank is no part of a directive's options.
            None => directive
                .and_then(|directive| directive.value.split(' ').next())
                .unwrap_or_default(),
        };
        Self::parse(text).map_err(|reason| format!("failed to parse check options: {reason}"))
    }

    /// Parses `skip=A,B;error=true;experimental=C`, in any order; `all` names all rules.
    ///
    /// # Errors
    /// BuildKit's text for an unknown option or a value that is no boolean.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(config);
        }
        for part in text.splitn(OPTIONS, ';') {
            let invalid = |what: &str| format!("invalid check option {}", quote(what));
            let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
            match key.trim() {
                "skip" => config.skip = Names::parse(value),
                "experimental" => config.experimental = Names::parse(value),
                "error" => config.error = boolean(part, value.trim())?,
                other => return Err(invalid(other)),
            }
        }
        Ok(config)
    }

    /// Whether a rule runs for an instruction with these comments above it.
    pub(crate) fn runs(&self, rule: &Rule, comments: &[String]) -> bool {
        let here = comments.iter().find_map(|comment| in_comment(comment));
        let named = |which: fn(&Self) -> &Names| {
            which(self).contains(rule.name)
                || here
                    .as_ref()
                    .is_some_and(|here| which(here).contains(rule.name))
        };
        if rule.experimental {
            named(|config| &config.experimental)
        } else {
            !named(|config| &config.skip)
        }
    }
}

/// Whether a comment is a `check=` comment, whatever it says.
pub(crate) fn is_check_comment(comment: &str) -> bool {
    comment
        .split_once('=')
        .is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("check"))
}

/// The options of a `check=` comment; one that cannot be read says nothing.
fn in_comment(comment: &str) -> Option<Config> {
    if !is_check_comment(comment) {
        return None;
    }
    let (_, value) = comment.split_once('=')?;
    Config::parse(value.trim().split(' ').next().unwrap_or_default()).ok()
}

/// A boolean as Go's `strconv.ParseBool` reads it.
fn boolean(option: &str, text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax",
            quote(option),
            quote(text)
        )),
    }
}
