//! Which entries of the source a COPY takes. The key and the copy itself both come from this, so they cannot differ.

use super::mixed;
use super::paths::{Match, clean, expand, found, join, missing, refuse, show, split};
use crate::Error;
use crate::context::glob::has_wildcard;
use crate::context::pattern::{ParentMatch, PatternSet};
use crate::tree::{Entry, FileTree, Kind};
use planner::plan::{CopyOp, CopySource};

/// Items of a block.
const BLOCK: usize = 256;

/// All that is copied, in order.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) groups: Vec<Group>,
}

/// What one path of one source brings.
#[derive(Debug)]
pub(super) struct Group {
    /// Last component of the path as named.
    pub(super) name: Vec<u8>,
    /// Length of the part of the items' paths that does not count, with its slash.
    pub(super) strip: usize,
    /// The path's own entry first, then what is below it, parents first, names sorted.
    pub(super) items: Items,
    /// Index of the heredoc that this is.
    pub(super) inline: Option<usize>,
    /// Whether it is unpacked when it is an archive; `None` leaves it to the instruction.
    pub(super) unpack: Option<bool>,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) entry: Entry,
    /// Only there for what is below it: a parent kept by `--parents`, or an excluded directory with exceptions.
    pub(super) parent_only: bool,
    /// Files of a group with the same number are one file.
    pub(super) link: Option<(u64, u64)>,
}

/// Items in blocks, so that those that have been dealt with give their memory back before all have.
#[derive(Debug, Default)]
pub(super) struct Items(Vec<Vec<Item>>);

impl Items {
    fn one(item: Item) -> Self {
        Self(vec![vec![item]])
    }

    fn push(&mut self, item: Item) {
        match self.0.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(item),
            _ => self.0.push(vec![item]),
        }
    }

    /// Takes the last one away.
    fn pop(&mut self) {
        let Some(block) = self.0.last_mut() else {
            return;
        };
        block.pop();
        if block.is_empty() {
            self.0.pop();
        }
    }

    pub(super) fn len(&self) -> usize {
        // All blocks but the last are full.
        let last = self.0.last().map_or(0, Vec::len);
        self.0.len().saturating_sub(1) * BLOCK + last
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.0.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.0.iter_mut().flatten()
    }

    /// The items; a block's memory is free once its last one was taken.
    pub(super) fn drain(self) -> impl Iterator<Item = Item> {
        self.0.into_iter().flatten()
    }
}

/// Selects. Content digests and extended attributes are filled in.
pub(super) fn select(op: &CopyOp, tree: &dyn FileTree) -> Result<Selection, Error> {
    let exclude = patterns(&op.exclude, "exclude")?;
    let mut selection = Selection::default();
    for (index, source) in op.sources.iter().enumerate() {
        match source {
            CopySource::Path(text) if op.parents => {
                with_parents(tree, text, &exclude, &mut selection)?;
            }
            CopySource::Path(text) => {
                whole(tree, text.as_bytes(), &exclude, None, &mut selection)
                    // BuildKit notices what is missing later where patterns exclude, and says so in other words.
                    .map_err(|error| match error {
                        Error::Copy { message, help } if !op.exclude.is_empty() => Error::Copy {
                            message: lstat(&message),
                            help,
                        },
                        error => error,
                    })?;
            }
            CopySource::Input {
                input,
                path,
                unpack,
            } => {
                let path = join(&mixed::folder(*input), &clean(path.as_bytes()));
                whole(tree, &path, &exclude, Some(*unpack), &mut selection)?;
            }
            CopySource::Inline { name, data } => selection.groups.push(inline(index, name, data)),
        }
    }
    if op.parents || !op.exclude.is_empty() {
        lead_somewhere(tree, &selection)?;
    }
    let mut files: Vec<&mut Entry> = selection
        .groups
        .iter_mut()
        .flat_map(|group| group.items.iter_mut())
        .map(|item| &mut item.entry)
        .collect();
    tree.complete(&mut files)?;
    Ok(selection)
}

/// `"/path": not found` in the words of a failed lstat.
fn lstat(message: &str) -> String {
    let path = message
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix("\": not found"));
    path.map_or_else(
        || message.to_owned(),
        |path| format!("lstat {path}: no such file or directory"),
    )
}

/// BuildKit follows the links that patterns chose at the top of the source, though it copies the links themselves:
/// one that leads nowhere is a missing source.
fn lead_somewhere(tree: &dyn FileTree, selection: &Selection) -> Result<(), Error> {
    let items = selection.groups.iter().flat_map(|group| group.items.iter());
    for item in items {
        let path = &item.entry.path;
        let link = matches!(item.entry.kind, Kind::Symlink { .. });
        if link && !path.contains(&b'/') && found(tree, path)?.is_none() {
            return Err(match missing(tree, path) {
                Error::Copy { message, .. } => Error::Copy {
                    message,
                    help: Some(format!(
                        "{} is a link that leads nowhere: with --exclude and --parents such links have to be excluded too",
                        show(path)
                    )),
                },
                other => other,
            });
        }
    }
    Ok(())
}

