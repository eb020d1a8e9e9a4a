//! Prints how long files of two sizes take: raw and typed.
#![allow(clippy::print_stdout, reason = "a program that prints figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

const BLOCK: &str = "# tools
RUN --mount=type=cache,target=/var/cache/apt \\
    apt-get update && \\
    apt-get install -y curl git && \\
    rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/local/bin:$PATH NAME=\"two words\"
COPY --from=base --chown=1:1 /a /b /c/
CMD [\"/bin/app\", \"--serve\"]
LABEL one=1 two=2
RUN <<EOF
echo hi
EOF
WORKDIR /app
";

fn main() {
    for (lines, rounds) in [(100, 2_000), (10_000, 20)] {
        let mut text = String::from("FROM alpine:3.20 AS base\n");
        while text.lines().count() < lines {
            text.push_str(BLOCK);
        }
        let raw = measure(rounds, || {
            drop(black_box(parser::tree::parse(black_box(&text))));
        });
        let typed = measure(rounds, || drop(black_box(parser::parse(black_box(&text)))));
        println!(
            "{} lines, {} bytes: raw {raw:?}, typed {typed:?}",
            text.lines().count(),
            text.len()
        );
    }
}

/// The best of the rounds, which other load disturbs least.
fn measure(rounds: u32, mut work: impl FnMut()) -> Duration {
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}
