//! Runs these tests again as other users, who are made for it when they do not exist.

use crate::Counts;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    ranges: bool,
}

pub(crate) const USERS: [User; 2] = [
    User {
        name: "kilntest",
        ranges: true,
    },
    User {
        name: "kilnbare",
        ranges: false,
    },
];

/// An account, removed again when it was made here.
struct Account {
    name: &'static str,
    made: bool,
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.made {
            let _ = tool("userdel", &[self.name]);
        }
    }
}

/// Calls with what setpriv needs to run a command as the user, and with a copy of this program that it may run.
pub(crate) fn prepared<T>(
    user: User,
    body: impl FnOnce(&[String], &Path) -> T,
) -> Result<T, String> {
    let _account = account(user)?;
    let folder = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .map_err(|error| error.to_string())?;
    let program = folder.path().join("sandbox-tests");
    std::fs::copy("/proc/self/exe", &program).map_err(|error| error.to_string())?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))
        .map_err(|error| error.to_string())?;
    let ids = [
        format!("--reuid={}", user.name),
        format!("--regid={}", user.name),
        "--init-groups".to_owned(),
    ];
    Ok(body(&ids, &program))
}

pub(crate) fn run_as(user: User, filters: &[&str]) -> Result<Counts, String> {
    prepared(user, |ids, program| {
        run_with(ids, program, "--child", filters)
    })?
}

/// Runs these tests as root with the capabilities of a container, without namespaces.
pub(crate) fn run_as_in_a_container(filters: &[&str]) -> Result<Counts, String> {
    let kept = "chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill,audit_write";
    let set = format!("--bounding-set=-all,+{}", kept.replace(',', ",+"));
    let capabilities = [set, "--inh-caps=-all".to_owned()];
    run_with(
        &capabilities,
        Path::new("/proc/self/exe"),
        "--child-chroot",
        filters,
    )
}

fn run_with(
    setting: &[String],
    program: &Path,
    kind: &str,
    filters: &[&str],
) -> Result<Counts, String> {
    // By its own name: setpriv's is another.
    let program = std::fs::canonicalize(program).map_err(|error| error.to_string())?;
    let output = Command::new("setpriv")
        .args(setting)
        .arg(&program)
        .arg(kind)
        .args(filters)
        .current_dir("/")
        .env_remove("HOME")
        .env_remove("TMPDIR")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("setpriv: {error}"))?;
    Ok(counts(&output.stdout, ""))
}

/// Shows what a child of these tests printed; gives what it counted. One that did not come to its end has failed.
pub(crate) fn counts(stdout: &[u8], place: &str) -> Counts {
    let text = String::from_utf8_lossy(stdout);
    let mut counts = Counts {
        failed: 1,
        ..Counts::default()
    };
    for line in text.lines() {
        match line.strip_prefix("counts ").map(|numbers| {
            numbers
                .split(' ')
                .map(str::parse)
                .collect::<Result<Vec<_>, _>>()
        }) {
            Some(Ok(numbers)) => {
                counts = Counts {
                    passed: numbers[0],
                    failed: numbers[1],
                    skipped: numbers[2],
                }
            }
            _ => println!("{}", line.replacen("test ", &format!("test {place}"), 1)),
        }
    }
    counts
}

fn account(user: User) -> Result<Account, String> {
    let known = |file: &str, separator: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with(&format!("{}{separator}", user.name)))
    };
    let mut account = Account {
        name: user.name,
        made: false,
    };
    if !known("/etc/passwd", ":") {
        tool(
            "useradd",
            &[
                "--no-create-home",
                "-K",
                "SUB_UID_COUNT=0",
                "-K",
                "SUB_GID_COUNT=0",
                user.name,
            ],
        )?;
        account.made = true;
    }
    let has_ranges = known("/etc/subuid", ":") || known("/etc/subgid", ":");
    if user.ranges && !Path::new("/usr/bin/newuidmap").exists() {
        return Err("newuidmap is not installed (package uidmap)".to_owned());
    }
    if user.ranges && !has_ranges {
        tool(
            "usermod",
            &[
                "--add-subuids",
                "700000000-700065535",
                "--add-subgids",
                "700000000-700065535",
                user.name,
            ],
        )?;
    }
    if !user.ranges && has_ranges {
        return Err(format!("user {} exists and has subordinate ids", user.name));
    }
    Ok(account)
}

fn tool(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
