//! `kiln history`.

use super::{platform, print, print_line, short_id};
use crate::args::HistoryArgs;
use crate::error::Failure;
use crate::table;
use crate::template::{Columns, List};
use executor::output::Inspected;
use executor::space::Space;
use serde_json::{Value, json};

/// Characters of CREATED BY without `--no-trunc`.
const SHORT: usize = 45;

const COLUMNS: Columns<'_> = Columns {
    type_name: "*formatter.historyContext",
    default: "{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    headings: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
};

/// As the table has it with `--human=false`.
const EXACT: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// Prints the history, newest first, with the size of each layer.
pub fn run(args: &HistoryArgs, space: &Space) -> Result<(), Failure> {
    let columns = Columns {
        default: if args.human { COLUMNS.default } else { EXACT },
        ..COLUMNS
    };
    let list = List::new(args.format.as_deref(), columns)?;
    let platform = platform(args.platform.as_deref())?;
    let image = executor::output::inspect(space, &args.image, platform.as_ref())?;
    let rows = rows(&image, args);
    if args.quiet && args.format.is_none() {
        for row in &rows {
            print_line(row["ID"].as_str().unwrap_or_default());
        }
        return Ok(());
    }
    print(&list.render(&rows)?);
    Ok(())
}

fn rows(image: &Inspected, args: &HistoryArgs) -> Vec<Value> {
    let history = image.config["history"].as_array();
    let mut layers = image.layer_sizes.iter().copied();
    let mut rows: Vec<Value> = history
        .into_iter()
        .flatten()
        .map(|entry| {
            let is_empty = entry["empty_layer"] == json!(true);
            let bytes = if is_empty { None } else { layers.next() };
            row(entry, bytes.unwrap_or_default(), args)
        })
        .collect();
    // Layers that the history says nothing of.
    rows.extend(layers.map(|bytes| row(&Value::Null, bytes, args)));
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest["ID"] = json!(short_id(&image.id, args.no_trunc));
    }
    rows
}

fn row(entry: &Value, bytes: u64, args: &HistoryArgs) -> Value {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let created = text("created");
    json!({
        "ID": "<missing>",
        "CreatedSince": if created.is_empty() { String::new() } else { table::age(created) },
        "CreatedAt": created,
        "CreatedBy": shown(text("created_by"), args.no_trunc),
        "Size": if args.human { table::size(bytes) } else { bytes.to_string() },
        "Comment": text("comment"),
    })
}

fn shown(text: &str, whole: bool) -> String {
    let text = text.replace(['\n', '\t'], " ");
    if whole || text.chars().count() <= SHORT {
        return text;
    }
    text.chars().take(SHORT - 1).chain(['…']).collect()
}
