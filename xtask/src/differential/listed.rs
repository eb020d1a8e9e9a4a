//! Tells the differences that docs/compatibility.md names from the others.

use super::compare::{Answer, Differences, Level};
use super::dockerfile::Case;

/// Recognises one difference.
type Test = fn(&Finding<'_>) -> bool;

/// What a test looks at.
struct Finding<'a> {
    level: Level,
    text: &'a str,
    case: &'a Case,
    theirs: &'a Answer,
    ours: &'a Answer,
}

/// Name as in docs/compatibility.md, and how it is recognised.
const LISTED: &[(&str, Test)] = &[
    ("--chown with an unknown user", |finding| {
        only_ours(finding) && finding.ours.log.contains("unable to find user")
    }),
    ("--link with a named owner", |finding| {
        finding.level == Level::Exit && finding.theirs.log.contains("invalid user index: -1")
    }),
    ("names with a backslash", |finding| {
        finding.level == Level::Exit
            && finding.ours.image.is_some()
            && finding.case.dockerfile.contains("slash.txt")
            && ["slash.txt\": not found", "slash.txt: no such file"]
                .iter()
                .any(|text| finding.theirs.log.contains(text))
    }),
    ("names of whiteouts", |finding| {
        only_ours(finding)
            && finding
                .ours
                .log
                .contains("are whiteouts to every image reader")
    }),
    ("archives that lead out of the destination", |finding| {
        finding.level == Level::Exit
            && ["path escapes from parent", "invalid entry name"]
                .iter()
                .any(|text| finding.theirs.log.contains(text))
    }),
    ("WORKDIR with dots", |finding| {
        matches!(finding.level, Level::Tree | Level::Layers)
            && finding.case.dockerfile.contains("WORKDIR /a/../b")
            && finding.text.contains("1 entries: missing \"a\" (dir")
    }),
    ("hard links to files below", |finding| {
        finding.level == Level::Layers
            && finding.text.contains(", ours hardlink")
            && finding.text.contains("BuildKit file")
    }),
    ("HEALTHCHECK in the history", |finding| {
        finding.level == Level::Healthcheck
    }),
    ("times of folders", |finding| {
        finding.level == Level::FolderTimes
    }),
    ("extended attributes", |finding| {
        finding.level == Level::Attributes
    }),
];

fn only_ours(finding: &Finding<'_>) -> bool {
    finding.level == Level::Exit && finding.theirs.image.is_some()
}

/// Splits differences into names of listed ones, and those that no row explains.
pub fn split(
    differences: Differences,
    case: &Case,
    theirs: &Answer,
    ours: &Answer,
) -> (Vec<&'static str>, Differences) {
    let mut names = Vec::new();
    let mut rest = Vec::new();
    for (level, text) in differences {
        let finding = Finding {
            level,
            text: &text,
            case,
            theirs,
            ours,
        };
        match LISTED.iter().find(|(_, test)| test(&finding)) {
            Some((name, _)) => names.push(*name),
            None => rest.push((level, text)),
        }
    }
    (names, rest)
}
