//! The canonical order of layer paths, and which names a layer can hold.
//!
//! Paths compare component by component, bytes within a component, so that a directory is directly followed by
//! everything below it. It does no I/O.

use crate::tree::Entry;
use std::cmp::Ordering;

/// The prefix of marker files (image-spec layer.md#whiteouts); no file of a layer may be named so.
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The marker that hides everything a directory holds in the layers below.
pub(crate) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Compares two paths in canonical order.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let shared = left.len().min(right.len());
    // Whole prefixes are compared at once; most neighbours differ late.
    let at = match (0..shared).find(|&i| left[i] != right[i]) {
        Some(at) => at,
        None => return left.len().cmp(&right.len()),
    };
    match (left[at], right[at]) {
        (b'/', _) => Ordering::Less,
        (_, b'/') => Ordering::Greater,
        (l, r) => l.cmp(&r),
    }
}

/// Puts entries into canonical order, as [`super::LayerWriter`] wants them.
pub fn sort(entries: &mut [Entry]) {
    entries.sort_by(|a, b| compare(&a.path, &b.path));
}

/// Splits a path into its parent and last component; the root's children have the empty parent.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Joins a directory's path and a name.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + name.len() + 1);
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether `path` lies below `dir` (or is it); everything is below the root.
pub(crate) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty()
        || (path.starts_with(dir) && (path.len() == dir.len() || path[dir.len()] == b'/'))
}

/// Why no layer can hold a path, when that is so. The empty path is the root and fine.
pub(crate) fn name_problem(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        return None;
    }
    if path.contains(&0) {
        return Some("the name holds a NUL byte");
    }
    path.split(|&b| b == b'/')
        .find_map(|component| match component {
            b"" => Some("the path has an empty component"),
            b"." | b".." => Some("the path has a `.` or `..` component"),
            c if c.starts_with(WHITEOUT_PREFIX) => {
                Some("names that begin with `.wh.` are whiteouts to every image reader")
            }
            _ => None,
        })
}

/// Components of a stored name. A leading slash means the root, as every reader takes it; `..` is refused.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<&[u8]>, String> {
    if name.contains(&0) {
        return Err("a NUL byte in the name".into());
    }
    let components: Vec<&[u8]> = name
        .split(|&b| b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .collect();
    if components.contains(&&b".."[..]) {
        return Err("the path leads out of the layer".into());
    }
    if components.iter().any(|c| c.len() > 255) {
        return Err("a name of more than 255 bytes".into());
    }
    let markers = components
        .iter()
        .rev()
        .skip(1)
        .any(|c| c.starts_with(WHITEOUT_PREFIX));
    if markers {
        return Err("a directory named like a whiteout".into());
    }
    Ok(components)
}

/// A path for messages.
pub(crate) fn show(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_followed_by_what_it_holds() {
        let sorted: Vec<&[u8]> = vec![
            b"", b"a", b"a/b", b"a/b/c", b"a/b-", b"a-", b"a.b", b"a0", b"b", b"\xff",
        ];
        for (i, left) in sorted.iter().enumerate() {
            for (j, right) in sorted.iter().enumerate() {
                assert_eq!(compare(left, right), i.cmp(&j), "{left:?} {right:?}");
            }
        }
    }

    #[test]
    fn names() {
        assert_eq!(name_problem(b"a/b"), None);
        for bad in [
            &b"a//b"[..],
            b"/a",
            b"a/",
            b"a/../b",
            b".",
            b"a/.wh.b",
            b".wh..wh..opq",
            b"a\0b",
            b".wh.x/y",
        ] {
            assert!(name_problem(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn within() {
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && is_within(b"x", b""));
        assert!(!is_within(b"ab", b"a") && !is_within(b"a", b"a/b"));
    }
}
