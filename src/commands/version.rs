//! `kiln version`.

use super::print_line;
use crate::args::VersionArgs;

/// Prints the version.
pub fn run(args: &VersionArgs) {
    let version = env!("CARGO_PKG_VERSION");
    if args.short {
        return print_line(version);
    }
    print_line(&format!(
        "kiln {version} {}/{}",
        std::env::consts::OS,
        std::env::consts::ARCH
    ));
}
