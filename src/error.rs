//! How the program ends: usage errors (status 2), failures (status 1), and what is printed for each.

use crate::environment::Environment;
use crate::render;
use std::process::ExitCode;

/// A failed command.
#[derive(Debug)]
pub enum Failure {
    /// A flag or argument that cannot be used: status 2.
    Usage(String),
    /// The Dockerfile has errors: status 1; findings are rendered with its text.
    Dockerfile {
        /// File name for people.
        name: String,
        /// Its text.
        text: String,
        /// Findings.
        diagnostics: Vec<parser::Diagnostic>,
    },
    /// A step failed: status 1.
    Build(Box<render::failure::BuildReport>),
    /// Anything else: status 1, the message and its causes.
    Other(String),
    /// Told already: status 1.
    Told,
    /// A step that could not be carried out: the reason, and a status of its own.
    Step(String, u8),
    /// The status of a command that was run.
    Status(u8),
    /// Stopped by a signal: status 130.
    Interrupted,
}

impl Failure {
    /// A failure from an error and all its causes.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        Self::Other(render::chain(error))
    }

    /// The same, with what to do about it on a line of its own.
    pub fn with_help(error: &dyn std::error::Error, help: Option<String>) -> Self {
        let message = render::chain(error);
        Self::Other(match help {
            Some(help) => format!("{message}\n  help: {help}"),
            None => message,
        })
    }

    /// Prints it to stderr and gives the exit status.
    #[expect(
        clippy::print_stderr,
        reason = "the one place where failures are printed"
    )]
    pub fn report(self, environment: &Environment) -> ExitCode {
        match self {
            Self::Usage(message) => {
                eprintln!("{}", render::error_line(&message, environment.colour));
                eprintln!("\nFor more information, try '--help'.");
                return ExitCode::from(2);
            }
            Self::Dockerfile {
                name,
                text,
                diagnostics,
            } => {
                eprint!(
                    "{}",
                    render::diagnostics(&name, &text, &diagnostics, environment.colour)
                );
                let errors = diagnostics
                    .iter()
                    .filter(|d| d.severity == parser::Severity::Error)
                    .count();
                let noun = if errors == 1 { "error" } else { "errors" };
                let message = match parse_error(&text, &diagnostics) {
                    Some(first) => {
                        format!("{first}; {name} has {errors} {noun}, nothing was built")
                    }
                    None => format!("{name} has {errors} {noun}; nothing was built"),
                };
                eprintln!("{}", render::error_line(&message, environment.colour));
            }
            Self::Build(report) => eprint!("{}", report.render(environment.colour)),
            Self::Other(message) => {
                eprintln!("{}", render::error_line(&message, environment.colour));
            }
            Self::Step(message, status) => {
                eprintln!("{}", render::error_line(&message, environment.colour));
                return ExitCode::from(status);
            }
            Self::Told => {}
            Self::Status(status) => return ExitCode::from(status),
            Self::Interrupted => {
                eprintln!("{}", render::error_line("interrupted", environment.colour));
                return ExitCode::from(130);
            }
        }
        ExitCode::FAILURE
    }
}

/// The first syntax error, as BuildKit words it: people and tools search for that.
fn parse_error(text: &str, told: &[parser::Diagnostic]) -> Option<String> {
    let parsed = parser::parse(text);
    let mut found = parsed.diagnostics.into_iter();
    let first = found.find(|found| found.severity == parser::Severity::Error)?;
    told.iter().find(|error| error.message == first.message)?;
    let line = first.lines.map_or(1, |lines| lines.start);
    Some(format!(
        "dockerfile parse error on line {line}: {}",
        first.message
    ))
}

impl From<executor::Error> for Failure {
    fn from(error: executor::Error) -> Self {
        Self::with_help(&error, error.help())
    }
}

impl From<registry_client::Error> for Failure {
    fn from(error: registry_client::Error) -> Self {
        Self::with_help(&error, error.hint())
    }
}

impl From<crate::template::Error> for Failure {
    fn from(error: crate::template::Error) -> Self {
        Self::from_error(&error)
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::from_error(&error)
    }
}
