//! `cargo xtask cluster load [--url URL] [--builders N] [--seconds N] [--out FILE]`: builders that ask one server for their steps, as
//! fast as it answers. What is simulated is a build of fifty steps, of which one in a hundred was made by nobody: its
//! layer and record are sent. Counts are bounded; nothing is executed.

use super::server::{Kind, Server};
use crate::bench::{Table, median, sections, write_file};
use reapi::{Blob, Client, Digest, Endpoint, proto};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const USAGE: &str =
    "usage: cargo xtask cluster load [--url URL] [--builders N] [--seconds N] [--out FILE]";

/// Steps of a build, and how many steps there are for one that has to be made.
const STEPS: u64 = 50;
const MISS_EVERY: u64 = 100;
/// Builds of a builder in an hour.
const BUILDS: f64 = 10.0;
/// Bytes of the layer of a step that was made, and of the description that comes with a hit.
const LAYER: usize = 64 << 10;
const DESCRIPTION: usize = 2 << 10;
/// Steps that are there before.
const KNOWN: u64 = 500;
/// Builders on one connection.
const SHARE: usize = 16;
/// More at a time is more than one machine can tell apart.
const MOST: usize = 1024;

/// What a request was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Hit,
    Miss,
    Layer,
    Record,
    Read,
}

const ASKS: [(Ask, &str); 5] = [
    (Ask::Hit, "lookup, hit"),
    (Ask::Miss, "lookup, miss"),
    (Ask::Layer, "upload of a layer"),
    (Ask::Record, "record of a step"),
    (Ask::Read, "read of a layer"),
];

/// Requests with their milliseconds, and bytes of blobs that moved.
#[derive(Default)]
struct Seen {
    asks: Vec<(Ask, f64)>,
    bytes: u64,
}

/// What the command line asks for.
struct Asked {
    url: Option<String>,
    builders: Vec<usize>,
    seconds: u64,
    out: Option<PathBuf>,
}

impl Asked {
    fn read(args: &[String]) -> Result<Self, String> {
        let mut asked = Self {
            url: None,
            builders: vec![1, 8, 64, 256],
            seconds: 5,
            out: None,
        };
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().ok_or(USAGE);
            match word.as_str() {
                "--url" => asked.url = Some(value()?.clone()),
                "--builders" => asked.builders = vec![value()?.parse().map_err(|_| USAGE)?],
                "--seconds" => asked.seconds = value()?.parse().map_err(|_| USAGE)?,
                "--out" => asked.out = Some(PathBuf::from(value()?)),
                _ => return Err(USAGE.to_owned()),
            }
        }
        let fits = asked
            .builders
            .iter()
            .all(|count| (1..=MOST).contains(count));
        if !fits || !(1..=60).contains(&asked.seconds) {
            return Err(format!(
                "at most {MOST} builders at a time and 60 seconds\n{USAGE}"
            ));
        }
        Ok(asked)
    }
}

/// Runs it.
pub fn run(args: &[String]) -> Result<(), String> {
    let asked = Asked::read(args)?;
    let memory = PathBuf::from("/dev/shm");
    let place = memory.is_dir().then_some(memory);
    let server = match asked.url {
        Some(_) => None,
        None => Some(
            Server::start(Kind::Buildbox, 1, false, place.as_deref(), None)
                .ok_or("the server cannot be had here")?,
        ),
    };
    let url = match (&asked.url, &server) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => server.url(),
        (None, None) => return Err(USAGE.to_owned()),
    };
    let id = server.as_ref().and_then(Server::id);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(prepare(&url))?;
    let mut rows = Rows::new();
    for (round, builders) in asked.builders.iter().enumerate() {
        let before = Use::take(id);
        let start = Instant::now();
        let length = Duration::from_secs(asked.seconds);
        let seen = runtime.block_on(simulate(&url, *builders, round as u64, length))?;
        let seconds = start.elapsed().as_secs_f64();
        rows.add(*builders, &seen, seconds, &Use::take(id).since(&before));
    }
    rows.print();
    match asked.out {
        Some(file) => {
            let mut text = String::new();
            sections::add(&mut text, "load", &crate::bench::take());
            write_file(&file, &text)
        }
        None => Ok(()),
    }
}

