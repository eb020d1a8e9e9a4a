//! Lists in the formats that people ask for: a table of the usual columns or of chosen ones, JSON lines, a template.

use super::{Error, Schema, Template};
use serde_json::{Map, Value};

/// Narrowest column, blanks after it included.
const MIN_WIDTH: usize = 10;
const GAP: usize = 3;

/// What a list has.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Go's name of a row's type, for errors.
    pub type_name: &'static str,
    /// The usual table: a template with tabs between columns, without `table `.
    pub default: &'a str,
    /// Headings, by field.
    pub headings: &'static [(&'static str, &'static str)],
}

/// A list's format, parsed.
#[derive(Debug)]
pub struct List<'a> {
    columns: Columns<'a>,
    template: Template,
    is_table: bool,
}

impl<'a> List<'a> {
    /// Reads `--format`: nothing or `table` for the usual table, `table TEMPLATE`, `json`, or a template.
    pub fn new(format: Option<&str>, columns: Columns<'a>) -> Result<Self, Error> {
        let format = format.unwrap_or_default().trim();
        let (text, is_table) = match format {
            "" | "table" => (columns.default.to_owned(), true),
            "json" => ("{{json .}}".to_owned(), false),
            _ => {
                let format = format.replace("\\t", "\t").replace("\\n", "\n");
                match format.strip_prefix("table ") {
                    Some(rest) => (rest.trim().to_owned(), true),
                    None => (format, false),
                }
            }
        };
        Ok(Self {
            columns,
            template: Template::parse(&text)?,
            is_table,
        })
    }

    /// The text for these rows; each is an object that has all fields.
    pub fn render(&self, rows: &[Value]) -> Result<String, Error> {
        let schema = Schema {
            type_name: self.columns.type_name,
            fields: &[],
            open: false,
        };
        let mut text = String::new();
        if self.is_table {
            let headings = self.columns.headings.iter();
            let headings: Map<String, Value> = headings
                .map(|(field, heading)| ((*field).to_owned(), Value::from(*heading)))
                .collect();
            let headings = Value::Object(headings);
            text.push_str(&self.template.render_headings(&headings, &Schema::OPEN)?);
            text.push('\n');
        }
        for row in rows {
            text.push_str(&self.template.render(row, &schema)?);
            text.push('\n');
        }
        Ok(if self.is_table { aligned(&text) } else { text })
    }
}

/// Cells between tabs, padded to the widest of their column; what follows the last tab of a line stays as it is.
fn aligned(text: &str) -> String {
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter(|row| row.len() > column + 1);
            let widest = cells.map(|row| row[column].chars().count()).max();
            widest.map_or(0, |widest| (widest + GAP).max(MIN_WIDTH))
        })
        .collect();
    let mut out = String::with_capacity(text.len());
    for row in &rows {
        let (last, cells) = row.split_last().unwrap_or((&"", &[]));
        for (cell, width) in cells.iter().zip(&widths) {
            out.push_str(cell);
            out.push_str(&" ".repeat(width - cell.chars().count()));
        }
        out.push_str(last);
        out.push('\n');
    }
    out
}
