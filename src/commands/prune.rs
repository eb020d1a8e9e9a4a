//! `kiln prune`.

use super::print_line;
use crate::args::PruneArgs;
use crate::error::Failure;
use crate::table;
use executor::space::Space;
use store::PruneOptions;

/// Frees what nothing needs.
pub fn run(args: &PruneArgs, space: &Space) -> Result<(), Failure> {
    let options = PruneOptions {
        all: args.all,
        dry_run: args.dry_run,
    };
    let report = space
        .store()
        .prune(&options, &|path| space.remove_tree(path))?;
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
