//! `cargo xtask bench scale [steps|files|records|holes|random] [OPTIONS]`: time and peak memory as things grow. Fully cached
//! builds of 10 to 1,000 steps; contexts of a thousand to a million small files, cold and cached; a store of a thousand to a
//! million records of other builds; a file of 10 GiB of nothing, and one of random bytes.

use super::measure::{Groups, Sample, measure};
use super::place::{Folder, Options, script_of, write};
use super::table::{self, Table, median, seconds};
use crate::shell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// GiB of the large file, which is all holes.
const HOLES: u64 = 10;
/// What statfs says of a file system in memory.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

struct Scale {
    kiln: PathBuf,
    groups: Groups,
    work: Folder,
    rounds: usize,
    /// Files of the largest context, and records of the largest store.
    files: usize,
    records: usize,
}

/// Runs one of its parts.
pub fn run(name: &str, options: &Options) -> Result<(), String> {
    let kiln = options.binary()?;
    let work = options.folder()?;
    let copy = work.path().join("kiln");
    std::fs::copy(&kiln, &copy).map_err(|error| format!("{}: {error}", kiln.display()))?;
    let scale = Scale {
        kiln: copy,
        groups: Groups::new(),
        rounds: options.rounds.unwrap_or(5),
        files: options.files,
        records: options.records,
        work,
    };
    match name {
        "steps" => scale.steps(),
        "files" => scale.files(),
        "records" => scale.records(),
        "holes" => scale.holes(),
        _ => scale.random(options),
    }
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
            let text = stages_of_steps("d", count);
            write(&dir.join("Dockerfile"), text)?;
            shell::output(&mut self.build("store-steps", &dir))?;
            let sample = self.measure(self.rounds, "store-steps", &dir)?;
            table.row(vec![
                format!("{} steps", table::thousands(count)),
                seconds(sample.wall),
                seconds(sample.wall / count as f64),
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
            if count > self.files {
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
                format!("{} files", table::thousands(count)),
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
                    format!("{:.0} bytes a file", (peak - before) * 1_048_576.0 / more)
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
            &[
                "",
                "cached build",
                "peak MB",
                "build with one new step",
                "peak MB",
            ],
        );
        let small = self.path("small");
        let (mut steps, mut there, mut wanted) = (0, 0, 1_000);
        while wanted <= self.records {
            while there < wanted {
                // As many as are missing by the records that the steps before left, and a few more.
                let each = (there / steps.max(1)).max(1);
                let missing = (wanted - there).div_ceil(each);
                let end = steps + missing + missing / 100;
                while steps < end {
                    steps = self.more_records(steps, end)?;
                }
                let before = std::mem::replace(&mut there, self.count_records()?);
                if there <= before {
                    return Err(format!("the store keeps no more than {there} records"));
                }
            }
            let text = "FROM scratch\nWORKDIR /a\nWORKDIR /b\nCOPY Dockerfile /\n";
            write(&small.join("Dockerfile"), text)?;
            shell::output(&mut self.build("store-records", &small))?;
            let cached = self.measure(self.rounds, "store-records", &small)?;
            let mut new = Vec::new();
            for round in 0..self.rounds {
                write(
                    &small.join("Dockerfile"),
                    format!("{text}# {wanted} {round}\n"),
                )?;
                new.push(self.measure(1, "store-records", &small)?);
            }
            let peak = new.iter().map(|sample| sample.peak_mb).fold(0.0, f64::max);
            table.row(vec![
                format!("{} records", table::thousands(self.count_records()?)),
                seconds(cached.wall),
                format!("{:.0}", cached.peak_mb),
                seconds(median(new.iter().map(|sample| sample.wall))),
                format!("{peak:.0}"),
            ]);
            wanted *= 10;
        }
        table.print();
        self.remove("store-records")
    }

    /// Builds of many steps, each of which leaves records.
    fn more_records(&self, made: usize, wanted: usize) -> Result<usize, String> {
        const AT_ONCE: usize = 2_000;
        let dir = self.path("many");
        let count = AT_ONCE.min(wanted - made);
        let text = stages_of_steps(&format!("m{made}"), count);
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
    fn holes(&self) -> Result<(), String> {
        let dir = self.path("big");
        write(&dir.join("Dockerfile"), "FROM scratch\nCOPY file /\n")?;
        let file = std::fs::File::create(dir.join("file")).map_err(|error| error.to_string())?;
        file.set_len(HOLES << 30)
            .map_err(|error| error.to_string())?;
        self.one_file(&dir, &format!("a file of {HOLES} GiB, all holes"))
    }

    /// A file of random bytes, which is not in memory: there the store of it must fit.
    fn random(&self, options: &Options) -> Result<(), String> {
        let is_same = self.work.path().parent() == Some(options.disk.as_path());
        let on_disk = (!is_same)
            .then(|| Options::folder_in(&options.disk))
            .transpose()?;
        let dir = on_disk
            .as_ref()
            .map_or_else(|| self.path("random"), |folder| folder.path().to_owned());
        let room = free_gib(&options.disk)?.min(free_gib(self.work.path())?);
        let size = options.random.min(room.saturating_sub(1));
        if size == 0 {
            return Err(format!("no room for random bytes: {room} GiB"));
        }
        write(&dir.join("Dockerfile"), "FROM scratch\nCOPY file /\n")?;
        let script = format!(
            "head -c {size}G /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null > '{}'",
            dir.join("file").display()
        );
        shell::output(&mut script_of(&script))?;
        self.one_file(&dir, &format!("a file of {size} GiB of random bytes"))
    }

    /// A context of one large file, cold and cached, beside its hash.
    fn one_file(&self, dir: &Path, title: &str) -> Result<(), String> {
        let mut table = Table::new(title, &["", "wall", "peak MB", "MB of the store"]);
        for name in ["cold", "cached"] {
            let sample = self.measure(1, "store-big", dir)?;
            let script = format!("du -sm '{}' | cut -f1", self.path("store-big").display());
            // The file may be younger than the cache trusts, the next time it is not.
            shell::output(&mut self.build("store-big", dir))?;
            table.row(vec![
                name.to_owned(),
                seconds(sample.wall),
                format!("{:.0}", sample.peak_mb),
                shell::output(&mut script_of(&script))?.trim().to_owned(),
            ]);
        }
        let script = format!("openssl dgst -sha256 '{}'", dir.join("file").display());
        let limit = measure(&self.groups, None, vec![script_of(&script)])?;
        table.row(vec!["limit: SHA-256 of it".to_owned(), seconds(limit.wall)]);
        table.print();
        self.remove("store-big")
    }
}

/// So many steps in stages of 50, as images have no more layers than some, and one that copies from all of them. Only the
/// first step of each makes what no other does: the steps after it leave records, but blobs that are there already.
fn stages_of_steps(name: &str, count: usize) -> String {
    let mut text = String::new();
    for stage in 0..count.div_ceil(50) {
        let _ = writeln!(text, "FROM scratch AS s{stage}\nWORKDIR /{name}/{stage}");
        for step in 1..50.min(count - stage * 50) {
            let _ = writeln!(text, "WORKDIR /d{step}");
        }
    }
    text.push_str("FROM scratch\n");
    for stage in 0..count.div_ceil(50) {
        let _ = writeln!(text, "COPY --from=s{stage} /{name} /{name}");
    }
    text
}

/// What can be written below a folder; in memory, without taking more of it than there is.
fn free_gib(dir: &Path) -> Result<u64, String> {
    let room = rustix::fs::statvfs(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let free = room.f_bavail * room.f_frsize;
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_default();
    let in_memory = rustix::fs::statfs(dir).is_ok_and(|kind| kind.f_type == TMPFS);
    Ok(if in_memory {
        free.min(available << 10) >> 30
    } else {
        free >> 30
    })
}
