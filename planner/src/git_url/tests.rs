//! Forms, queries and their mistakes.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Option<GitUrl> {
    GitUrl::parse(text).expect(text)
}

/// Text, remote, short name, reference, subdirectory.
const FORMS: [(&str, &str, &str, &str, &str); 15] = [
    (
        "https://e.com/foo.git",
        "https://e.com/foo.git",
        "foo",
        "",
        "",
    ),
    (
        "https://e.com/foo.git#release/1.2",
        "https://e.com/foo.git",
        "foo",
        "release/1.2",
        "",
    ),
    (
        "https://e.com/foo.git#a/b:c/d",
        "https://e.com/foo.git",
        "foo",
        "a/b",
        "c/d",
    ),
    (
        "https://e.com/foo.git#:c",
        "https://e.com/foo.git",
        "foo",
        "",
        "c",
    ),
    ("git://e.com/foo", "git://e.com/foo", "foo", "", ""),
    (
        "github.com/moby/buildkit#m",
        "github.com/moby/buildkit",
        "buildkit",
        "m",
        "",
    ),
    (
        "git@github.com:moby/buildkit",
        "git@github.com:moby/buildkit",
        "buildkit",
        "",
        "",
    ),
    ("git@h:/abs/x.git#b", "git@h:/abs/x.git", "x", "b", ""),
    ("h.org:a/x.git", "h.org:a/x.git", "x", "", ""),
    (
        "ssh://git@h:22/x.git#b:s",
        "ssh://git@h:22/x.git",
        "x",
        "b",
        "s",
    ),
    ("HTTPS://H/x.git", "https://H/x.git", "x", "", ""),
    (
        "https://h/x.git?tag=v1",
        "https://h/x.git",
        "x",
        "refs/tags/v1",
        "",
    ),
    (
        "https://h/x.git?branch=v1&subdir=/s",
        "https://h/x.git",
        "x",
        "refs/heads/v1",
        "/s",
    ),
    (
        "git@h:x.git?subdir=/s#v1",
        "git@h:x.git",
        "git@h:x",
        "v1",
        "/s",
    ),
    (
        "https://h/x.git?commit=abcd",
        "https://h/x.git",
        "x",
        "",
        "",
    ),
];

#[test]
fn control_characters_are_no_part_of_a_repository() {
    for text in ["git@h:x\n.git", "git@h:x\0.git"] {
        assert!(parse(text).is_none(), "{text:?}");
    }
    for text in [
        "https://h/x.git#a%0ab",
        "https://h/x.git#:a%00b",
        "https://h/x.git?ref=a%0ab",
    ] {
        let error = GitUrl::parse(text).expect_err(text);
        assert_eq!(error, "invalid control character in URL", "{text:?}");
    }
}

#[test]
fn ac24_forms() {
    for (text, remote, short, reference, subdir) in FORMS {
        let git = parse(text).expect(text);
        let got = (git.remote.as_str(), git.short_name.as_str());
        assert_eq!(got, (remote, short), "{text}");
        let got = (git.reference.as_str(), git.subdir.as_str());
        assert_eq!(got, (reference, subdir), "{text}");
    }
}

