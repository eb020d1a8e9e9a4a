//! Which entries of the source a COPY takes. The key and the copy itself both come from this, so they cannot differ.

use super::mixed;
use super::paths::{Match, clean, expand, found, join, missing, refuse, show, split};
use crate::Error;
use crate::context::glob::has_wildcard;
use crate::context::pattern::{ParentMatch, PatternSet};
use crate::tree::{Child, Entry, FileTree, Kind};
use planner::plan::{CopyOp, CopySource};

/// Items of a block.
const BLOCK: usize = 256;
/// What is completed at once.
const AT_ONCE: usize = 8192;

/// All that is copied, in order.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) groups: Vec<Group>,
}

/// What one path of one source brings.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) head: Head,
    /// The path's own entry first, then what is below it, parents first, names sorted.
    pub(super) items: Items,
}

/// What a group is.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    /// Last component of the path as named.
    pub(super) name: Vec<u8>,
    /// Length of the part of the items' paths that does not count, with its slash.
    pub(super) strip: usize,
    /// Index of the heredoc that this is.
    pub(super) inline: Option<usize>,
    /// Whether it is unpacked when it is an archive; `None` leaves it to the instruction.
    pub(super) unpack: Option<bool>,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) entry: Entry,
    /// Only there for what is below it: a parent kept by `--parents`, or an excluded directory with exceptions.
    pub(super) parent_only: bool,
    /// Files of a group with the same number are one file.
    pub(super) link: Option<(u64, u64)>,
}

impl Item {
    /// Path below the root of what is copied; empty for the root itself.
    pub(super) fn relative(&self, head: &Head) -> &[u8] {
        self.entry.path.get(head.strip..).unwrap_or_default()
    }

    /// Whether its own attributes count: not of a directory that is the source itself.
    pub(super) fn is_named(&self, head: &Head) -> bool {
        !self.relative(head).is_empty() || self.entry.kind != Kind::Directory
    }
}

/// Takes a selection as it is made, group by group, each with its root first. Content digests and extended attributes are
/// filled in.
pub(super) trait Sink {
    fn begin(&mut self, head: Head) -> Result<(), Error>;
    fn item(&mut self, item: Item) -> Result<(), Error>;
    fn end(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Sink for Selection {
    fn begin(&mut self, head: Head) -> Result<(), Error> {
        let items = Items::default();
        self.groups.push(Group { head, items });
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), Error> {
        let group = self.groups.last_mut();
        group.expect("BUG: items come in groups").items.push(item);
        Ok(())
    }
}

/// Items in blocks, so that those that have been dealt with give their memory back before all have.
#[derive(Debug, Default)]
pub(super) struct Items(Vec<Vec<Item>>);

impl Items {
    pub(super) fn one(item: Item) -> Self {
        Self(vec![vec![item]])
    }

    pub(super) fn push(&mut self, item: Item) {
        match self.0.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(item),
            _ => self.0.push(vec![item]),
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

    /// The items; a block's memory is free once its last one was taken.
    pub(super) fn drain(self) -> impl Iterator<Item = Item> {
        self.0.into_iter().flatten()
    }
}

/// Selects everything into memory.
pub(super) fn select(op: &CopyOp, tree: &dyn FileTree) -> Result<Selection, Error> {
    let mut selection = Selection::default();
    select_into(op, tree, &mut selection)?;
    Ok(selection)
}

/// Selects.
pub(super) fn select_into(
    op: &CopyOp,
    tree: &dyn FileTree,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    let exclude = patterns(&op.exclude, "exclude")?;
    let mut feed = Feed {
        tree,
        sink,
        events: Vec::new(),
        undecided: Vec::new(),
        top_links: (op.parents || !op.exclude.is_empty()).then(Vec::new),
    };
    for (index, source) in op.sources.iter().enumerate() {
        match source {
            CopySource::Path(text) if op.parents => {
                with_parents(text, &exclude, &mut feed)?;
            }
            CopySource::Path(text) => {
                whole(text.as_bytes(), &exclude, None, &mut feed)
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
                whole(&path, &exclude, Some(*unpack), &mut feed)?;
            }
            CopySource::Inline { name, data } => feed.inline(index, name, data)?,
        }
    }
    for link in feed.top_links.take().unwrap_or_default() {
        leads_somewhere(tree, &link)?;
    }
    feed.flush()
}

/// What is selected on its way to who wants it: some at a time are completed, by several threads.
struct Feed<'a> {
    tree: &'a dyn FileTree,
    sink: &'a mut dyn Sink,
    events: Vec<Event>,
    /// Directories that are only there for what is below them, when there is anything.
    undecided: Vec<Child>,
    /// Links at the top of the source, where they have to lead somewhere.
    top_links: Option<Vec<Vec<u8>>>,
}

enum Event {
    Begin(Head),
    Item(Child, bool),
    End,
}

impl Feed<'_> {
    fn begin(&mut self, head: Head) {
        self.events.push(Event::Begin(head));
    }

    fn item(&mut self, child: Child) -> Result<(), Error> {
        for above in std::mem::take(&mut self.undecided) {
            self.events.push(Event::Item(above, true));
        }
        if let Some(links) = &mut self.top_links
            && matches!(child.entry.kind, Kind::Symlink { .. })
            && !child.entry.path.contains(&b'/')
        {
            links.push(child.entry.path.clone());
        }
        self.events.push(Event::Item(child, false));
        if self.events.len() < AT_ONCE {
            return Ok(());
        }
        self.flush()
    }

    fn end(&mut self) {
        self.events.push(Event::End);
    }

    fn flush(&mut self) -> Result<(), Error> {
        let mut children: Vec<&mut Child> = self
            .events
            .iter_mut()
            .filter_map(|event| match event {
                Event::Item(child, _) => Some(child),
                Event::Begin(_) | Event::End => None,
            })
            .collect();
        self.tree.complete(&mut children)?;
        for event in self.events.drain(..) {
            match event {
                Event::Begin(head) => self.sink.begin(head)?,
                Event::Item(Child { entry, link, .. }, parent_only) => self.sink.item(Item {
                    entry,
                    parent_only,
                    link,
                })?,
                Event::End => self.sink.end()?,
            }
        }
        Ok(())
    }

    fn inline(&mut self, index: usize, name: &str, data: &str) -> Result<(), Error> {
        let name = split(&clean(name.as_bytes())).1.to_vec();
        let kind = Kind::File {
            size: data.len() as u64,
            digest: Some(*blake3::hash(data.as_bytes()).as_bytes()),
        };
        self.begin(Head {
            strip: name.len(),
            name: name.clone(),
            inline: Some(index),
            unpack: Some(false),
        });
        self.item(Child::of(Entry {
            path: name,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        }))?;
        self.end();
        Ok(())
    }
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
fn leads_somewhere(tree: &dyn FileTree, path: &[u8]) -> Result<(), Error> {
    if found(tree, path)?.is_some() {
        return Ok(());
    }
    Err(match missing(tree, path) {
        Error::Copy { message, .. } => Error::Copy {
            message,
            help: Some(format!(
                "{} is a link that leads nowhere: with --exclude and --parents such links have to be excluded too",
                show(path)
            )),
        },
        other => other,
    })
}

/// What a path or wildcard stands for.
fn whole(
    path: &[u8],
    exclude: &PatternSet,
    unpack: Option<bool>,
    feed: &mut Feed<'_>,
) -> Result<(), Error> {
    let walker = Walker {
        tree: feed.tree,
        include: None,
        exclude,
        unpack,
    };
    for root in expand(walker.tree, path)? {
        walker.group(root, feed)?;
    }
    Ok(())
}

fn patterns(texts: &[String], what: &str) -> Result<PatternSet, Error> {
    PatternSet::new(texts.iter().map(String::as_str))
        .map_err(|error| refuse(format!("invalid {what} patterns: {error}")))
}

fn with_parents(text: &str, exclude: &PatternSet, feed: &mut Feed<'_>) -> Result<(), Error> {
    let tree = feed.tree;
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
        let walker = Walker {
            tree,
            include: include.as_ref(),
            exclude,
            unpack: None,
        };
        walker.group(root, feed)?;
    }
    Ok(())
}

struct Walker<'a> {
    tree: &'a dyn FileTree,
    include: Option<&'a PatternSet>,
    exclude: &'a PatternSet,
    /// As in [`Head`].
    unpack: Option<bool>,
}

