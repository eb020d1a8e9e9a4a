//! `kiln prune` and `kiln du`.

use super::images::{names, shown_id};
use super::{print, print_line, short_id};
use crate::args::{DuArgs, PruneArgs};
use crate::error::Failure;
use crate::table::{self, Table};
use crate::template::{Columns, List};
use executor::output::{ImageFilters, PRUNE_FILTERS, PruneRequest, UsageDetails};
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
    if args.verbose {
        let details = executor::output::details(space)?;
        print(&pieces(&details, args.no_trunc));
        return Ok(());
    }
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

/// As `docker system df --verbose` shows it.
fn pieces(details: &UsageDetails, whole: bool) -> String {
    let mut images = Table::new(&[
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
        "SHARED SIZE",
        "UNIQUE SIZE",
    ]);
    for usage in &details.images {
        let image = &usage.image;
        let (repository, tag) = names(image);
        images.row(vec![
            repository.to_owned(),
            tag.to_owned(),
            short_id(shown_id(image), whole),
            image.created.as_deref().map(table::age).unwrap_or_default(),
            table::size(usage.shared + usage.unique),
            table::size(usage.shared),
            table::size(usage.unique),
        ]);
    }
    let mut layers = Table::new(&["LAYER ID", "SIZE", "IMAGES"]);
    for layer in &details.layers {
        layers.row(vec![
            short_id(&layer.id, whole),
            table::size(layer.size),
            layer.images.to_string(),
        ]);
    }
    let mut mounts = Table::new(&["CACHE MOUNT ID", "SIZE"]);
    for (id, size) in &details.mounts {
        let id: String = id.escape_debug().collect();
        mounts.row(vec![id, table::size(*size)]);
    }
    format!(
        "Images space usage:\n\n{}\nLayers space usage:\n\n{}\nCache mounts space usage:\n\n{}",
        images.render(),
        layers.render(),
        mounts.render()
    )
}