#[test]
fn ac24_what_is_no_repository() {
    for text in [
        "https://e.com/",
        "https://e.com/foo.git/",
        "https://e.com/foo.git.bar",
        "custom.xyz/moby/buildkit.git",
        "http://h/d.git:#branch",
        "./.git",
        "../x.git",
        ".git",
        "file:///x.git",
        "ftp://h/x.git",
        "h:/x",
        "a b:c",
        "-",
        "",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn ac24_query_mistakes() {
    for (query, error) in [
        ("?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
        ("?ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
        ("?tag=a&branch=b", "branch conflicts with tag"),
        ("?subdir=a#b:c", "subdir conflicts: \"c\" vs \"a\""),
        ("?nope=1", "unexpected query \"nope\""),
        ("?ref=", "query \"ref\" has no value"),
        ("?ref=a&ref=b", "query \"ref\" has multiple values"),
        ("?keep-git-dir=x", "invalid keep-git-dir value: \"x\""),
        ("?submodules=x", "invalid submodules value: \"x\""),
        ("?fetch-by-commit=x", "invalid fetch-by-commit value: \"x\""),
    ] {
        let text = format!("https://h/x.git{query}");
        assert_eq!(GitUrl::parse(&text), Err(error.to_owned()), "{text}");
    }
    let error = GitUrl::parse("https://h/x.git?mtime=x").expect_err("no such time");
    assert!(error.starts_with("invalid mtime value"), "{error}");
}

#[test]
fn ac25_flags_of_the_instruction_and_of_the_query_agree() {
    let git = parse("https://h/x.git?keep-git-dir&commit=ab").expect("a repository");
    assert_eq!(
        git.source(Some(false), None),
        Err("inconsistent keep-git-dir configuration".to_owned())
    );
    assert_eq!(
        git.source(None, Some("cd")),
        Err("checksum mismatch \"cd\" != \"ab\"".to_owned())
    );
    let source = git.source(Some(true), Some("ab")).expect("they agree");
    assert!(source.keep_git_dir && source.submodules);
    assert_eq!(source.checksum.as_deref(), Some("ab"));
    let local = parse("github.com/a/b#:../../etc").expect("a repository");
    let source = local.source(None, None).expect("no flags");
    assert_eq!(source.remote, "https://github.com/a/b");
    assert_eq!(source.subdir, "etc");
}

#[test]
fn credentials_are_not_shown() {
    for (text, shown) in [
        ("https://me:pw@h/x.git#r", "https://xxxxx:xxxxx@h/x.git#r"),
        ("https://token@h/x.git", "https://xxxxx@h/x.git"),
        ("ssh://git@h/x.git", "ssh://git@h/x.git"),
        ("ssh://git:pw@h/x.git", "ssh://xxxxx:xxxxx@h/x.git"),
        ("git@h:x.git", "git@h:x.git"),
        ("https://h/a@b", "https://h/a@b"),
        ("https://a:b@c@h?x", "https://xxxxx:xxxxx@h?x"),
    ] {
        assert_eq!(redacted(text), shown);
    }
    let git = parse("https://me:hunter2@h/x.git").expect("a repository");
    let source = git.source(None, None).expect("no flags");
    assert!(!format!("{git:?} {source:?}").contains("hunter2"));
}

#[test]
fn credentials_are_masked_in_place() {
    for (text, shown) in [
        (
            "ADD https://me:pw@h/x http://tok@h a@b",
            "ADD https://xx:xx@h/x http://xxx@h a@b",
        ),
        ("ssh://git@h/x ssh://g:p@h/x", "ssh://git@h/x ssh://x:x@h/x"),
        ("[\"http://ü@h\"]", "[\"http://xx@h\"]"),
        ("http://h/a@b\n@x", "http://h/a@b\n@x"),
    ] {
        assert_eq!(masked(text), shown);
        assert_eq!(masked(text).len(), text.len());
    }
}

proptest! {
    #[test]
    fn any_text_parses_and_nothing_leads_out(text in "\\PC{0,40}") {
        if let Ok(Some(git)) = GitUrl::parse(&text)
            && let Ok(source) = git.source(None, None)
        {
            prop_assert!(!source.subdir.starts_with('/'));
            prop_assert!(source.subdir.split('/').all(|part| part != ".."));
        }
    }

    #[test]
    fn url_like_texts_parse(
        scheme in "(https?|ssh|git|file)://",
        rest in "[a-z@:/.%#?&=\\[\\]~ü -]{0,40}",
    ) {
        let text = format!("{scheme}{rest}");
        if let Ok(Some(git)) = GitUrl::parse(&text) {
            prop_assert!(!git.remote.contains(['\n', '\0']));
            // What is parsed once parses again to the same remote.
            if !git.looks_local {
                let again = GitUrl::parse(&git.remote).expect("no query").expect("still one");
                prop_assert_eq!(again.remote, git.remote);
            }
        }
    }

    #[test]
    fn passwords_never_show(
        user in "[a-z]{1,8}",
        password in "[a-z0-9:%]{1,12}",
        path in "[a-z/.]{0,12}",
    ) {
        let password = format!("sekret{password}");
        let shown = redacted(&format!("https://{user}:{password}@h/{path}"));
        prop_assert!(!shown.contains("sekret"), "{}", shown);
    }
}
