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
const LISTED: &[(&str, Test)] = &[("--chown with an unknown user", |finding| {
    finding.level == Level::Exit
        && finding.theirs.image.is_some()
        && finding.ours.log.contains("unknown user")
        && finding.case.dockerfile.contains("--chown")
})];

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