/// What the directory above an entry matched.
#[derive(Clone, Default)]
struct Above {
    include: ParentMatch,
    exclude: ParentMatch,
}

impl Walker<'_> {
    fn group(&self, root: Match, feed: &mut Feed<'_>) -> Result<(), Error> {
        let strip = if root.path.is_empty() {
            0
        } else {
            root.path.len() + 1
        };
        feed.begin(Head {
            name: split(&root.named).1.to_vec(),
            strip,
            inline: None,
            unpack: self.unpack,
        });
        let directory = root.entry.kind == Kind::Directory;
        feed.item(self.child(root.entry))?;
        if directory {
            self.below(&root.path, strip, &Above::default(), feed)?;
        }
        feed.end();
        Ok(())
    }

    /// An entry that no walk came by.
    fn child(&self, entry: Entry) -> Child {
        let file = matches!(entry.kind, Kind::File { .. });
        let link = file.then(|| self.tree.link_id(&entry.path)).flatten();
        Child {
            link,
            ..Child::of(entry)
        }
    }

    /// Gives what is selected below a directory.
    fn below(
        &self,
        directory: &[u8],
        strip: usize,
        above: &Above,
        feed: &mut Feed<'_>,
    ) -> Result<(), Error> {
        for child in self.children(directory, strip)? {
            let relative = &child.entry.path[strip..];
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
            if child.entry.kind != Kind::Directory {
                if included {
                    feed.item(child)?;
                }
                continue;
            }
            if excluded && !self.exclude.may_reinclude_below(relative) {
                continue;
            }
            let (path, place) = (child.entry.path.clone(), feed.undecided.len());
            if included {
                feed.item(child)?;
            } else {
                feed.undecided.push(child);
            }
            self.below(&path, strip, &own, feed)?;
            if !included {
                feed.undecided.truncate(place);
            }
        }
        Ok(())
    }

    /// The directory's entries that can matter, sorted by name.
    fn children(&self, directory: &[u8], strip: usize) -> Result<Vec<Child>, Error> {
        let Some(include) = self.include else {
            return self.tree.walk(directory);
        };
        let mut children = Vec::new();
        for name in self.tree.list(directory)? {
            let path = join(directory, &name);
            if include.may_match_at_or_below(&path[strip..])
                && let Some(entry) = self.tree.entry(&path)?
            {
                children.push(self.child(entry));
            }
        }
        Ok(children)
    }
}
