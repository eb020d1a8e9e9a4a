//! Triggers as an image's config has them, and what is found across instructions.

use parser::{Kind, Severity};

fn messages(text: &str) -> Vec<String> {
    match parser::parse_trigger(text) {
        Ok(instruction) => vec![format!("ok {}", instruction.info.keyword)],
        Err(found) => found.into_iter().map(|found| found.message).collect(),
    }
}

#[test]
fn triggers_are_single_instructions() {
    let table = [
        ("RUN echo a", "ok RUN"),
        ("copy --from=x a b", "ok copy"),
        ("RUN a \\\n  b\n", "ok RUN"),
        ("RUN <<EOF\necho a\nEOF", "ok RUN"),
        (
            "RUN a\nRUN b",
            "onbuild trigger should be a single expression",
        ),
        ("", "file with no instructions"),
        ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "MAINTAINER x",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        (
            "ONBUILD RUN x",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FOO x", "unknown instruction: FOO"),
        ("RUN --mont=x y", "unknown flag: --mont"),
        ("COPY <<EOF /x\na", "unterminated heredoc"),
    ];
    for (text, wanted) in table {
        assert_eq!(messages(text), [wanted], "{text:?}");
    }
}

#[test]
fn a_stored_trigger_reads_as_the_written_one() {
    let lines = [
        "RUN --mount=type=cache,target=/x echo \\\n  two",
        "COPY <<A <<-'B' /d/\n$x\nA\n\ty\n\tB",
        "ENV A=1 B=\"x y\"",
        "CMD [\"a\", \"b\"]",
    ];
    for line in lines {
        let parsed = parser::parse(&format!("FROM a\nONBUILD {line}\n"));
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let Kind::Onbuild {
            expression,
            trigger,
        } = &parsed.dockerfile.stages[0].instructions[0].kind
        else {
            panic!("an ONBUILD");
        };
        let stored = parser::parse_trigger(expression).expect("a trigger");
        assert_eq!(
            without_spans(&stored.kind),
            without_spans(&trigger.kind),
            "{line}"
        );
    }
}

fn without_spans(kind: &Kind) -> String {
    let debug = format!("{kind:?}");
    debug
        .split("Span { start: ")
        .map(|part| part.split_once(" }").map_or(part, |(_, rest)| rest))
        .collect()
}

#[test]
fn all_findings_come_at_once_in_order() {
    let text = "FRM a\nFROM a AS 1\nRUN --x y\nRUN \\\n\n z\nCOPY a\n";
    let found = parser::parse(text).diagnostics;
    let lines: Vec<u32> = found
        .iter()
        .filter_map(|found| found.lines)
        .map(|lines| lines.start)
        .collect();
    assert_eq!(lines, [1, 2, 3, 6, 7]);
    assert_eq!(
        found
            .iter()
            .filter(|found| found.severity == Severity::Warning)
            .count(),
        1
    );
    assert_eq!(found[3].code, Some("NoEmptyContinuation"));
}

#[test]
fn heredoc_bodies_lose_tabs_where_they_are_used() {
    let parsed = parser::parse("FROM a\nRUN <<-A <<B\n\t\tx\n\ty \t\nA\n\tz\nB\n");
    let Kind::Run(run) = &parsed.dockerfile.stages[0].instructions[0].kind else {
        panic!("a RUN");
    };
    assert_eq!(run.heredocs[0].content, "\t\tx\n\ty \t\n");
    assert_eq!(run.heredocs[0].body(), "x\ny \t\n");
    assert_eq!(run.heredocs[1].body(), "\tz\n");
}
