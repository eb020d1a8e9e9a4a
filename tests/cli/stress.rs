//! Many builds at once on one store, while the cache is kept tiny and pruned, with builds and prunes killed at random: nothing
//! wrong, and nothing left: no process, mount, namespace, control group, scratch folder or temporary file.
//!
//! `cargo xtask stress` runs the same for longer, by `KILN_STRESS_ROUNDS`, `KILN_STRESS_BUILDS`, `KILN_STRESS_SEED`.

use crate::support::{Project, Run, Started, unique, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    project.write("limited.Dockerfile", "FROM busybox\nRUN true\n");
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

/// Where programs leave what is no output: for each an empty folder.
const FOLDERS: [&str; 3] = ["temporary", "home", "runtime"];
const GROUPS: &str = "/sys/fs/cgroup";

/// Ways to prune.
const PRUNES: &[&[&str]] = &[
    &["prune"],
    &["prune", "--all"],
    &["prune", "--max-used-space", "1m"],
    &["prune", "--filter", "type=exec.cachemount"],
    &[
        "prune",
        "--reserved-space",
        "500k",
        "--filter",
        "type=regular",
    ],
];

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
    /// Whether control groups can be made here.
    has_groups: bool,
    /// Mounts that hold namespaces, before the first build.
    namespaces: usize,
}

/// Mounts of this process that hold a namespace open. Container engines, which other tests start, hold theirs in folders of
/// that name.
fn held_namespaces() -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(" nsfs ") && !line.contains("/netns/"))
        .count()
}

/// Processes that this says something of.
fn processes(mut is_it: impl FnMut(&Path) -> bool) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|name| is_it(&Path::new("/proc").join(name)))
        .collect()
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
        for folder in FOLDERS {
            fs::create_dir_all(project.path(folder)).unwrap();
        }
        let mut stress = Self {
            project,
            references,
            marker: unique("stress"),
            random: Random(seed),
            ended: BTreeMap::new(),
            has_groups: true,
            namespaces: held_namespaces(),
        };
        let run = stress.limited();
        stress.has_groups = run.status == 0;
        assert!(
            stress.has_groups || run.stderr.contains("could not set the limit"),
            "{}",
            run.stderr
        );
        stress
    }

    /// A program with folders of its own for all that goes nowhere in particular.
    fn command(&self, mut command: Command) -> Command {
        command.env("STRESS_MARKER", &self.marker);
        for (name, folder) in ["TMPDIR", "HOME", "XDG_RUNTIME_DIR"].iter().zip(FOLDERS) {
            command.env(name, self.project.path(folder));
        }
        command
    }

    /// Flags that put commands into a control group.
    fn limits(&self) -> [String; 4] {
        ["--pids-limit", "500", "--cgroup-parent", &self.marker].map(str::to_owned)
    }

    /// A build in a control group, which sweeps what others have left beside its own.
    fn limited(&self) -> Run {
        let limits = self.limits();
        let mut args: Vec<&str> = limits.iter().map(String::as_str).collect();
        args.extend(["--no-cache", "-o", "type=cacheonly"]);
        args.extend(["-f", "context/limited.Dockerfile"]);
        self.project
            .run(self.command(self.project.build_command(&args)))
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
        if self.has_groups && self.random.below(3) == 0 {
            args.extend(self.limits());
        }
        if self.random.below(3) == 0 {
            args.extend(["--network".to_owned(), "none".to_owned()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let command = self.command(self.project.build_command(&args));
        Build {
            what,
            archive: self.project.path(&archive),
            was_hit: false,
            started: self.project.start(command),
        }
    }

    /// One round: so many builds at once and prunes beside them, some of which are killed, or lose their helper.
    fn round(&mut self, builds: u64, kills: bool) {
        let mut running: Vec<Build> = (0..builds).map(|number| self.start(number)).collect();
        let mut prunes = Vec::new();
        for _ in 0..=self.random.below(3) {
            let way = PRUNES[usize::try_from(self.random.below(PRUNES.len() as u64)).unwrap()];
            let command = self.command(self.project.command(way));
            let is_hit = kills && self.random.below(2) == 0;
            let wait = Duration::from_millis(self.random.below(40));
            prunes.push((self.project.start(command), is_hit.then_some(wait)));
        }
        std::thread::scope(|scope| {
            for (prune, wait) in &prunes {
                let Some(wait) = *wait else { continue };
                scope.spawn(move || {
                    std::thread::sleep(wait);
                    prune.signal(Signal::KILL);
                });
            }
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
        for (prune, wait) in prunes {
            let run = prune.finish();
            let how = match (run.status, wait) {
                (0, _) => "pruned",
                (137, Some(_)) => "prune killed",
                _ => panic!("prune: status {}:\n{}", run.status, run.stderr),
            };
            *self.ended.entry(how).or_default() += 1;
        }
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
        let store = self.project.store();
        let store_text = store.to_str().unwrap();
        let is_ours = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&self.marker)
        };
        // Whoever it is that keeps a mount namespace of a build alive, or lives in one.
        let holds = |process: &Path| {
            let mounts = fs::read(process.join("mountinfo")).unwrap_or_default();
            let places = ["root", "cwd"].map(|name| fs::read_link(process.join(name)));
            String::from_utf8_lossy(&mounts).contains(store_text)
                || places
                    .iter()
                    .flatten()
                    .any(|place| place.starts_with(&store))
        };
        let gone = || processes(is_ours).is_empty() && processes(holds).is_empty();
        assert!(
            wait_until(Duration::from_secs(10), gone),
            "processes are left: {:?}, with mounts {:?}",
            processes(is_ours),
            processes(holds)
        );
        assert!(held_namespaces() <= self.namespaces);
        self.project
            .run(self.command(self.project.command(&["prune"])))
            .ok();
        if self.has_groups {
            self.limited().ok();
        }
        let folders = FOLDERS.iter().map(|folder| self.project.path(folder));
        let scratch = ["scratch", "leases"]
            .iter()
            .map(|folder| store.join(folder));
        let groups = self.groups();
        for folder in scratch.chain(folders).chain(groups) {
            let left: Vec<_> = fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| !folder.starts_with(GROUPS) || entry.path().is_dir())
                .map(|entry| entry.path())
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    /// Control groups that the builds' own are in.
    fn groups(&self) -> Vec<PathBuf> {
        let roots = fs::read_dir(GROUPS).into_iter().flatten().flatten();
        let all = roots.map(|root| root.path()).chain([GROUPS.into()]);
        let found = all.map(|root| root.join(&self.marker));
        found.filter(|group| group.is_dir()).collect()
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

impl Drop for Stress {
    fn drop(&mut self) {
        for group in self.groups() {
            let _ = fs::remove_dir(group);
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
