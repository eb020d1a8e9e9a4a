//! What steps on a cluster cost: lookups, RUN steps on a Debian base with and without lazy staging, uploads, and stages side by
//! side over one, two and four workers. buildbox on loopback, all in memory. A round trip is the difference of builds of six
//! steps and of one, divided, so that the program's start and what happens once in a build are not in it.

use super::place::{Folder, Options, write};
use super::table::{Table, median, ratio, seconds};
use crate::cluster::server::{Kind, Server};
use crate::conformance::bases;
use crate::shell;
use reapi::{Blob, Client, Digest, Endpoint, proto};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Lookups of a kind.
const LOOKUPS: usize = 400;
/// Steps of the longer build beyond the first.
const MORE: usize = 5;
/// Stages side by side, and the seconds that each waits.
const STAGES: usize = 6;
const WAIT: usize = 2;
/// Over so many workers.
const WORKERS: [usize; 3] = [1, 2, 4];

struct Bench {
    kiln: PathBuf,
    rounds: usize,
    work: Folder,
}

/// Runs it.
pub fn run(options: &Options) -> Result<(), String> {
    let tar = bases::debian_tar()?;
    let bench = Bench {
        kiln: options.binary()?,
        rounds: options.rounds.unwrap_or(5),
        work: options.folder()?,
    };
    let context = bench.path("debian");
    write(&context.join("file"), "first\n")?;
    std::fs::copy(&tar, context.join("debian.tar")).map_err(|error| error.to_string())?;
    lookups(&bench)?;
    stages(&bench)?;
    let mut table = Table::new(
        "RUN on a Debian base",
        &["build", "local", "workers, FUSE", "workers, copies"],
    );
    let columns = [
        bench.debian(None)?,
        bench.debian(Some(true))?,
        bench.debian(Some(false))?,
    ];
    for (index, name) in ROWS.iter().enumerate() {
        let cell = |times: &Times| {
            let time = times.get(index).copied().flatten();
            time.map_or_else(String::new, seconds)
        };
        let mut row = vec![(*name).to_owned()];
        row.extend(columns.iter().map(cell));
        table.row(row);
    }
    table.print();
    Ok(())
}

/// Rows of the table, and what each took.
const ROWS: [&str; 6] = [
    "one more RUN, round trip",
    "one more RUN that another machine made, round trip",
    "build of one RUN",
    "the same, first on a new base: its files and the program for workers are sent",
    "the same, a file of the base changed",
    "build that is all in the store",
];
type Times = [Option<f64>; ROWS.len()];

fn server(workers: usize, fuse: bool, place: &Path) -> Result<Server, String> {
    Server::start(Kind::Buildbox, workers, fuse, Some(place), None)
        .ok_or_else(|| "buildbox cannot be had here".to_owned())
}

