//! Many builds at once on one store, killed at random, while the cache is kept tiny and pruned: nothing wrong, nothing left.
//!
//! `cargo xtask stress` runs the same for longer, by `KILN_STRESS_ROUNDS`, `KILN_STRESS_BUILDS`, `KILN_STRESS_SEED`.

use crate::support::{Project, Run, Started, unique, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Contexts that differ.
const VARIANTS: u64 = 6;
/// What images are called; an archive says it.
const NAMES: &[&str] = &["", "image1", "image2"];

/// A variant and a name.
type What = (u64, &'static str);

/// A generator that is the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

/// Stages that share steps, a cache mount, and a layer that only some have.
fn project() -> Project {
    let project = Project::new(
        "FROM busybox AS made\n\
         ARG V\n\
         RUN --mount=type=cache,target=/cache echo $V >> /cache/seen && mkdir /made && head -c 200000 /dev/zero > /made/zero && echo $V > /made/v\n\
         FROM busybox\n\
         COPY shared /shared\n\
         RUN echo common > /common && sleep 0.05\n\
         ARG V\n\
         COPY v$V /v\n\
         COPY --from=made /made /made\n\
         RUN cat /v /made/v /shared > /all && rm /v\n",
    );
    project.write("shared", vec![b's'; 300_000]);
    for variant in 0..VARIANTS {
        project.write(
            &format!("v{variant}"),
            format!("content {variant}\n").repeat(5000),
        );
    }
    project
}

/// A build of a variant into an archive, whose bytes do not depend on when it was made.
fn arguments((variant, name): What, dest: &str) -> Vec<String> {
    let mut args = vec![
        "--build-arg".to_owned(),
        format!("V={variant}"),
        "--build-arg".to_owned(),
        "SOURCE_DATE_EPOCH=1700000000".to_owned(),
        "-o".to_owned(),
        format!("type=oci,dest={dest}"),
    ];
    if !name.is_empty() {
        args.extend(["-t".to_owned(), name.to_owned()]);
    }
    args
}

struct Build {
    what: What,
    archive: PathBuf,
    was_hit: bool,
    started: Started,
}

/// Direct children of a process.
fn children(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in brackets, may have blanks.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned());
        let of = fields.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if of == Some(parent) {
            found.push(pid);
        }
    }
    found
}

struct Stress {
    project: Project,
    references: BTreeMap<What, Vec<u8>>,
    marker: String,
    random: Random,
    ended: BTreeMap<&'static str, usize>,
}

impl Stress {
    fn new(seed: u64) -> Self {
        let project = project();
        let mut references = BTreeMap::new();
        for variant in 0..VARIANTS {
            // Each from a store of its own: what no other build has touched.
            let store = project.path(&format!("reference{variant}"));
            for name in NAMES {
                let args = arguments((variant, name), "reference.tar");
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let mut command = project.build_command(&args);
                command.env("KILN_CACHE_MAX", "unlimited");
                command.arg("--root").arg(&store);
                project.run(command).ok();
                let bytes = fs::read(project.path("reference.tar")).unwrap();
                references.insert((variant, *name), bytes);
            }
            fs::remove_dir_all(store).unwrap();
        }
        Self {
            project,
            references,
            marker: unique("stress"),
            random: Random(seed),
            ended: BTreeMap::new(),
        }
    }

