//! The front half of a build: parse, check, resolve bases, lower. It runs nothing; what the checks find goes to the [`Ui`].

use super::{BuildFailure, Ui, base_failure, resolve};
use crate::Error;
use crate::request::BuildRequest;
use parser::{Diagnostic, Parsed, Severity};
use planner::checks::{self, Config};
use planner::lower::{self, BaseRequest, LowerOptions, Lowered, Outlined, ResolvedBase};
use planner::outline::Outline;
use planner::plan::{Origin, Plan};
use std::collections::BTreeMap;

/// Gives the bases that a round of lowering wants.
pub(super) type Resolve<'r> =
    dyn FnMut(&[BaseRequest]) -> Result<Vec<ResolvedBase>, Vec<resolve::Failure>> + 'r;

/// A Dockerfile without errors, and what was found so far.
pub(super) struct Front<'a> {
    ui: &'a dyn Ui,
    pub(super) parsed: Parsed,
    pub(super) options: LowerOptions,
    bases: BTreeMap<BaseRequest, ResolvedBase>,
    found: Vec<Diagnostic>,
}

impl<'a> Front<'a> {
    /// Parses the Dockerfile and runs the checks that need nothing else.
    pub(super) fn new(
        request: &BuildRequest,
        options: LowerOptions,
        ui: &'a dyn Ui,
    ) -> Result<Self, Error> {
        // A file for another frontend need not be a Dockerfile at all.
        let frontend = request.build_args.get("BUILDKIT_SYNTAX");
        let frontend = frontend.map(String::as_str);
        if let Some(finding) = parser::frontend::check(&request.dockerfile, frontend) {
            return Err(Error::Dockerfile(vec![finding]));
        }
        let parsed = parser::parse(&request.dockerfile);
        let found = checks::file(&parsed, &options)
            .map_err(|message| Error::Dockerfile(vec![bad_options(&parsed, message)]))?;
        let mut front = Self {
            ui,
            parsed,
            options,
            bases: BTreeMap::new(),
            found: Vec::new(),
        };
        front.tell(found);
        if errors_of(&front.parsed.diagnostics).is_empty() {
            return Ok(front);
        }
        // All that can be said about the file at once.
        let found = lower::check(&front.parsed, &front.options);
        Err(Error::Dockerfile(errors_of(&found)))
    }

    fn tell(&mut self, found: Vec<Diagnostic>) {
        if !found.is_empty() {
            self.ui.diagnostics(&found);
            self.found.extend(found);
        }
    }

    /// Lowers in rounds: each names the bases it needs, which are then resolved together.
    #[expect(clippy::result_large_err, reason = "a build fails once")]
    pub(super) fn plan(&mut self, resolve: &mut Resolve<'_>) -> Result<Plan, BuildFailure> {
        let (plan, warnings) = loop {
            match lower::lower(&self.parsed.dockerfile, &self.options, &self.bases) {
                Ok(Lowered::Plan(plan, warnings)) => break (plan, warnings),
                Ok(Lowered::Need(requests)) => self.resolve(requests, resolve)?,
                Err(found) => return Err(self.lowering_failed(found)),
            }
        };
        self.tell(warnings);
        self.violations()?;
        Ok(plan)
    }

    /// As [`Self::plan`], for an outline of the target.
    #[expect(clippy::result_large_err, reason = "a build fails once")]
    pub(super) fn outline(&mut self, resolve: &mut Resolve<'_>) -> Result<Outline, BuildFailure> {
        loop {
            match lower::outline(&self.parsed.dockerfile, &self.options, &self.bases) {
                Ok(Outlined::Outline(outline)) => return Ok(outline),
                Ok(Outlined::Need(requests)) => self.resolve(requests, resolve)?,
                Err(found) => return Err(self.lowering_failed(found)),
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "a build fails once")]
    fn resolve(
        &mut self,
        requests: Vec<BaseRequest>,
        resolve: &mut Resolve<'_>,
    ) -> Result<(), BuildFailure> {
        let answers = resolve(&requests).map_err(|failures| self.no_bases(failures))?;
        self.bases.extend(requests.into_iter().zip(answers));
        Ok(())
    }

    /// One base that cannot be had, or several.
    fn no_bases(&self, failures: Vec<resolve::Failure>) -> BuildFailure {
        let told = failures.into_iter().map(|(request, error)| {
            let file = &self.parsed.dockerfile;
            let by = lower::wanted_by(file, &self.options, &self.bases, &request);
            base_failure(&request, error, by)
        });
        let mut told: Vec<BuildFailure> = told.collect();
        let cancelled = |failure: &BuildFailure| matches!(failure.error, Error::Cancelled);
        let stop = told.iter().position(cancelled);
        if stop.is_some() || told.len() == 1 {
            return told.swap_remove(stop.unwrap_or(0));
        }
        let mut found: Vec<Diagnostic> = told.iter().map(diagnostic_of).collect();
        found.sort_by_key(|error| error.span.map(|span| span.start));
        Error::Dockerfile(found).into()
    }

    fn lowering_failed(&mut self, found: Vec<Diagnostic>) -> BuildFailure {
        let errors = errors_of(&found);
        let warnings = found.into_iter();
        self.tell(
            warnings
                .filter(|finding| finding.severity == Severity::Warning)
                .collect(),
        );
        Error::Dockerfile(errors).into()
    }

    /// Fails where `error=true` was asked for and a check found something.
    #[expect(clippy::result_large_err, reason = "a build fails once")]
    fn violations(&self) -> Result<(), BuildFailure> {
        let config = Config::of(&self.parsed.dockerfile, &self.options.build_args);
        if !config.is_ok_and(|config| config.error) {
            return Ok(());
        }
        let Some(message) = checks::violations(&self.found) else {
            return Ok(());
        };
        let first = self.found.iter().find(|finding| finding.code.is_some());
        Err(BuildFailure {
            error: Error::Checks { message },
            origin: first.map(|finding| Origin {
                span: finding.span,
                lines: finding.lines,
                ..Origin::default()
            }),
        })
    }
}

fn diagnostic_of(failure: &BuildFailure) -> Diagnostic {
    let origin = failure.origin.as_ref();
    Diagnostic {
        severity: Severity::Error,
        code: None,
        message: crate::error::chain(&failure.error),
        span: origin.and_then(|origin| origin.span),
        lines: origin.and_then(|origin| origin.lines),
        help: failure.error.help(),
    }
}

fn errors_of(found: &[Diagnostic]) -> Vec<Diagnostic> {
    let errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    errors.cloned().collect()
}

/// Check options that cannot be read, told at the directive or, for a build arg, at no place.
fn bad_options(parsed: &Parsed, message: String) -> Diagnostic {
    let directive = parsed.dockerfile.directives.check.as_ref();
    Diagnostic {
        severity: Severity::Error,
        code: None,
        message,
        span: directive.map(|directive| directive.span),
        lines: None,
        help: Some(
            "write skip=RULE,RULE or skip=all, error=true, experimental=RULE, joined by ;"
                .to_owned(),
        ),
    }
}