fn executor(server: &Server) -> String {
    format!("--executor={},preset={}", server.url(), server.preset())
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Seconds of a build.
    fn build(&self, store: &str, context: &Path, flags: &[&str]) -> Result<f64, String> {
        let mut command = Command::new(&self.kiln);
        command
            .arg("--root")
            .arg(self.path(store))
            .args(["build", "-q", "--network", "none", "-o", "type=cacheonly"])
            .args(flags)
            .arg(context);
        let start = Instant::now();
        shell::output(&mut command)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn remove(&self, store: &str) -> Result<(), String> {
        shell::output(Command::new("rm").arg("-rf").arg(self.path(store))).map(drop)
    }

    /// Seconds of a build on the Debian base with steps that nobody has made, named by `name`.
    fn steps(&self, store: &str, name: &str, count: usize, flags: &[&str]) -> Result<f64, String> {
        let context = self.path("debian");
        let mut text = "FROM scratch AS base\nADD debian.tar /\nFROM base\n".to_owned();
        if name.starts_with("changed") {
            text.push_str("COPY file /etc/issue\n");
        }
        for step in 0..count {
            text.push_str(&format!("RUN echo {name} {step} > /step\n"));
        }
        write(&context.join("Dockerfile"), text)?;
        self.build(store, &context, flags)
    }

    /// A column: here, or with workers that stage lazily or not.
    fn debian(&self, fuse: Option<bool>) -> Result<Times, String> {
        let place = self.path("server");
        std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        let server = fuse.map(|fuse| server(1, fuse, &place)).transpose()?;
        let flag = server.as_ref().map(executor);
        let flags: Vec<&str> = flag.iter().map(String::as_str).collect();
        let column = match fuse {
            None => "local",
            Some(true) => "fuse",
            Some(false) => "copies",
        };
        let name = |what: &str, round: usize| format!("{what}-{column}-{round}");
        self.steps("store", "base", 0, &[])?;
        let first = self.steps("store", &name("first", 0), 1, &flags)?;
        let [mut one, mut trips, mut changed, mut hits, mut all] = [const { Vec::new() }; 5];
        for round in 0..self.rounds {
            let single = self.steps("store", &name("one", round), 1, &flags)?;
            one.push(single);
            let long = name("long", round);
            let many = self.steps("store", &long, 1 + MORE, &flags)?;
            trips.push((many - single) / MORE as f64);
            all.push(self.steps("store", &long, 1 + MORE, &flags)?);
            write(&self.path("debian/file"), name("content", round))?;
            let copied = name("changed", round);
            changed.push(self.steps("store", &copied, 1, &flags)?);
            if server.is_some() {
                self.remove("other")?;
                self.steps("other", "base", 0, &[])?;
                self.steps("other", &name("one", round), 1, &flags)?;
                let many = self.steps("other", &long, 1 + MORE, &flags)?;
                let stored = self.steps("other", &long, 1 + MORE, &flags)?;
                hits.push((many - stored) / (1 + MORE) as f64);
                self.remove("other")?;
            }
        }
        let middle = |times: &[f64]| Some(median(times.iter().copied())).filter(|it| !it.is_nan());
        eprintln!(
            "bench: {column}: more {trips:.3?}, hits {hits:.3?}, one {one:.3?}, first {first:.3}, changed {changed:.3?}, stored {all:.3?}"
        );
        Ok([
            middle(&trips),
            middle(&hits),
            middle(&one),
            server.is_some().then_some(first),
            middle(&changed),
            middle(&all),
        ])
    }
}

/// Stages that wait for each other's sake alone, over more and more workers.
fn stages(bench: &Bench) -> Result<(), String> {
    let layout = shell::root().join("testdata/images/busybox");
    let base = format!("--build-context=busybox=oci-layout://{}", layout.display());
    let context = bench.path("stages");
    let place = bench.path("server");
    let mut table = Table::new(
        &format!("{STAGES} stages that wait {WAIT} s each: workers"),
        &["workers", "seconds", "beside one worker"],
    );
    let mut single = f64::NAN;
    for workers in WORKERS {
        let server = server(workers, true, &place)?;
        let flag = executor(&server);
        let mut times = Vec::new();
        // The base and the program for workers are sent before.
        for round in 0..=bench.rounds.min(3) {
            let mut text = String::new();
            let mut copies = "FROM scratch\n".to_owned();
            for stage in 0..STAGES {
                let wait = if round == 0 { 0 } else { WAIT };
                text.push_str(&format!(
                    "FROM busybox AS s{stage}\nRUN sleep {wait} && echo {workers} {round} {stage} > /out\n"
                ));
                copies.push_str(&format!("COPY --from=s{stage} /out /{stage}\n"));
            }
            write(&context.join("Dockerfile"), text + &copies)?;
            let took = bench.build("stages-store", &context, &[&base, &flag])?;
            if round > 0 {
                times.push(took);
            }
        }
        let took = median(times);
        if workers == 1 {
            single = took;
        }
        table.row(vec![
            workers.to_string(),
            format!("{took:.2}"),
            ratio(took, single),
        ]);
    }
    table.print();
    Ok(())
}

/// Lookups of a result that is there, with its small files, and of one that is not.
fn lookups(bench: &Bench) -> Result<(), String> {
    let place = bench.path("server");
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let server = server(1, true, &place)?;
    let endpoint = Endpoint::parse(&server.url()).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let (hit, miss) = runtime
        .block_on(asked(&Client::new(endpoint)))
        .map_err(|error| error.to_string())?;
    let mut table = Table::new(
        &format!("{LOOKUPS} lookups, one after the other"),
        &["lookup", "median ms", "99 % ms"],
    );
    for (name, mut times) in [("action cache, hit", hit), ("action cache, miss", miss)] {
        times.sort_by(f64::total_cmp);
        let most = times.get(times.len() * 99 / 100).copied();
        table.row(vec![
            name.to_owned(),
            format!("{:.2}", median(times)),
            format!("{:.2}", most.unwrap_or(f64::NAN)),
        ]);
    }
    table.print();
    Ok(())
}

async fn asked(client: &Client) -> Result<(Vec<f64>, Vec<f64>), reapi::Error> {
    let blob = Blob::of(vec![1; 4096].into());
    let file = blob.digest;
    client.upload(vec![blob], &|_| {}).await?;
    let known = Digest::of(b"known");
    let result = proto::ActionResult {
        output_files: vec![proto::OutputFile {
            path: "out/layer.tar.zst".to_owned(),
            digest: Some(file.to_proto()),
            ..Default::default()
        }],
        ..Default::default()
    };
    client.update_action_result(known, result).await?;
    let (mut hit, mut miss) = (Vec::new(), Vec::new());
    for number in 0..LOOKUPS {
        let unknown = Digest::of(number.to_string().as_bytes());
        for (action, times) in [(known, &mut hit), (unknown, &mut miss)] {
            let start = Instant::now();
            client.action_result(action, &[]).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok((hit, miss))
}
