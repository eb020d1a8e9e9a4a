//! The form of the file: lines, comments, continuations, directives. Each test names the features that it covers.

use parser::ast::{CommandLine, Kind, Transfer};
use parser::{Parsed, Severity};

fn parse(text: &str) -> Parsed {
    let parsed = parser::parse(text);
    assert!(
        parsed
            .diagnostics
            .iter()
            .all(|found| found.severity != Severity::Error),
        "{text}\n{:?}",
        parsed.diagnostics
    );
    parsed
}

/// The first error and its line.
#[track_caller]
fn error(text: &str) -> (String, u32) {
    let parsed = parser::parse(text);
    let mut found = parsed.diagnostics.into_iter();
    let first = found
        .find(|found| found.severity == Severity::Error)
        .unwrap_or_else(|| panic!("{text}\nhas no error"));
    (first.message, first.lines.map_or(0, |lines| lines.start))
}

/// Keywords as typed and the shell texts of RUN, in order.
fn told(text: &str) -> Vec<String> {
    let parsed = parse(text);
    let stages = parsed.dockerfile.stages.iter();
    let mut out = Vec::new();
    for stage in stages {
        out.push(format!("FROM {}", stage.base.value));
        for instruction in &stage.instructions {
            out.push(match &instruction.kind {
                Kind::Run(run) => format!("RUN {}", run.command.args.join("|")),
                _ => instruction.info.keyword.clone(),
            });
        }
    }
    out
}

#[test]
fn f01_names_of_instructions_in_any_case() {
    assert_eq!(
        told("from a\nrUn x\nCopy a b\nenv a b"),
        ["FROM a", "RUN x", "Copy", "env"]
    );
}

#[test]
fn f02_only_arg_stands_before_from() {
    let parsed = parse("# syntax=docker/dockerfile:1\n\n# a\nARG a\narg b=1\nFROM $a\n");
    assert_eq!(parsed.dockerfile.global_args.len(), 2);
    for text in ["RUN x\nFROM a", "ARG a\n\nLABEL a=b\nFROM a"] {
        assert_eq!(error(text).0, "no build stage in current context", "{text}");
    }
}

#[test]
fn f03_number_signs_elsewhere_are_text() {
    assert_eq!(
        told("FROM a\n  # RUN no\n\t#no\nRUN echo # yes\nRUN a#b \\\n  c # d"),
        ["FROM a", "RUN echo # yes", "RUN a#b   c # d"]
    );
}

#[test]
fn f04_comments_inside_a_continued_instruction() {
    assert_eq!(
        told("FROM a\nRUN one && \\\n# no\n   # neither\n  two && \\\n #\n three"),
        ["FROM a", "RUN one &&   two &&  three"]
    );
}

#[test]
fn f05_comments_do_not_go_on() {
    assert_eq!(told("# a \\\nFROM a\n# b \\\nRUN x"), ["FROM a", "RUN x"]);
}

#[test]
fn f06_blanks_at_the_start() {
    assert_eq!(
        told(" \t FROM a\n   RUN x   y \\\n     z"),
        ["FROM a", "RUN x   y      z"]
    );
}

#[test]
fn f07_empty_lines_in_continuations_warn() {
    let parsed = parse("FROM a\nRUN one \\\n\n  two \\\n   \n  three\n");
    let [found] = parsed.diagnostics.as_slice() else {
        panic!("{:?}", parsed.diagnostics)
    };
    assert_eq!(found.code, Some("NoEmptyContinuation"));
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(
        told("FROM a\nRUN one \\\n\n  two"),
        ["FROM a", "RUN one   two"]
    );
}

#[test]
fn f08_continuation_at_the_end_of_the_file() {
    assert_eq!(told("FROM a\nRUN x \\"), ["FROM a", "RUN x"]);
    assert_eq!(told("FROM a\nRUN x \\\n"), ["FROM a", "RUN x"]);
    assert_eq!(told("FROM a\nRUN x \\ \t\n"), ["FROM a", "RUN x"]);
}

