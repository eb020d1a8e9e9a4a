//! Subordinate ids of a user: `/etc/subuid`, `/etc/subgid` (subuid(5)) and the set-uid programs that map them.

use crate::probe::fixes;
use rustix::process::Pid;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where newuidmap and newgidmap are installed; the environment's PATH is not asked, since it is not ours to trust.
const FOLDERS: [&str; 6] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/run/wrappers/bin",
];

/// Ids on the host, `count` of them from `start`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// The ranges that a file gives to a user, named by login name or by number.
pub(crate) fn ranges(text: &str, name: Option<&str>, id: u32) -> Vec<Range> {
    let id = id.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            if Some(owner) != name && owner != id {
                return None;
            }
            let start = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            u32::checked_add(start, count)?;
            (count > 0).then_some(Range { start, count })
        })
        .collect()
}

/// Login name of a user id by passwd(5).
pub(crate) fn login_name(passwd: &str, id: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

/// One of the two set-uid programs.
#[derive(Debug)]
pub(crate) struct Mapper {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Mapper {
    /// `newuidmap` or `newgidmap`, which map 0 to the own id and 1 onwards to the ranges. `None` when it is not installed.
    pub(crate) fn find(name: &str, own: u32, ranges: &[Range]) -> Option<Self> {
        let program = FOLDERS
            .iter()
            .map(|folder| PathBuf::from(folder).join(name))
            .find(|path| path.is_file())?;
        let mut arguments = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
        let mut inside: u32 = 1;
        for range in ranges {
            arguments.extend([inside, range.start, range.count].map(|number| number.to_string()));
            inside = inside.checked_add(range.count)?;
        }
        Some(Self { program, arguments })
    }

    /// Where it lies.
    pub(crate) fn program(&self) -> &std::path::Path {
        &self.program
    }

    /// Maps the ids of a process that has made its user namespace.
    pub(crate) fn map(&self, pid: Pid) -> Result<(), String> {
        let output = Command::new(&self.program)
            .arg(pid.as_raw_nonzero().to_string())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let mut reason = format!("{} failed: {}", self.program.display(), said.trim());
        let fix = fixes::here().mapper(&self.program);
        if !fix.is_empty() {
            reason = format!("{reason} ({fix})");
        }
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_number() {
        let text = "ann:100000:65536\nbob:165536:10\n1001:300000:5\nann:4294967290:10\nann:x:1\nann:7\nann:9:0\n";
        let range = |start, count| Range { start, count };
        for (name, id, expected) in [
            (Some("ann"), 1000, vec![range(100_000, 65536)]),
            (
                Some("bob"),
                1001,
                vec![range(165_536, 10), range(300_000, 5)],
            ),
            (None, 1001, vec![range(300_000, 5)]),
            (Some("eve"), 9, vec![]),
        ] {
            assert_eq!(ranges(text, name, id), expected, "{name:?} {id}");
        }
    }

    #[test]
    fn names_of_ids() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(login_name(passwd, 1000), Some("ann"));
        assert_eq!(login_name(passwd, 7), None);
    }
}
