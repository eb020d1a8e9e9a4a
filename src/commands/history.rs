//! `kiln history`.

use super::print_line;
use crate::args::{HistoryArgs, ListFormat};
use crate::error::Failure;
use crate::table::{self, Table};
use executor::space::Space;
use serde_json::{Value, json};

/// Columns of CREATED BY without `--no-trunc`.
const SHORT: usize = 60;

/// Prints the history, newest first, with the size of each layer.
pub fn run(args: &HistoryArgs, space: &Space) -> Result<(), Failure> {
    let image = executor::output::inspect(space, &args.image, None)?;
    let history = image["config"]["history"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let layers = image["manifest"]["layers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut layers = layers.iter();
    let mut rows: Vec<Value> = history
        .iter()
        .map(|entry| {
            let layer = if entry["empty_layer"] == json!(true) {
                None
            } else {
                layers.next()
            };
            json!({
                "created": entry["created"],
                "created_by": entry["created_by"],
                "comment": entry["comment"],
                "size": layer.map_or(json!(0), |layer| layer["size"].clone()),
                "digest": layer.map_or(Value::Null, |layer| layer["digest"].clone()),
            })
        })
        .collect();
    rows.reverse();
    if args.format == ListFormat::Json {
        rows.iter().for_each(|row| print_line(&row.to_string()));
        return Ok(());
    }
    let mut table = Table::new(&["CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for row in &rows {
        table.row(vec![
            row["created"]
                .as_str()
                .map_or_else(|| "-".to_owned(), table::age),
            shown(
                row["created_by"].as_str().unwrap_or_default(),
                args.no_trunc,
            ),
            table::size(row["size"].as_u64().unwrap_or_default()),
            row["comment"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    print_line(table.render().trim_end());
    Ok(())
}

fn shown(text: &str, whole: bool) -> String {
    let text = text.replace(['\n', '\t'], " ");
    if whole || text.chars().count() <= SHORT {
        return text;
    }
    text.chars().take(SHORT - 1).chain(['…']).collect()
}
