//! The context of a case: a folder full of what file copying gets wrong (links of all kinds, odd names and modes,
//! archives sound and broken), from which each case takes its own part. All times are [`TIME`].

use super::archive;
use super::random::Random;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Time of everything in a context, in seconds.
pub const TIME: u64 = 1_485_449_953;

/// What an entry of the context is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    File(&'static str, u32),
    Dir(u32),
    Link(&'static str),
    Hard(&'static str),
    Fifo,
    Archive(&'static str),
}
use Kind::{Archive, Dir, Fifo, File, Hard, Link};

/// Always there: what the generator names without looking.
const CORE: &[(&str, Kind)] = &[
    ("a.txt", File("alpha\n", 0o644)),
    ("b.sh", File("#!/bin/sh\necho b\n", 0o755)),
    ("d/one.txt", File("1", 0o644)),
    ("d/two.md", File("2", 0o640)),
    ("d/sub/three.txt", File("3", 0o600)),
    ("d/sub/deep/four.txt", File("4", 0o644)),
    ("x/y/z/n.txt", File("n", 0o644)),
    ("x/y/m.txt", File("m", 0o664)),
    ("empty", Dir(0o750)),
    ("link-file", Link("a.txt")),
    ("link-dir", Link("d")),
    ("hard.txt", Hard("a.txt")),
    ("t.tar", Archive("plain")),
];

/// Each there in most cases.
const EXTRA: &[(&str, Kind)] = &[
    ("ro.dat", File("ro", 0o400)),
    ("zero", File("", 0o644)),
    ("suid", File("s", 0o4755)),
    ("sgid", File("g", 0o2711)),
    ("stickyfile", File("t", 0o1666)),
    ("none.txt", File("no mode", 0o000)),
    ("sticky", Dir(0o1777)),
    ("setgid", Dir(0o2755)),
    ("setgid/in.txt", File("in", 0o644)),
    ("nested/empty/deeper", Dir(0o700)),
    ("d/up", Link("../a.txt")),
    ("d/hard", Hard("d/one.txt")),
    ("d/sub/link-up", Link("..")),
    ("abs", Link("/etc/passwd")),
    ("abs-d", Link("/d")),
    ("abs-file", Link("/d/one.txt")),
    ("dangling", Link("nope")),
    ("chain1", Link("chain2")),
    ("chain2", Link("link-file")),
    ("out-of-it", Link("../../../../a.txt")),
    ("links/rel", Link("../d/sub")),
    ("links/dang", Link("missing/there")),
    ("links/abs", Link("/d/two.md")),
    ("sp ace.txt", File("s", 0o644)),
    ("sp dir/in side.txt", File("si", 0o644)),
    ("br[0].txt", File("b0", 0o644)),
    ("st*ar.txt", File("star", 0o644)),
    ("q?.txt", File("q", 0o644)),
    ("back\\slash.txt", File("bs", 0o644)),
    ("quo\"te.txt", File("qu", 0o644)),
    ("-dash.txt", File("dash", 0o644)),
    ("#hash", File("hash", 0o644)),
    ("dol$lar.txt", File("dollar", 0o644)),
    ("\u{fc}n\u{ef}.txt", File("u", 0o644)),
    ("\u{65e5}\u{672c}/\u{8a9e}", File("j", 0o644)),
    (".hidden", File("h", 0o644)),
    (".hid/den.txt", File("hd", 0o644)),
    ("...", File("dots", 0o644)),
    ("x/y/m.txt.bak", File("bak", 0o644)),
    ("hl/one", File("linked", 0o644)),
    ("hl/two", Hard("hl/one")),
    ("hl/three", Hard("hl/one")),
    ("xattr.txt", File("has an attribute", 0o644)),
    ("owned.txt", File("owned", 0o644)),
    ("Upper.TXT", File("U", 0o644)),
    ("run.sh", File("#!/bin/sh\necho run \"$@\" > /ran\n", 0o755)),
];

/// Each there in some cases.
const RARE: &[(&str, Kind)] = &[
    ("loop1", Link("loop2")),
    ("loop2", Link("loop1")),
    ("self", Link("self")),
    ("pipes/p", Fifo),
    ("pipes/f", File("beside", 0o644)),
    (".wh.tricky", File("not a whiteout", 0o644)),
    ("new\nline", File("nl", 0o644)),
    ("bad\u{7f}name", File("del", 0o644)),
];

/// Names of archives beside `t.tar`; the second is what [`archive::bytes`] makes.
pub const ARCHIVES: &[(&str, &str)] = &[
    ("t.tar.gz", "gzip"),
    ("t.tgz", "gzip-odd"),
    ("t.tar.bz2", "bzip2"),
    ("t.tar.xz", "xz"),
    ("t.tar.zst", "zstd"),
    ("odd.tar", "odd"),
    ("links.tar", "links"),
    ("implicit.tar", "implicit"),
    ("dots.tar", "dots"),
    ("xattr.tar", "xattr"),
    ("emptytar.tar", "empty"),
    ("twice.tar", "twice"),
    ("nottar.tar.gz", "nothing"),
    ("text.tar", "text"),
    ("text.gz", "gzip-text"),
    ("text.xz", "xz-text"),
    ("named-txt.txt", "gzip"),
];

/// Archives that a builder may refuse.
pub const BROKEN: &[(&str, &str)] = &[
    ("trunc.tar.gz", "gzip-truncated"),
    ("trunc.tar", "plain-truncated"),
    ("garbage.gz", "gzip-garbage"),
    ("escape.tar", "escape"),
    ("abs.tar", "absolute"),
    ("white.tar", "whiteouts"),
    ("device.tar", "device"),
    ("linkout.tar", "link-out"),
];

const IGNORE: &[&str] = &[
    "*.md",
    "d/sub",
    "!d/sub/three.txt",
    "**/*.bak",
    "!a.txt",
    "x/*/z",
    "# comment",
    "  ro.dat  ",
    "/empty",
    "link-*",
    "!link-file",
    "",
    "!nope",
    "d/./sub/../two.md",
    "**/deep",
    ".*",
    "!.hid",
    "sp ace.txt",
    "br[[]0].txt",
    "q\\?.txt",
    "hl",
    "**",
    "!**/*.txt",
    "!d",
    "*",
    "!*",
    "links/",
    "./zero",
    "../a.txt",
    "!t.*",
    "!b.sh",
    "[a-c]*",
    "!x/y",
];

/// What a case's context holds.
#[derive(Debug, Clone)]
pub struct Context {
    items: Vec<(&'static str, Kind)>,
    /// `.dockerignore`, if there is one.
    pub ignore: Option<String>,
}

impl Context {
    /// Chooses the entries of a case.
    pub fn choose(random: &mut Random) -> Self {
        let mut items = CORE.to_vec();
        items.extend(EXTRA.iter().filter(|_| random.chance(80)));
        items.extend(RARE.iter().filter(|_| random.chance(10)));
        let archive = |&(name, recipe): &(&'static str, &'static str)| (name, Archive(recipe));
        items.extend(ARCHIVES.iter().filter(|_| random.chance(60)).map(archive));
        items.extend(BROKEN.iter().filter(|_| random.chance(20)).map(archive));
        let there: Vec<&str> = items.iter().map(|(path, _)| *path).collect();
        items.retain(|(_, kind)| match kind {
            Hard(target) => there.contains(target),
            _ => true,
        });
        let ignore = random.chance(20).then(|| {
            let count = 1 + random.below(4);
            let lines: Vec<&str> = (0..count).map(|_| random.pick(IGNORE)).collect();
            let end = if random.chance(20) { "" } else { "\n" };
            lines.join("\n") + end
        });
        Self { items, ignore }
    }

    /// Paths that a COPY can name.
    pub fn paths(&self) -> Vec<&'static str> {
        self.items.iter().map(|(path, _)| *path).collect()
    }

    /// Archives among them.
    pub fn archives(&self) -> Vec<&'static str> {
        let archives = self
            .items
            .iter()
            .filter(|item| matches!(item.1, Archive(_)));
        archives.map(|(path, _)| *path).collect()
    }

    /// Writes the folder.
    pub fn write(&self, root: &Path) -> Result<(), String> {
        std::fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
        for (path, kind) in &self.items {
            put(root, path, *kind).map_err(|error| format!("context {path:?}: {error}"))?;
        }
        if let Some(ignore) = &self.ignore {
            std::fs::write(root.join(".dockerignore"), ignore).map_err(|e| e.to_string())?;
        }
        set_times(root).map_err(|error| format!("times of {}: {error}", root.display()))
    }
}

fn put(root: &Path, path: &str, kind: Kind) -> std::io::Result<()> {
    let at = root.join(path);
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mode = match kind {
        File(content, mode) => {
            std::fs::write(&at, content)?;
            mode
        }
        Archive(recipe) => {
            std::fs::write(&at, archive::bytes(recipe)?)?;
            0o644
        }
        Dir(mode) => {
            std::fs::create_dir_all(&at)?;
            mode
        }
        Link(target) => return symlink(target, &at),
        Hard(target) => return std::fs::hard_link(root.join(target), &at),
        Fifo => {
            rustix::fs::mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
            0o640
        }
    };
    match path {
        "xattr.txt" => rustix::fs::setxattr(&at, "user.kiln", b"value", XattrFlags::empty())?,
        "owned.txt" => std::os::unix::fs::chown(&at, Some(1234), Some(5678))?,
        _ => {}
    }
    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode))
}

/// Sets all times below and of a folder, children first.
fn set_times(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            set_times(&entry?.path())?;
        }
    }
    let time = Timespec {
        tv_sec: i64::try_from(TIME).unwrap_or(0),
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
