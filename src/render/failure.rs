//! The report of a failed build: the step, its last output, its Dockerfile lines, what the exit code means, the log.

use super::{chain, error_line};
use executor::build::BuildFailure;
use planner::plan::Origin;
use std::fmt::Write as _;

/// Lines shown before and after the marked ones.
const CONTEXT_LINES: usize = 2;
/// Marked lines shown at most; a long heredoc is cut in the middle.
const MARKED_LINES: usize = 12;

/// Everything the report needs.
#[derive(Debug)]
pub struct BuildReport {
    /// File name for people.
    pub dockerfile_name: String,
    /// Its text.
    pub dockerfile: String,
    /// What failed.
    pub failure: BuildFailure,
}

impl BuildReport {
    /// The whole text.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        let origin = self.failure.origin.as_ref();
        if let (Some(origin), Some(left)) = (origin, self.failure.error.left()) {
            write_tail(&mut out, &origin.name, &left.tail);
        }
        if let Some(origin) = origin {
            self.write_frame(&mut out, origin);
        }
        let message = format!("failed to build: {}", chain(&self.failure.error));
        out.push_str(&error_line(&message, colour));
        out.push('\n');
        self.write_hints(&mut out);
        out
    }

    fn write_frame(&self, out: &mut String, origin: &Origin) {
        let Some(lines) = origin.lines else { return };
        let (start, end) = (lines.start as usize, lines.end as usize);
        let _ = writeln!(out, "{}:{}", self.dockerfile_name, start);
        let _ = writeln!(out, "--------------------");
        let text = planner::git_url::masked(&self.dockerfile);
        let all: Vec<&str> = text.lines().collect();
        let first = start.saturating_sub(CONTEXT_LINES).max(1);
        let last = (end + CONTEXT_LINES).min(all.len());
        let cut = (end + 1).saturating_sub(start) > MARKED_LINES;
        for number in first..=last {
            let marked = (start..=end).contains(&number);
            if cut && marked && number >= start + MARKED_LINES - 2 && number < end {
                if number == start + MARKED_LINES - 2 {
                    let _ = writeln!(out, "     | >>> ... {} more lines", end - number);
                }
                continue;
            }
            let marker = if marked { ">>>" } else { "   " };
            let text = all.get(number - 1).copied().unwrap_or_default();
            let _ = writeln!(
                out,
                "{}",
                format!("{number:4} | {marker} {text}").trim_end()
            );
        }
        let _ = writeln!(out, "--------------------");
    }

    fn write_hints(&self, out: &mut String) {
        // Where a limit is known to be behind it, the error says so itself.
        if let executor::Error::Command {
            exit,
            verdict: None,
            ..
        } = &self.failure.error
            && let Some(meaning) = exit_meaning(*exit)
        {
            let _ = writeln!(out, "  what it means: {meaning}");
        }
        if let Some(left) = self.failure.error.left() {
            if let Some(log) = &left.log {
                let _ = writeln!(out, "  whole log: {}", log.display());
            }
            if let Some(id) = &left.kept {
                let _ = writeln!(out, "  look inside: kiln debug {id}");
            }
        }
        if let Some(help) = self.failure.error.help() {
            let _ = writeln!(out, "  help: {help}");
        }
    }
}

fn write_tail(out: &mut String, name: &str, tail: &str) {
    let _ = writeln!(out, "------\n > {name}:");
    for line in tail.lines() {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "------");
}

/// What an exit status usually says. Signals come as 128 + number, as shells report them.
fn exit_meaning(exit: sandbox::Exit) -> Option<String> {
    let code = match exit {
        sandbox::Exit::Code(code) => code,
        sandbox::Exit::Signal(signal) => 128 + signal,
    };
    let text = match code {
        126 => {
            "the command was found but could not be executed (not executable, or built for another architecture)"
        }
        127 => "a command was not found: check the spelling, PATH, and that the base image has it",
        130 => "interrupted (SIGINT)",
        134 => "aborted (SIGABRT): an assertion failed or memory was corrupted",
        137 => "killed (SIGKILL): by itself, by the user, or because memory was short",
        139 => "segmentation fault (SIGSEGV)",
        143 => "terminated (SIGTERM)",
        159 => "bad system call (SIGSYS): the sandbox refused it",
        _ => return None,
    };
    Some(format!("exit code {code}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(dockerfile: &str, start: u32, end: u32, exit: sandbox::Exit) -> String {
        let failure = BuildFailure {
            error: executor::Error::Command {
                command: "/bin/sh -c nope".to_owned(),
                exit,
                verdict: None,
                left: Box::new(executor::error::LeftBehind {
                    tail: "/bin/sh: nope: not found\n".to_owned(),
                    log: Some("/store/logs/1.log".into()),
                    kept: None,
                }),
            },
            origin: Some(Origin {
                name: "[2/2] RUN nope".to_owned(),
                stage: "0".to_owned(),
                span: None,
                lines: Some(parser::Lines { start, end }),
                ..Origin::default()
            }),
        };
        BuildReport {
            dockerfile_name: "Dockerfile".to_owned(),
            dockerfile: dockerfile.to_owned(),
            failure,
        }
        .render(false)
    }

    #[test]
    fn failed_run_shows_lines_output_meaning_and_log() {
        insta::assert_snapshot!(report(
            "FROM busybox\nRUN nope\nCMD x\n",
            2,
            2,
            sandbox::Exit::Code(127)
        ));
    }

    #[test]
    fn long_heredocs_are_cut() {
        let body: String = (0..40).map(|n| format!("echo {n}\n")).collect();
        let text = format!("FROM busybox\nRUN <<EOF\n{body}EOF\n");
        insta::assert_snapshot!(report(&text, 2, 43, sandbox::Exit::Signal(9)));
    }
}
