//! Paths of COPY: cleaning, resolving links inside a root, and the sources that a wildcard stands for.

use crate::Error;
use crate::context::glob::{Glob, has_wildcard};
use crate::tree::{Entry, FileTree, Kind};

/// Links followed before giving up (as Linux's 40 is too few for some images, and BuildKit takes 255).
const MAX_LINKS: usize = 255;

pub(super) fn refuse(message: impl Into<String>) -> Error {
    Error::Copy {
        message: message.into(),
        help: None,
    }
}

/// A path as people write it.
pub(super) fn show(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + name.len() + 1);
    path.extend_from_slice(dir);
    if !dir.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Parent and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A path below the root without slashes at its ends: `.` dropped, `..` taken back, never above the root.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(part),
        }
    }
    kept.join(&b'/')
}

/// What is at a path, links not followed.
type Lookup<'l> = dyn Fn(&[u8]) -> Result<Option<Entry>, Error> + 'l;

/// Follows links inside the root as chroot would, the last component's too. The result need not exist.
pub(super) fn resolve(path: &[u8], lookup: &Lookup<'_>) -> Result<Vec<u8>, Error> {
    let mut done: Vec<u8> = Vec::new();
    let mut todo: Vec<Vec<u8>> = path
        .split(|&byte| byte == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.truncate(split(&done).0.len());
                continue;
            }
            _ => {}
        }
        let next = join(&done, &part);
        let Some(Entry {
            kind: Kind::Symlink { target },
            ..
        }) = lookup(&next)?
        else {
            done = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(refuse(format!("too many links in {}", show(path))));
        }
        if target.starts_with(b"/") {
            done.clear();
        }
        todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
    }
    Ok(done)
}

/// One path that a source stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Match {
    /// As named; its last component names the copy.
    pub(super) named: Vec<u8>,
    /// After following links.
    pub(super) path: Vec<u8>,
    /// What is there.
    pub(super) entry: Entry,
}

/// The paths of a source text, in order. A wildcard may match nothing; a plain path must exist.
pub(super) fn expand(tree: &dyn FileTree, text: &[u8]) -> Result<Vec<Match>, Error> {
    let source = clean(text);
    if !has_wildcard(&source) {
        return match found(tree, &source)? {
            Some(found) => Ok(vec![found]),
            // What is left of an escaped wildcard character.
            None if source.contains(&b'\\') => match found(tree, &unescape(&source))? {
                Some(found) => Ok(vec![found]),
                None => Err(missing(tree, &source)),
            },
            None => Err(missing(tree, &source)),
        };
    }
    let parts: Vec<&[u8]> = source.split(|&byte| byte == b'/').collect();
    let plain = parts.iter().take_while(|part| !has_wildcard(part)).count();
    let base = parts[..plain].join(&b'/');
    let Some(start) = found(tree, &base)? else {
        return Err(missing(tree, &base));
    };
    if start.entry.kind != Kind::Directory {
        return Ok(Vec::new());
    }
    let pattern = parts[plain..].join(&b'/');
    let bad = |_| {
        refuse(format!(
            "{:?}: syntax error in pattern",
            String::from_utf8_lossy(&pattern)
        ))
    };
    let glob = Glob::new(&pattern).map_err(bad)?;
    let levels: Option<Vec<Glob>> = if glob.may_cross_directories() {
        None
    } else {
        parts[plain..]
            .iter()
            .map(|part| Glob::new(part).ok())
            .collect()
    };
    let mut matches = Vec::new();
    let walk = Walk {
        tree,
        glob: &glob,
        levels: levels.as_deref(),
    };
    walk.directory(&start.path, b"", 0, &mut |path| {
        if let Some(found) = found(tree, path)? {
            matches.push(found);
            return Ok(());
        }
        Err(missing(tree, path))
    })?;
    Ok(matches)
}

struct Walk<'a> {
    tree: &'a dyn FileTree,
    glob: &'a Glob,
    /// The pattern's components, where each can only match one component of a path.
    levels: Option<&'a [Glob]>,
}

impl Walk<'_> {
    fn directory(
        &self,
        base: &[u8],
        below: &[u8],
        depth: usize,
        found: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let directory = join(base, below);
        for name in self.tree.list(&directory)? {
            if let Some(levels) = self.levels
                && !levels.get(depth).is_some_and(|level| level.matches(&name))
            {
                continue;
            }
            let relative = join(below, &name);
            let path = join(base, &relative);
            if self.glob.matches(&relative) {
                found(&path)?;
                continue;
            }
            if self.levels.is_some_and(|levels| depth + 1 >= levels.len()) {
                continue;
            }
            if self
                .tree
                .entry(&path)?
                .is_some_and(|entry| entry.kind == Kind::Directory)
            {
                self.directory(base, &relative, depth + 1, found)?;
            }
        }
        Ok(())
    }
}

/// What a path leads to, links followed.
pub(super) fn found(tree: &dyn FileTree, named: &[u8]) -> Result<Option<Match>, Error> {
    let path = resolve(named, &|path| tree.entry(path))?;
    let entry = tree.entry(&path)?;
    Ok(entry.map(|entry| Match {
        named: named.to_vec(),
        path,
        entry,
    }))
}

fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(if byte == b'\\' {
            bytes.next().copied().unwrap_or(byte)
        } else {
            byte
        });
    }
    plain
}

/// The error for a source that is not there, with what may help.
pub(super) fn missing(tree: &dyn FileTree, path: &[u8]) -> Error {
    let message = format!("{:?}: not found", show(path));
    Error::Copy {
        message,
        help: help(tree, path),
    }
}

fn help(tree: &dyn FileTree, path: &[u8]) -> Option<String> {
    if let Some(rule) = tree.hidden_by(path) {
        return Some(format!(
            "{} is excluded from the build context by {rule}",
            show(path)
        ));
    }
    // The first component that is not there, and the names beside it.
    let mut known: &[u8] = b"";
    for (end, _) in path
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'/')
        .chain([(path.len(), &b'/')])
    {
        if tree.entry(&path[..end]).ok().flatten().is_none() {
            let wanted = &path[if known.is_empty() { 0 } else { known.len() + 1 }..end];
            let near = nearest(wanted, &tree.list(known).ok()?)?;
            return Some(format!("did you mean {:?}?", show(&join(known, &near))));
        }
        known = &path[..end];
    }
    None
}

/// The name with the fewest changes, when there are few.
fn nearest(wanted: &[u8], names: &[Vec<u8>]) -> Option<Vec<u8>> {
    let limit = (wanted.len() / 3).clamp(1, 3);
    let lower = wanted.to_ascii_lowercase();
    names
        .iter()
        .take(2000)
        .map(|name| {
            (
                if name.to_ascii_lowercase() == lower {
                    0
                } else {
                    distance(wanted, name)
                },
                name,
            )
        })
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name.clone())
}

fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = change.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
