//! Ignore rules and wildcards by tables, and the set's shortcuts against one pattern at a time.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use executor::context::IgnoreRules;
use executor::context::glob::Glob;
use executor::context::ignore::ignore_lines;
use executor::context::pattern::{PatternSet, clean};
use proptest::prelude::*;

#[test]
fn wildcards() {
    let cases: &[(&str, &str, Option<bool>)] = &[
        ("*", "abc", Some(true)),
        ("*", "a/b", Some(false)),
        ("a*/b", "abc/b", Some(true)),
        ("a*/b", "a/c/b", Some(false)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
        ("a?c", "a\u{e9}c", Some(true)),
        ("a?c", "a/c", Some(false)),
        ("[a-c]x", "bx", Some(true)),
        ("[^a-c]x", "bx", Some(false)),
        ("[^a]b", "/b", Some(true)),
        ("[!a]x", "!x", Some(true)),
        ("[\\]]", "]", Some(true)),
        ("[\u{3b1}-\u{3b9}]", "\u{3b5}", Some(true)),
        ("\\*", "*", Some(true)),
        ("\\*", "a", Some(false)),
        ("{a,b}", "{a,b}", Some(true)),
        ("**", "a", Some(true)),
        ("a/**/b", "a/x/b", Some(true)),
        ("a/**/b", "a/x/y/b", Some(false)),
        ("", "", Some(true)),
        ("a", "", Some(false)),
        ("[]a]", "a", None),
        ("[a-]", "a", None),
        ("[-x]", "x", None),
        ("[", "a", None),
        ("[a", "a", None),
        ("a\\", "a", None),
        ("*[", "b", None),
    ];
    for &(pattern, name, expected) in cases {
        let found = Glob::new(pattern.as_bytes())
            .ok()
            .map(|glob| glob.matches(name.as_bytes()));
        assert_eq!(found, expected, "{pattern:?} {name:?}");
    }
    assert!(
        Glob::new(b"\xff?").unwrap().matches(b"\xff\xfe"),
        "bytes outside UTF-8 match as they are"
    );
}

#[test]
fn i03_i04_patterns() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&["**"], "any/thing", true),
        (&["dir"], "dir/file", true),
        (&["dir/**"], "dir", false),
        (&["dir/**"], "dir/a/b", true),
        (&["**/dir"], "dir", true),
        (&["**/dir"], "a/b/dir/c", true),
        (&["**dir"], "a/mydir", true),
        (&["**/*.go"], "a/b.go", true),
        (&["**.go"], "a/b.go", true),
        (&["a/**/b"], "a/b", true),
        (&["a/**/b"], "a/x/y/b", true),
        (&["a**b"], "axb", false),
        (&["a**b"], "a/x/b", true),
        (&["a**b"], "ax/b", true),
        (&["*"], "a/b", true),
        (&["a.c"], "abc", false),
        (&["a+(b)|c$"], "a+(b)|c$", true),
        (&["^*"], "^a", true),
        (&["a^*"], "a^b", false),
        (&["[[:alpha:]]x"], "bx", true),
        (&["[*]x"], "*x", false),
        (&["./a/../b/"], "b", true),
        (&["dir", "!dir/keep"], "dir/keep", false),
        (&["dir", "!dir/keep"], "dir/keep/x", false),
        (&["dir", "!dir/keep", "dir/keep/x"], "dir/keep/x", true),
        (&["!a", "a"], "a", true),
        (
            &["*.md", "!README*.md", "README-secret.md"],
            "README-secret.md",
            true,
        ),
        (
            &["*.md", "!README*.md", "README-secret.md"],
            "README-x.md",
            false,
        ),
    ];
    for (patterns, path, expected) in cases {
        let set = PatternSet::new(patterns.iter().copied()).unwrap();
        assert_eq!(
            set.matches(path.as_bytes()),
            *expected,
            "{patterns:?} {path:?}"
        );
    }
}

#[test]
fn i02_files() {
    let text = "\u{feff}# first\n a \n\n/b/c/\n #d\n! e\n!/f/../g\n./h//i\r\n/\n";
    let lines: Vec<(u32, String)> = ignore_lines(text);
    let expected = [
        (2, "a"),
        (4, "b/c"),
        (5, "#d"),
        (6, "!e"),
        (7, "!g"),
        (8, "h/i"),
        (9, "/"),
    ];
    assert_eq!(lines, expected.map(|(line, text)| (line, text.to_owned())));
}

