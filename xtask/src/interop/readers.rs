//! The tools that read what Kiln has pushed.

use super::subjects::{SAYS, Subject};
use super::{Bench, Outcome, Row};
use crate::peers::daemon::Daemon;
use crate::shell;
use std::process::Command;

/// All tools on one image.
pub fn all(bench: &Bench, subject: &Subject) -> Vec<Row> {
    let tools = &bench.tools;
    let reference = subject.reference.as_str();
    let remote = format!("docker://{reference}");
    let copy = bench.work.path().join("skopeo-copy");
    // What an earlier image left; the copy tells when that cannot be.
    let _ = std::fs::remove_dir_all(&copy);
    let skopeo = |args: &[&str]| {
        let mut command = tools.skopeo()?;
        command.args(args);
        Some(command)
    };
    let dest = format!("oci:{}", copy.display());
    let mut rows = vec![
        row(
            subject,
            "skopeo inspect",
            skopeo(&["inspect", "--no-tags", "--tls-verify=false", &remote]),
            "",
        ),
        row(
            subject,
            "skopeo copy --all",
            skopeo(&[
                "copy",
                "-q",
                "--all",
                "--src-tls-verify=false",
                &remote,
                &dest,
            ]),
            "",
        ),
    ];
    // Layers that are not gzip it can not read, so it must not look into them.
    let how = if subject.compression == "gzip" {
        &["validate", "--insecure"][..]
    } else {
        &["validate", "--fast", "--insecure"]
    };
    let crane = tools.crane().map(|mut command| {
        command.args(how).args(["--remote", reference]);
        command
    });
    let name = format!("crane {}", how[..how.len() - 1].join(" "));
    rows.push(row(subject, &name, crane, ""));
    let pull = tools.containers("podman").map(|mut command| {
        command.args(["pull", "-q", "--tls-verify=false", reference]);
        command
    });
    rows.push(row(subject, "podman pull", pull, ""));
    rows.push(row(
        subject,
        "podman run",
        tools.podman_run(reference),
        SAYS,
    ));
    let pull = tools.new_buildah().map(|mut command| {
        command.args(["pull", "-q", "--tls-verify=false", reference]);
        command
    });
    rows.push(row(subject, "buildah pull (chroot)", pull, ""));
    for (name, daemon) in [("host", &tools.host), ("chroot", &tools.chroot)] {
        rows.extend(docker(subject, name, daemon.as_ref()));
    }
    rows
}

fn docker(subject: &Subject, name: &str, daemon: Option<&Daemon>) -> Vec<Row> {
    let (pull, run) = (
        format!("docker pull ({name})"),
        format!("docker run ({name})"),
    );
    let Some(daemon) = daemon else {
        return vec![row(subject, &pull, None, "")];
    };
    if subject.compression == "zstd" && is_old(daemon) {
        return vec![Row {
            subject: subject.name.to_owned(),
            tool: pull,
            outcome: Outcome::Known("docker before 23 reads no zstd"),
        }];
    }
    let command = |args: &[&str]| {
        let mut command = daemon.docker();
        command.args(args).arg(&subject.reference);
        Some(command)
    };
    vec![
        row(subject, &pull, command(&["pull", "-q"]), ""),
        row(
            subject,
            &run,
            command(&["run", "--rm", "--network", "none"]),
            SAYS,
        ),
    ]
}

fn is_old(daemon: &Daemon) -> bool {
    let version =
        shell::output(
            daemon
                .docker()
                .args(["version", "--format", "{{.Server.Version}}"]),
        );
    let major = version
        .ok()
        .and_then(|text| text.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major < 23)
}

/// Runs a tool; what it prints must have this text.
fn row(subject: &Subject, tool: &str, command: Option<Command>, says: &str) -> Row {
    let Some(mut command) = command else {
        return Row {
            subject: subject.name.to_owned(),
            tool: tool.to_owned(),
            outcome: Outcome::Missing,
        };
    };
    let result = shell::output(&mut command).and_then(|output| {
        if output.contains(says) {
            return Ok(());
        }
        Err(format!("printed {output:?}, not {says:?}"))
    });
    Row::new(subject.name, tool, result)
}