/// What a path or wildcard stands for.
fn whole(
    tree: &dyn FileTree,
    path: &[u8],
    exclude: &PatternSet,
    unpack: Option<bool>,
    selection: &mut Selection,
) -> Result<(), Error> {
    let walker = Walker {
        tree,
        include: None,
        exclude,
    };
    for root in expand(tree, path)? {
        let group = walker.group(root)?;
        selection.groups.push(Group { unpack, ..group });
    }
    Ok(())
}

fn patterns(texts: &[String], what: &str) -> Result<PatternSet, Error> {
    PatternSet::new(texts.iter().map(String::as_str))
        .map_err(|error| refuse(format!("invalid {what} patterns: {error}")))
}

fn with_parents(
    tree: &dyn FileTree,
    text: &str,
    exclude: &PatternSet,
    selection: &mut Selection,
) -> Result<(), Error> {
    let (base, pattern) = text.split_once("/./").unwrap_or(("", text));
    let pattern = clean(pattern.as_bytes());
    let include = match std::str::from_utf8(&pattern) {
        Ok("") => None,
        Ok(pattern) => Some(patterns(&[pattern.to_owned()], "include")?),
        Err(_) => return Err(refuse("a source is not valid UTF-8")),
    };
    for root in expand(tree, base.as_bytes())? {
        if !has_wildcard(&pattern) && !has_wildcard(base.as_bytes()) {
            let wanted = join(&root.path, &pattern);
            if found(tree, &wanted)?.is_none() {
                return Err(missing(tree, &wanted));
            }
        }
        selection.groups.push(
            Walker {
                tree,
                include: include.as_ref(),
                exclude,
            }
            .group(root)?,
        );
    }
    Ok(())
}

fn inline(index: usize, name: &str, data: &str) -> Group {
    let name = split(&clean(name.as_bytes())).1.to_vec();
    let digest = Some(*blake3::hash(data.as_bytes()).as_bytes());
    let kind = Kind::File {
        size: data.len() as u64,
        digest,
    };
    let entry = Entry {
        path: name.clone(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    };
    Group {
        strip: name.len(),
        name,
        items: Items::one(Item {
            entry,
            parent_only: false,
            link: None,
        }),
        inline: Some(index),
        unpack: Some(false),
    }
}

struct Walker<'a> {
    tree: &'a dyn FileTree,
    include: Option<&'a PatternSet>,
    exclude: &'a PatternSet,
}

/// What the directory above an entry matched.
#[derive(Clone, Default)]
struct Above {
    include: ParentMatch,
    exclude: ParentMatch,
}

impl Walker<'_> {
    fn group(&self, root: Match) -> Result<Group, Error> {
        let strip = if root.path.is_empty() {
            0
        } else {
            root.path.len() + 1
        };
        let name = split(&root.named).1.to_vec();
        let mut items = Items::default();
        let directory = root.entry.kind == Kind::Directory;
        self.push(&mut items, root.entry, false);
        if directory {
            self.below(&root.path, strip, &Above::default(), &mut items)?;
        }
        Ok(Group {
            name,
            strip,
            items,
            inline: None,
            unpack: None,
        })
    }

    fn push(&self, items: &mut Items, entry: Entry, parent_only: bool) {
        let file = matches!(entry.kind, Kind::File { .. });
        let link = if file {
            self.tree.link_id(&entry.path)
        } else {
            None
        };
        items.push(Item {
            entry,
            parent_only,
            link,
        });
    }

    /// Adds what is selected below a directory.
    fn below(
        &self,
        directory: &[u8],
        strip: usize,
        above: &Above,
        items: &mut Items,
    ) -> Result<(), Error> {
        for entry in self.entries(directory, strip)? {
            let relative = &entry.path[strip..];
            let mut own = Above::default();
            let mut included = true;
            if let Some(include) = self.include {
                (included, own.include) = include.matches_in(relative, &above.include);
            }
            let mut excluded = false;
            if !self.exclude.is_empty() {
                (excluded, own.exclude) = self.exclude.matches_in(relative, &above.exclude);
            }
            included &= !excluded;
            if entry.kind != Kind::Directory {
                if included {
                    self.push(items, entry, false);
                }
                continue;
            }
            if excluded && !self.exclude.may_reinclude_below(relative) {
                continue;
            }
            let (path, place) = (entry.path.clone(), items.len());
            self.push(items, entry, !included);
            self.below(&path, strip, &own, items)?;
            if !included && items.len() == place + 1 {
                items.pop();
            }
        }
        Ok(())
    }

    /// The directory's entries that can matter, sorted by name.
    fn entries(&self, directory: &[u8], strip: usize) -> Result<Vec<Entry>, Error> {
        let Some(include) = self.include else {
            let children = self.tree.children(directory)?;
            return Ok(children.into_iter().map(|(_, entry)| entry).collect());
        };
        let mut entries = Vec::new();
        for name in self.tree.list(directory)? {
            let path = join(directory, &name);
            if include.may_match_at_or_below(&path[strip..])
                && let Some(entry) = self.tree.entry(&path)?
            {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}
