//! What all of lowering shares: the input, the platform in hand, names of contexts, places of findings.

use super::scope::Env;
use super::{BaseRequest, LowerOptions, ResolvedBase};
use crate::platform::Platform;
use parser::ast::InstructionInfo;
use parser::{Diagnostic, Dockerfile, Lines, Severity, Span};
use std::collections::BTreeMap;

/// Where something stands in the Dockerfile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) span: Span,
    pub(super) lines: Lines,
}

impl Place {
    /// An error here.
    pub(super) fn error(self, message: String) -> Diagnostic {
        Diagnostic::error(message, self.span, self.lines)
    }

    /// A warning here.
    pub(super) fn warning(self, code: &'static str, message: String) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            code: Some(code),
            ..self.error(message)
        }
    }

    /// Moves findings about text that is not in the Dockerfile here.
    pub(super) fn adopt(self, diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let moved = |diagnostic| Diagnostic {
            span: Some(self.span),
            lines: Some(self.lines),
            ..diagnostic
        };
        diagnostics.into_iter().map(moved).collect()
    }
}

/// The place of an instruction.
pub(super) fn at(info: &InstructionInfo) -> Place {
    Place {
        span: info.span,
        lines: info.lines,
    }
}

/// An error about the build as a whole.
pub(super) fn nowhere(message: String) -> Diagnostic {
    Diagnostic {
        span: None,
        lines: None,
        ..Diagnostic::error(message, Span::default(), Lines::default())
    }
}

/// The input of one platform's lowering.
#[derive(Clone)]
pub(super) struct Shared<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) options: &'a LowerOptions,
    pub(super) bases: &'a BTreeMap<BaseRequest, ResolvedBase>,
    pub(super) platform: Platform,
    pub(super) globals: Env,
    /// More than one platform is built: progress names say which.
    pub(super) several_platforms: bool,
    /// What of the file could not be read.
    pub(super) gaps: Gaps,
}

/// What is missing of a Dockerfile with errors, so that nothing is said that the missing part may contradict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Gaps {
    /// Variables may be set by lines that could not be read.
    pub(super) variables: bool,
    /// Stages may be missing, or their names.
    pub(super) stages: bool,
}

impl Shared<'_> {
    /// The named context that an image reference or stage name stands for, as `--build-context` spelled it.
    pub(super) fn named_context(&self, name: &str) -> Option<&str> {
        let wanted = context_name(name);
        if wanted == super::graph::SCRATCH || wanted == "context" {
            return None;
        }
        self.options
            .named_contexts
            .iter()
            .map(String::as_str)
            .find(|known| context_name(known) == wanted)
    }

    /// What to ask for to get an image or a named context.
    pub(super) fn request(&self, name: &str, platform: Platform) -> BaseRequest {
        BaseRequest {
            name: self.named_context(name).unwrap_or(name).to_owned(),
            platform,
        }
    }
}

/// The short form by which names of contexts and image references are compared: no default registry, no
/// `library/`, no `:latest`, lower case.
pub(super) fn context_name(name: &str) -> String {
    let lower = name.to_lowercase();
    let name = ["docker.io/", "index.docker.io/"]
        .iter()
        .find_map(|host| lower.strip_prefix(host))
        .unwrap_or(&lower);
    let name = name
        .strip_prefix("library/")
        .filter(|rest| !rest.contains('/'))
        .unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name).to_owned()
}
