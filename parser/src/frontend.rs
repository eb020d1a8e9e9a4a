//! Which frontend a file asks for: the `syntax` directive in all its spellings, and whether it is this one.
//!
//! Files for other frontends need not look like a Dockerfile, so that the directive may stand behind `//` or in a
//! JSON object too. Finds it; refusing is the caller's.

use crate::ast::{Lines, Span, Spanned};
use crate::diagnostic::Diagnostic;
use crate::source::{Source, offset};

/// Comments that a directive may stand in.
const COMMENTS: [&str; 2] = ["#", "//"];

/// Repositories of the frontend that is built in, whatever registry they are fetched from.
const BUILT_IN: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// The frontend that the head of a file asks for: the first word of the value, with its place and line.
#[must_use]
pub fn detect(text: &str) -> Option<(Spanned<String>, Lines)> {
    let skipped = head(text);
    COMMENTS
        .iter()
        .find_map(|comment| in_comments(text, skipped, comment))
        .or_else(|| in_json(text, skipped))
}

/// The finding about a file, or a `BUILDKIT_SYNTAX` build arg, that asks for a frontend that is not there. An empty
/// build arg is none.
#[must_use]
pub fn check(text: &str, build_arg: Option<&str>) -> Option<Diagnostic> {
    let help = "the docker/dockerfile frontend is built in; give --build-arg BUILDKIT_SYNTAX=docker/dockerfile to use it";
    match build_arg {
        Some(name) if !name.is_empty() => {
            let message = refusal(name)?;
            Some(Diagnostic {
                span: None,
                lines: None,
                ..Diagnostic::error(
                    format!("BUILDKIT_SYNTAX={message}"),
                    Span::default(),
                    Lines::default(),
                )
                .with_help(help)
            })
        }
        _ => {
            let (name, lines) = detect(text)?;
            let message = refusal(&name.value)?;
            Some(Diagnostic::error(format!("syntax={message}"), name.span, lines).with_help(help))
        }
    }
}

fn refusal(name: &str) -> Option<String> {
    (!is_built_in(name))
        .then(|| format!("{name}: frontends other than docker/dockerfile are not supported"))
}

/// Whether an image reference names this frontend: any registry, tag and digest; `dockerfile.v0` is BuildKit's own name.
fn is_built_in(name: &str) -> bool {
    if name == "dockerfile.v0" {
        return true;
    }
    let name = name.split('@').next().unwrap_or(name);
    let name = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    BUILT_IN.iter().any(|known| {
        name.strip_suffix(known)
            .is_some_and(|registry| registry.is_empty() || registry.ends_with('/'))
    })
}

/// Where the file begins behind a byte order mark and a shebang.
fn head(text: &str) -> usize {
    let body = text.trim_start_matches('\u{feff}');
    let mark = text.len() - body.len();
    if !body.starts_with("#!") {
        return mark;
    }
    body.find('\n').map_or(text.len(), |end| mark + end + 1)
}

/// `# name = value` lines from the start on, until a line is something else.
fn in_comments(text: &str, skipped: usize, comment: &str) -> Option<(Spanned<String>, Lines)> {
    let mut start = skipped;
    for line in text[skipped..].split_inclusive('\n') {
        let rest = line.trim_start().strip_prefix(comment)?;
        let (name, value) = rest.split_once('=')?;
        let name = name.trim();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric());
        let value = value.trim();
        if !is_name || value.is_empty() {
            return None;
        }
        if name.eq_ignore_ascii_case("syntax") {
            let at = start + offset_in(line, value);
            return Some(first_word(text, value, at));
        }
        start += line.len();
    }
    None
}

