//! `cargo xtask bench run [OPTIONS]`: what one RUN costs. Builds of thirty RUN steps and of
//! one, none of them cached, by Kiln as root and as ordinary users, by docker without and with BuildKit, and by buildah; by
//! turns, on tmpfs where there is one. A step's time is the difference, divided. Needs root.

use super::place::{Folder, Options};
use super::table::{Table, median, ratio, seconds};
use super::{limit, race};
use crate::accounts::User;
use crate::peers::tools::Tools;
use crate::{shell, test};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// RUN steps of the longer build.
const STEPS: usize = 30;
/// Another tool whose builds have taken so many seconds is not asked again.
const ENOUGH: f64 = 25.0;
/// Ordinary users that are made for it, with and without ranges of ids.
pub const USERS: [(&str, bool); 2] = [("kilnbench", true), ("kilnbench1", false)];

/// What is shown of options, and the options.
type Flags = (&'static str, &'static [&'static str]);

/// Kiln as root.
const AS_ROOT: [Flags; 5] = [
    ("kiln, root, --network none", &["--network", "none"]),
    ("kiln, root, --network host", &["--network", "host"]),
    ("kiln, root, network of the build", &[]),
    (
        "kiln, root, arm64 emulated, --network none",
        &["--network", "none", "--platform", "linux/arm64"],
    ),
    (
        "kiln, root, --isolation chroot",
        &["--isolation", "chroot", "--network", "host"],
    ),
];
/// Kinds of roots of a sandbox, where the binary knows them.
const ROOTS: [Flags; 3] = [
    (
        "kiln, root, root by fuse-overlayfs",
        &["--network", "none", "--sandbox-root", "fuse-overlayfs"],
    ),
    (
        "kiln, root, root by reflinks",
        &["--network", "none", "--sandbox-root", "reflink"],
    ),
    (
        "kiln, root, root by a copy",
        &["--network", "none", "--sandbox-root", "copy"],
    ),
];
/// Kiln as a user of any kind.
const AS_USER: [Flags; 4] = [
    ("--network none", &["--network", "none"]),
    ("--network host", &["--network", "host"]),
    ("network of the build", &[]),
    (
        "arm64 emulated, --network none",
        &["--network", "none", "--platform", "linux/arm64"],
    ),
];

/// Makes the command that builds a context.
type Build<'a> = Box<dyn Fn(&Path) -> Option<Command> + 'a>;

/// One who builds, and how long it took.
struct Row<'a> {
    name: String,
    build: Build<'a>,
    /// Seconds of a build of one step, and of all.
    one: Vec<f64>,
    all: Vec<f64>,
    failed: Option<String>,
    /// Seconds of all its builds.
    spent: f64,
}

struct Bench {
    kiln: PathBuf,
    /// Before the folder in which they work.
    tools: Tools,
    users: Vec<User>,
    work: Folder,
}

/// Runs it.
pub fn run(options: &Options) -> Result<(), String> {
    test::install()?;
    let rounds = options.rounds.unwrap_or(3);
    let bench = Bench::new(options)?;
    let mut rows = bench.rows()?;
    for round in 0..=rounds {
        for row in &mut rows {
            bench.measure(row, round)?;
        }
    }
    let unshare = limit::namespaces(7)?;
    show(&rows, unshare);
    Ok(())
}

impl Bench {
    fn new(options: &Options) -> Result<Self, String> {
        let kiln = options.binary()?;
        let work = options.folder()?;
        let copy = work.path().join("kiln");
        std::fs::copy(&kiln, &copy).map_err(|error| format!("{}: {error}", kiln.display()))?;
        let layout = shell::root().join("testdata/images/busybox");
        let base = work.path().join("base");
        shell::output(Command::new("cp").arg("-r").arg(layout).arg(&base))?;
        let users = USERS
            .into_iter()
            .map(|user| {
                let user = User::new(user)?;
                let home = work.path().join(user.name);
                std::fs::create_dir(&home).map_err(|error| error.to_string())?;
                let id = user.id.parse().ok();
                std::os::unix::fs::chown(&home, id, id).map_err(|error| error.to_string())?;
                Ok(user)
            })
            .collect::<Result<_, String>>()?;
        Ok(Self {
            tools: Tools::start(work.path(), true, options.chroot.as_deref())?,
            kiln: copy,
            work,
            users,
        })
    }

    /// Everyone who builds, with the base image where they look for it.
    fn rows<'a>(&'a self) -> Result<Vec<Row<'a>>, String> {
        let mut rows = Vec::new();
        let mut add = |name: &str, build: Build<'a>| {
            rows.push((name.to_owned(), build));
        };
        for (name, flags) in AS_ROOT {
            add(
                name,
                Box::new(move |context| Some(self.kiln(None, flags, context))),
            );
        }
        let help = shell::output(Command::new(&self.kiln).args(["build", "--help"]))?;
        for (name, flags) in ROOTS {
            if help.contains("--sandbox-root") {
                add(
                    name,
                    Box::new(move |context| Some(self.kiln(None, flags, context))),
                );
            }
        }
        for (user, (_, ranges)) in self.users.iter().zip(USERS) {
            let kind = if ranges {
                "user"
            } else {
                "user without ranges"
            };
            for (what, flags) in AS_USER {
                let name = format!("kiln, {kind}, {what}");
                add(
                    &name,
                    Box::new(move |context| Some(self.kiln(Some(user), flags, context))),
                );
            }
        }
        self.add_peers(&mut add)?;
        Ok(rows
            .into_iter()
            .map(|(name, build)| Row {
                name,
                build,
                one: Vec::new(),
                all: Vec::new(),
                failed: None,
                spent: 0.0,
            })
            .collect())
    }

    fn add_peers<'a>(&'a self, add: &mut dyn FnMut(&str, Build<'a>)) -> Result<(), String> {
        let archive = self.work.path().join("base.tar");
        let Some(mut skopeo) = self.tools.skopeo() else {
            println!("skopeo is not here: no other tool is measured");
            return Ok(());
        };
        let (from, to) = (
            format!("oci:{}:latest", self.work.path().join("base").display()),
            format!(
                "docker-archive:{}:docker.io/library/busybox:latest",
                archive.display()
            ),
        );
        shell::output(skopeo.args(["copy", "-q", &from, &to]))?;
        if let Some(daemon) = &self.tools.host {
            shell::output(daemon.docker().args(["load", "-i"]).arg(&archive))?;
            add(
                "docker 20.10 without BuildKit, --network none",
                Box::new(|context| {
                    let mut command = daemon.docker();
                    command.env("DOCKER_BUILDKIT", "0");
                    command
                        .args(["build", "-q", "--network", "none"])
                        .arg(context);
                    Some(command)
                }),
            );
        }
        if let Some(daemon) = &self.tools.chroot {
            shell::output(
                daemon
                    .docker()
                    .args(["load", "-i"])
                    .arg(daemon.seen(&archive)),
            )?;
            add(
                "docker with BuildKit (buildx), --network none",
                Box::new(|context| {
                    let mut command = daemon.docker();
                    command.args(["buildx", "build", "-q", "--network", "none"]);
                    command.arg(daemon.seen(context));
                    Some(command)
                }),
            );
        }
        let from = format!("docker-archive:{}", archive.display());
        if let Some(mut buildah) = self.tools.containers("buildah") {
            shell::output(
                buildah
                    .args(["pull", "-q", "--signature-policy"])
                    .arg(self.work.path().join("policy.json"))
                    .arg(from),
            )?;
            for (isolation, network) in [("chroot", "host"), ("oci", "none")] {
                add(
                    &format!("buildah, --isolation {isolation}, --network {network}"),
                    Box::new(move |context| {
                        let mut command = self.tools.containers("buildah")?;
                        command.args([
                            "bud",
                            "--layers",
                            "-q",
                            "--pull-never",
                            "--network",
                            network,
                        ]);
                        command.args(["--isolation", isolation, "--runtime", "runc"]);
                        command
                            .arg("--signature-policy")
                            .arg(self.work.path().join("policy.json"));
                        command.arg(context);
                        Some(command)
                    }),
                );
            }
        }
        Ok(())
    }

    fn kiln(&self, user: Option<&User>, flags: &[&str], context: &Path) -> Command {
        let (mut command, store) = match user {
            None => (
                Command::new(&self.kiln),
                self.work.path().join("root-store"),
            ),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user.id, "--regid", &user.id, "--clear-groups"]);
                command.arg(&self.kiln);
                (command, self.work.path().join(user.name).join("store"))
            }
        };
        let base = format!(
            "busybox=oci-layout://{}",
            self.work.path().join("base").display()
        );
        command
            .arg("--root")
            .arg(store)
            .args(["build", "-q", "--build-context", &base]);
        command.args(flags).arg(context).env_remove("DOCKER_CONFIG");
        command
    }

    /// A build of one step and one of all. Who fails is not asked again.
    fn measure(&self, row: &mut Row<'_>, round: usize) -> Result<(), String> {
        // Round 0 warms up: base images are unpacked, programs read from the disk.
        for (steps, samples) in [(1, &mut row.one), (STEPS, &mut row.all)] {
            // Never between the two of a round.
            let enough = steps == 1 && row.spent > ENOUGH && !row.name.starts_with("kiln");
            if row.failed.is_some() || enough {
                return Ok(());
            }
            let mut text = "FROM busybox\n".to_owned();
            for step in 0..steps {
                let _ = writeln!(text, "RUN true {round} {steps} {step} # {}", row.name);
            }
            let context = self.work.path().join("context");
            std::fs::create_dir_all(&context).map_err(|error| error.to_string())?;
            std::fs::write(context.join("Dockerfile"), text).map_err(|error| error.to_string())?;
            let Some(mut command) = (row.build)(&context) else {
                return Ok(());
            };
            command.stdin(Stdio::null());
            let start = Instant::now();
            let result = shell::output(&mut command);
            let seconds = start.elapsed().as_secs_f64();
            row.spent += seconds;
            match result {
                Ok(_) if round == 0 => {}
                Ok(_) => samples.push(seconds),
                Err(reason) => row.failed = Some(reason),
            }
        }
        Ok(())
    }
}

impl Row<'_> {
    /// Of the differences of each round, in which the machine was equally loaded.
    fn step(&self) -> f64 {
        let rounds = self.all.iter().zip(&self.one);
        median(rounds.map(|(all, one)| (all - one) / (STEPS as f64 - 1.0)))
    }
}

fn show(rows: &[Row<'_>], unshare: f64) {
    let mut table = Table::new(
        "builder: RUN true, nothing cached",
        &["", "one RUN", "1 step", "30 steps", "ratio"],
    );
    let first = rows.first().map_or(f64::NAN, Row::step);
    for row in rows {
        if let Some(reason) = &row.failed {
            table.row(vec![format!(
                "{}: failed: {}",
                row.name,
                race::reason(reason)
            )]);
            continue;
        }
        table.row(vec![
            row.name.clone(),
            seconds(row.step()),
            seconds(median(row.one.iter().copied())),
            seconds(median(row.all.iter().copied())),
            ratio(row.step(), first),
        ]);
    }
    table.row(vec![
        "unshare(1) of the same namespaces, and true".to_owned(),
        seconds(unshare),
    ]);
    table.print();
}