fn connect(url: &str) -> Result<Client, String> {
    let endpoint = Endpoint::parse(url).map_err(|error| error.to_string())?;
    Ok(Client::new(endpoint))
}

/// A step that was made before, or one that is new.
fn key(kind: &str, number: u64) -> Digest {
    Digest::of(format!("load {kind} {number}").as_bytes())
}

/// Bytes that no other number has.
fn content(number: u64, length: usize) -> Vec<u8> {
    crate::bench::random(number, length)
}

/// A record of a step: its layer, and a description that comes with it.
fn record(layer: Digest) -> proto::ActionResult {
    proto::ActionResult {
        output_files: vec![proto::OutputFile {
            path: "out/layer.tar.zst".to_owned(),
            digest: Some(layer.to_proto()),
            ..Default::default()
        }],
        stdout_raw: content(7, DESCRIPTION),
        ..Default::default()
    }
}

/// Has the server know some steps.
async fn prepare(url: &str) -> Result<(), String> {
    let client = connect(url)?;
    let failed = |error: reapi::Error| error.to_string();
    for number in 0..KNOWN {
        let layer = Blob::of(content(number, LAYER / 16).into());
        let digest = layer.digest;
        client.upload(vec![layer], &|_| {}).await.map_err(failed)?;
        let taken = client
            .update_action_result(key("known", number), record(digest))
            .await
            .map_err(failed)?;
        if !taken {
            return Err(format!("{url} takes no results"));
        }
    }
    Ok(())
}

async fn simulate(
    url: &str,
    builders: usize,
    round: u64,
    length: Duration,
) -> Result<Seen, String> {
    let connections = (0..builders.div_ceil(SHARE))
        .map(|_| connect(url))
        .collect::<Result<Vec<_>, _>>()?;
    let until = Instant::now() + length;
    let start = Arc::new(tokio::sync::Barrier::new(builders));
    let tasks: Vec<_> = (0..builders)
        .filter_map(|number| {
            let client = connections.get(number / SHARE)?.clone();
            let start = Arc::clone(&start);
            let seed = (round << 48) | ((number as u64) << 24);
            Some(tokio::spawn(async move {
                start.wait().await;
                builder(&client, seed, until).await
            }))
        })
        .collect();
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await.map_err(|error| error.to_string())??;
        all.asks.extend(seen.asks);
        all.bytes += seen.bytes;
    }
    Ok(all)
}

/// Builds until it is time.
async fn builder(client: &Client, seed: u64, until: Instant) -> Result<Seen, String> {
    let failed = |error: reapi::Error| error.to_string();
    let mut seen = Seen::default();
    let mut step = 0;
    while Instant::now() < until {
        step += 1;
        // Every builder meets new steps at other times.
        let turn = step + (seed >> 24) * 37;
        if turn.is_multiple_of(MISS_EVERY) {
            let new = key("new", seed | step);
            let start = Instant::now();
            let found = client.action_result(new, &[]).await.map_err(failed)?;
            seen.add(Ask::Miss, start);
            if found.is_some() {
                return Err("a step that nobody made was found".to_owned());
            }
            let layer = Blob::of(content(seed | step, LAYER).into());
            let digest = layer.digest;
            let start = Instant::now();
            client.upload(vec![layer], &|_| {}).await.map_err(failed)?;
            seen.add(Ask::Layer, start);
            seen.bytes += LAYER as u64;
            let start = Instant::now();
            let result = client.update_action_result(new, record(digest)).await;
            result.map_err(failed)?;
            seen.add(Ask::Record, start);
            continue;
        }
        let number = (turn * 7919) % KNOWN;
        let start = Instant::now();
        let found = client.action_result(key("known", number), &[]).await;
        seen.add(Ask::Hit, start);
        let found = found
            .map_err(failed)?
            .ok_or("a step that was made is gone")?;
        if turn % STEPS == 1 {
            // The last layer of a build is what is not on this machine.
            let file = found.output_files.first().and_then(|it| it.digest.as_ref());
            let digest = Digest::from_proto(file.ok_or("a record without its layer")?);
            let digest = digest.map_err(failed)?;
            let start = Instant::now();
            let bytes = client.read(digest, LAYER as u64).await.map_err(failed)?;
            seen.add(Ask::Read, start);
            seen.bytes += bytes.len() as u64;
        }
    }
    Ok(seen)
}

