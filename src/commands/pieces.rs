//! The cache piece by piece: `kiln du`, and what `kiln prune` took away, as `docker buildx` shows them.

use super::{print, short_id};
use crate::args::DuArgs;
use crate::error::Failure;
use crate::table;
use crate::template::{Columns, List};
use executor::output::{PieceFilters, is_mutable, type_of};
use executor::space::Space;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};
use store::{Piece, PrunedKind};

/// Widest key of a piece's details.
const KEY_WIDTH: usize = 14;

const COLUMNS: Columns<'_> = Columns {
    type_name: "*main.duContext",
    default: "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{if .LastUsedAt}}{{.LastUsedAt}}{{end}}",
    headings: &[
        ("ID", "ID"),
        ("Parents", "PARENTS"),
        ("CreatedAt", "CREATED AT"),
        ("Mutable", "MUTABLE"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Shared", "SHARED"),
        ("Size", "SIZE"),
        ("Description", "DESCRIPTION"),
        ("UsageCount", "USAGE COUNT"),
        ("LastUsedAt", "LAST ACCESSED"),
        ("Type", "TYPE"),
    ],
};

/// What is shown as one: pieces that nobody has a name for go together.
struct Row {
    id: String,
    bytes: u64,
    is_reclaimable: bool,
    is_shared: bool,
    is_mutable: bool,
    kind: &'static str,
    description: String,
    uses: usize,
    created: SystemTime,
    used: SystemTime,
}

/// Shows what takes room.
pub fn show(args: &DuArgs, open: impl FnOnce() -> Result<Space, Failure>) -> Result<(), Failure> {
    let filters = PieceFilters::parse(&args.filters, SystemTime::now())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let is_pretty = args.verbose || args.format.as_deref() == Some("pretty");
    let format = args.format.as_deref().filter(|_| !is_pretty);
    let list = List::new(format, COLUMNS)?;
    let mut pieces = executor::output::pieces(&open()?)?;
    pieces.retain(|piece| filters.matches(piece));
    let rows = rows(pieces);
    if is_pretty {
        print(&details(&rows, args.no_trunc));
    } else {
        let values: Vec<Value> = rows.iter().map(|row| value(row, args.no_trunc)).collect();
        print(&list.render(&values)?);
    }
    if format.is_some_and(|format| format.trim() != "table") {
        return Ok(());
    }
    let sum = |of: fn(&Row) -> bool| -> u64 {
        rows.iter().filter(|row| of(row)).map(|row| row.bytes).sum()
    };
    let shared = sum(|row| row.is_shared);
    if shared > 0 {
        print(&totals(&[
            ("Shared", shared),
            ("Private", sum(|row| !row.is_shared)),
        ]));
    }
    print(&totals(&[
        ("Reclaimable", sum(|row| row.is_reclaimable)),
        ("Total", sum(|_| true)),
    ]));
    Ok(())
}

/// What went.
pub fn removed(pieces: Vec<Piece>, verbose: bool) -> String {
    let rows = rows(pieces);
    if verbose {
        return details(&rows, false);
    }
    let values: Vec<Value> = rows.iter().map(|row| value(row, false)).collect();
    let list = List::new(None, COLUMNS).expect("BUG: the usual columns are a sound template");
    list.render(&values)
        .expect("BUG: the usual columns are those of a row")
}

/// Sums, one on each line.
pub fn totals(sums: &[(&str, u64)]) -> String {
    let line = |(name, bytes): &(&str, u64)| {
        format!(
            "{:KEY_WIDTH$} {}\n",
            format!("{name}:"),
            table::size(*bytes)
        )
    };
    sums.iter().map(line).collect()
}

/// The largest first; records, logs and documents as one row each for those that can go and those that cannot.
fn rows(pieces: Vec<Piece>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut sums: BTreeMap<(&str, bool, bool), (usize, Row)> = BTreeMap::new();
    for piece in pieces {
        let together = match piece.kind {
            PrunedKind::Record => Some("cache-records"),
            PrunedKind::Log => Some("build-logs"),
            PrunedKind::Blob => Some("documents"),
            _ => None,
        };
        let row = row(piece);
        let Some(name) = together else {
            rows.push(row);
            continue;
        };
        let key = (name, row.is_reclaimable, row.is_shared);
        match sums.get_mut(&key) {
            None => {
                sums.insert(key, (1, row));
            }
            Some((count, sum)) => {
                *count += 1;
                sum.bytes += row.bytes;
                sum.created = sum.created.min(row.created);
                sum.used = sum.used.max(row.used);
            }
        }
    }
    for ((name, _, _), (count, sum)) in sums {
        rows.push(Row {
            id: name.to_owned(),
            description: format!("{count} {}", name.replace('-', " ")),
            uses: 0,
            ..sum
        });
    }
    rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
    rows
}

fn row(piece: Piece) -> Row {
    Row {
        bytes: piece.bytes,
        is_reclaimable: !piece.is_needed && !piece.is_in_use,
        is_shared: piece.is_needed,
        is_mutable: is_mutable(&piece),
        kind: type_of(piece.kind),
        uses: piece.records,
        created: piece.created,
        used: piece.used,
        id: piece.id,
        description: piece.description,
    }
}

fn shown(row: &Row, whole: bool) -> String {
    let id = if row.id.starts_with("sha256:") || row.kind == "source.local" {
        short_id(&row.id, whole)
    } else {
        row.id.escape_debug().collect()
    };
    if row.is_mutable { format!("{id}*") } else { id }
}

fn moment(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    // Whole seconds, as Docker shows them.
    let seconds = Duration::from_secs(since.map_or(0, |since| since.as_secs()));
    jiff::Timestamp::try_from(SystemTime::UNIX_EPOCH + seconds)
        .map_or_else(|_| String::new(), |time| time.to_string())
}

fn value(row: &Row, whole: bool) -> Value {
    json!({
        "ID": shown(row, whole),
        "Parents": null,
        "CreatedAt": moment(row.created),
        "Mutable": row.is_mutable,
        "Reclaimable": row.is_reclaimable,
        "Shared": row.is_shared,
        "Size": table::size(row.bytes),
        "Description": row.description,
        "UsageCount": row.uses,
        "LastUsedAt": table::age(&moment(row.used)),
        "Type": row.kind,
    })
}

fn details(rows: &[Row], whole: bool) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "{:KEY_WIDTH$} {value}", format!("{key}:"));
        };
        line("ID", &shown(row, whole));
        line("Created at", &moment(row.created));
        line("Mutable", &row.is_mutable.to_string());
        line("Reclaimable", &row.is_reclaimable.to_string());
        line("Shared", &row.is_shared.to_string());
        line("Size", &table::size(row.bytes));
        let description: String = row.description.escape_debug().collect();
        line("Description", &description);
        line("Usage count", &row.uses.to_string());
        line("Last used", &table::age(&moment(row.used)));
        line("Type", row.kind);
        text.push('\n');
    }
    text
}
