//! The tools that push what Kiln then pulls and builds on.

use super::subjects::{self, SAYS};
use super::{Bench, Outcome, Row};
use crate::peers::daemon::Daemon;
use crate::shell;
use std::process::Command;

/// All tools.
pub fn all(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (tool, tag, result) in pushed(bench)? {
        let reference = format!("{}/{tag}", bench.registry.host());
        let Some(result) = result else {
            rows.push(Row {
                subject: "kiln pull, kiln build".to_owned(),
                tool,
                outcome: Outcome::Missing,
            });
            continue;
        };
        if let Err(why) = result {
            rows.push(Row::new("pushed by", &tool, Err(why)));
            continue;
        }
        rows.push(Row::new("kiln pull", &tool, pull(bench, &reference)));
        rows.push(Row::new("kiln build", &tool, build(bench, &reference)));
    }
    Ok(rows)
}

type Pushed = (String, &'static str, Option<Result<(), String>>);

/// Pushes with each tool: its name, the tag, and how it went (`None` where it is not installed).
fn pushed(bench: &Bench) -> Result<Vec<Pushed>, String> {
    let tools = &bench.tools;
    let host = bench.registry.host();
    let layout = format!(
        "oci:{}:latest",
        shell::root().join("testdata/images/busybox").display()
    );
    let base = format!("{host}/their/base:1");
    let mut seed = tools.skopeo().ok_or("skopeo is not installed")?;
    shell::output(
        seed.args(["copy", "-q", "--all", "--dest-tls-verify=false", &layout])
            .arg(format!("docker://{base}")),
    )?;
    let mut list: Vec<Pushed> = Vec::new();
    list.extend(by_skopeo(bench, &layout));
    list.extend(by_podman(bench, &base));
    let crane = tools.crane().map(|mut command| {
        command.args([
            "copy",
            "--insecure",
            &base,
            &format!("{host}/their/crane:1"),
        ]);
        command
    });
    list.push(("crane copy".to_owned(), "their/crane:1", run([crane])));
    for (name, tag, daemon) in [
        ("docker (host)", "their/docker-host:1", &tools.host),
        ("docker (chroot)", "their/docker-chroot:1", &tools.chroot),
    ] {
        let target = format!("{host}/{tag}");
        let docker = |args: &[&str]| {
            let mut command = daemon.as_ref()?.docker();
            command.args(args);
            Some(command)
        };
        let steps = [
            docker(&["pull", "-q", &base]),
            docker(&["tag", &base, &target]),
            docker(&["push", "-q", &target]),
        ];
        list.push((name.to_owned(), tag, run(steps)));
    }
    let tag = "their/buildx:1";
    let buildx = tools
        .chroot
        .as_ref()
        .map(|daemon| buildx(bench, daemon, &base, &format!("{host}/{tag}")));
    list.push(("docker buildx, two platforms".to_owned(), tag, buildx));
    Ok(list)
}

fn by_skopeo(bench: &Bench, layout: &str) -> Vec<Pushed> {
    let (tools, host) = (&bench.tools, bench.registry.host());
    let mut list = Vec::new();
    for (name, tag, flags) in [
        (
            "skopeo, all platforms",
            "their/skopeo-all:1",
            &["--all"][..],
        ),
        (
            "skopeo, docker media types",
            "their/skopeo-v2s2:1",
            &["--format", "v2s2"],
        ),
        (
            "skopeo, zstd",
            "their/skopeo-zstd:1",
            &["--dest-compress", "--dest-compress-format", "zstd"],
        ),
    ] {
        let command = tools.skopeo().map(|mut command| {
            command
                .args(["copy", "-q", "--dest-tls-verify=false"])
                .args(flags)
                .arg(layout)
                .arg(format!("docker://{host}/{tag}"));
            command
        });
        list.push((name.to_owned(), tag, run([command])));
    }
    list
}

fn by_podman(bench: &Bench, base: &str) -> Vec<Pushed> {
    let (tools, host) = (&bench.tools, bench.registry.host());
    let mut list = Vec::new();
    for (name, tag) in [("podman", "their/podman:1"), ("buildah", "their/buildah:1")] {
        let target = format!("{host}/{tag}");
        let command = |args: &[&str]| {
            let mut command = tools.containers(name)?;
            command.args(args);
            Some(command)
        };
        let steps = [
            command(&["pull", "-q", "--tls-verify=false", base]),
            command(&["tag", base, &target]),
            command(&["push", "-q", "--tls-verify=false", &target]),
        ];
        list.push((name.to_owned(), tag, run(steps)));
    }
    list
}

/// With the attestations that buildx makes by default.
fn buildx(bench: &Bench, daemon: &Daemon, base: &str, target: &str) -> Result<(), String> {
    let dir = bench.work.path().join("for-buildx");
    std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    let dockerfile = format!("FROM {base}\nCOPY Dockerfile /made-by-buildx\n");
    std::fs::write(dir.join("Dockerfile"), dockerfile).map_err(|error| error.to_string())?;
    let mut command = daemon.docker();
    command
        .args([
            "buildx",
            "build",
            "-q",
            "--platform",
            "linux/amd64,linux/arm64",
            "--push",
            "-t",
            target,
        ])
        .arg(daemon.seen(&dir));
    shell::output(&mut command).map(drop)
}

/// One command after the other; `None` where a tool is missing.
fn run<const N: usize>(commands: [Option<Command>; N]) -> Option<Result<(), String>> {
    for command in commands {
        if let Err(why) = shell::output(&mut command?) {
            return Some(Err(why));
        }
    }
    Some(Ok(()))
}

/// Pulls, and pushes again elsewhere: the digest must stay.
fn pull(bench: &Bench, reference: &str) -> Result<(), String> {
    shell::output(&mut subjects::command(
        bench,
        &["pull", "-q", "--all-platforms", reference],
    ))?;
    let copy = format!("{reference}-again");
    shell::output(&mut subjects::command(bench, &["tag", reference, &copy]))?;
    shell::output(&mut subjects::command(bench, &["push", "-q", &copy]))?;
    let (theirs, ours) = (digest(bench, reference)?, digest(bench, &copy)?);
    if theirs == ours {
        return Ok(());
    }
    Err(format!("pulled as {theirs}, pushed again as {ours}"))
}

fn build(bench: &Bench, reference: &str) -> Result<(), String> {
    let dir = bench.work.path().join("on-theirs");
    std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    let dockerfile =
        format!("FROM {reference}\nRUN echo {SAYS} > /said\nFROM scratch\nCOPY --from=0 /said /\n");
    std::fs::write(dir.join("Dockerfile"), dockerfile).map_err(|error| error.to_string())?;
    let out = bench.work.path().join("built-on-theirs");
    let mut command = subjects::command(bench, &["build", "-q", "--pull", "-o"]);
    shell::output(command.arg(&out).arg(&dir))?;
    let said = std::fs::read_to_string(out.join("said")).map_err(|error| error.to_string())?;
    if said.trim() == SAYS {
        return Ok(());
    }
    Err(format!("the build said {said:?}"))
}

/// What the registry has under a name.
fn digest(bench: &Bench, reference: &str) -> Result<String, String> {
    let mut command = bench.tools.skopeo().ok_or("skopeo is not installed")?;
    let raw = command
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{reference}"))
        .output()
        .map_err(|error| error.to_string())?;
    if !raw.status.success() {
        return Err(String::from_utf8_lossy(&raw.stderr).into_owned());
    }
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(&raw.stdout);
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}