    fn start(&mut self, number: u64) -> Build {
        let name = NAMES[usize::try_from(self.random.below(3)).unwrap()];
        let what = (self.random.below(VARIANTS), name);
        let archive = format!("out{number}.tar");
        let mut args = arguments(what, &archive);
        if !name.is_empty() {
            // And into the store.
            args.extend(["-o".to_owned(), "type=image".to_owned()]);
        }
        if self.random.below(2) == 0 {
            let most = ["0", "300k", "2m"][usize::try_from(self.random.below(3)).unwrap()];
            args.extend(["--cache-max".to_owned(), most.to_owned()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = self.project.build_command(&args);
        command.env("STRESS_MARKER", &self.marker);
        Build {
            what,
            archive: self.project.path(&archive),
            was_hit: false,
            started: self.project.start(command),
        }
    }

    /// One round: so many builds at once, some of which are killed, or lose their helper.
    fn round(&mut self, builds: u64, kills: bool) {
        let mut running: Vec<Build> = (0..builds).map(|number| self.start(number)).collect();
        let pruned = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let all: &[&str] = [
                &["prune"][..],
                &["prune", "--all"],
                &["prune", "--max-used-space", "1m"],
            ][usize::try_from(self.random.below(3)).unwrap()];
            let mut command = self.project.command(all);
            command.env("STRESS_MARKER", &self.marker);
            let (project, pruned) = (&self.project, &pruned);
            scope.spawn(move || {
                project.run(command).ok();
                pruned.store(true, Ordering::Relaxed);
            });
            for build in running.iter_mut().filter(|_| kills) {
                match self.random.below(5) {
                    0 | 1 => {}
                    choice => {
                        std::thread::sleep(Duration::from_millis(self.random.below(60)));
                        if choice == 4 {
                            for child in children(build.started.id()) {
                                let pid = Pid::from_raw(child).unwrap();
                                build.was_hit |= kill_process(pid, Signal::KILL).is_ok();
                            }
                        } else {
                            build.started.signal(Signal::KILL);
                            build.was_hit = true;
                        }
                    }
                }
            }
        });
        assert!(pruned.load(Ordering::Relaxed));
        for build in running {
            let run = build.started.finish();
            let how = self.judge(&run, build.what, build.was_hit, &build.archive);
            *self.ended.entry(how).or_default() += 1;
            let _ = fs::remove_file(build.archive);
        }
    }

    /// A build that was left alone must succeed; one that succeeded must be right.
    fn judge(&self, run: &Run, what: What, was_hit: bool, archive: &PathBuf) -> &'static str {
        let made = fs::read(archive).ok();
        // A build that is killed at its very end has made all of it.
        let is_right = made.is_none_or(|made| made == self.references[&what]);
        assert!(is_right, "a wrong image:\n{}", run.stderr);
        if run.status == 0 {
            assert!(archive.exists(), "no image:\n{}", run.stderr);
            return "right";
        }
        assert!(was_hit, "status {}:\n{}", run.status, run.stderr);
        if run.status == 137 {
            "killed"
        } else {
            "failed without its helper"
        }
    }

    /// After a sweep nothing of dead builds is there.
    fn nothing_left(&self) {
        let is_ours = || {
            fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                String::from_utf8_lossy(&environment).contains(&self.marker)
            })
        };
        assert!(
            wait_until(Duration::from_secs(10), || !is_ours()),
            "processes are left"
        );
        self.project.kiln(&["prune"]).ok();
        let store = self.project.store();
        for folder in ["scratch", "leases"] {
            let left: Vec<_> = fs::read_dir(store.join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(store.to_str().unwrap()), "{mounts}");
    }

    /// What has a name is whole.
    fn images_are_whole(&self) {
        for name in self.project.images() {
            let out = self.project.path("saved");
            let dest = out.to_str().unwrap().to_owned();
            let base = format!("named=docker-image://{name}");
            let output = format!("type=oci,tar=false,dest={dest}");
            self.project.write("named.Dockerfile", "FROM named\n");
            let args = [
                "-f",
                "context/named.Dockerfile",
                "--build-context",
                &base,
                "-o",
                &output,
            ];
            self.project.build(&args).ok();
            testkit::validate(&out).unwrap();
            fs::remove_dir_all(out).unwrap();
        }
    }
}

#[test]
fn builds_at_once_with_kills_and_a_tiny_cache() {
    let rounds = setting("KILN_STRESS_ROUNDS", 3);
    let builds = setting("KILN_STRESS_BUILDS", 4);
    let seed = setting("KILN_STRESS_SEED", 1);
    let limit = Duration::from_secs(setting("KILN_STRESS_SECONDS", 600));
    let kills = setting("KILN_STRESS_KILL", 1) == 1;
    let begun = std::time::Instant::now();
    let mut stress = Stress::new(seed);
    let mut done = 0;
    while done < rounds && begun.elapsed() < limit {
        stress.round(builds, kills);
        stress.nothing_left();
        if done % 10 == 0 {
            stress.images_are_whole();
        }
        done += 1;
    }
    eprintln!(
        "{done} rounds of {builds} builds in {:?}: {:?}; 0 wrong, 0 left",
        begun.elapsed(),
        stress.ended
    );
    assert!(stress.ended.contains_key("right"), "{:?}", stress.ended);
    assert!(done > 0);
}
