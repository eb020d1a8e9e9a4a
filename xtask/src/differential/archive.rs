//! The archives of a context: the same few entries in every compression, odd and hostile ones, and what only looks like one.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Result, Write};

/// Time of everything in an archive, in seconds.
pub const TIME: u64 = 1_400_000_000;

/// One entry: name, type, mode, owner, group, content or link target.
type Row = (&'static str, u8, u32, u64, u64, &'static str);

const PLAIN: &[Row] = &[
    ("td/", b'5', 0o750, 7, 8, ""),
    ("td/f", b'0', 0o640, 7, 8, "tarfile"),
    ("td/l", b'2', 0o777, 7, 8, "f"),
    ("td/h", b'1', 0o640, 7, 8, "td/f"),
    ("top", b'0', 0o4755, 0, 0, "top"),
];
const ODD: &[Row] = &[
    ("sticky/", b'5', 0o1777, 1000, 1000, ""),
    ("sp ace", b'0', 0o644, 0, 0, "s"),
    ("fifo", b'6', 0o600, 1, 2, ""),
    ("none", b'0', 0o000, 99999, 99999, "n"),
    ("zero", b'0', 0o644, 0, 0, ""),
    ("bs\\name", b'0', 0o644, 0, 0, "b"),
    ("\u{fc}", b'0', 0o644, 0, 0, "u"),
];
const LINKS: &[Row] = &[
    ("to-root", b'2', 0o777, 0, 0, "/etc"),
    ("to-dir", b'2', 0o777, 3, 4, "dir"),
    ("dir/", b'5', 0o700, 3, 4, ""),
    ("dir/f", b'0', 0o600, 3, 4, "f"),
    ("dangling", b'2', 0o777, 0, 0, "nowhere/at/all"),
    ("dir/up", b'2', 0o777, 0, 0, "../dir/f"),
];
const IMPLICIT: &[Row] = &[
    ("im/pli/cit", b'0', 0o644, 5, 5, "parents"),
    ("im/", b'5', 0o711, 6, 6, ""),
];
const DOTS: &[Row] = &[
    ("./", b'5', 0o700, 11, 12, ""),
    ("./dots/", b'5', 0o755, 0, 0, ""),
    ("./dots/../beside", b'0', 0o644, 0, 0, "b"),
    ("./dots//double", b'0', 0o644, 0, 0, "d"),
];
const TWICE: &[Row] = &[
    ("same", b'0', 0o644, 0, 0, "first"),
    ("same", b'0', 0o600, 1, 1, "second"),
    ("kind", b'0', 0o644, 0, 0, "a file"),
    ("kind/", b'5', 0o755, 0, 0, ""),
    ("kind/in", b'0', 0o644, 0, 0, "in"),
];
const ESCAPE: &[Row] = &[("../escaped", b'0', 0o644, 0, 0, "out")];
const ABSOLUTE: &[Row] = &[
    ("/abs/f", b'0', 0o644, 0, 0, "abs"),
    ("/abs/l", b'1', 0o644, 0, 0, "/abs/f"),
];
const WHITEOUTS: &[Row] = &[
    (".wh.one.txt", b'0', 0o644, 0, 0, ""),
    ("w/", b'5', 0o755, 0, 0, ""),
    ("w/.wh..wh..opq", b'0', 0o644, 0, 0, ""),
    ("w/new", b'0', 0o644, 0, 0, "new"),
];
const DEVICE: &[Row] = &[("null", b'3', 0o666, 0, 0, "")];
const LINK_OUT: &[Row] = &[
    ("up", b'2', 0o777, 0, 0, "../../../../tmp"),
    ("up/through", b'0', 0o644, 0, 0, "through a link"),
];

/// Makes the bytes of a recipe; an unknown one is an empty file.
pub fn bytes(recipe: &str) -> Result<Vec<u8>> {
    match recipe {
        "plain" => tar_of(PLAIN, false),
        "gzip" => gzip(&tar_of(PLAIN, false)?),
        "gzip-odd" => gzip(&tar_of(ODD, false)?),
        "bzip2" => {
            let mut encoder =
                bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(&tar_of(PLAIN, false)?)?;
            encoder.finish()
        }
        "xz" => xz(&tar_of(PLAIN, false)?),
        "zstd" => zstd::encode_all(tar_of(PLAIN, false)?.as_slice(), 3),
        "odd" => tar_of(ODD, false),
        "links" => tar_of(LINKS, false),
        "implicit" => tar_of(IMPLICIT, false),
        "dots" => tar_of(DOTS, false),
        "xattr" => tar_of(&PLAIN[..2], true),
        "empty" => tar_of(&[], false),
        "twice" => tar_of(TWICE, false),
        "escape" => tar_of(ESCAPE, false),
        "absolute" => tar_of(ABSOLUTE, false),
        "whiteouts" => tar_of(WHITEOUTS, false),
        "device" => tar_of(DEVICE, false),
        "link-out" => tar_of(LINK_OUT, false),
        "text" => Ok(b"only text\n".repeat(100)),
        "gzip-text" => gzip(b"only text\n"),
        "xz-text" => xz(b"only text\n"),
        "gzip-garbage" => Ok([&[0x1f, 0x8b, 8, 0][..], &b"garbage".repeat(40)].concat()),
        "gzip-truncated" => Ok(cut(&gzip(&tar_of(PLAIN, false)?)?)),
        "plain-truncated" => Ok(cut(&tar_of(&PLAIN[..2], false)?[..2048])),
        _ => Ok(Vec::new()),
    }
}

fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() * 2 / 3].to_vec()
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn xz(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    lzma_rs::xz_compress(&mut bytes, &mut out)?;
    Ok(out)
}

fn tar_of(rows: &[Row], xattrs: bool) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for &(name, kind, mode, uid, gid, text) in rows {
        if xattrs {
            builder.append_pax_extensions([("SCHILY.xattr.user.kiln", &b"in a tar"[..])])?;
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(TIME);
        // Written byte by byte: the library would refuse names that hostile archives have.
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        let is_link = matches!(kind, b'1' | b'2');
        if is_link {
            raw.linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        if kind == b'3' {
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        let content = if is_link { "" } else { text };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes())?;
    }
    builder.into_inner()
}
