//! How the files differ that a step read in two builds.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Files that a phrase names.
const NAMED: usize = 3;
/// Differences that are kept.
const KEPT: usize = 10_000;
/// The bits of `st_mode` that say what a file is (inode(7)).
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

/// A file as a step read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadFile<'a> {
    /// Path in the context.
    pub path: &'a str,
    /// Mode with the type bits.
    pub mode: u32,
    /// Digest of the content, target of a link.
    pub content: &'a str,
}

/// What differs of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Change {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its content.
    Content,
    /// Its permission bits, in octal.
    Mode {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// What it is: file, folder, link.
    Type {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// Where a link leads.
    Target {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
}

/// One file that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileChange {
    /// Path in the context.
    pub path: String,
    /// What differs of it.
    pub changes: Vec<Change>,
}

impl FileChange {
    /// `src/f1 (mode 644 -> 664)`.
    #[must_use]
    pub fn phrase(&self) -> String {
        let changes: Vec<String> = self.changes.iter().map(Change::phrase).collect();
        format!(
            "{} ({})",
            super::words::clip(&self.path),
            changes.join(", ")
        )
    }
}

impl Change {
    /// `mode 644 -> 664`.
    #[must_use]
    pub fn phrase(&self) -> String {
        match self {
            Self::Added => "added".to_owned(),
            Self::Removed => "removed".to_owned(),
            Self::Content => "content".to_owned(),
            Self::Mode { old, new } => format!("mode {old} -> {new}"),
            Self::Type { old, new } => format!("{old} -> {new}"),
            Self::Target { old, new } => format!("link {old} -> {new}"),
        }
    }
}

/// All files that differ.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileChanges {
    /// Files and folders that are read now, and those that are gone.
    pub total: usize,
    /// How many differ; 0 when only hard links or extended attributes do.
    pub count: usize,
    /// Those that differ, by path: the first 10,000.
    pub changed: Vec<FileChange>,
    /// Only modes differ, and Git would see no difference.
    pub modes_only: bool,
}

impl FileChanges {
    /// `1 of 50 files changed: src/f1 (mode 644 -> 664)`.
    #[must_use]
    pub fn phrase(&self) -> String {
        if self.changed.is_empty() {
            return "extended attributes or hard links of context files changed".to_owned();
        }
        let named: Vec<String> = self
            .changed
            .iter()
            .take(NAMED)
            .map(FileChange::phrase)
            .collect();
        let mut text = format!(
            "{} of {} files changed: {}",
            self.count,
            self.total,
            named.join(", ")
        );
        if self.count > NAMED {
            text.push_str(", ...");
        }
        if self.modes_only {
            text.push_str("; --context-mode=git would not see it");
        }
        text
    }
}

/// A comparison of two lists that somebody else walks side by side, so that neither need be in memory.
#[derive(Debug, Default)]
pub struct Comparison {
    total: usize,
    count: usize,
    /// Git would see one of the differences.
    in_git: bool,
    /// The first by path, and not yet sorted out ones.
    changed: Vec<FileChange>,
}

impl Comparison {
    /// A file is in both and did not change.
    pub fn same(&mut self) {
        self.total += 1;
    }

    /// A file changed, or is in one of the lists only.
    pub fn differs(&mut self, old: Option<ReadFile<'_>>, new: Option<ReadFile<'_>>) {
        let Some(path) = new.or(old).map(|file| file.path) else {
            return;
        };
        self.total += 1;
        let changes = match (&old, &new) {
            (Some(old), Some(new)) => differences(old, new),
            (None, _) => vec![Change::Added],
            (_, None) => vec![Change::Removed],
        };
        if changes.is_empty() {
            return;
        }
        self.count += 1;
        self.in_git |= !is_mode_alone(&changes, old.as_ref(), new.as_ref());
        self.changed.push(FileChange {
            path: path.to_owned(),
            changes,
        });
        if self.changed.len() >= 2 * KEPT {
            self.keep_first();
        }
    }

    /// The differences.
    #[must_use]
    pub fn finish(mut self) -> FileChanges {
        self.keep_first();
        FileChanges {
            total: self.total,
            count: self.count,
            modes_only: !self.in_git && !self.changed.is_empty(),
            changed: self.changed,
        }
    }

    fn keep_first(&mut self) {
        self.changed.sort_by(|a, b| a.path.cmp(&b.path));
        self.changed.truncate(KEPT);
    }
}

/// Whether only the mode differs, in a way that Git does not keep.
fn is_mode_alone(
    changes: &[Change],
    old: Option<&ReadFile<'_>>,
    new: Option<&ReadFile<'_>>,
) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return false;
    };
    matches!(changes, [Change::Mode { .. }]) && git_mode(old.mode) == git_mode(new.mode)
}

/// Compares what was read before with what is read now.
#[must_use]
pub fn compare_files(old: &[ReadFile<'_>], new: &[ReadFile<'_>]) -> FileChanges {
    let before: HashMap<&str, &ReadFile<'_>> = old.iter().map(|file| (file.path, file)).collect();
    let mut seen = 0;
    let mut changed = Vec::new();
    let mut as_git = true;
    for file in new {
        let changes = match before.get(file.path) {
            None => vec![Change::Added],
            Some(old) => {
                seen += 1;
                differences(old, file)
            }
        };
        if changes.is_empty() {
            continue;
        }
        as_git &= is_mode_alone(&changes, before.get(file.path).copied(), Some(file));
        changed.push(FileChange {
            path: file.path.to_owned(),
            changes,
        });
    }
    let gone = before.len().saturating_sub(seen);
    if gone > 0 {
        as_git = false;
        let now: std::collections::HashSet<&str> = new.iter().map(|file| file.path).collect();
        let gone = old.iter().filter(|file| !now.contains(file.path));
        changed.extend(gone.map(|file| FileChange {
            path: file.path.to_owned(),
            changes: vec![Change::Removed],
        }));
    }
    changed.sort_by(|a, b| a.path.cmp(&b.path));
    changed.dedup();
    let count = changed.len();
    changed.truncate(KEPT);
    FileChanges {
        count,
        total: new.len() + gone,
        modes_only: as_git && !changed.is_empty(),
        changed,
    }
}

fn differences(old: &ReadFile<'_>, new: &ReadFile<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.mode & TYPE != new.mode & TYPE {
        changes.push(Change::Type {
            old: type_name(old.mode).to_owned(),
            new: type_name(new.mode).to_owned(),
        });
        return changes;
    }
    if old.content != new.content {
        changes.push(if new.mode & TYPE == SYMLINK {
            Change::Target {
                old: old.content.to_owned(),
                new: new.content.to_owned(),
            }
        } else {
            Change::Content
        });
    }
    if old.mode != new.mode {
        changes.push(Change::Mode {
            old: format!("{:o}", old.mode & !TYPE),
            new: format!("{:o}", new.mode & !TYPE),
        });
    }
    changes
}

/// The mode that Git would keep: 644 or 755 for files, 755 for folders.
#[must_use]
pub fn git_mode(mode: u32) -> u32 {
    match mode & TYPE {
        DIRECTORY => DIRECTORY | 0o755,
        0o100_000 => 0o100_000 | if mode & 0o100 == 0 { 0o644 } else { 0o755 },
        _ => mode,
    }
}

fn type_name(mode: u32) -> &'static str {
    match mode & TYPE {
        DIRECTORY => "folder",
        SYMLINK => "link",
        0o100_000 => "file",
        0o010_000 => "fifo",
        _ => "device",
    }
}