#[test]
fn f09_byte_order_mark() {
    assert_eq!(told("\u{feff}FROM a"), ["FROM a"]);
    let parsed = parse("\u{feff}# escape=`\nFROM a\nRUN b `\n c");
    assert_eq!(parsed.dockerfile.escape, '`');
    // Elsewhere it is text.
    assert!(
        error("FROM a\n\u{feff}RUN x")
            .0
            .starts_with("unknown instruction")
    );
}

#[test]
fn f10_length_of_lines() {
    let fits = format!("FROM a\nRUN {}\n", "x".repeat(65_535 - 4));
    assert_eq!(told(&fits).len(), 2);
    let (message, line) = error(&format!("FROM a\nRUN {}\n", "x".repeat(65_535 - 3)));
    assert_eq!(
        message,
        "dockerfile line greater than max allowed size of 65535"
    );
    assert_eq!(line, 2);
}

#[test]
fn f11_files_without_instructions() {
    assert_eq!(error("").0, "the Dockerfile cannot be empty");
    for text in ["\n\n", "# a\n# b", " \t\n", "\u{feff}"] {
        assert_eq!(error(text).0, "file with no instructions", "{text:?}");
    }
}

#[test]
fn f12_unknown_instructions() {
    for (text, message, line, near) in [
        (
            "FROM a\nRUNN x",
            "unknown instruction: RUNN",
            2,
            Some("did you mean RUN?"),
        ),
        (
            "FROM a\nfrmo b",
            "unknown instruction: frmo",
            2,
            Some("did you mean from?"),
        ),
        (
            "FROM a\n\nEXPOSED 80",
            "unknown instruction: EXPOSED",
            3,
            Some("did you mean EXPOSE?"),
        ),
        ("FROM a\nRUN x\n  y", "unknown instruction: y", 3, None),
    ] {
        assert_eq!(error(text), (message.to_owned(), line), "{text}");
        let parsed = parser::parse(text);
        let help = parsed.diagnostics[0].help.as_deref();
        assert!(near.is_none() || help == near, "{text}: {help:?}");
    }
}