impl Seen {
    fn add(&mut self, ask: Ask, start: Instant) {
        self.asks.push((ask, start.elapsed().as_secs_f64() * 1e3));
    }
}

/// Seconds of processors of the server and of this program, and the server's memory.
struct Use {
    server: Option<f64>,
    own: f64,
    memory_mb: Option<f64>,
}

impl Use {
    fn take(id: Option<u32>) -> Self {
        let seconds = |process: &str| {
            let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let (_, rest) = text.rsplit_once(')')?;
            let ticks = rest.split_whitespace().skip(11).take(2);
            Some(ticks.filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / 100.0)
        };
        let memory = |id: u32| {
            let text = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib / 1024.0)
        };
        Self {
            server: id.and_then(|id| seconds(&id.to_string())),
            own: seconds("self").unwrap_or_default(),
            memory_mb: id.and_then(memory),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            server: self.server.zip(before.server).map(|(now, then)| now - then),
            own: self.own - before.own,
            memory_mb: self.memory_mb,
        }
    }
}

/// The two tables.
struct Rows {
    all: Table,
    kinds: Table,
}

impl Rows {
    fn new() -> Self {
        Self {
            all: Table::new(
                "builders at a time, as fast as the server answers",
                &[
                    "builders",
                    "requests a second",
                    "lookups a second",
                    "as many builders of 10 builds an hour",
                    "MB a second",
                    "processors, server",
                    "processors, client",
                    "memory of the server, MB",
                ],
            ),
            kinds: Table::new(
                "builders at a time: request",
                &["request", "a second", "median ms", "99 % ms", "longest ms"],
            ),
        }
    }

    fn add(&mut self, builders: usize, seen: &Seen, seconds: f64, used: &Use) {
        let lookups = seen
            .asks
            .iter()
            .filter(|(ask, _)| matches!(ask, Ask::Hit | Ask::Miss))
            .count() as f64
            / seconds;
        let known = |value: Option<f64>, digits: usize| {
            value.map_or_else(String::new, |value| format!("{value:.digits$}"))
        };
        self.all.row(vec![
            builders.to_string(),
            format!("{:.0}", seen.asks.len() as f64 / seconds),
            format!("{lookups:.0}"),
            crate::bench::thousands((lookups * 3600.0 / (BUILDS * STEPS as f64)) as usize),
            format!("{:.2}", seen.bytes as f64 / 1e6 / seconds),
            known(used.server.map(|spent| spent / seconds), 2),
            format!("{:.2}", used.own / seconds),
            known(used.memory_mb, 0),
        ]);
        for (ask, name) in ASKS {
            let mut times: Vec<f64> = seen
                .asks
                .iter()
                .filter(|(it, _)| *it == ask)
                .map(|(_, time)| *time)
                .collect();
            times.sort_by(f64::total_cmp);
            let at = |part: f64| {
                let index = (times.len() as f64 * part) as usize;
                times.get(index.min(times.len().saturating_sub(1))).copied()
            };
            if times.is_empty() {
                continue;
            }
            self.kinds.row(vec![
                format!("{builders}: {name}"),
                format!("{:.0}", times.len() as f64 / seconds),
                format!("{:.2}", median(times.iter().copied())),
                known(at(0.99), 2),
                known(times.last().copied(), 1),
            ]);
        }
    }

    fn print(&self) {
        self.all.print();
        self.kinds.print();
    }
}
