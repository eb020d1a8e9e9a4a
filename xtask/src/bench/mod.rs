//! `cargo xtask bench [cached|copy]` (and `registry` and `run`, which are apart): whole-process times of the static release binary, each beside the limit
//! that the machine sets. Medians; compare within one run only.

mod limit;
mod measure;
mod registry;
mod run;

use crate::shell;
use measure::{Sample, median, time};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const REPEATS: usize = 15;
const COPY_REPEATS: usize = 3;
const RUN_STEPS: usize = 30;

/// Runs the benchmarks named, or all.
pub fn run(args: &[String]) -> Result<(), String> {
    if args.first().is_some_and(|name| name == "registry") {
        return registry::run(&args[1..]);
    }
    if args.first().is_some_and(|name| name == "run") {
        return run::run(&args[1..]);
    }
    let bench = Bench::new()?;
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    println!(
        "{:<58} {:>10} {:>10} {:>7}",
        "workload", "median", "limit", "ratio"
    );
    if wanted("cached") {
        bench.cached()?;
    }
    if wanted("run") {
        bench.run_steps()?;
    }
    if wanted("copy") {
        bench.copy_small_files()?;
        bench.copy_big_files()?;
    }
    Ok(())
}

struct Bench {
    kiln: PathBuf,
    work: tempfile::TempDir,
    base: String,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let kiln = shell::build_static()?;
        let work = tempfile::tempdir_in(shell::target_dir()).map_err(|error| error.to_string())?;
        let layout = shell::root().join("testdata/images/busybox");
        Ok(Self {
            kiln,
            work,
            base: format!("busybox=oci-layout://{}", layout.display()),
        })
    }

    fn context(&self, name: &str, dockerfile: &str) -> Result<PathBuf, String> {
        let dir = self.work.path().join(name);
        write(&dir.join("Dockerfile"), dockerfile.as_bytes())?;
        Ok(dir)
    }

    fn build(&self, context: &Path, store: &str, extra: &[&str]) -> Command {
        let mut command = Command::new(&self.kiln);
        command
            .arg("build")
            .arg("--root")
            .arg(self.work.path().join("stores").join(store))
            .args(["-q", "-t", "bench", "--build-context", &self.base])
            .args(extra)
            .arg(context)
            .stdout(std::process::Stdio::null());
        command
    }

    /// W1: 12 instructions, 20 context files, nothing to do; then everything to do.
    fn cached(&self) -> Result<(), String> {
        let mut text = String::from(
            "FROM busybox\nARG VERSION=1\nENV APP=/app\nLABEL a=b\nWORKDIR /app\nCOPY src/ src/\nRUN echo one > one\n",
        );
        text.push_str(
            "COPY f0.txt f1.txt ./\nRUN cat src/* > all\nUSER 1000\nEXPOSE 80\nCMD [\"sh\"]\n",
        );
        let dir = self.context("w1", &text)?;
        for number in 0..20 {
            let folder = if number < 2 { "" } else { "src/" };
            write(
                &dir.join(format!("{folder}f{number}.txt")),
                format!("file {number}\n").as_bytes(),
            )?;
        }
        let cold = time(
            |number| self.build(&dir, &format!("w1-cold-{number}"), &[]),
            5,
        )?;
        report("W1 cold: 12 instructions, 20 files, 2 RUN", &cold, None);
        shell::output(&mut self.build(&dir, "w1", &[]))?;
        let warm = time(|_| self.build(&dir, "w1", &[]), REPEATS)?;
        let spawn = limit::spawn(REPEATS)?;
        report(
            "W1 cached: whole process (limit: spawn of true)",
            &warm,
            Some(spawn),
        );
        Ok(())
    }

    /// W4: what one more RUN costs: 30 steps of `true` less none, divided.
    fn run_steps(&self) -> Result<(), String> {
        let mut text = String::from("FROM busybox\n");
        for number in 0..RUN_STEPS {
            let _ = writeln!(text, "RUN [\"true\", \"{number}\"]");
        }
        let many = self.context("w4", &text)?;
        let one = self.context("w4-one", "FROM busybox\nRUN [\"true\", \"x\"]\n")?;
        for dir in [&many, &one] {
            shell::output(&mut self.build(dir, "w4", &[]))?;
        }
        let many = time(|_| self.build(&many, "w4", &["--no-cache"]), 7)?;
        let one = time(|_| self.build(&one, "w4", &["--no-cache"]), 7)?;
        let step = (median(&many) - median(&one)) / (RUN_STEPS as f64 - 1.0);
        println!(
            "{:<58} {:>8.2}ms {:>10} {:>7}",
            "W4 one RUN of true (30 steps less 1, / 29)",
            step * 1e3,
            "-",
            "-"
        );
        let namespaces = limit::namespaces(7)?;
        row(
            "W4 beside unshare(1) of the same namespaces + true",
            step,
            Some(namespaces),
        );
        Ok(())
    }

    /// W2: COPY of 50,000 small files.
    fn copy_small_files(&self) -> Result<(), String> {
        let dir = self.context("w2", "FROM scratch\nCOPY files/ /files/\n")?;
        for folder in 0..250 {
            for file in 0..200 {
                let content =
                    format!("{folder} {file}\n").repeat(1 + (folder * 7 + file * 13) % 600);
                write(
                    &dir.join(format!("files/d{folder}/f{file}.txt")),
                    content.as_bytes(),
                )?;
            }
        }
        let cold = time(
            |number| self.build(&dir, &format!("w2-{number}"), &[]),
            COPY_REPEATS,
        )?;
        let tar = limit::tar_and_hash(&dir.join("files"), COPY_REPEATS)?;
        report(
            "W2 cold: 50,000 files (limit: tar | sha256)",
            &cold,
            Some(tar),
        );
        let warm = time(|_| self.build(&dir, "w2-0", &[]), 5)?;
        let stat = limit::find_and_stat(&dir, 5)?;
        report("W2 cached (limit: find -size)", &warm, Some(stat));
        let touched = time(
            |number| {
                let _ = std::fs::write(dir.join("files/d7/f7.txt"), format!("changed {number}"));
                self.build(&dir, "w2-0", &[])
            },
            COPY_REPEATS,
        )?;
        report("W2 one file changed", &touched, Some(tar));
        Ok(())
    }

    /// W3: COPY of 1 GiB in 32 files, half random, half text.
    fn copy_big_files(&self) -> Result<(), String> {
        let dir = self.context("w3", "FROM scratch\nCOPY files/ /files/\n")?;
        std::fs::create_dir_all(dir.join("files")).map_err(|error| error.to_string())?;
        for number in 0..32 {
            let name = dir.join(format!("files/{number}.bin"));
            let source = if number % 2 == 0 {
                "/dev/urandom"
            } else {
                "/dev/zero"
            };
            let script = format!(
                "head -c 33554432 {source} | od -An -tx1 | head -c 33554432 > '{}'",
                name.display()
            );
            let script = if number % 2 == 0 {
                format!("head -c 33554432 {source} > '{}'", name.display())
            } else {
                script
            };
            shell::output(Command::new("sh").args(["-c", &script]))?;
        }
        let cold = time(
            |number| self.build(&dir, &format!("w3-{number}"), &[]),
            COPY_REPEATS,
        )?;
        let limit = limit::copy_file_tree(&dir.join("files"), self.work.path(), COPY_REPEATS)?;
        report(
            "W3 cold: 1 GiB, uncompressed (limit: cp -r)",
            &cold,
            Some(limit),
        );
        let gzip = time(
            |number| {
                let output = format!(
                    "type=oci,dest={}",
                    self.work.path().join(format!("w3-{number}.tar")).display()
                );
                self.build(&dir, "w3-0", &["-o", &output])
            },
            1,
        )?;
        report("W3 gzip archive of it", &gzip, None);
        Ok(())
    }
}

fn write(path: &Path, data: &[u8]) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    std::fs::write(path, data).map_err(|error| format!("{}: {error}", path.display()))
}

fn report(name: &str, samples: &[Sample], limit: Option<f64>) {
    row(name, median(samples), limit);
    let peak = samples
        .iter()
        .map(|sample| sample.peak_kib)
        .max()
        .unwrap_or_default();
    println!("{:<58} {:>7.1}MB", "    peak memory", peak as f64 / 1024.0);
}

fn row(name: &str, seconds: f64, limit: Option<f64>) {
    match limit {
        Some(limit) => println!(
            "{name:<58} {:>8.2}ms {:>8.2}ms {:>6.1}x",
            seconds * 1e3,
            limit * 1e3,
            seconds / limit
        ),
        None => println!("{name:<58} {:>8.2}ms {:>10} {:>7}", seconds * 1e3, "-", "-"),
    }
}
