//! Walks the merged root file system of an image. What takes its entries (a tar, a folder, a layer) is a [`Sink`].

use crate::Error;
use crate::snapshot::View;
use crate::tree::{Entry, FileTree, Kind};
use std::collections::HashMap;
use std::io::Read;

/// Takes the entries of a walk: parents first, siblings in order. Hard links to an entry that came before are
/// given as such, with that entry's path.
pub(crate) trait Sink {
    /// One entry; `data` for regular files.
    fn entry(&mut self, entry: Entry, data: Option<&mut dyn Read>) -> Result<(), Error>;
}

/// Walks a whole view below its root.
pub(crate) fn walk(view: &View, sink: &mut dyn Sink) -> Result<(), Error> {
    let mut links = HashMap::new();
    walk_folder(view, &[], &mut links, sink)
}

/// Gives one entry, whose path is set, to a sink. `links` are the files given so far that have several names.
pub(crate) fn entry(
    view: &View,
    entry: Entry,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    match &entry.kind {
        Kind::File { .. } | Kind::Hardlink { .. } => walk_file(view, entry, links, sink),
        Kind::Socket => Ok(()),
        _ => sink.entry(entry, None),
    }
}

fn walk_folder(
    view: &View,
    folder: &[u8],
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    for name in view.list(folder)? {
        let path = if folder.is_empty() {
            name
        } else {
            [folder, b"/", &name].concat()
        };
        let Some(mut entry) = view.entry(&path)? else {
            continue;
        };
        entry.path.clone_from(&path);
        match &entry.kind {
            Kind::Directory => {
                sink.entry(entry, None)?;
                walk_folder(view, &path, links, sink)?;
            }
            _ => self::entry(view, entry, links, sink)?,
        }
    }
    Ok(())
}

fn walk_file(
    view: &View,
    mut entry: Entry,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    if let Some(id) = view.link_id(&entry.path) {
        if let Some(first) = links.get(&id) {
            entry.kind = Kind::Hardlink {
                target: first.clone(),
            };
            return sink.entry(entry, None);
        }
        links.insert(id, entry.path.clone());
    }
    if let Kind::Hardlink { target } = &entry.kind {
        let attributes = view
            .entry(target)?
            .filter(|target| matches!(target.kind, Kind::File { .. }));
        let Some(target) = attributes else {
            let reason = format!(
                "hard link {} has no target",
                String::from_utf8_lossy(&entry.path)
            );
            return Err(Error::Layer {
                layer: "root file system".to_owned(),
                reason,
            });
        };
        entry = Entry {
            path: entry.path,
            ..target
        };
    }
    let mut data = view.open(&entry.path)?;
    sink.entry(entry, Some(&mut data))
}
