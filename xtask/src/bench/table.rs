//! Medians and tables, for a terminal or for a page in Markdown.

use std::cell::{Cell, RefCell};

thread_local! {
    static MARKDOWN: Cell<bool> = const { Cell::new(false) };
    static PRINTED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// All that was printed since this was last called, in Markdown.
pub fn take() -> String {
    PRINTED.take()
}

/// Prints a text that is in Markdown already.
pub fn print_markdown(text: &str) {
    println!("\n{}", text.trim_end());
    PRINTED.with_borrow_mut(|all| all.push_str(&format!("\n{}\n", text.trim_end())));
}

/// All tables from here on are in Markdown.
pub fn use_markdown() {
    MARKDOWN.set(true);
}

/// Whether they are.
pub fn is_markdown() -> bool {
    MARKDOWN.get()
}

/// The middle of some values; not a number without any.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Rows under a title. The first column is text, the others are figures.
#[derive(Debug)]
pub struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(title: &str, head: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            head: head.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{}", self.text(MARKDOWN.get()));
        PRINTED.with_borrow_mut(|all| {
            all.push_str(&self.text(true));
            all.push('\n');
        });
    }

    fn text(&self, markdown: bool) -> String {
        if markdown {
            self.markdown()
        } else {
            self.plain()
        }
    }

    fn markdown(&self) -> String {
        let mut head = self.head.clone();
        if let Some(first) = head.first_mut() {
            first.clone_from(&self.title);
        }
        let mut out = format!("\n| {} |\n|---|", head.join(" | "));
        out.push_str(&"--:|".repeat(head.len().saturating_sub(1)));
        for row in &self.rows {
            out.push_str("\n| ");
            out.push_str(&row.join(" | "));
            out.push_str(&" |".repeat(1 + head.len().saturating_sub(row.len())));
        }
        out
    }

    fn plain(&self) -> String {
        let width = |column: usize| {
            std::iter::once(&self.head)
                .chain(&self.rows)
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = format!("\n{}", self.title);
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or_default();
                if column == 0 {
                    line.push_str(&format!("{cell:<width$}"));
                } else {
                    line.push_str(&format!("  {cell:>width$}"));
                }
            }
            out.push('\n');
            out.push_str(line.trim_end());
        }
        out
    }
}

/// Seconds with as many digits as mean something.
pub fn seconds(value: f64) -> String {
    match value {
        value if value.is_nan() => "-".to_owned(),
        value if value < 0.001 => format!("{:.1} us", value * 1e6),
        value if value < 0.1 => format!("{:.1} ms", value * 1e3),
        value if value < 1.0 => format!("{:.0} ms", value * 1e3),
        value => format!("{value:.2} s"),
    }
}

/// A count with a comma after each three digits.
pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How many times as long.
pub fn ratio(value: f64, own: f64) -> String {
    let ratio = value / own;
    if ratio.is_finite() {
        format!("{ratio:.2}x")
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_both_forms() {
        let mut table = Table::new("work", &["", "wall", "ratio"]);
        table.row(vec!["kiln".to_owned(), seconds(0.0051), ratio(1.0, 1.0)]);
        table.row(vec!["another".to_owned(), seconds(2.0)]);
        assert_eq!(
            table.text(false),
            "\nwork\n             wall  ratio\n  kiln     5.1 ms  1.00x\n  another  2.00 s"
        );
        assert_eq!(
            table.text(true),
            "\n| work | wall | ratio |\n|---|--:|--:|\n| kiln | 5.1 ms | 1.00x |\n| another | 2.00 s | |"
        );
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(123), "123");
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
