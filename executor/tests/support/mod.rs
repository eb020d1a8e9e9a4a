//! Folders and layers as lists of lines, for tables of cases.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod table;

use executor::context::{Context, IgnoreRules};
use executor::copy::{self, CopySourceTree};
use executor::layer::{self, Written};
use executor::snapshot::{Snapshot, View};
use executor::space::Space;
use planner::plan::{CopyFrom, CopyOp, CopySource};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use store::Store;
use testkit::Scratch;

/// A store and a folder for contexts, both temporary.
pub struct Bench {
    pub dir: Scratch,
    pub space: Space,
}

impl Bench {
    pub fn new() -> Self {
        Self::at(Scratch::new())
    }

    /// For tests of very many files.
    pub fn quick() -> Self {
        Self::at(Scratch::quick())
    }

    fn at(dir: Scratch) -> Self {
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self {
            space: Space::new(store),
            dir,
        }
    }

    /// A context folder made of lines.
    pub fn folder(&self, name: &str, lines: &str) -> std::path::PathBuf {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        make(&folder, lines);
        folder
    }

    pub fn context(&self, name: &str, lines: &str, rules: &str) -> Context {
        let folder = self.folder(name, lines);
        self.open(&folder, rules)
    }

    pub fn open(&self, folder: &Path, rules: &str) -> Context {
        let rules = IgnoreRules::parse(rules).unwrap();
        Context::open(
            folder,
            rules,
            Some(folder.join(".dockerignore")),
            self.space.store(),
        )
        .unwrap()
    }

    /// A root file system with one layer made of lines, owners included.
    pub fn base(&self, lines: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        if lines.trim().is_empty() {
            return snapshot;
        }
        let (plain, owned): (Vec<&str>, Vec<&str>) =
            lines.lines().partition(|line| !line.contains(" @"));
        let context = self.context(&format!("base{}", unique()), &plain.join("\n"), "");
        let all = op(".", "/");
        let written = self.run(&all, &Snapshot::default(), &context).unwrap();
        snapshot.layers.push(written.diff_id);
        for line in owned {
            let (line, owner) = line.split_once(" @").unwrap();
            let context = self.context(&format!("base{}", unique()), line, "");
            let mut all = op(".", "/");
            all.chown = Some(owner.to_owned());
            let written = self.run(&all, &snapshot, &context).unwrap();
            snapshot.layers.push(written.diff_id);
        }
        snapshot
    }

    pub fn run(
        &self,
        op: &CopyOp,
        base: &Snapshot,
        context: &Context,
    ) -> Result<Written, executor::Error> {
        copy::copy(&self.space, op, base, CopySourceTree::Context(context))
    }

    /// The same from the list that the key was made of.
    pub fn run_listed(
        &self,
        op: &CopyOp,
        base: &Snapshot,
        context: &Context,
    ) -> Result<Written, executor::Error> {
        let (_, reads) = copy::source_digest(op, context)?;
        let source = CopySourceTree::Context(context);
        let listed = copy::Listed {
            reads: &reads,
            stream_from: 0,
        };
        copy::copy_listed(&self.space, op, base, source, false, Some(listed))
    }

    pub fn view(&self, snapshot: &Snapshot) -> View {
        let files: Vec<_> = snapshot
            .layers
            .iter()
            .map(|layer| layer::readable(&self.space, layer).unwrap())
            .collect();
        View::load(&files).unwrap()
    }

    /// The entries of a layer's tar.
    pub fn entries(&self, written: &Written) -> Vec<String> {
        let tar = layer::readable(&self.space, &written.diff_id)
            .unwrap()
            .tar
            .unwrap();
        lines_of_tar(std::fs::File::open(tar).unwrap())
    }
}

fn unique() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A COPY of one source.
pub fn op(source: &str, dest: &str) -> CopyOp {
    ops(&[source], dest)
}

/// A COPY of several sources.
pub fn ops(sources: &[&str], dest: &str) -> CopyOp {
    CopyOp {
        base: Some(0),
        from: CopyFrom::Context("context".to_owned()),
        sources: sources
            .iter()
            .map(|source| CopySource::Path((*source).to_owned()))
            .collect(),
        dest: dest.to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        unpack: None,
        add: false,
    }
}

/// Makes files: `f PATH MODE CONTENT` (`\n` in it is a line end), `d PATH MODE`, `l PATH TARGET`, `h PATH EXISTING`, `p PATH`. Times are all the same.
pub fn make(folder: &Path, lines: &str) {
    let mut directories = vec![folder.to_path_buf()];
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        let (kind, path) = (words.next().unwrap(), folder.join(words.next().unwrap()));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = |text: Option<&str>| u32::from_str_radix(text.unwrap_or("644"), 8).unwrap();
        match kind {
            "f" => {
                let mode = mode(words.next());
                let content = words.next().unwrap_or_default().replace("\\n", "\n");
                std::fs::write(&path, content).unwrap();
                set_time(&path, 1_000_000_000);
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            }
            "d" => {
                std::fs::create_dir_all(&path).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode(words.next())))
                    .unwrap();
                directories.push(path);
            }
            "l" => std::os::unix::fs::symlink(words.next().unwrap(), &path).unwrap(),
            "h" => std::fs::hard_link(folder.join(words.next().unwrap()), &path).unwrap(),
            "p" => {
                rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from(0o644))
                    .unwrap();
            }
            other => panic!("no such kind: {other}"),
        }
    }
    for directory in directories {
        set_time(&directory, 1_000_000_000);
    }
}

pub fn set_time(path: &Path, seconds: i64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
    std::fs::File::open(path)
        .and_then(|file| file.set_modified(time))
        .unwrap();
}

/// `f PATH MODE UID:GID CONTENT`, `d`, `l PATH UID:GID -> TARGET`, `h PATH => TARGET`, `p`, `c`, `b`; whiteouts as files.
pub fn lines_of_tar(tar: impl Read) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let mut lines = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let path = String::from_utf8_lossy(path.as_os_str().as_bytes())
            .trim_end_matches('/')
            .to_owned();
        let header = entry.header();
        let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
        let mode = header.mode().unwrap();
        let link = entry
            .link_name()
            .unwrap()
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default();
        lines.push(match header.entry_type() {
            tar::EntryType::Directory => format!("d {path} {mode:o} {owner}"),
            tar::EntryType::Symlink => format!("l {path} {owner} -> {link}"),
            tar::EntryType::Link => format!("h {path} => {link}"),
            tar::EntryType::Fifo => format!("p {path} {mode:o} {owner}"),
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let content = String::from_utf8_lossy(&content);
                format!("f {path} {mode:o} {owner} {}", content.replace('\n', "\\n"))
                    .trim_end()
                    .to_owned()
            }
            other => format!("{other:?} {path} {mode:o} {owner}"),
        });
    }
    lines
}

/// Lines of an expectation.
pub fn expected(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// An error with its causes, and its help.
pub fn message(error: &executor::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    if let executor::Error::Copy {
        help: Some(help), ..
    } = error
    {
        text = format!("{text} ({help})");
    }
    text
}
