//! Other tools that tasks compare Kiln with, and a registry on loopback that all of them talk to. What is started here ends
//! with the value that holds it.

pub mod daemon;
pub mod registry;
pub mod tools;

use std::path::{Path, PathBuf};

/// Where a program is, on the path or where administrators have theirs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|dir| Path::new(&dir).join(program))
        .find(|path| path.is_file())
}

/// A process and all below it, by the host's count.
pub fn below(id: u32) -> Vec<u32> {
    let mut found = vec![id];
    let mut next = 0;
    while let Some(id) = found.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().flat_map(str::parse::<u32>));
        }
        next += 1;
    }
    found
}
