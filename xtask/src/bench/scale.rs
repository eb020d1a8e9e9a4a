//! `cargo xtask bench scale [steps|files|records|big] [OPTIONS]`: time and peak memory as things grow. Fully cached builds of
//! 10 to 1,000 steps; contexts of a thousand to a million small files, cold and cached; a store of a thousand to 100,000
//! records of other builds; a file of 10 GiB of nothing.

use super::measure::{Groups, Sample, measure};
use super::place::{Options, script_of, write};
use super::table::{Table, median, seconds};
use crate::shell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 4] = ["steps", "files", "records", "big"];
/// GiB of the large file, which is all holes.
const HOLES: u64 = 10;

struct Scale {
    kiln: PathBuf,
    work: tempfile::TempDir,
    groups: Groups,
    rounds: usize,
    /// Files of the largest context.
    most: usize,
}

/// Runs the parts named, or all.
pub fn run(args: &[String]) -> Result<(), String> {
    let usage = format!(
        "usage: cargo xtask bench scale [{}] {}",
        NAMES.join("|"),
        super::OPTIONS
    );
    let options = Options::read(args, &NAMES, &usage)?;
    let kiln = options.binary()?;
    let work = options.folder()?;
    let copy = work.path().join("kiln");
    std::fs::copy(&kiln, &copy).map_err(|error| format!("{}: {error}", kiln.display()))?;
    let scale = Scale {
        kiln: copy,
        groups: Groups::new(),
        rounds: options.rounds.unwrap_or(5),
        most: options.files,
        work,
    };
    if options.wants("steps") {
        scale.steps()?;
    }
    if options.wants("files") {
        scale.files()?;
    }
    if options.wants("records") {
        scale.records()?;
    }
    if options.wants("big") {
        scale.big()?;
    }
    Ok(())
}

impl Scale {
    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn build(&self, store: &str, context: &Path) -> Command {
        let mut command = Command::new(&self.kiln);
        command
            .arg("--root")
            .arg(self.path(store))
            .args(["build", "-q", "-t", "scale"])
            .arg(context);
        command
    }

