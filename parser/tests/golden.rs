//! Golden files: each Dockerfile in `data/` with its raw dump, its typed instructions and its findings.

use parser::{Diagnostic, Parsed, Severity, Span};
use std::fmt::Write as _;

#[test]
fn dockerfiles() {
    insta::glob!("data/*.dockerfile", |path| {
        let text = std::fs::read_to_string(path).expect("a golden file is readable");
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(show(&text));
        });
    });
}

fn show(text: &str) -> String {
    let raw = parser::tree::parse(text);
    let parsed = parser::parse(text);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "escape {:?}\n\n== raw\n{}\n== typed",
        raw.escape,
        raw.dump()
    );
    show_typed(&mut out, text, &parsed);
    out.push_str("\n== findings\n");
    for found in &parsed.diagnostics {
        out.push_str(&render(text, found));
    }
    out
}

fn show_typed(out: &mut String, text: &str, parsed: &Parsed) {
    let file = &parsed.dockerfile;
    let directives = &file.directives;
    for (name, value) in [
        ("syntax", &directives.syntax),
        ("escape", &directives.escape),
        ("check", &directives.check),
    ] {
        if let Some(value) = value {
            let _ = writeln!(
                out,
                "# {name}={:?} at {:?}",
                value.value,
                slice(text, value.span)
            );
        }
    }
    let show = |out: &mut String, info: &parser::ast::InstructionInfo, what: &str| {
        let comments = if info.comments.is_empty() {
            String::new()
        } else {
            format!(" {:?}", info.comments)
        };
        let _ = writeln!(
            out,
            "{}-{}{comments} {}",
            info.lines.start,
            info.lines.end,
            places(text, what)
        );
    };
    for instruction in &file.global_args {
        show(out, &instruction.info, &format!("{:?}", instruction.kind));
    }
    for stage in &file.stages {
        show(
            out,
            &stage.from,
            &format!(
                "From {:?} platform {:?} as {:?}",
                stage.base, stage.platform, stage.name
            ),
        );
        for instruction in &stage.instructions {
            show(out, &instruction.info, &format!("{:?}", instruction.kind));
        }
    }
}

fn slice(text: &str, span: Span) -> &str {
    &text[span.start as usize..span.end as usize]
}

/// Replaces spans in a debug form by the text they cover.
fn places(text: &str, debug: &str) -> String {
    let mut out = String::new();
    let mut rest = debug;
    while let Some((before, after)) = rest.split_once("Span { start: ") {
        out.push_str(before);
        let (start, after) = after.split_once(", end: ").expect("a span has an end");
        let (end, after) = after.split_once(" }").expect("a span is closed");
        let range =
            start.parse::<usize>().expect("a number")..end.parse::<usize>().expect("a number");
        let _ = write!(out, "@{:?}", &text[range]);
        rest = after;
    }
    out + rest
}

/// As a compiler would, without colours.
fn render(text: &str, found: &Diagnostic) -> String {
    let severity = if found.severity == Severity::Error {
        "error"
    } else {
        "warning"
    };
    let code = found.code.map_or(String::new(), |code| format!("[{code}]"));
    let lines = found.lines.map_or(String::new(), |lines| {
        format!(" {}-{}", lines.start, lines.end)
    });
    let mut out = format!("{severity}{code}{lines}: {}\n", found.message);
    if let Some(span) = found.span {
        let _ = writeln!(out, "    at {:?}", slice(text, span));
    }
    if let Some(help) = &found.help {
        let _ = writeln!(out, "    help: {help}");
    }
    out
}
