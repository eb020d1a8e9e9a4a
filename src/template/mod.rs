//! Go's `text/template` as far as people use it in `--format`: fields, pipelines, variables, `if`, `with`, `range`, and
//! the functions of Docker's command line. Values are JSON; a [`Schema`] says which of them Go has as structs.
//!
//! No named templates, no methods. What a template may cost is bounded, whatever it says.

mod eval;
mod functions;
mod lex;
mod list;
mod parse;
mod printf;
mod value;

#[cfg(test)]
mod tests;

pub use list::{Columns, List};
pub use value::{FieldKind, Schema};

use serde_json::Value;

/// Why a template cannot be used, worded as Go words it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("template parsing error: template: :{line}{}: {message}", column.map(|column| format!(":{column}")).unwrap_or_default())]
pub struct Error {
    /// Line, from 1.
    line: usize,
    /// Bytes before it on its line.
    column: Option<usize>,
    message: String,
}

impl Error {
    /// At a byte of the template's text.
    fn at(text: &str, position: usize, message: impl Into<String>) -> Self {
        let before = &text.as_bytes()[..position.min(text.len())];
        let line_start = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map(|at| at + 1);
        Self {
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: Some(before.len() - line_start.unwrap_or(0)),
            message: message.into(),
        }
    }
}

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self {
            text: text.to_owned(),
            nodes: parse::parse(text)?,
        })
    }

    /// What it makes of some data.
    pub fn render(&self, data: &Value, schema: &Schema) -> Result<String, Error> {
        eval::render(&self.text, &self.nodes, data, schema, eval::Mode::Data)
    }

    /// What it makes of column headings: functions that would change a heading's meaning leave it alone, as Docker has it.
    fn render_headings(&self, headings: &Value, schema: &Schema) -> Result<String, Error> {
        eval::render(
            &self.text,
            &self.nodes,
            headings,
            schema,
            eval::Mode::Headings,
        )
    }
}
