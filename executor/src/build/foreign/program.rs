//! What a command's first program is made for, by its first bytes. It follows `#!` lines; it knows nothing of what a
//! shell starts afterwards.

use crate::snapshot::View;
use sandbox::{Machine, Mount, RunSpec};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `#!` lines that lead to one another, as many as the kernel follows.
const SCRIPTS: usize = 5;
/// Bytes that are looked at.
const START: u64 = 256;

/// The machine; `None` for what is not found, cannot be read, or is of no known kind.
pub(super) fn made_for(spec: &RunSpec, view: &View) -> Option<Machine> {
    let mut program = spec.args.first()?.clone();
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, path)| path);
    for _ in 0..SCRIPTS {
        let start = if program.contains('/') {
            start_of(spec, view, &program)
        } else {
            path.split(':')
                .find_map(|folder| start_of(spec, view, &format!("{folder}/{program}")))
        }?;
        let Some(line) = start.strip_prefix(b"#!") else {
            return Machine::of_program(&start);
        };
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        program = line.split_whitespace().next()?.to_owned();
    }
    None
}

fn start_of(spec: &RunSpec, view: &View, program: &str) -> Option<Vec<u8>> {
    let absolute = match program.strip_prefix('/') {
        Some(_) => program.to_owned(),
        None => format!("{}/{program}", spec.cwd),
    };
    let mounted = spec.mounts.iter().rev().find_map(|mount| match mount {
        Mount::File { target, data, .. } if *target == absolute => Some(data.clone()),
        _ => None,
    });
    if mounted.is_some() {
        return mounted;
    }
    let resolved = view.resolve(absolute.as_bytes(), true).ok()?;
    for tree in &spec.root.lowers {
        let file = tree.join(OsStr::from_bytes(&resolved));
        let regular = std::fs::symlink_metadata(&file).is_ok_and(|found| found.is_file());
        if !regular {
            continue;
        }
        let mut start = Vec::new();
        let opened = std::fs::File::open(&file).ok()?;
        opened.take(START).read_to_end(&mut start).ok()?;
        return Some(start);
    }
    None
}
