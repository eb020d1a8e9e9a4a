//! `kiln diff`.

use super::connect::fetching;
use super::{Opener, platform, print};
use crate::args::DiffArgs;
use crate::environment::Environment;
use crate::error::Failure;
use crate::template::{Columns, List};
use executor::output::{DiffOptions, FileChange, ImageDifference};
use planner::platform::Platform;
use serde_json::{Value, json};

const FILES: Columns<'_> = Columns {
    type_name: "*formatter.diffContext",
    default: "",
    headings: &[
        ("Type", "CHANGE TYPE"),
        ("Path", "PATH"),
        ("Differs", "DIFFERS"),
        ("OldSize", "OLD SIZE"),
        ("NewSize", "NEW SIZE"),
    ],
};

const KEYS: Columns<'_> = Columns {
    type_name: "*formatter.diffContext",
    default: "",
    headings: &[
        ("Type", "CHANGE TYPE"),
        ("Key", "KEY"),
        ("Old", "OLD"),
        ("New", "NEW"),
    ],
};

const FIRST: Columns<'_> = Columns {
    type_name: "*formatter.diffContext",
    default: "",
    headings: &[
        ("Layer", "LAYER"),
        ("Instruction", "INSTRUCTION"),
        ("OldInstruction", "OLD INSTRUCTION"),
        ("OldDigest", "OLD DIGEST"),
        ("NewDigest", "NEW DIGEST"),
        ("Path", "PATH"),
        ("Key", "KEY"),
        ("Differs", "DIFFERS"),
        ("Byte", "BYTE"),
        ("Old", "OLD"),
        ("New", "NEW"),
        ("OldSize", "OLD SIZE"),
        ("NewSize", "NEW SIZE"),
    ],
};

/// Prints a line for each path or key that differs.
pub fn run(args: &DiffArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let platform = platform(args.platform.as_deref())?;
    let platform = platform.as_ref();
    if args.first {
        return first(args, open, environment, platform);
    }
    let (columns, plain, table) = if args.config {
        (
            KEYS,
            "{{.Type}} {{.Key}}: {{json .Old}} -> {{json .New}}",
            "{{.Type}}\t{{.Key}}\t{{json .Old}}\t{{json .New}}",
        )
    } else {
        (
            FILES,
            "{{.Type}} {{.Path}}",
            "{{.Type}}\t{{.Path}}\t{{.Differs}}",
        )
    };
    let columns = Columns {
        default: table,
        ..columns
    };
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let list = List::new(Some(format.unwrap_or(plain)), columns)?;
    let remote = fetching(&args.registry, environment)?;
    let space = open.space()?;
    let rows: Vec<Value> = if args.config {
        executor::output::diff_configs(&space, &args.old, &args.new, platform)?
            .into_iter()
            .map(|change| {
                json!({
                    "Type": change.change.letter(),
                    "Key": change.key,
                    "Old": change.old,
                    "New": change.new,
                })
            })
            .collect()
    } else {
        let options = DiffOptions {
            platform,
            times: args.times,
        };
        let changes = executor::output::diff((&space, &remote), &args.old, &args.new, options)?;
        changes.iter().map(row).collect()
    };
    print(&list.render(&rows)?);
    Ok(())
}

fn row(change: &FileChange) -> Value {
    json!({
        "Type": change.change.letter(),
        "Path": printable(&change.path),
        "Differs": change.differs.join(","),
        "OldSize": change.sizes.0,
        "NewSize": change.sizes.1,
    })
}

/// A path on one line, whatever bytes it has.
fn printable(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Prints the first difference, in two lines or by the format.
fn first(
    args: &DiffArgs,
    open: &Opener<'_>,
    environment: &Environment,
    platform: Option<&Platform>,
) -> Result<(), Failure> {
    let columns = Columns {
        default: "{{.Layer}}\t{{.Instruction}}\t{{.Path}}\t{{.Differs}}",
        ..FIRST
    };
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let list = List::new(format, columns)?;
    let remote = fetching(&args.registry, environment)?;
    let space = open.space()?;
    let found =
        executor::output::first_difference((&space, &remote), &args.old, &args.new, platform)?;
    match (&found, format) {
        (Some(found), None) => print(&told(found)),
        (None, None) => {}
        _ => print(&list.render(&found.iter().map(first_row).collect::<Vec<_>>())?),
    }
    Ok(())
}

fn told(found: &ImageDifference) -> String {
    let Some(layer) = found.layer else {
        let config = found.config.iter();
        let lines = config
            .map(|change| format!("config: {}: {} -> {}\n", change.key, change.old, change.new));
        return lines.collect();
    };
    let (old, new) = &found.instructions;
    let instruction = match (old.as_str(), new.as_str()) {
        (old, new) if old == new => old.to_owned(),
        ("", one) | (one, "") => one.to_owned(),
        (old, new) => format!("{old} -> {new}"),
    };
    let mut text = format!("layer {layer}: {}\n", printable(instruction.as_bytes()));
    match (&found.file, &found.digests) {
        (Some(file), _) => {
            text.push_str(&file.to_string());
            if let Some(content) = &file.content {
                let (old, new) = &content.excerpts;
                text.push_str(&format!(
                    ": \"{}\" -> \"{}\"",
                    old.escape_ascii(),
                    new.escape_ascii()
                ));
            }
        }
        (None, (Some(_), Some(_))) => text.push_str("the same files, in tars that differ"),
        (None, (_, None)) => text.push_str("only in the first image"),
        (None, (None, _)) => text.push_str("only in the second image"),
    }
    text.push('\n');
    text
}

fn first_row(found: &ImageDifference) -> Value {
    let file = found.file.as_ref();
    let content = file.and_then(|file| file.content.as_ref());
    let sides = |old: &str, new: &str| (json!(old), json!(new));
    let (old, new) = match (content, file, &found.config) {
        (Some(content), _, _) => sides(
            &content.excerpts.0.escape_ascii().to_string(),
            &content.excerpts.1.escape_ascii().to_string(),
        ),
        (None, Some(file), _) => sides(&file.values.0, &file.values.1),
        (None, None, Some(change)) => (change.old.clone(), change.new.clone()),
        (None, None, None) => (Value::Null, Value::Null),
    };
    json!({
        "Layer": found.layer,
        "Layers": [found.layers.0, found.layers.1],
        "OldInstruction": found.instructions.0,
        "Instruction": found.instructions.1,
        "OldDigest": found.digests.0,
        "NewDigest": found.digests.1,
        "Path": file.map(|file| printable(&file.path)),
        "Key": found.config.as_ref().map(|change| &change.key),
        "Differs": file.map(|file| file.what),
        "Byte": content.map(|content| content.byte),
        "Old": old,
        "New": new,
        "OldSize": content.map(|content| content.sizes.0),
        "NewSize": content.map(|content| content.sizes.1),
    })
}
