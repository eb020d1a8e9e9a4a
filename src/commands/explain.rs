//! `kiln explain`: why the steps of the last build ran. What steps look like here, `kiln plan` shows too.

use super::{Opener, print, print_line};
use crate::args::ExplainArgs;
use crate::error::Failure;
use crate::table;
use crate::template::{Columns, List};
use executor::build::{ComparedWith, Story, Subject, Told, last_story};
use planner::explain::{Ended, FileChanges, Memo, Reason};
use planner::key::Difference;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Files that are shown without `--all`.
const SHOWN: usize = 20;

const COLUMNS: Columns<'_> = Columns {
    type_name: "*explain.Step",
    default: "{{.Step}}\t{{.Line}}\t{{.Result}}\t{{.Instruction}}\t{{.Why}}",
    headings: HEADINGS,
};

/// Headings of the tables of steps.
pub(super) const HEADINGS: &[(&str, &str)] = &[
    ("Step", "STEP"),
    ("Line", "LINE"),
    ("Stage", "STAGE"),
    ("Platform", "PLATFORM"),
    ("Result", "RESULT"),
    ("Instruction", "INSTRUCTION"),
    ("Cause", "CAUSE"),
    ("Why", "WHY"),
];

/// Longest instruction in a table.
const INSTRUCTION: usize = 40;

/// A step as it is told.
pub(super) struct Row<'a> {
    pub(super) memo: &'a Memo,
    /// `cached`, `ran`; `HIT`, `MISS`.
    pub(super) result: &'static str,
    pub(super) reason: Option<&'a Reason>,
    /// Who has the result that is not here.
    pub(super) elsewhere: Option<&'a str>,
}

/// Explains the last build that ran a step.
pub fn run(args: &ExplainArgs, open: &Opener<'_>) -> Result<(), Failure> {
    let list = List::new(args.format.as_deref().filter(|f| *f != "json"), COLUMNS)?;
    let story = last_story(&open.store()?)?.ok_or_else(|| {
        Failure::Other(
            "nothing to explain: no build in this store has run a step, or what was remembered of it was pruned"
                .to_owned(),
        )
    })?;
    let rows: Vec<Row<'_>> = story.steps.iter().map(row).collect();
    let as_json = args.format.as_deref() == Some("json");
    let Some(text) = &args.step else {
        if as_json {
            let mut document = subject(&story.subject);
            document["time"] = json!(rfc3339(story.time));
            document["compared"] = json!(story.compared);
            document["comparedWith"] = compared_with(story.compared_with.as_ref());
            document["steps"] = json!(values(&rows, args.all));
            print_line(&pretty(&document));
            return Ok(());
        }
        if args.format.is_none() {
            print(&heading(&story));
        }
        let cells: Vec<Value> = (0..rows.len()).map(|at| cells(&rows, at)).collect();
        print(&list.render(&cells)?);
        return Ok(());
    };
    let at = find(&rows, text)?;
    if as_json {
        print_line(&pretty(&value(&rows, at, args.all)));
    } else if args.format.is_some() {
        print(&list.render(&[cells(&rows, at)])?);
    } else {
        print(&in_full(&rows, at, args.all));
    }
    Ok(())
}

fn row(told: &Told) -> Row<'_> {
    Row {
        memo: &told.memo,
        result: match told.memo.ended {
            Ended::Waiting => "not run",
            Ended::Cached => "cached",
            Ended::Ran => "ran",
            Ended::Failed => "failed",
        },
        reason: told.reason.as_ref(),
        elsewhere: None,
    }
}

fn heading(story: &Story) -> String {
    let Subject {
        context,
        dockerfile,
        ..
    } = &story.subject;
    let when = table::age(&rfc3339(story.time));
    let mut text = format!("{dockerfile} in {context}, {when}\n");
    if let Some(other) = &story.compared_with {
        let _ = writeln!(text, "Compared with {}.", other.phrase());
    } else if !story.compared {
        text.push_str(
            "It was the first build of this Dockerfile here: there is nothing to compare with.\n",
        );
    }
    text.push('\n');
    text
}

/// The build that steps were compared with, as JSON; `null` where it was made here, or there was none.
pub(super) fn compared_with(other: Option<&ComparedWith>) -> Value {
    other.map_or(
        Value::Null,
        |other| json!({ "cache": other.cache, "time": rfc3339(other.time) }),
    )
}

fn rfc3339(time: i64) -> String {
    jiff::Timestamp::from_second(time).map_or_else(|_| String::new(), |time| time.to_string())
}

/// The step that is named by its number, or by stage and line.
pub(super) fn find(rows: &[Row<'_>], text: &str) -> Result<usize, Failure> {
    if let Ok(number) = text.parse::<usize>() {
        return number
            .checked_sub(1)
            .filter(|at| *at < rows.len())
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no step {number}: the build has {}",
                    rows.len()
                ))
            });
    }
    let place = text.rsplit_once(':').and_then(|(stage, line)| {
        let line: u32 = line.parse().ok()?;
        Some((stage, line))
    });
    let Some((stage, line)) = place else {
        return Err(Failure::Usage(format!(
            "invalid step {text:?}: expected a number or STAGE:LINE"
        )));
    };
    let is_it = |row: &Row<'_>| {
        (stage.is_empty() || row.memo.stage.eq_ignore_ascii_case(stage))
            && row.memo.line == Some(line)
    };
    // What an instruction reads by a step of its own comes before it.
    rows.iter()
        .rposition(is_it)
        .ok_or_else(|| Failure::Usage(format!("no step of the build is at {text}")))
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// What was built, as JSON.
pub(super) fn subject(subject: &Subject) -> Value {
    json!({
        "context": subject.context,
        "dockerfile": subject.dockerfile,
        "target": subject.target,
        "platforms": subject.platforms,
    })
}

