//! The first path in which two layers differ, and how: which attribute, and of a file's content from which byte on. It
//! compares what layers hold, not the trees that they make with others.

use super::index::{Index, Node, What};
use super::materialise::content;
use crate::Error;
use crate::snapshot::View;
use crate::space::Space;
use crate::tree::FileTree as _;
use oci_spec::image::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read};

/// So many bytes of both sides are told.
const EXCERPT: u64 = 24;

/// Where the contents of two files part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentDifference {
    /// The first byte that differs, or where the shorter one ends.
    pub byte: u64,
    /// Bytes of both files.
    pub sizes: (u64, u64),
    /// What both have from there on, some bytes of it.
    pub excerpts: (Vec<u8>, Vec<u8>),
}

/// A path that two layers do not have alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerDifference {
    /// With a leading slash.
    pub path: Vec<u8>,
    /// `content`, `mode`, `owner`, `target`, `type`, `xattrs`, `device`, `time`, `opaque`, `added` or `missing`.
    pub what: &'static str,
    /// In the first and in the second layer; empty where there is nothing to be said.
    pub values: (String, String),
    /// For `content`.
    pub content: Option<ContentDifference>,
}

impl fmt::Display for LayerDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = &self.values;
        write!(
            f,
            "{}: ",
            String::from_utf8_lossy(&self.path).escape_debug()
        )?;
        if let Some(content) = &self.content {
            let (before, after) = content.sizes;
            let byte = content.byte;
            return write!(
                f,
                "content differs from byte {byte} on ({before} -> {after} bytes)"
            );
        }
        match self.what {
            "missing" => write!(f, "{old} is missing"),
            "added" => write!(f, "{new} is added"),
            "xattrs" => f.write_str("extended attributes"),
            "device" => f.write_str("device number"),
            "opaque" => f.write_str("replaces the folder below, or not"),
            what => write!(f, "{what} {old} -> {new}"),
        }
    }
}

/// The first difference by path; `times` says whether times of files count.
///
/// # Errors
/// A layer that cannot be read.
pub(crate) fn first_difference(
    space: &Space,
    (first, second): (&Digest, &Digest),
    times: bool,
) -> Result<Option<LayerDifference>, Error> {
    let load = |layer: &Digest| -> Result<(View, Index), Error> {
        let files = content(space, layer)?;
        let index = Index::load(&files.index)?;
        Ok((View::load(&[files])?, index))
    };
    let (old, new) = (load(first)?, load(second)?);
    let (before, after) = (by_path(&old.1), by_path(&new.1));
    let paths: BTreeSet<&[u8]> = before.keys().chain(after.keys()).copied().collect();
    for path in paths {
        let found = match (before.get(path), after.get(path)) {
            (Some(a), Some(b)) => difference((a, &old.0), (b, &new.0), times)?,
            (Some(a), None) => Some(told("missing", kind(a), "")),
            (None, Some(b)) => Some(told("added", "", kind(b))),
            (None, None) => None,
        };
        if let Some(found) = found {
            let path = [b"/", path].concat();
            return Ok(Some(LayerDifference { path, ..found }));
        }
    }
    Ok(None)
}

/// People look for paths in the order of their bytes, which is not that of layers.
fn by_path(index: &Index) -> BTreeMap<&[u8], Node<'_>> {
    index.nodes().map(|node| (node.path, node)).collect()
}

fn told(what: &'static str, old: impl Into<String>, new: impl Into<String>) -> LayerDifference {
    LayerDifference {
        path: Vec::new(),
        what,
        values: (old.into(), new.into()),
        content: None,
    }
}

fn kind(node: &Node<'_>) -> &'static str {
    match node.what {
        What::Directory { .. } => "folder",
        What::File { .. } => "file",
        What::Symlink(_) => "symbolic link",
        What::Hardlink(_) => "hard link",
        What::Char(..) | What::Block(..) => "device",
        What::Fifo => "named pipe",
        What::Whiteout => "removal",
    }
}

fn difference(
    (old, before): (&Node<'_>, &View),
    (new, after): (&Node<'_>, &View),
    times: bool,
) -> Result<Option<LayerDifference>, Error> {
    if kind(old) != kind(new) {
        return Ok(Some(told("type", kind(old), kind(new))));
    }
    let files = (old.what, new.what);
    if let (
        What::File {
            digest: was, size, ..
        },
        What::File {
            digest: is,
            size: now,
            ..
        },
    ) = files
    {
        if was != is {
            return parting(before, after, old.path, (size, now)).map(Some);
        }
    } else if old.what != new.what {
        let shown = |target: &[u8]| format!("{:?}", String::from_utf8_lossy(target));
        return Ok(Some(match files {
            (What::Symlink(a), What::Symlink(b)) | (What::Hardlink(a), What::Hardlink(b)) => {
                told("target", shown(a), shown(b))
            }
            (What::Directory { .. }, _) => told("opaque", "", ""),
            _ => told("device", "", ""),
        }));
    }
    if old.mode != new.mode {
        let octal = |mode| format!("{mode:o}");
        return Ok(Some(told("mode", octal(old.mode), octal(new.mode))));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        let owner = |node: &Node<'_>| format!("{}:{}", node.uid, node.gid);
        return Ok(Some(told("owner", owner(old), owner(new))));
    }
    if old.xattrs != new.xattrs {
        return Ok(Some(told("xattrs", "", "")));
    }
    if times && old.mtime != new.mtime {
        let time = |seconds: i64| {
            jiff::Timestamp::from_second(seconds)
                .map_or(seconds.to_string(), |time| time.to_string())
        };
        return Ok(Some(told("time", time(old.mtime), time(new.mtime))));
    }
    Ok(None)
}

/// Where two files differ first: where the shorter one ends, if it is the beginning of the other.
fn parting(
    before: &View,
    after: &View,
    path: &[u8],
    sizes: (u64, u64),
) -> Result<LayerDifference, Error> {
    let failed = |source| Error::Io {
        op: "read",
        path: String::from_utf8_lossy(path).into_owned().into(),
        source,
    };
    let mut old = BufReader::new(before.open(path)?);
    let mut new = BufReader::new(after.open(path)?);
    let mut byte = 0;
    loop {
        let (a, b) = (
            old.fill_buf().map_err(failed)?,
            new.fill_buf().map_err(failed)?,
        );
        let length = a.len().min(b.len());
        let same = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(length);
        old.consume(same);
        new.consume(same);
        byte += same as u64;
        if same < length || length == 0 {
            break;
        }
    }
    let rest = |reader: &mut dyn Read| -> Result<Vec<u8>, Error> {
        let mut excerpt = Vec::new();
        reader
            .take(EXCERPT)
            .read_to_end(&mut excerpt)
            .map_err(failed)?;
        Ok(excerpt)
    };
    Ok(LayerDifference {
        content: Some(ContentDifference {
            byte,
            sizes,
            excerpts: (rest(&mut old)?, rest(&mut new)?),
        }),
        ..told("content", "", "")
    })
}
