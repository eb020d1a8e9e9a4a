//! Properties of the parser on any text: no panic, spans in range and on character boundaries, nothing lost.

use parser::{Severity, Span, tree};
use proptest::prelude::*;

/// Every span in a debug form.
fn spans(debug: &str) -> Vec<Span> {
    debug
        .split("Span { start: ")
        .skip(1)
        .map(|part| {
            let (start, rest) = part.split_once(", end: ").expect("a span has an end");
            let (end, _) = rest.split_once(" }").expect("a span is closed");
            Span {
                start: start.parse().expect("a number"),
                end: end.parse().expect("a number"),
            }
        })
        .collect()
}

fn check(text: &str) {
    let raw = tree::parse(text);
    let parsed = parser::parse(text);
    for span in spans(&format!("{raw:?}{parsed:?}")) {
        let range = span.start as usize..span.end as usize;
        assert!(text.get(range.clone()).is_some(), "{range:?} of {text:?}");
    }
    let last = u32::try_from(text.split('\n').count()).expect("a short text");
    for node in &raw.nodes {
        assert!(
            1 <= node.lines.start && node.lines.start <= node.lines.end && node.lines.end <= last,
            "{text:?}"
        );
    }
    for found in &parsed.diagnostics {
        assert!(!found.message.is_empty());
        if let Some(lines) = found.lines {
            assert!(
                1 <= lines.start && lines.start <= lines.end && lines.end <= last,
                "{found:?} of {text:?}"
            );
        }
    }
    let empty = raw.nodes.is_empty();
    assert!(
        !empty
            || parsed
                .diagnostics
                .iter()
                .any(|found| found.severity == Severity::Error),
        "{text:?}"
    );
    let _ = parser::parse_trigger(text);
}

/// Lines that Dockerfiles are made of, wrong ones among them.
const LINES: [&str; 30] = [
    "# escape=`",
    "# syntax=a/b",
    "# comment ♥",
    "#",
    "",
    "  ",
    "FROM alpine AS base",
    "FROM --platform=$P a:b@c",
    "RUN a && \\",
    "RUN a && `",
    "  b \\\\",
    "\\",
    "RUN <<EOF <<-'X'",
    "EOF",
    "\tX",
    "RUN --mount=type=cache,target=/größe \\",
    "COPY --from=a --exclude='x y' a <<EOF /b",
    "COPY [\"a\", \"b\\u00e9\"]",
    "ADD [\"a\", 1]",
    "ENV a=\"b \\",
    "c\" d='e",
    "ENV a b c",
    "LABEL größe=\\ x",
    "ARG x= y",
    "ONBUILD ONBUILD RUN x",
    "ONBUILD COPY <<EOF /x",
    "HEALTHCHECK --interval=5s CMD [\"x\"]",
    "VOLUME a \u{a0}b",
    "FROMM x",
    "SHELL [",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,60}") {
        check(&text);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn mixed_lines(lines in prop::collection::vec(prop::sample::select(&LINES[..]), 0..12), crlf in any::<bool>(), bom in any::<bool>()) {
        let text = lines.join(if crlf { "\r\n" } else { "\n" });
        check(&if bom { format!("\u{feff}{text}") } else { text });
    }

    #[test]
    fn mutated_lines(
        lines in prop::collection::vec(prop::sample::select(&LINES[..]), 1..8),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just('\\'), Just('\n'), Just('"'), Just('\''), Just('<'), Just('$'), Just('='), Just(' '), Just('\r'), Just('é'), Just('-'), Just('[')
        ], any::<bool>()), 0..6),
    ) {
        let mut chars: Vec<char> = lines.join("\n").chars().collect();
        for (at, with, insert) in edits {
            let at = at.index(chars.len() + 1);
            if insert || at == chars.len() {
                chars.insert(at, with);
            } else {
                chars[at] = with;
            }
        }
        check(&chars.into_iter().collect::<String>());
    }

    /// What is read back at a span is what was read, where no continuation and no quoting is in between.
    #[test]
    fn spans_hold_the_words(words in prop::collection::vec("[a-zé♥/.:]{1,8}", 2..6), comments in 0usize..3) {
        let text = format!("{}FROM x\nCOPY --chown=a:b {}\n", "# c\n".repeat(comments), words.join("  "));
        let raw = tree::parse(&text);
        let node = raw.nodes.get(1).expect("the second instruction");
        for (arg, word) in node.args.iter().zip(&words) {
            prop_assert_eq!(&arg.value, word);
            prop_assert_eq!(&text[arg.span.start as usize..arg.span.end as usize], word);
        }
        prop_assert_eq!(&text[node.flag_values[0].start as usize..node.flag_values[0].end as usize], "a:b");
        prop_assert_eq!(node.lines.start as usize, comments + 2);
    }

    /// Continuations at any blank change neither the words nor the flags.
    #[test]
    fn continuations_do_not_matter(words in prop::collection::vec("[a-z/.]{1,6}", 2..6), cuts in prop::collection::vec(any::<bool>(), 6)) {
        let plain = format!("FROM x\nCOPY --from=y {}\n", words.join(" "));
        let mut cut = String::from("FROM x\nCOPY --from=y");
        for (word, at) in words.iter().zip(&cuts) {
            cut.push_str(if *at { " \\\n  # note\n  " } else { " " });
            cut.push_str(word);
        }
        let values = |text: &str| tree::parse(text).nodes[1].args.iter().map(|arg| arg.value.clone()).collect::<Vec<_>>();
        prop_assert_eq!(values(&plain), values(&cut));
    }
}

#[test]
fn long_and_deep_texts() {
    check(&format!("FROM a\nRUN {}", "x".repeat(70_000)));
    check(&format!("FROM a\nRUN [{}", "[".repeat(60_000)));
    check(&format!(
        "FROM a\nCMD {}1{}",
        "[".repeat(20_000),
        "]".repeat(20_000)
    ));
    check(&format!("FROM a\n{}RUN x", "ONBUILD ".repeat(8_000)));
    check(&format!(
        "FROM a\nRUN {} <<EOF\nEOF",
        "${a:-".repeat(10_000)
    ));
    check(&"\\\n".repeat(5_000));
    check(&"RUN \\\n".repeat(5_000));
    check(&format!("FROM a\nENV {}", "a=b ".repeat(10_000)));
}

#[test]
fn lines_of_65535_bytes_are_the_longest() {
    let fits = format!("FROM a\nRUN {}\nUSER x\n", "x".repeat(tree::MAX_LINE - 4));
    assert!(parser::parse(&fits).diagnostics.is_empty());
    let text = format!("FROM a\nRUN {}\nUSER x\n", "x".repeat(tree::MAX_LINE - 3));
    let found = parser::parse(&text).diagnostics;
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].message,
        "dockerfile line greater than max allowed size of 65535"
    );
    assert_eq!(found[0].lines.map(|lines| lines.start), Some(2));
}
