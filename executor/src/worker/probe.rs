//! What a worker can do for steps, tried where a step would be: for who looks at a cluster from outside.

use super::Place;
use super::scratch::{self, Tried};
use super::secrets;
use crate::error::chain;
use crate::request::RunSettings;
use rustix::fs::Access;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What programs expect to be anywhere, and a worker may lack.
const EXPECTED: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/dev/shm",
    "/dev/fuse",
    "/tmp",
    "/etc/passwd",
    "/etc/resolv.conf",
];

/// Tries everything; what fails is in the answer.
#[must_use]
pub fn probe(place: &Place, search_path: &str) -> Value {
    let kernel = rustix::system::uname();
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let lines = |path: &str| -> Vec<String> {
        let text = text(path);
        let lines = text.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.join(" ")
        });
        lines.collect()
    };
    let mut tried = Vec::new();
    let found = scratch::find(place, &RunSettings::default(), &mut tried);
    let mut facts = Vec::new();
    let granted = match found {
        Err(error) => json!({ "error": chain(&error) }),
        Ok(work) => {
            let granted = granted(&work);
            facts = facts_in(&work, search_path);
            work.end();
            granted
        }
    };
    let status = text("/proc/self/status");
    let of_status = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    let there: Vec<&str> = EXPECTED
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    json!({
        "version": 1,
        "kiln": env!("CARGO_PKG_VERSION"),
        "kernel": kernel.release().to_string_lossy(),
        "machine": kernel.machine().to_string_lossy(),
        "uid": rustix::process::geteuid().as_raw(),
        "gid": rustix::process::getegid().as_raw(),
        "uid_map": lines("/proc/self/uid_map"),
        "gid_map": lines("/proc/self/gid_map"),
        "seccomp": of_status("Seccomp:"),
        "no_new_privs": of_status("NoNewPrivs:"),
        "cgroup": lines("/proc/self/cgroup"),
        "input": {
            "path": place.input.display().to_string(),
            "writable": rustix::fs::access(&place.input, Access::WRITE_OK).is_ok(),
        },
        "there": there,
        "scratch": tried.iter().map(candidate).collect::<Vec<_>>(),
        "caches": place.caches.as_ref().map(|folder| folder.display().to_string()),
        "secrets": held_secrets(place),
        "agents": { "folders": folders(&place.agents), "ids": secrets::agents(place) },
        "network": network(),
        "granted": granted,
        "facts": facts,
    })
}

/// Names of the worker's secrets. The first folder that has one is asked.
fn held_secrets(place: &Place) -> Value {
    let mut ids: Vec<String> = place
        .secrets
        .iter()
        .flat_map(|it| secrets::names(it))
        .collect();
    ids.sort();
    ids.dedup();
    json!({ "folders": folders(&place.secrets), "ids": ids })
}

fn folders(folders: &[PathBuf]) -> Vec<String> {
    folders.iter().map(|it| it.display().to_string()).collect()
}

fn candidate(tried: &Tried) -> Value {
    match &tried.outcome {
        Ok(kind) => json!({
            "folder": tried.folder.display().to_string(),
            "free": tried.free,
            "root": kind.to_string(),
        }),
        Err(error) => json!({
            "folder": tried.folder.display().to_string(),
            "free": tried.free,
            "error": chain(error),
            "errno": errno(error),
        }),
    }
}

/// The system call's error at the end of the chain.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut at = Some(error);
    let mut found = None;
    while let Some(error) = at {
        let errno = error.downcast_ref::<std::io::Error>();
        found = errno.and_then(std::io::Error::raw_os_error).or(found);
        at = error.source();
    }
    found
}

fn granted(work: &scratch::Work) -> Value {
    match work.space.sandbox() {
        Err(error) => json!({ "error": chain(&error) }),
        Ok(sandbox) => json!({
            "scratch": work.folder.path().parent().map(|folder| folder.display().to_string()),
            "isolation": sandbox.mode().to_string(),
            "root": sandbox.root_kind().to_string(),
            "ids": sandbox.id_mapping().to_string(),
            "records_owners": sandbox.records_owners(),
            "notes": sandbox.notes(),
        }),
    }
}

fn facts_in(work: &scratch::Work, search_path: &str) -> Vec<Value> {
    let store = work.space.store();
    let Ok(scratch) = store.scratch() else {
        return Vec::new();
    };
    let facts = sandbox::facts(store.root(), scratch.path(), search_path).unwrap_or_default();
    facts.iter().map(|fact| json!(fact)).collect()
}

/// What steps reach with the worker's own network, as the kernel's tables say it; nothing is sent.
fn network() -> Value {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(':'));
    let interfaces: Vec<&str> = names.map(|(name, _)| name.trim()).collect();
    let routes = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let has_default = routes
        .lines()
        .skip(1)
        .any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    let routes = std::fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    let has_default_6 = routes.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first().is_some_and(|to| to.chars().all(|c| c == '0'))
            && words.get(1) == Some(&"00")
            && words.last() != Some(&"lo")
    });
    json!({
        "interfaces": interfaces,
        "default_route": has_default || has_default_6,
        "resolver": Path::new("/etc/resolv.conf").exists(),
    })
}
