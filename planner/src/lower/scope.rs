//! Variables: the ordered environment that words are expanded in, and the arguments that every build has.

use super::LowerOptions;
use crate::platform::Platform;
use parser::Instruction;
use parser::expand::{self, Options, Scope};
use parser::{Diagnostic, Kind};
use std::cell::Cell;

/// `PATH` where neither base nor Dockerfile sets one.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Proxy variables that need no ARG; each counts in upper and in lower case.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Arguments that are declared for the Dockerfile but are no environment of its commands.
pub(super) const NOT_ENVIRONMENT: [&str; 2] =
    ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Variables in the order in which they were first set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env {
    pairs: Vec<(String, String)>,
    /// There may be variables that are not known: those of a base yet to be resolved, or of a line that is wrong.
    open: bool,
    /// One was asked for that may be among them.
    guessed: Cell<bool>,
}

impl Env {
    /// From here on there may be variables that are not known.
    pub(super) fn leave_open(&mut self) {
        self.open = true;
    }

    /// Whether there may be.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a variable was asked for since the last call that is not known; what came of it says nothing.
    pub(super) fn take_guessed(&self) -> bool {
        self.guessed.take()
    }

    /// Its value is not known any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.pairs.retain(|(known, _)| known != name);
    }

    /// Sets a variable; one that exists keeps its place.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.pairs.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.pairs.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Forgets a variable.
    pub(super) fn remove(&mut self, name: &str) {
        self.pairs.retain(|(known, _)| known != name);
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

impl Scope for Env {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.value(name).map(str::to_owned);
        if value.is_none() && self.open {
            self.guessed.set(true);
        }
        value
    }

    fn names(&self) -> Vec<String> {
        self.pairs.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// The environment with some names covered, for texts that people read.
pub(super) struct Masked<'a> {
    pub(super) env: &'a Env,
    pub(super) names: Vec<String>,
}

impl Scope for Masked<'_> {
    fn get(&self, name: &str) -> Option<String> {
        if self.names.iter().any(|masked| masked == name) {
            return Some("****".to_owned());
        }
        self.env.get(name)
    }
}

/// Expands a word, giving the text of the error.
pub(super) fn word(text: &str, escape: char, env: &dyn Scope) -> Result<String, String> {
    expand::word(text, escape, env, Options::default())
        .map(|expanded| expanded.text)
        .map_err(|error| error.message)
}

/// The arguments of the global scope: the platform's, then the ARGs before the first FROM; and what is wrong with them.
pub(super) fn globals(
    args: &[Instruction],
    escape: char,
    options: &LowerOptions,
    platform: &Platform,
    target: &str,
) -> (Env, Vec<Diagnostic>) {
    let mut env = Env::default();
    let mut errors = Vec::new();
    let build = options.build_platform.normalise();
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let platform = platform.normalise();
    for (name, value) in [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", part(&build.os_version)),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", part(&build.variant)),
        ("TARGETPLATFORM", platform.to_string()),
        ("TARGETOS", platform.os.clone()),
        ("TARGETOSVERSION", part(&platform.os_version)),
        ("TARGETARCH", platform.architecture.clone()),
        ("TARGETVARIANT", part(&platform.variant)),
        ("TARGETSTAGE", target.to_owned()),
    ] {
        env.set(name, options.build_args.get(name).unwrap_or(&value));
    }
    for instruction in args {
        let Kind::Arg(pairs) = &instruction.kind else {
            continue;
        };
        for pair in pairs {
            let name = &pair.name.value;
            let known = options
                .source_date_epoch
                .as_ref()
                .filter(|_| name == super::epoch::NAME);
            let value = match (options.build_args.get(name).or(known), &pair.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => match word(&default.value, escape, &env) {
                    Ok(expanded) => Some(expanded),
                    Err(message) => {
                        let lines = instruction.info.lines;
                        if !env.take_guessed() {
                            errors.push(Diagnostic::error(message, default.span, lines));
                        }
                        env.leave_open();
                        None
                    }
                },
                (None, None) => None,
            };
            if let Some(value) = value {
                env.set(name, &value);
            }
        }
    }
    (env, errors)
}

/// Proxy variables among the build args, in upper and in lower case.
pub(super) fn proxies(options: &LowerOptions) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in PROXIES {
        // Both spellings given: the lower one counts, as it sorts last.
        let given = options
            .build_args
            .iter()
            .rfind(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given {
            found.push((name.to_owned(), value.clone()));
            found.push((name.to_lowercase(), value.clone()));
        }
    }
    found
}

/// Whether a build arg has a meaning of its own, so that no ARG is needed to use it.
pub(super) fn is_predefined(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || name.starts_with("BUILDKIT_")
        || name == "SOURCE_DATE_EPOCH"
        || is_platform_arg(name)
}

/// Arguments that have a value before any ARG, which a build arg overrides.
pub(super) fn is_platform_arg(name: &str) -> bool {
    ["BUILD", "TARGET"].iter().any(|side| {
        name.strip_prefix(side).is_some_and(|rest| {
            ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT", "STAGE"].contains(&rest)
        })
    })
}