#[test]
fn f13_lines_text_and_comments_above() {
    let text = "# of the stage\nFROM a AS b\n\n# one\n# two\nRUN x \\\n  # inner\n  y\n# cut\n#\n# kept\nCOPY <<E /\nbody\nE\n";
    let parsed = parse(text);
    let stage = &parsed.dockerfile.stages[0];
    assert_eq!(stage.from.comments, ["of the stage"]);
    let seen: Vec<_> = stage
        .instructions
        .iter()
        .map(|it| {
            let info = &it.info;
            let text = &text[info.span.start as usize..info.span.end as usize];
            (
                (info.lines.start, info.lines.end),
                info.comments.join("|"),
                text.to_owned(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                (6, 8),
                "one|two".to_owned(),
                "RUN x \\\n  # inner\n  y".to_owned()
            ),
            (
                (12, 14),
                "kept".to_owned(),
                "COPY <<E /\nbody\nE".to_owned()
            ),
        ]
    );
    assert_eq!(stage.instructions[0].info.original, "RUN x   y");
}

#[test]
fn f15_shebangs_above_directives() {
    let parsed = parse("#!/usr/bin/env build\n# syntax=a/b\n# check=skip=all\nFROM a\n");
    let directives = &parsed.dockerfile.directives;
    assert_eq!(directives.syntax.as_ref().unwrap().value, "a/b");
    assert_eq!(directives.check.as_ref().unwrap().value, "skip=all");
}

#[test]
fn d01_keys_in_any_case_and_blanks_around() {
    for text in [
        "#syntax=Docker/Dockerfile:1\nFROM a",
        "# SynTax = Docker/Dockerfile:1 \nFROM a",
        "#\tSYNTAX\t=\tDocker/Dockerfile:1\t\r\nFROM a",
    ] {
        let parsed = parse(text);
        let syntax = parsed.dockerfile.directives.syntax.unwrap();
        assert_eq!(syntax.value, "Docker/Dockerfile:1", "{text:?}");
    }
}

#[test]
fn d02_only_at_the_top() {
    for text in [
        "# about\n# escape=`\nFROM a\n",
        "\n# escape=`\nFROM a\n",
        "ARG a\n# escape=`\nFROM a\n",
    ] {
        assert_eq!(parse(text).dockerfile.escape, '\\', "{text:?}");
    }
    let both = parse("# syntax=a\n# escape=`\nFROM a\n").dockerfile;
    assert_eq!((both.escape, both.directives.syntax.is_some()), ('`', true));
}

#[test]
fn d03_the_same_twice() {
    for name in ["syntax", "escape", "check"] {
        let value = if name == "escape" { "`" } else { "skip=all" };
        let text = format!(
            "# {name}={value}\n# {}={value}\nFROM a",
            name.to_uppercase()
        );
        let expected = format!("only one {name} parser directive can be used");
        assert_eq!(error(&text), (expected, 2));
    }
}

#[test]
fn d04_unknown_directives_are_comments() {
    let parsed = parse("# syntax=a\n# unknown=b\n# escape=`\nFROM a\n").dockerfile;
    assert_eq!(parsed.escape, '\\');
    assert!(parsed.directives.syntax.is_some());
}

#[test]
fn d05_directives_do_not_go_on() {
    let parsed = parse("# syntax=a \\\n# check=skip=all\nFROM a\n").dockerfile;
    assert_eq!(parsed.directives.syntax.unwrap().value, "a \\");
    assert_eq!(parsed.directives.check.unwrap().value, "skip=all");
    let parsed = parse("# esc\\\n# ape=`\nFROM a\n").dockerfile;
    assert_eq!(parsed.escape, '\\');
}

#[test]
fn d07_the_escape_character() {
    assert_eq!(
        told("# escape=`\nFROM a\nRUN one `\n  two \\\nRUN c:\\dir\\"),
        ["FROM a", "RUN one   two \\", "RUN c:\\dir\\"]
    );
    assert_eq!(
        told("# escape=\\\nFROM a\nRUN one \\\n  two `"),
        ["FROM a", "RUN one   two `"]
    );
    for value in ["/", "\\\\", "", "`x"] {
        let text = format!("# escape={value}\nFROM a");
        if let Some(found) = parser::parse(&text)
            .diagnostics
            .iter()
            .find(|found| found.severity == Severity::Error)
        {
            let expected = format!("invalid escape token '{value}' does not match ` or \\");
            assert_eq!(found.message, expected);
        } else {
            assert!(value.is_empty(), "{value} is taken");
        }
    }
}

fn command(text: &str) -> CommandLine {
    let parsed = parse(&format!("FROM a\n{text}\n"));
    match &parsed.dockerfile.stages[0].instructions[0].kind {
        Kind::Run(run) => run.command.clone(),
        Kind::Cmd(command) | Kind::Entrypoint(command) => command.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn x01_exec_form_is_strict_json() {
    for (text, args) in [
        ("CMD [\"a\", \"b c\"]", vec!["a", "b c"]),
        ("RUN  [ \"a\\u0041\\n\" ,\"\\\"\" ] ", vec!["aA\n", "\""]),
        ("ENTRYPOINT []", vec![]),
        ("CMD [\"a\", \\\n  \"b\"]", vec!["a", "b"]),
    ] {
        let command = command(text);
        assert!(!command.shell, "{text}");
        assert_eq!(command.args, args, "{text}");
    }
    for text in [
        "CMD ['a', 'b']",
        "CMD [\"a\", \"b\"",
        "CMD [\"a\",]",
        "CMD [a]",
        "CMD [\"a\"] x",
        "CMD \"a\"",
        "CMD [\"a\" \"b\"]",
    ] {
        let command = command(text);
        assert!(command.shell, "{text}");
        assert_eq!(command.args, [text.trim_start_matches("CMD ")], "{text}");
    }
    let parsed = parse("FROM a\nCOPY [\"a b\", \"c d/\"]\n");
    let Kind::Copy(Transfer { sources, dest, .. }) =
        &parsed.dockerfile.stages[0].instructions[0].kind
    else {
        panic!("no COPY")
    };
    assert_eq!((sources.len(), dest.value.as_str()), (1, "c d/"));
}
