//! The pieces of a build alone, each beside what the machine can do at best: parse, plan, key, walk, hash, tar, compress, index.
//!
//! `cargo bench --bench micro`, or `cargo xtask bench micro`, which builds it without link-time optimisation. Medians.
//! Whole-process figures come from `cargo xtask bench`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark prints its figures and ends where it cannot go on"
)]

use executor::context::{Context, IgnoreRules};
use executor::layer::{
    BlockCompressor, Compression, LayerWriter, Limits, Source, Written, index_blob,
};
use executor::tree::{Child, Entry, FileTree, Kind};
use planner::lower::{LowerOptions, Lowered, lower};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Instant;
use store::{Sha256, Store};

/// Files of the folder that is walked and written.
const FILES: usize = 20_000;
const FILE_SIZE: usize = 2048;
/// Bytes that are hashed and compressed.
const DATA: usize = 64 << 20;

/// A row: what was measured, and its limit.
struct Row {
    name: &'static str,
    seconds: f64,
    limit: &'static str,
    limit_seconds: f64,
    /// What was done in that time, with its unit.
    work: f64,
    unit: &'static str,
}

fn main() {
    // `cargo bench` adds a flag of its own, which is no name.
    let markdown = std::env::args().any(|word| word == "--markdown");
    let mut rows = plans();
    rows.extend(files());
    rows.extend(streams());
    let (head, line) = if markdown {
        (
            "| piece | time | rate | limit | time | ratio |",
            "|---|--:|--:|---|--:|--:|\n",
        )
    } else {
        ("piece, time, rate, limit, time, ratio", "")
    };
    println!("{head}");
    print!("{line}");
    for row in rows {
        let cells = [
            row.name.to_owned(),
            format!("{:.2} ms", row.seconds * 1e3),
            format!("{:.0} {}/s", row.work / row.seconds, row.unit),
            row.limit.to_owned(),
            format!("{:.2} ms", row.limit_seconds * 1e3),
            format!("{:.2}", row.seconds / row.limit_seconds),
        ];
        if markdown {
            println!("| {} |", cells.join(" | "));
        } else {
            println!(
                "{:<42} {:>12} {:>16}   {:<44} {:>12} {:>7}",
                cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
            );
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    hasher.finish()
}

/// Median seconds.
fn median<T>(repeats: usize, mut work: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[repeats / 2]
}

/// A Dockerfile of a thousand lines: read, planned, its steps' keys made.
fn plans() -> Vec<Row> {
    let mut text = String::new();
    for stage in 0..20 {
        let base = if stage == 0 {
            "scratch".to_owned()
        } else {
            format!("s{}", stage - 1)
        };
        let _ = writeln!(
            text,
            "FROM {base} AS s{stage}\nARG VERSION=1.{stage}\nENV APP=/app V=$VERSION\nWORKDIR /app/$V"
        );
        for number in 0..23 {
            let _ = writeln!(text, "COPY --chown=1000 <<EOF f{number}\nfile $V\nEOF");
            let _ = writeln!(
                text,
                "RUN --mount=type=cache,target=/cache make step-{number}"
            );
        }
    }
    let lines = text.lines().count() as f64;
    let parse = median(30, || assert!(parser::parse(&text).diagnostics.is_empty()));
    let scan = median(200, || {
        std::hint::black_box(
            text.lines()
                .map(str::split_whitespace)
                .map(Iterator::count)
                .sum::<usize>(),
        );
    });
    let parsed = parser::parse(&text).dockerfile;
    let options = LowerOptions::default();
    let mut plan = None;
    let lowering = median(30, || {
        let Ok(Lowered::Plan(made, ..)) = lower(&parsed, &options, &BTreeMap::new()) else {
            panic!("no plan");
        };
        plan = Some(made);
    });
    let plan = plan.unwrap();
    let keying = median(50, || {
        for step in &plan.steps {
            std::hint::black_box(planner::key::definition_key(step, &[], None));
        }
    });
    let block = [7; 512];
    let hashing = median(50, || {
        for _ in &plan.steps {
            std::hint::black_box(sha256(&block));
        }
    });
    let steps = plan.steps.len() as f64;
    let scanning = "splitting it into words";
    vec![
        Row {
            name: "parse: 1,400 lines",
            seconds: parse,
            limit: scanning,
            limit_seconds: scan,
            work: lines,
            unit: "lines",
        },
        Row {
            name: "plan: the same",
            seconds: lowering,
            limit: scanning,
            limit_seconds: scan,
            work: steps,
            unit: "steps",
        },
        Row {
            name: "key: its steps",
            seconds: keying,
            limit: "SHA-256 of 512 bytes each",
            limit_seconds: hashing,
            work: steps,
            unit: "keys",
        },
    ]
}

/// A folder of 20,000 files of 2 KiB: walked, hashed, written as a layer; its index made again from the tar.
fn files() -> Vec<Row> {
    let work = tempfile::tempdir_in(Path::new("/dev/shm"))
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let dir = work.path().join("files");
    make_files(&dir);
    let open = |name: &str| {
        let store = Store::open(&work.path().join(name)).unwrap();
        Context::open(&dir, IgnoreRules::default(), None, &store).unwrap()
    };
    let walking = median(5, || assert!(walk(&open("store")).len() > FILES));
    let stats = median(5, || assert!(stat_all(&dir) > FILES));
    let mut entries = Vec::new();
    let hashing = median(3, || {
        let context = open("store");
        let mut children: Vec<Child> = walk(&context).into_iter().map(Child::of).collect();
        context
            .complete(&mut children.iter_mut().collect::<Vec<_>>())
            .unwrap();
        entries = children.into_iter().map(|child| child.entry).collect();
    });
    let reading = median(3, || {
        read_all(&dir, |bytes| {
            let _ = std::hint::black_box(blake3::hash(bytes));
        });
    });
    let data = vec![7; FILE_SIZE];
    for entry in &mut entries {
        if let Kind::File { digest, .. } = &mut entry.kind {
            *digest = None;
        }
    }
    executor::layer::sort(&mut entries);
    let (tar, index) = (work.path().join("tar"), work.path().join("index"));
    let writing = median(5, || {
        drop(write_layer(&entries, &data, std::io::sink(), &index));
    });
    let written = write_layer(
        &entries,
        &data,
        std::fs::File::create(&tar).unwrap(),
        &index,
    );
    let source = Source {
        path: tar.clone(),
        digest: None,
        diff_id: written.diff_id,
    };
    let indexing = median(5, || {
        drop(index_blob(&source, &Limits::default(), None, &index).unwrap());
    });
    let bytes = std::fs::read(&tar).unwrap();
    let whole = median(5, || sha256(&bytes));
    rows_of_files([walking, stats, hashing, reading, writing, indexing, whole])
}

/// What was measured, in seconds, and what limits it.
fn rows_of_files(seconds: [f64; 7]) -> Vec<Row> {
    let [walking, stats, hashing, reading, writing, indexing, whole] = seconds;
    let count = FILES as f64;
    let (hash, unit) = ("SHA-256 of the tar, one processor", "files");
    vec![
        Row {
            name: "walk: 20,000 files",
            seconds: walking,
            limit: "readdir and stat, one processor",
            limit_seconds: stats,
            work: count,
            unit,
        },
        Row {
            name: "hash: the same, walked too",
            seconds: hashing,
            limit: "open, read, BLAKE3, one processor",
            limit_seconds: reading,
            work: count,
            unit,
        },
        Row {
            name: "tar: the same from memory, with its index",
            seconds: writing,
            limit: hash,
            limit_seconds: whole,
            work: count,
            unit,
        },
        Row {
            name: "index: the same from the tar",
            seconds: indexing,
            limit: hash,
            limit_seconds: whole,
            work: count,
            unit,
        },
    ]
}

fn make_files(dir: &Path) {
    for number in 0..FILES {
        let folder = dir.join(format!("d{:03}", number / 100));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join(format!("f{:02}", number % 100)),
            vec![(number % 251) as u8; FILE_SIZE],
        )
        .unwrap();
    }
}

fn walk(context: &Context) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut folders = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        for (_, entry) in context.children(&folder).unwrap() {
            if entry.kind == Kind::Directory {
                folders.push(entry.path.clone());
            }
            found.push(entry);
        }
    }
    found
}

