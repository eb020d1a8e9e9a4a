//! `kiln diff`.

use super::connect::fetching;
use super::{Opener, platform, print};
use crate::args::DiffArgs;
use crate::environment::Environment;
use crate::error::Failure;
use crate::template::{Columns, List};
use executor::output::{DiffOptions, FileChange};
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

/// Prints a line for each path or key that differs.
pub fn run(args: &DiffArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let platform = platform(args.platform.as_deref())?;
    let platform = platform.as_ref();
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
        executor::output::diff_configs(&space, &args.first, &args.second, platform)?
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
        let changes =
            executor::output::diff((&space, &remote), &args.first, &args.second, options)?;
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
