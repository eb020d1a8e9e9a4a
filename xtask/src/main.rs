//! Project tasks: `cargo xtask demo|test|tidy|features|depgraph|cluster|conformance|cutoff|differential|histories|interop|manifests|modes-debian|bench|stress|static`.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "a program has no public surface; pub marks what other modules use"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool"
)]

mod accounts;
mod bench;
mod cluster;
mod conformance;
mod cutoff;
mod demo;
mod depgraph;
mod differential;
mod features;
mod histories;
mod interop;
mod manifests;
mod modes_debian;
mod peers;
mod shell;
mod stress;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK
  demo                 build the static binary and an image of the base that ships, offline
  test                 install what the tests need (as root, on Debian), run all tests
  tidy                 file sizes, module headers, places of unsafe, words that must not be there
  features             every feature of the language has a test that names it
  depgraph             the one-way graph of the workspace
  conformance [SUITE]  run the corpora beside the project, where they are
  cluster [CASE..]     builds on a server of the Remote Execution API against builds here; `cluster all` asks several servers, `cluster load` asks one for much
  cutoff [CASE..]      how often early cutoff helps: ten Dockerfiles (root)
  differential --seed N --count M  compare generated builds with a real BuildKit's (root)
  histories [--count N] [--seed N]  random histories of edits, each state against a clean build
  interop [--chroot DIR]  what Kiln pushes other tools take, and the other way round (root)
  manifests            the manifests of the guides against the schemas of Kubernetes
  modes-debian [MODE..]  apt, a compiler and file capabilities on Debian in every mode of RUN: the same tree (root)
  bench [SECTION..]    measure the release binary; `bench page FILE` puts the figures into docs/performance.md
  stress [--rounds N] [--builds N] [--kill]  many builds at once on one store, killed at random
  static               build the static release binary";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let result = match args.first().map(String::as_str) {
        Some("demo") => demo::run(),
        Some("test") => test::run(rest),
        Some("tidy") => tidy::run().and_then(|()| features::run()),
        Some("features") => features::run(),
        Some("depgraph") => depgraph::run(),
        Some("conformance") => conformance::run(rest),
        Some("cluster") => cluster::run(rest),
        Some("cutoff") => cutoff::run(rest),
        Some("differential") => differential::run(rest),
        Some("histories") => histories::run(rest),
        Some("interop") => interop::run(rest),
        Some("manifests") => manifests::run(),
        Some("modes-debian") => modes_debian::run(rest),
        Some("bench") => bench::run(rest),
        Some("stress") => stress::run(rest),
        Some("static") => shell::build_release().map(|path| println!("{}", path.display())),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
