//! `kiln prune` and `kiln du`.

use super::{print, print_line};
use crate::args::{DuArgs, PruneArgs};
use crate::error::Failure;
use crate::table;
use crate::template::{Columns, List};
use executor::output::{ImageFilters, PRUNE_FILTERS, PruneRequest};
use executor::space::Space;
use serde_json::{Value, json};
use std::time::SystemTime;

/// Frees what nothing needs.
pub fn run(args: &PruneArgs, space: &Space) -> Result<(), Failure> {
    let filters = ImageFilters::parse(&args.filters, PRUNE_FILTERS, SystemTime::now())?;
    let request = PruneRequest {
        all: args.all,
        dry_run: args.dry_run,
        filters,
    };
    let report = executor::output::prune(space, &request)?;
    for name in &report.removed {
        print_line(name);
    }
    let verb = if args.dry_run {
        "Would reclaim"
    } else {
        "Total reclaimed space:"
    };
    print_line(&format!("{verb} {}", table::size(report.bytes)));
    Ok(())
}

const COLUMNS: Columns<'_> = Columns {
    type_name: "*formatter.diskUsageContext",
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    headings: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

/// Shows what takes room.
pub fn du(args: &DuArgs, space: &Space) -> Result<(), Failure> {
    let list = List::new(args.format.as_deref(), COLUMNS)?;
    let usage = executor::output::usage(space)?;
    let rows: Vec<Value> = usage
        .iter()
        .map(|row| {
            let share = (row.reclaimable * 100).checked_div(row.size);
            let reclaimable = table::size(row.reclaimable);
            json!({
                "Type": row.kind,
                "TotalCount": row.total.to_string(),
                "Active": row.active.to_string(),
                "Size": table::size(row.size),
                "Reclaimable": match share {
                    Some(share) => format!("{reclaimable} ({share}%)"),
                    None => reclaimable,
                },
            })
        })
        .collect();
    print(&list.render(&rows)?);
    Ok(())
}