/// `{"syntax": "..."}` as the whole rest of the file, or its beginning.
fn in_json(text: &str, skipped: usize) -> Option<(Spanned<String>, Lines)> {
    let body = &text[skipped..];
    let after_brace = body.trim_start().strip_prefix('{')?;
    let key = after_brace.find("\"syntax\"")?;
    let after_key = after_brace[key + "\"syntax\"".len()..].trim_start();
    let value = after_key
        .strip_prefix(':')?
        .trim_start()
        .strip_prefix('"')?;
    let value = &value[..value.find('"')?];
    // Only at the top: no other object is open before the key.
    if after_brace[..key].contains(['{', '}']) || value.trim().is_empty() {
        return None;
    }
    let at = skipped + offset_in(body, value);
    Some(first_word(text, value, at))
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn first_word(text: &str, value: &str, at: usize) -> (Spanned<String>, Lines) {
    let start = at + (value.len() - value.trim_start().len());
    let word = value.split_whitespace().next().unwrap_or_default();
    let end = start + word.len();
    let lines = Source::new(text).lines(start, end);
    let span = Span {
        start: offset(start),
        end: offset(end),
    };
    let value = word.to_owned();
    (Spanned { value, span }, lines)
}

#[cfg(test)]
mod tests {
    use super::{check, detect, is_built_in};

    fn found(text: &str) -> Option<(String, u32)> {
        detect(text).map(|(name, lines)| {
            assert_eq!(
                &text[name.span.start as usize..name.span.end as usize],
                name.value
            );
            (name.value, lines.start)
        })
    }

    #[test]
    fn f15_directives_are_found() {
        let cases = [
            ("# syntax = a/b:c // opts\nFROM busybox\n", "a/b:c", 1),
            ("#syntax=x", "x", 1),
            ("# escape=\\\n# Syntax=x\n", "x", 2),
            ("#!/bin/sh\n# syntax=x\nFROM y\n", "x", 2),
            ("// syntax=x // y\n", "x", 1),
            ("#!/usr/bin/env b\n//syntax = x\n", "x", 2),
            ("\u{feff}# syntax=x\n", "x", 1),
            ("{\"syntax\": \"x\"}\n", "x", 1),
            ("\n {\n  \"other\": 1,\n  \"syntax\" : \"x y\"\n}", "x", 4),
            ("#!/bin/sh\n{\"syntax\":\"x\"}", "x", 2),
        ];
        for (text, name, line) in cases {
            assert_eq!(found(text), Some((name.to_owned(), line)), "{text}");
        }
        for text in [
            "",
            "FROM busybox\n# syntax=x\n",
            "# comment\n# syntax=x\n",
            "\n# syntax=x\n",
            "# syntax=\n",
            "# syntax x\n",
            "; syntax=x\n",
            "{\"other\": {\"syntax\": \"x\"}}",
            "{\"syntax\": 1}",
            "#!/bin/sh\n\n# syntax=x\n",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn d06_docker_dockerfile_is_built_in() {
        for name in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile:latest",
            "docker/dockerfile-upstream:master",
            "docker/dockerfile:1@sha256:0123",
            "localhost:5000/docker/dockerfile",
            "mirror.example/proxy/docker/dockerfile:1",
            "dockerfile.v0",
        ] {
            assert!(is_built_in(name), "{name}");
        }
        for name in [
            "dockerfile",
            "dockerfile:experimental",
            "tonistiigi/dockerfile:1",
            "mydocker/dockerfile",
            "docker/dockerfile2",
            "docker/dockerfile/x",
        ] {
            assert!(!is_built_in(name), "{name}");
        }
    }

    #[test]
    fn d11_the_build_arg_overrides() {
        let other = "# syntax=foo/bar:1\nFROM busybox\n";
        let error = check(other, None).unwrap();
        assert_eq!(
            error.message,
            "syntax=foo/bar:1: frontends other than docker/dockerfile are not supported"
        );
        assert_eq!(error.lines.unwrap().start, 1);
        assert_eq!(check(other, Some("docker/dockerfile:1")), None);
        assert_eq!(check(other, Some("dockerfile.v0")), None);
        assert!(check(other, Some("")).is_some());
        let error = check("FROM busybox\n", Some("foo/bar")).unwrap();
        assert!(error.message.starts_with("BUILDKIT_SYNTAX=foo/bar:"));
        assert_eq!(check("# syntax=docker/dockerfile:1\n", None), None);
    }
}
