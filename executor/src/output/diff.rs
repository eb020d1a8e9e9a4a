//! What two images differ in: files by the layers' indexes, so that nothing is unpacked, and configs by key.

use crate::Error;
use crate::layer;
use crate::output::export;
use crate::remote::Remote;
use crate::snapshot::View;
use crate::space::Space;
use crate::tree::{Entry, FileTree, Kind};
use planner::platform::Platform;
use serde_json::Value;
use std::collections::BTreeMap;
use std::iter::Peekable;

/// A letter of `docker diff`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// Only in the second image: `A`.
    Added,
    /// In both, and not the same, or something in it is not: `C`.
    Changed,
    /// Only in the first image: `D`.
    Deleted,
}

impl Change {
    /// Its letter.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Added => "A",
            Self::Changed => "C",
            Self::Deleted => "D",
        }
    }
}

/// A path that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileChange {
    /// How.
    pub change: Change,
    /// With a leading slash.
    pub path: Vec<u8>,
    /// Which attributes differ (`content`, `mode`, `owner` ...); none where only something below does.
    pub differs: Vec<&'static str>,
    /// Bytes in the first and the second image, of regular files.
    pub sizes: (Option<u64>, Option<u64>),
}

/// A key of the config that differs.
#[derive(Clone, PartialEq, Debug)]
pub struct ConfigChange {
    /// How.
    pub change: Change,
    /// `Config.Labels.k`, `Architecture`.
    pub key: String,
    /// In the first image.
    pub old: Value,
    /// In the second one.
    pub new: Value,
}

/// What to compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions<'a> {
    /// Of images for several platforms.
    pub platform: Option<&'a Platform>,
    /// Times of files count.
    pub times: bool,
}

/// Files that differ, in the order of their paths. What is deleted is told without what was in it.
///
/// # Errors
/// Not found, layers that were never pulled or are damaged.
pub fn diff(
    (space, remote): (&Space, &Remote),
    first: &str,
    second: &str,
    options: DiffOptions<'_>,
) -> Result<Vec<FileChange>, Error> {
    let view = |name: &str| -> Result<View, Error> {
        let files = export::layers((space, remote), name, options.platform)?
            .iter()
            .map(|layer| layer::readable(space, layer))
            .collect::<Result<Vec<_>, _>>()?;
        View::load(&files)
    };
    let (old, new) = (view(first)?, view(second)?);
    let mut diff = Diff {
        old: &old,
        new: &new,
        times: options.times,
        found: Vec::new(),
    };
    diff.folder(b"", true, true)?;
    Ok(diff.found)
}

struct Diff<'v> {
    old: &'v View,
    new: &'v View,
    times: bool,
    found: Vec<FileChange>,
}

impl Diff<'_> {
    /// Compares what is in a folder, of the images that have it as one.
    fn folder(&mut self, path: &[u8], in_old: bool, in_new: bool) -> Result<(), Error> {
        let children = |view: &View, there: bool| {
            if there {
                view.children(path)
            } else {
                Ok(Vec::new())
            }
        };
        let old = children(self.old, in_old)?;
        let new = children(self.new, in_new)?;
        let mut pairs = merge(old.into_iter().peekable(), new.into_iter().peekable());
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, old, new) in pairs {
            let path = if path.is_empty() {
                name
            } else {
                [path, b"/", &name].concat()
            };
            self.entry(&path, old.as_ref(), new.as_ref())?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Result<(), Error> {
        let is_folder = |entry: Option<&Entry>| entry.is_some_and(|e| e.kind == Kind::Directory);
        let (change, differs) = match (old, new) {
            (Some(old), Some(new)) => (Change::Changed, self.differences(old, new)),
            (None, _) => (Change::Added, Vec::new()),
            (_, None) => (Change::Deleted, Vec::new()),
        };
        let at = self.found.len();
        self.found.push(FileChange {
            change,
            path: [b"/", path].concat(),
            sizes: (old.and_then(size), new.and_then(size)),
            differs,
        });
        if is_folder(new) {
            self.folder(path, is_folder(old), true)?;
        }
        // A folder is changed by what is changed in it.
        let is_same = change == Change::Changed && self.found[at].differs.is_empty();
        if is_same && self.found.len() == at + 1 {
            self.found.pop();
        }
        Ok(())
    }

    fn differences(&self, old: &Entry, new: &Entry) -> Vec<&'static str> {
        let mut differs = Vec::new();
        match (&old.kind, &new.kind) {
            (Kind::File { size: a, digest: x }, Kind::File { size: b, digest: y }) => {
                if a != b || x != y {
                    differs.push("content");
                }
            }
            (Kind::Symlink { target: a }, Kind::Symlink { target: b }) => {
                if a != b {
                    differs.push("target");
                }
            }
            (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => {
                differs.push("type");
            }
            (a, b) => {
                if a != b {
                    differs.push("device");
                }
            }
        }
        if old.mode != new.mode {
            differs.push("mode");
        }
        if (old.uid, old.gid) != (new.uid, new.gid) {
            differs.push("owner");
        }
        if old.xattrs != new.xattrs {
            differs.push("xattrs");
        }
        if self.times && old.mtime != new.mtime {
            differs.push("time");
        }
        differs
    }
}