    /// Median of some builds, and the largest peak.
    fn measure(&self, rounds: usize, store: &str, context: &Path) -> Result<Sample, String> {
        let samples: Vec<Sample> = (0..rounds)
            .map(|_| measure(&self.groups, None, vec![self.build(store, context)]))
            .collect::<Result<_, _>>()?;
        Ok(Sample {
            wall: median(samples.iter().map(|sample| sample.wall)),
            peak_mb: samples
                .iter()
                .map(|sample| sample.peak_mb)
                .fold(0.0, f64::max),
            ..Sample::default()
        })
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        script_of(&format!("rm -rf '{}'", self.path(name).display()))
            .status()
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Fully cached builds of more and more steps.
    fn steps(&self) -> Result<(), String> {
        let mut table = Table::new("steps, all cached", &["", "wall", "per step", "peak MB"]);
        for count in [10, 100, 1000] {
            let dir = self.path("steps");
            let mut text = String::from("FROM scratch AS s0\n");
            for step in 0..count {
                // Layers of an image are bounded: every stage has some.
                if step > 0 && step % 50 == 0 {
                    let _ = writeln!(text, "FROM s{} AS s{}", step / 50 - 1, step / 50);
                }
                let _ = writeln!(text, "WORKDIR /d{step}");
            }
            write(&dir.join("Dockerfile"), text)?;
            shell::output(&mut self.build("store-steps", &dir))?;
            let sample = self.measure(self.rounds, "store-steps", &dir)?;
            table.row(vec![
                format!("{count} steps"),
                seconds(sample.wall),
                seconds(sample.wall / f64::from(count)),
                format!("{:.0}", sample.peak_mb),
            ]);
        }
        table.print();
        self.remove("store-steps")
    }

    /// COPY of more and more files of a few bytes.
    fn files(&self) -> Result<(), String> {
        let head = [
            "",
            "cold",
            "per file",
            "peak MB",
            "cached",
            "per file",
            "peak MB",
            "find with stat",
        ];
        let mut table = Table::new("context files", &head);
        let mut last: Option<(usize, f64, f64)> = None;
        for count in [1_000, 10_000, 100_000, 1_000_000] {
            if count > self.most {
                break;
            }
            let dir = self.path("files");
            for number in 0..count {
                write(
                    &dir.join(format!("src/d{:04}/f{:03}", number / 500, number % 500)),
                    format!("{number}\n"),
                )?;
            }
            write(&dir.join("Dockerfile"), "FROM scratch\nCOPY src /src\n")?;
            let rounds = if count > 10_000 { 1 } else { self.rounds };
            let cold = self.measure(1, "store-files", &dir)?;
            // The first cached build may find files younger than the cache trusts, the second does not.
            std::thread::sleep(std::time::Duration::from_millis(100));
            shell::output(&mut self.build("store-files", &dir))?;
            let warm = self.measure(rounds.max(3), "store-files", &dir)?;
            let find = format!("find '{}' -type f -size -1 -mtime +1", dir.display());
            let find = measure(&self.groups, None, vec![script_of(&find)])?;
            let each = |wall: f64| seconds(wall / count as f64);
            table.row(vec![
                format!("{count} files"),
                seconds(cold.wall),
                each(cold.wall),
                format!("{:.0}", cold.peak_mb),
                seconds(warm.wall),
                each(warm.wall),
                format!("{:.0}", warm.peak_mb),
                seconds(find.wall),
            ]);
            if let Some((before, cold_mb, warm_mb)) = last {
                let more = (count - before) as f64;
                let slope = |peak: f64, before: f64| {
                    format!("{:.0} bytes a file", (peak - before) * 1e6 / more)
                };
                table.row(vec![
                    "  memory of the files that came to it".to_owned(),
                    String::new(),
                    String::new(),
                    slope(cold.peak_mb, cold_mb),
                    String::new(),
                    String::new(),
                    slope(warm.peak_mb, warm_mb),
                ]);
            }
            last = Some((count, cold.peak_mb, warm.peak_mb));
            self.remove("store-files")?;
            self.remove("files")?;
        }
        table.print();
        Ok(())
    }

    /// The same small build in stores that have more and more of others.
    fn records(&self) -> Result<(), String> {
        let mut table = Table::new(
            "records of other builds in the store",
            &["", "cached build", "peak MB", "of one step that is new"],
        );
        let small = self.path("small");
        let mut made = 0;
        for count in [1_000, 10_000, 100_000_usize] {
            while made < count {
                made = self.more_records(made, count)?;
            }
            let text = "FROM scratch\nWORKDIR /a\nWORKDIR /b\nCOPY Dockerfile /\n";
            write(&small.join("Dockerfile"), text)?;
            shell::output(&mut self.build("store-records", &small))?;
            let cached = self.measure(self.rounds, "store-records", &small)?;
            let mut new = Vec::new();
            for round in 0..self.rounds {
                write(
                    &small.join("Dockerfile"),
                    format!("{text}# {count} {round}\n"),
                )?;
                new.push(self.measure(1, "store-records", &small)?.wall);
            }
            table.row(vec![
                format!("{} records", self.count_records()?),
                seconds(cached.wall),
                format!("{:.0}", cached.peak_mb),
                seconds(median(new)),
            ]);
        }
        table.print();
        self.remove("store-records")
    }

    /// Builds of many steps, each of which leaves records.
    fn more_records(&self, made: usize, wanted: usize) -> Result<usize, String> {
        const AT_ONCE: usize = 2_000;
        let dir = self.path("many");
        let count = AT_ONCE.min(wanted - made);
        let mut text = String::new();
        // Stages of their own: a chain would hold the layers of all.
        for stage in 0..count.div_ceil(50) {
            let _ = writeln!(text, "FROM scratch AS s{stage}");
            for step in 0..50.min(count - stage * 50) {
                let _ = writeln!(text, "WORKDIR /m{made}/{stage}/{step}");
            }
        }
        text.push_str("FROM scratch\n");
        for stage in 0..count.div_ceil(50) {
            let _ = writeln!(text, "COPY --from=s{stage} /m{made} /m{made}");
        }
        write(&dir.join("Dockerfile"), text)?;
        shell::output(&mut self.build("store-records", &dir))?;
        Ok(made + count)
    }

    fn count_records(&self) -> Result<usize, String> {
        let script = format!(
            "find '{}' -path '*/records/*' -type f | wc -l",
            self.path("store-records").display()
        );
        let count = shell::output(&mut script_of(&script))?;
        count
            .trim()
            .parse()
            .map_err(|_| format!("not a count: {count}"))
    }

    /// A file of 10 GiB without a byte on the disk.
    fn big(&self) -> Result<(), String> {
        let dir = self.path("big");
        write(&dir.join("Dockerfile"), "FROM scratch\nCOPY zeros /\n")?;
        let file = std::fs::File::create(dir.join("zeros")).map_err(|error| error.to_string())?;
        file.set_len(HOLES << 30)
            .map_err(|error| error.to_string())?;
        let mut table = Table::new(
            &format!("a file of {HOLES} GiB, all holes"),
            &["", "wall", "peak MB", "MB on the disk"],
        );
        for name in ["cold", "cached"] {
            let sample = self.measure(1, "store-big", &dir)?;
            let script = format!("du -sm '{}' | cut -f1", self.path("store-big").display());
            table.row(vec![
                name.to_owned(),
                seconds(sample.wall),
                format!("{:.0}", sample.peak_mb),
                shell::output(&mut script_of(&script))?.trim().to_owned(),
            ]);
        }
        let script = format!("openssl dgst -sha256 '{}'", dir.join("zeros").display());
        let limit = measure(&self.groups, None, vec![script_of(&script)])?;
        table.row(vec!["limit: SHA-256 of it".to_owned(), seconds(limit.wall)]);
        table.print();
        self.remove("store-big")
    }
}
