//! The root file systems of a build's platforms as one tree: each in a folder of its own, or merged.

use crate::Error;
use crate::output::files::{self, Sink};
use crate::snapshot::View;
use crate::tree::{Entry, FileTree as _, Kind};
use std::collections::{BTreeSet, HashMap};
use std::io::Read;

/// What was built for one platform.
#[derive(Debug)]
pub(crate) struct Root {
    /// As `--platform` has it.
    pub platform: String,
    /// Its files.
    pub view: View,
}

/// Files that have several names, with the first of them, by root.
type Links = Vec<HashMap<(u64, u64), Vec<u8>>>;

/// Walks every root below a folder named after its platform (`linux_arm64`), in the order of these names.
pub(crate) fn walk_split(roots: &[Root], sink: &mut dyn Sink) -> Result<(), Error> {
    let mut roots: Vec<(String, &View)> = roots
        .iter()
        .map(|root| (root.platform.replace('/', "_"), &root.view))
        .collect();
    roots.sort_by(|a, b| a.0.cmp(&b.0));
    for (folder, view) in roots {
        sink.entry(platform_folder(&folder), None)?;
        files::walk(
            view,
            &mut Below {
                folder: &folder,
                sink,
            },
        )?;
    }
    Ok(())
}

/// Walks all roots as one tree.
///
/// # Errors
/// A path that is more than a folder, and is in several roots.
pub(crate) fn walk_merged(roots: &[Root], sink: &mut dyn Sink) -> Result<(), Error> {
    if let [only] = roots {
        return files::walk(&only.view, sink);
    }
    let all: Vec<usize> = (0..roots.len()).collect();
    let mut links = vec![HashMap::new(); roots.len()];
    merged_folder(roots, &all, &[], &mut links, sink)
}

fn merged_folder(
    roots: &[Root],
    holders: &[usize],
    folder: &[u8],
    links: &mut Links,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for holder in holders {
        names.extend(roots[*holder].view.list(folder)?);
    }
    for name in names {
        let path = if folder.is_empty() {
            name
        } else {
            [folder, b"/", &name].concat()
        };
        let mut found = Vec::new();
        for holder in holders {
            if let Some(entry) = roots[*holder].view.entry(&path)? {
                found.push((*holder, entry));
            }
        }
        if let [(first, _), (second, _), ..] = found.as_slice()
            && found.iter().any(|(_, entry)| entry.kind != Kind::Directory)
        {
            return Err(Error::Request(format!(
                "cannot overwrite {} from {} with {} when split option is disabled",
                String::from_utf8_lossy(&path),
                roots[*first].platform,
                roots[*second].platform
            )));
        }
        let below: Vec<usize> = found.iter().map(|(holder, _)| *holder).collect();
        let Some((holder, mut entry)) = found.into_iter().next() else {
            continue;
        };
        entry.path.clone_from(&path);
        if entry.kind == Kind::Directory {
            sink.entry(entry, None)?;
            merged_folder(roots, &below, &path, links, sink)?;
        } else {
            files::entry(&roots[holder].view, entry, &mut links[holder], sink)?;
        }
    }
    Ok(())
}

/// The folder of one platform's files.
fn platform_folder(name: &str) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

/// Puts all entries below a folder.
struct Below<'a> {
    folder: &'a str,
    sink: &'a mut dyn Sink,
}

impl Below<'_> {
    fn placed(&self, path: &[u8]) -> Vec<u8> {
        [self.folder.as_bytes(), b"/", path].concat()
    }
}

impl Sink for Below<'_> {
    fn entry(&mut self, mut entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error> {
        entry.path = self.placed(&entry.path);
        if let Kind::Hardlink { target } = &mut entry.kind {
            *target = self.placed(target);
        }
        self.sink.entry(entry, data)
    }
}