#[test]
fn the_deciding_line() {
    let rules = IgnoreRules::parse("# x\n*.log\n\nbuild\n!build/keep.log\nbuild/*\n").unwrap();
    let cases = [
        ("a.log", Some(2)),
        ("b", None),
        ("build", Some(4)),
        ("build/x", Some(4)),
        ("build/keep.log", Some(6)),
    ];
    for (path, line) in cases {
        assert_eq!(rules.deciding_line(path), line, "{path}");
        assert_eq!(rules.is_ignored(path), line.is_some(), "{path}");
    }
}

#[test]
fn mistakes_name_their_line() {
    for (text, expected) in [
        ("a\n!\n", "line 2: illegal exclusion pattern: \"!\""),
        ("a\n\n# x\n! \n", "line 4: illegal exclusion pattern: \"!\""),
        ("a\nb[\n", "line 2: \"b[\": syntax error in pattern"),
    ] {
        assert_eq!(IgnoreRules::parse(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn cleaning() {
    for (path, expected) in [
        ("", "."),
        (".", "."),
        ("/", "/"),
        ("a//b/./c/", "a/b/c"),
        ("a/../..", ".."),
        ("/../a", "/a"),
        ("../a", "../a"),
        ("a/..", "."),
    ] {
        assert_eq!(clean(path), expected);
    }
}

fn pattern() -> impl Strategy<Value = String> {
    "!?(\\*\\*/?)?[ab./*?]{0,6}(\\[[ab^-]{1,3}\\])?[ab.*]{0,3}"
}

proptest! {
    /// A set of many patterns, which looks at candidates only, decides as one that looks at every pattern.
    #[test]
    fn many_patterns_decide_as_few(texts in prop::collection::vec(pattern(), 50..90), path in "[ab./]{1,8}(/[ab.]{1,3}){0,2}") {
        let valid: Vec<&str> = texts.iter().map(String::as_str).filter(|text| PatternSet::new([*text]).is_ok()).collect();
        let large = PatternSet::new(valid.iter().copied()).unwrap();
        // One pattern at a time: the last that matches decides.
        let mut expected = false;
        for text in &valid {
            let negated = clean(text.trim()).starts_with('!');
            // Alone, a negated pattern shows only against one that matches everything.
            let alone = if negated { vec!["**", *text] } else { vec![*text] };
            let hit = PatternSet::new(alone).unwrap().matches(path.as_bytes()) != negated;
            if hit && negated == expected {
                expected = !negated;
            }
        }
        prop_assert_eq!(large.matches(path.as_bytes()), expected, "{:?}", valid);
    }

    /// What a walk may skip never matches.
    #[test]
    fn skipped_directories_hold_nothing(text in pattern(), path in "[ab.]{1,3}(/[ab.]{1,3}){1,3}") {
        let Ok(set) = PatternSet::new([text.as_str()]) else { return Ok(()) };
        for (end, _) in path.match_indices('/') {
            let directory = &path.as_bytes()[..end];
            if set.matches(path.as_bytes()) {
                prop_assert!(set.may_match_at_or_below(directory), "{} {}", text, path);
            }
        }
        let negated = format!("!{}", text.trim_start_matches('!'));
        if let Ok(set) = PatternSet::new(["**", negated.as_str()]) && !set.matches(path.as_bytes()) {
            for (end, _) in path.match_indices('/') {
                let directory = &path.as_bytes()[..end];
                prop_assert!(!set.matches(directory) || set.may_reinclude_below(directory), "{} {}", negated, path);
            }
        }
    }

    #[test]
    fn nothing_panics(text in ".{0,20}", path in prop::collection::vec(any::<u8>(), 0..30)) {
        if let Ok(set) = PatternSet::new([text.as_str()]) {
            let _ = set.matches(&path);
        }
        if let Ok(glob) = Glob::new(text.as_bytes()) {
            let _ = glob.matches(&path);
        }
        if let Ok(glob) = Glob::new(&path) {
            let _ = glob.matches(text.as_bytes());
        }
    }
}