fn stat_all(dir: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        count += 1;
        if entry.metadata().unwrap().is_dir() {
            count += stat_all(&entry.path());
        }
    }
    count
}

fn read_all(dir: &Path, mut each: impl FnMut(&[u8]) + Copy) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, each);
        } else {
            each(&std::fs::read(&path).unwrap());
        }
    }
}

fn write_layer(entries: &[Entry], data: &[u8], out: impl std::io::Write, index: &Path) -> Written {
    let mut writer = LayerWriter::new(out);
    for entry in entries {
        let mut content = data;
        let is_file = matches!(entry.kind, Kind::File { .. });
        writer
            .entry(
                entry,
                is_file.then_some(&mut content as &mut dyn std::io::Read),
            )
            .unwrap();
    }
    writer.finish(index).unwrap()
}

/// 64 MiB, half of it random: compressed, and a large file hashed.
fn streams() -> Vec<Row> {
    let mut data = vec![0; DATA];
    let mut state = 1u64;
    for (number, word) in data.chunks_exact_mut(8).enumerate() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Every other 64 KiB has few different words.
        let value = if number / 8192 % 2 == 0 {
            state
        } else {
            (state >> 60) * 0x0101_0101
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    let (work, unit) = (DATA as f64 / 1e6, "MB");
    let sha = median(3, || sha256(&data));
    let mut rows = Vec::new();
    let kinds = [
        ("compress: gzip", Compression::AutoGzip),
        ("compress: gzip, level 6", Compression::Gzip(6)),
        ("compress: zstd, level 3", Compression::Zstd(3)),
    ];
    for (name, compression) in kinds {
        let seconds = median(3, || compress(&data, compression, None));
        let alone = median(1, || {
            compress(&data, compression, std::num::NonZero::new(1));
        });
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let limit_seconds = alone / processors as f64;
        rows.push(Row {
            name,
            seconds,
            limit: "one thread, divided by the processors",
            limit_seconds,
            work,
            unit,
        });
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    packed.write_all(&data).unwrap();
    let packed = packed.finish().unwrap();
    let inflate = median(3, || {
        let mut reader = flate2::read::GzDecoder::new(packed.as_slice());
        let mut buffer = vec![0; 1 << 18];
        while reader.read(&mut buffer).unwrap() > 0 {}
    });
    rows.push(Row {
        name: "inflate: gzip (zlib-rs)",
        seconds: inflate,
        limit: "SHA-256 of the same",
        limit_seconds: sha,
        work,
        unit,
    });
    rows.push(Row {
        name: "hash: SHA-256, one processor",
        seconds: sha,
        limit: "itself",
        limit_seconds: sha,
        work,
        unit,
    });
    let blake = median(3, || blake3::hash(&data));
    rows.push(Row {
        name: "hash: BLAKE3, one processor",
        seconds: blake,
        limit: "SHA-256 of the same",
        limit_seconds: sha,
        work,
        unit,
    });
    rows
}

fn compress(data: &[u8], compression: Compression, threads: Option<std::num::NonZero<usize>>) {
    let mut out = BlockCompressor::new(std::io::sink(), compression, threads).unwrap();
    out.write_all(data).unwrap();
    out.finish().unwrap();
}
