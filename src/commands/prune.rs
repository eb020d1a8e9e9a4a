//! `kiln prune` and `kiln du`.

use super::images::{names, shown_id};
use super::pieces;
use super::{print, print_line, short_id};
use crate::args::{DuArgs, PruneArgs};
use crate::build_spec::size;
use crate::error::Failure;
use crate::table::{self, Table};
use crate::template::{Columns, List};
use executor::output::{
    ImageFilters, PIECE_FILTERS, PRUNE_FILTERS, PieceFilters, PruneRequest, UsageDetails,
};
use executor::space::Space;
use serde_json::{Value, json};
use std::time::SystemTime;
use store::{Collection, Piece, SpaceLimits};

/// What `kiln prune` is asked for, checked before the store is opened.
pub enum PrunePlan {
    /// What nothing needs, and images without a name.
    Unneeded(PruneRequest),
    /// Pieces of the cache.
    Pieces(Box<PiecePlan>),
}

/// Which pieces of the cache go.
pub struct PiecePlan {
    limits: SpaceLimits,
    filters: PieceFilters,
    /// Also what cache records lead to.
    all: bool,
    dry_run: bool,
    verbose: bool,
}

/// Reads the flags.
pub fn plan(args: &PruneArgs) -> Result<PrunePlan, Failure> {
    let now = SystemTime::now();
    let bytes = |flag, text: &Option<String>| -> Result<Option<u64>, Failure> {
        let bytes = text.as_deref().map(|text| size(flag, text)).transpose()?;
        Ok(bytes.filter(|bytes| *bytes > 0))
    };
    let reserved = bytes("--reserved-space", &args.reserved_space)?;
    let limits = SpaceLimits {
        reserved: reserved.unwrap_or(0),
        max_used: bytes("--max-used-space", &args.max_used_space)?,
        min_free: bytes("--min-free-space", &args.min_free_space)?,
    };
    let is_limited = limits != SpaceLimits::default();
    let is_about_pieces = args.filters.iter().any(|filter| {
        let key = filter.split(['=', '!']).next().unwrap_or_default();
        let key = key.trim().to_lowercase();
        key != "until" && PIECE_FILTERS.contains(&key.as_str())
    });
    let wrong = |error: executor::Error| Failure::Usage(error.to_string());
    if !(is_limited || is_about_pieces || args.verbose) {
        let filters = ImageFilters::parse(&args.filters, PRUNE_FILTERS, now).map_err(wrong)?;
        return Ok(PrunePlan::Unneeded(PruneRequest {
            all: args.all,
            dry_run: args.dry_run,
            filters,
        }));
    }
    Ok(PrunePlan::Pieces(Box::new(PiecePlan {
        limits,
        filters: PieceFilters::parse(&args.filters, now).map_err(wrong)?,
        all: args.all || is_limited || is_about_pieces,
        dry_run: args.dry_run,
        verbose: args.verbose,
    })))
}

/// Frees what nothing needs.
pub fn run(plan: &PrunePlan, space: &Space) -> Result<(), Failure> {
    let request = match plan {
        PrunePlan::Unneeded(request) => request,
        PrunePlan::Pieces(plan) => return remove_pieces(plan, space),
    };
    let report = executor::output::prune(space, request)?;
    for name in &report.removed {
        print_line(name);
    }
    let verb = if request.dry_run {
        "Would reclaim"
    } else {
        "Total reclaimed space:"
    };
    print_line(&format!("{verb} {}", table::size(report.bytes)));
    Ok(())
}

fn remove_pieces(plan: &PiecePlan, space: &Space) -> Result<(), Failure> {
    let select = |piece: &Piece| (plan.all || !piece.is_recorded) && plan.filters.matches(piece);
    let collection = Collection {
        limits: plan.limits,
        select: Some(&select),
        dry_run: plan.dry_run,
        no_wait: false,
        may_be_alone: true,
    };
    let report = executor::output::collect(space, &collection)?;
    for failed in &report.failed {
        eprint_line(&format!("WARNING: could not remove {failed}"));
    }
    let bytes = report.pieces.iter().map(|piece| piece.bytes).sum();
    print(&pieces::removed(report.pieces, plan.verbose));
    print(&pieces::totals(&[("Total", bytes)]));
    Ok(())
}

fn eprint_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
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
pub fn du(args: &DuArgs, open: impl FnOnce() -> Result<Space, Failure>) -> Result<(), Failure> {
    if !args.summary {
        return pieces::show(args, open);
    }
    let space = &open()?;
    if args.verbose {
        let details = executor::output::details(space)?;
        print(&details_text(&details, args.no_trunc));
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
fn details_text(details: &UsageDetails, whole: bool) -> String {
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