fn size(entry: &Entry) -> Option<u64> {
    match entry.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    }
}

type Children = Peekable<std::vec::IntoIter<(Vec<u8>, Entry)>>;
type Pair = (Vec<u8>, Option<Entry>, Option<Entry>);

/// Two sorted lists as one, equal names together.
fn merge(mut old: Children, mut new: Children) -> Vec<Pair> {
    let mut pairs = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let a = if order.is_le() { old.next() } else { None };
        let b = if order.is_ge() { new.next() } else { None };
        let name = a.as_ref().or(b.as_ref()).map(|(name, _)| name.clone());
        let entry = |child: Option<(Vec<u8>, Entry)>| child.map(|(_, entry)| entry);
        pairs.push((name.unwrap_or_default(), entry(a), entry(b)));
    }
}

/// Keys of the configs that differ; layers and history are left out.
///
/// # Errors
/// Not found.
pub fn diff_configs(
    space: &Space,
    first: &str,
    second: &str,
    platform: Option<&Platform>,
) -> Result<Vec<ConfigChange>, Error> {
    let keys = |name: &str| -> Result<BTreeMap<String, Value>, Error> {
        let member = export::member(space, name, platform)?;
        let config: Value = serde_json::from_slice(&member.config_bytes).unwrap_or(Value::Null);
        let mut keys = BTreeMap::new();
        flatten("", &config, &mut keys);
        Ok(keys)
    };
    let (old, new) = (keys(first)?, keys(second)?);
    let mut changes = Vec::new();
    for key in old
        .keys()
        .chain(new.keys().filter(|key| !old.contains_key(*key)))
    {
        let (before, after) = (old.get(key), new.get(key));
        let change = match (before, after) {
            (before, after) if before == after => continue,
            (None, _) => Change::Added,
            (_, None) => Change::Deleted,
            _ => Change::Changed,
        };
        changes.push(ConfigChange {
            change,
            key: key.clone(),
            old: before.cloned().unwrap_or_default(),
            new: after.cloned().unwrap_or_default(),
        });
    }
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(changes)
}

/// Keys with dots between them, by Docker's names: `config` is `Config`.
fn flatten(prefix: &str, value: &Value, keys: &mut BTreeMap<String, Value>) {
    let Value::Object(map) = value else {
        keys.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (key, value) in map {
        if prefix.is_empty() && ["rootfs", "history"].contains(&key.as_str()) {
            continue;
        }
        if prefix.is_empty() {
            let mut letters = key.chars();
            let first = letters.next().into_iter().flat_map(char::to_uppercase);
            let key: String = first.chain(letters).collect();
            flatten(&key, value, keys);
        } else {
            flatten(&format!("{prefix}.{key}"), value, keys);
        }
    }
}
