//! One layer: image-spec layer.md, and the tar archive itself.

use crate::digest_reader;
use crate::tarball::{Kind, TarEntry, open_layer, tar_entries};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BLOCK: usize = 512;

pub(super) struct Checked {
    pub(super) findings: Vec<String>,
    pub(super) entries: Vec<TarEntry>,
}

pub(super) fn check(path: &Path, media_type: &str, diff_id: &str, strict: bool) -> Checked {
    let mut findings = Vec::new();
    match media_type_matches(path, media_type) {
        Ok(true) => {}
        Ok(false) => findings.push(format!("its content is not what {media_type:?} says")),
        Err(error) => findings.push(error.to_string()),
    }
    match open_layer(path).and_then(digest_reader) {
        Ok((digest, size)) => {
            if digest != diff_id {
                findings.push(format!(
                    "its diff_id is {digest}, the config says {diff_id:?}"
                ));
            }
            if size % BLOCK as u64 != 0 {
                findings.push(format!("its archive of {size} bytes is not made of blocks"));
            }
        }
        Err(error) => findings.push(format!("cannot be decompressed: {error}")),
    }
    if let Err(error) = trailer(path) {
        findings.push(error.to_string());
    }
    let entries = match tar_entries(path) {
        Ok(entries) => entries,
        Err(error) => {
            findings.push(format!("cannot be read as tar: {error}"));
            Vec::new()
        }
    };
    for entry in &entries {
        findings.extend(entry_findings(entry, strict));
    }
    findings.extend(repeated(&entries));
    if strict {
        findings.extend(unsorted(&entries));
    }
    Checked { findings, entries }
}

fn media_type_matches(path: &Path, media_type: &str) -> io::Result<bool> {
    let mut start = [0; 4];
    let n = File::open(path)?.read(&mut start)?;
    let start = &start[..n];
    let gzip = start.starts_with(&[0x1f, 0x8b]);
    let zstd = start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    Ok(match media_type {
        "application/vnd.oci.image.layer.v1.tar" => !gzip && !zstd,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd" => zstd,
        _ => false,
    })
}

/// Two zero blocks end an archive, and only zeros follow (pax(1), "ustar Interchange Format").
fn trailer(path: &Path) -> io::Result<()> {
    let mut reader = open_layer(path)?;
    let mut zeros = 0usize;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let trailing = buffer[..n].iter().rev().take_while(|b| **b == 0).count();
        zeros = if trailing == n { zeros + n } else { trailing };
    }
    if zeros >= 2 * BLOCK {
        return Ok(());
    }
    let message = "its archive does not end with two zero blocks";
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

fn entry_findings(entry: &TarEntry, strict: bool) -> Vec<String> {
    let mut findings = Vec::new();
    let mut report = |text: &str| findings.push(format!("{}: {text}", entry.path));
    if entry.raw_path.starts_with(b"/") {
        report("its name is absolute");
    }
    let parts = || entry.raw_path.split(|b| *b == b'/');
    if parts().any(|part| part == b"..") || entry.raw_path.is_empty() || entry.raw_path.contains(&0)
    {
        report("its name is not sane");
    }
    if let Kind::Other(flag) = entry.kind {
        report(&format!("its type is {:?}", char::from(flag)));
    }
    if entry.kind != Kind::File && entry.size > 0 {
        report("it has content and is no file");
    }
    if entry.file_name().starts_with(".wh.") && (entry.kind != Kind::File || entry.size > 0) {
        report("a whiteout must be an empty file");
    }
    if entry.mode & !0o7777 != 0 {
        report(&format!("its mode is {:o}", entry.mode));
    }
    let is_link = matches!(entry.kind, Kind::Symlink | Kind::Hardlink);
    if is_link && entry.link.as_ref().is_none_or(String::is_empty) {
        report("a link without target");
    }
    if entry.xattrs.keys().any(|name| name.contains("overlay.")) {
        report("it has an attribute of overlayfs");
    }
    if strict && (!entry.uname.is_empty() || !entry.gname.is_empty()) {
        report("it names an owner or group");
    }
    if strict && entry.mtime_fraction {
        report("its mtime has fractions of a second");
    }
    findings
}

fn repeated(entries: &[TarEntry]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        *counts.entry(&entry.path).or_default() += 1;
    }
    let mut findings: Vec<String> = counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(path, count)| format!("{path}: {count} entries have this name"))
        .collect();
    findings.sort();
    findings
}

/// The path that a whiteout hides; any other name as it is.
fn hidden(name: &[u8]) -> Vec<u8> {
    let (folder, last) =
        name.split_at(name.iter().rposition(|c| *c == b'/').map_or(0, |at| at + 1));
    match last.strip_prefix(b".wh.") {
        Some(rest) if !rest.starts_with(b".wh.") => [folder, rest].concat(),
        _ => name.to_vec(),
    }
}

/// By bytes of the whole name, or folder by folder, whiteouts by their own names or by those they hide; any order is
/// fine if it holds throughout.
fn unsorted(entries: &[TarEntry]) -> Option<String> {
    let trim = |entry: &TarEntry| -> Vec<u8> {
        let name = entry
            .raw_path
            .strip_prefix(b"./")
            .unwrap_or(&entry.raw_path);
        name.strip_suffix(b"/").unwrap_or(name).to_vec()
    };
    let names: Vec<Vec<u8>> = entries.iter().map(trim).collect();
    let by_parts = |a: &[u8], b: &[u8]| a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/'));
    let first_wrong = |compare: &dyn Fn(&[u8], &[u8]) -> Ordering| {
        names
            .windows(2)
            .find(|pair| compare(&pair[0], &pair[1]) == Ordering::Greater)
            .map(|pair| String::from_utf8_lossy(&pair[1]).into_owned())
    };
    first_wrong(&|a, b| a.cmp(b))?;
    first_wrong(&by_parts)?;
    let name = first_wrong(&|a, b| by_parts(&hidden(a), &hidden(b)))?;
    Some(format!("{name}: it is not in order"))
}
