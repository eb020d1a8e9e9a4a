//! Archives that a corpus names by size and digest only, made anew from what their cases say they hold.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// An entry: path, `d`irectory, `f`ile or sym`l`ink, mode, content or target.
type Entry = (&'static str, char, u32, &'static str);

/// `subdirectory.tar.gz` of the `add-archive` cases (owned by 2510:2516).
const SUBDIRECTORY: &[Entry] = &[
    ("subdirectory/", 'd', 0o775, ""),
    ("subdirectory/archival.txt", 'f', 0o664, "archival\n"),
    ("subdirectory/archived.txt", 'f', 0o664, "archived\n"),
];
/// `test.tar` of `add-not-dir-dir`.
const NEW_DIRECTORY: &[Entry] = &[("new-directory/", 'd', 0o775, "")];
/// `foobar.tar` of `add-parent-symlink`: a path through a link to the folder above.
const PARENT_LINK: &[Entry] = &[
    ("symldir1", 'l', 0o777, ".."),
    ("symldir1/etc/myfile", 'f', 0o664, "hello\n"),
];

/// The archive of this name, where it is known.
pub fn make(path: &str) -> Option<Vec<u8>> {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name {
        "subdirectory.tar.gz" => gzip(&tar(SUBDIRECTORY, 2510, 2516)?),
        "test.tar" => tar(NEW_DIRECTORY, 2510, 2516),
        "foobar.tar" => tar(PARENT_LINK, 1000, 1000),
        _ => None,
    }
}

fn tar(entries: &[Entry], uid: u64, gid: u64) -> Option<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, mode, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_485_449_953);
        header.set_size(0);
        match kind {
            'd' => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, path, &[][..]).ok()?;
            }
            'l' => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, text).ok()?;
            }
            _ => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(text.len() as u64);
                builder
                    .append_data(&mut header, path, text.as_bytes())
                    .ok()?;
            }
        }
    }
    builder.into_inner().ok()
}

fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}
