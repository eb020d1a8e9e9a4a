//! What all of lowering shares: the input, the platform in hand, names of contexts, places of findings.

use super::scope::Env;
use super::{BaseRequest, LowerOptions, ResolvedBase};
use crate::context_name;
use crate::platform::Platform;
use parser::ast::InstructionInfo;
use parser::{Diagnostic, Dockerfile, Lines, Span};
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

impl<'a> Shared<'a> {
    /// The named context that an image reference or stage name stands for, as `--build-context` spelled it: the one for
    /// this platform before the one for all.
    pub(super) fn named_context(&self, name: &str, platform: &Platform) -> Option<&'a str> {
        if context_name::is_reserved(name) {
            return None;
        }
        let wanted = context_name::familiar(name);
        let platform = platform.normalise().to_string();
        let mut general = None;
        for known in &self.options.named_contexts {
            match context_name::split_platform(known) {
                (name, _) if context_name::familiar(name) != wanted => {}
                (_, Some(given)) if given == platform => return Some(known),
                (_, Some(_)) => {}
                (_, None) => general = Some(known.as_str()),
            }
        }
        general
    }
}