/// The fields of a table.
pub(super) fn cells(rows: &[Row<'_>], at: usize) -> Value {
    let row = &rows[at];
    let text = row.memo.text.replace(['\n', '\t'], " ");
    let short = if text.chars().count() > INSTRUCTION {
        text.chars().take(INSTRUCTION - 1).chain(['…']).collect()
    } else {
        text
    };
    json!({
        "Step": at + 1,
        "Line": row.memo.line.map_or_else(String::new, |line| line.to_string()),
        "Stage": row.memo.stage,
        "Platform": row.memo.platform,
        "Result": row.result,
        "Instruction": short,
        "Cause": row.reason.map_or(Value::String(String::new()), |reason| json!(reason.cause)),
        "Why": row.shown_reason().map_or("", |reason| reason.phrase.as_str()),
    })
}

impl Row<'_> {
    /// The reason, where there is something to give a reason for.
    fn shown_reason(&self) -> Option<&Reason> {
        self.reason
            .filter(|_| !matches!(self.result, "cached" | "HIT"))
    }
}

/// All steps as JSON.
pub(super) fn values(rows: &[Row<'_>], all: bool) -> Vec<Value> {
    (0..rows.len()).map(|at| value(rows, at, all)).collect()
}

/// A step as JSON, with all that is known of it.
pub(super) fn value(rows: &[Row<'_>], at: usize, all: bool) -> Value {
    let row = &rows[at];
    let memo = row.memo;
    let mut value = json!({
        "step": at + 1,
        "name": memo.name,
        "instruction": memo.text,
        "stage": memo.stage,
        "line": memo.line,
        "platform": memo.platform,
        "result": row.result,
        "key": memo.key.to_string(),
        "inputs": memo.inputs.iter().map(|input| input + 1).collect::<Vec<_>>(),
    });
    if let Some(elsewhere) = row.elsewhere {
        value["cache"] = json!(elsewhere);
    }
    if let Some(reason) = row.reason {
        value["cause"] = json!(reason.cause);
        value["why"] = json!(reason.phrase);
        value["fields"] = json!(reason.fields);
        value["parents"] = json!(reason.parents.iter().map(|at| at + 1).collect::<Vec<_>>());
        if let Some(files) = &reason.files {
            let shown = if all { files.changed.len() } else { SHOWN };
            value["files"] = json!({
                "total": files.total,
                "count": files.count,
                "modesOnly": files.modes_only,
                "changed": files.changed.iter().take(shown).collect::<Vec<_>>(),
            });
        }
    }
    value
}

/// All there is to say of a step.
pub(super) fn in_full(rows: &[Row<'_>], at: usize, all: bool) -> String {
    let row = &rows[at];
    let memo = row.memo;
    let mut text = format!("step {}: {}\n", at + 1, memo.name.trim_end());
    let stage = if memo.stage.is_empty() {
        String::new()
    } else {
        format!("stage {}, ", memo.stage)
    };
    let line = memo
        .line
        .map_or_else(String::new, |line| format!("line {line}, "));
    let _ = writeln!(text, "{line}{stage}{}", memo.platform);
    match row.shown_reason() {
        Some(reason) => {
            let _ = writeln!(text, "{}: {}", row.result, reason.phrase);
        }
        None => {
            let _ = writeln!(text, "{}", row.result);
        }
    }
    let Some(reason) = row.reason else {
        return text;
    };
    details(reason, all, &mut text);
    for parent in &reason.parents {
        let Some(row) = rows.get(*parent) else {
            continue;
        };
        let line = row
            .memo
            .line
            .map_or_else(String::new, |line| format!(" (line {line})"));
        let _ = write!(
            text,
            "\nbecause of step {}{line}: {}",
            parent + 1,
            row.memo.text
        );
        let Some(reason) = row.reason else {
            text.push('\n');
            continue;
        };
        let _ = writeln!(text, "\n  {}", reason.phrase);
        details(reason, all, &mut text);
    }
    text
}

fn details(reason: &Reason, all: bool, text: &mut String) {
    if !reason.fields.is_empty() {
        text.push_str("\nwhat differs of its key:\n");
        for field in &reason.fields {
            difference(field, text);
        }
    }
    if let Some(files) = &reason.files {
        list(files, all, text);
    }
}

fn difference(field: &Difference, text: &mut String) {
    if field.old.is_none() && field.new.is_none() {
        let _ = writeln!(text, "  {}: changed", field.name);
        return;
    }
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let (old, new) = (value(&field.old), value(&field.new));
    if !old.contains('\n') && !new.contains('\n') {
        let _ = writeln!(text, "  {}: {old} -> {new}", field.name);
        return;
    }
    let _ = writeln!(text, "  {}:", field.name);
    for (sign, value) in [('-', old), ('+', new)] {
        for line in value.lines() {
            let _ = writeln!(text, "    {sign} {line}");
        }
    }
}

fn list(files: &FileChanges, all: bool, text: &mut String) {
    let _ = writeln!(
        text,
        "\nfiles that differ ({} of {}):",
        files.count, files.total
    );
    let shown = if all { files.changed.len() } else { SHOWN };
    for file in files.changed.iter().take(shown) {
        let changes: Vec<String> = file
            .changes
            .iter()
            .map(planner::explain::Change::phrase)
            .collect();
        let _ = writeln!(text, "  {}: {}", file.path, changes.join(", "));
    }
    let shown = shown.min(files.changed.len());
    if files.count > shown {
        let hint = if all { "" } else { "; --all shows them" };
        let _ = writeln!(text, "  and {} more{hint}", files.count - shown);
    }
    if files.modes_only {
        text.push_str("  Git keeps none of these modes: build with --context-mode=git, and they do not count\n");
    }
}
