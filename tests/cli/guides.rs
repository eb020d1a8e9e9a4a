//! The transcripts of the guides hold: each is replayed, and its outputs are compared (`transcript.rs` says how).

use crate::support::able;
use crate::transcript::{self, Captures, Item, matches};
use std::fs;

/// Guides with transcripts.
const REPLAYED: &[&str] = &[
    "explain",
    "failed-steps",
    "images",
    "multi-platform",
    "outputs",
    "registries",
];

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn replay(name: &str) {
    let path = testkit::workspace_root().join(format!("docs/guides/{name}.md"));
    let page = fs::read_to_string(&path).unwrap();
    match transcript::replay(&page) {
        Ok(differences) => assert!(
            differences.is_empty(),
            "{}:\n{}",
            path.display(),
            differences.join("\n")
        ),
        Err(missing) => {
            able(false, &missing);
        }
    }
}

#[test]
fn guide_explain() {
    replay("explain");
}

#[test]
fn guide_failed_steps() {
    replay("failed-steps");
}

#[test]
fn guide_images() {
    replay("images");
}

#[test]
fn guide_outputs() {
    replay("outputs");
}

#[test]
fn guide_registries() {
    replay("registries");
}

#[test]
fn guide_multi_platform() {
    replay("multi-platform");
}

#[test]
fn every_guide_with_a_transcript_is_replayed() {
    let folder = testkit::workspace_root().join("docs/guides");
    let mut found: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let page = fs::read_to_string(&path).unwrap();
        if transcript::parse(&page)
            .iter()
            .any(|item| matches!(item, Item::Command { .. }))
        {
            found.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    assert_eq!(found, REPLAYED);
}

#[test]
fn outputs_match_line_by_line() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let cases = [
        ("a b", "a   b  ", true),
        ("a b", "a c", false),
        ("a", "a\nb", false),
        ("a\nb", "a", false),
        ("", "", true),
        ("", "x", false),
        ("a\n...", "a", true),
        ("a\n...\nz", "a\nb\nc\nz", true),
        ("a\n...\nz", "a\nb\nc", false),
        ("...", "", true),
        ("a ... z", "a b c z", true),
        ("a ... z", "a b c", false),
        ("pushed <digest>", &format!("pushed {digest}"), true),
        ("pushed <digest>", "pushed sha256:abc", false),
        ("<id> x", "0123456789ab x", true),
        ("<id> x", "0123456789abc x", false),
        ("<size> of <size>", "1.5MB of 20 kB", true),
        ("<size>", "MB", false),
        ("<none> <digest>", &format!("<none> {digest}"), true),
    ];
    for (shown, found, expected) in cases {
        let fits = matches(&lines(shown), &lines(found), &mut Captures::new());
        assert_eq!(fits, expected, "{shown:?} and {found:?}");
    }
}

#[test]
fn pages_are_read_and_run() {
    let page = "# T\n\n<!-- transcript: needs sh -->\n```console\n$ mkdir d && cd d\n$ cat <<EOF >f\n> one\n>\n> two\n> EOF\n$ cat f\none\n\ntwo\n\
        $ echo sha256:$(printf %064d 0) end\n<digest> end\n$ echo again <digest>\nagain sha256:0000...\n\
        $ kiln rmi nothing\nERROR: ...nothing...\n```\n```sh\n$ false\n```\n";
    assert_eq!(transcript::replay(page), Ok(Vec::new()));
    // What differs is found, be it the output or the status.
    for (page, told) in [
        (
            "```console\n$ echo a\nb\n```\n",
            "line 2: echo a\n--- shown\nb\n--- printed, status Some(0)\na\n",
        ),
        ("```console\n$ false\n```\n", "status Some(1)"),
        (
            "```console\n$ echo ERROR: no\nERROR: no\n```\n",
            "status Some(0)",
        ),
        ("```console\n$ python3 -V\n...\n```\n", "not found"),
        ("```console\n$ exit 3\n```\n", "status None"),
        ("```console\n$ echo a\n$ echo b\nb\n```\n", "line 2: echo a"),
    ] {
        let differences = transcript::replay(page).unwrap();
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(differences[0].contains(told), "{}", differences[0]);
    }
    let page = "<!-- transcript: needs no-such-program -->\n";
    assert_eq!(transcript::replay(page), Err("no-such-program".to_owned()));
}
