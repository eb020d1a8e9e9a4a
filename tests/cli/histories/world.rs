//! All that a build is made of, as plain data, and how it is laid on a disk: a state is edited in place as people and
//! their editors do it, so that what a store remembers of the files has a chance to be wrong.

use super::kinds::Kind;
use super::random::Random;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How a file gets its new content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Written over the old content.
    InPlace,
    /// Written over it, and the time of the last change set back ("racy git").
    TimeKept,
    /// A new file, moved over the old one.
    Renamed,
}

/// An entry of the context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    File(Vec<u8>, u32, Way),
    Folder(u32),
    Link(String),
}

/// A piece of a text, with a number that it keeps over the edits of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    pub id: u64,
    pub text: String,
}

/// A stage: its `FROM`, and its instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    pub from: String,
    pub lines: Vec<Piece>,
}

/// A build of a state on another machine, with a checkout of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elsewhere {
    /// Its store is lost before.
    pub emptied: bool,
    /// While the first store's build runs.
    pub at_once: bool,
    pub flags: Vec<String>,
}

/// What one build gets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct World {
    /// What was done to the state before.
    pub edit: String,
    /// The context, but for the Dockerfile and the ignore file.
    pub files: BTreeMap<String, Node>,
    /// Done to the context first: from, to.
    pub moves: Vec<(String, String)>,
    pub stages: Vec<Stage>,
    pub ignore: Vec<Piece>,
    pub args: BTreeMap<String, String>,
    pub target: Option<usize>,
    /// What the whole history has.
    pub kinds: Vec<Kind>,
    pub platforms: Option<String>,
    /// A secret for the build on the used store.
    pub secret: u64,
    /// Times of the files are others, or all files are made anew; with Git's view their modes change too. The number
    /// says how.
    pub disturbed: Option<u64>,
    /// Whether an image with an inline cache is pushed from the used store.
    pub inline: bool,
    pub elsewhere: Option<Elsewhere>,
    /// More flags for the build on the used store.
    pub flags: Vec<String>,
    /// Whether `kiln prune` goes before, and its flags.
    pub prune: Option<Vec<String>>,
}

impl World {
    /// The Dockerfile's text.
    pub fn dockerfile(&self) -> String {
        let mut text = String::new();
        for (number, stage) in self.stages.iter().enumerate() {
            let _ = writeln!(text, "FROM {} AS s{number}", stage.from);
            for line in &stage.lines {
                let _ = writeln!(text, "{}", line.text);
            }
        }
        text
    }

    /// All files of the context folder.
    pub fn disk(&self) -> BTreeMap<String, Node> {
        let mut disk = BTreeMap::new();
        for (path, node) in &self.files {
            for (at, _) in path.match_indices('/') {
                disk.entry(path[..at].to_owned())
                    .or_insert(Node::Folder(0o755));
            }
            disk.insert(path.clone(), node.clone());
        }
        let text = |text: String| Node::File(text.into_bytes(), 0o644, Way::InPlace);
        disk.insert("Dockerfile".to_owned(), text(self.dockerfile()));
        if !self.ignore.is_empty() {
            let lines: Vec<&str> = self.ignore.iter().map(|line| line.text.as_str()).collect();
            disk.insert(".dockerignore".to_owned(), text(lines.join("\n")));
        }
        disk
    }

    /// Without its commands.
    pub fn without_commands(&mut self) {
        for stage in &mut self.stages {
            stage.lines.retain(|line| !line.text.contains("RUN "));
        }
    }

    /// Whether steps run although their results may be known.
    pub fn starts_over(&self) -> bool {
        self.prune.is_some() || self.flags.iter().any(|flag| flag.starts_with("--no-cache"))
    }

    /// Only what it is, and not what happens to it.
    pub fn quiet(self) -> Self {
        Self {
            moves: Vec::new(),
            disturbed: None,
            inline: false,
            elsewhere: None,
            flags: Vec::new(),
            prune: None,
            ..self
        }
    }

    /// As Git keeps it, where builds take it so.
    pub fn as_kept(&self) -> Self {
        let mut kept = self.clone();
        if self.kinds.contains(&Kind::Git) {
            for node in kept.files.values_mut() {
                match node {
                    Node::File(_, mode, _) if *mode & 0o100 == 0 => *mode = 0o644,
                    Node::File(_, mode, _) | Node::Folder(mode) => *mode = 0o755,
                    Node::Link(_) => {}
                }
            }
        }
        kept
    }

    /// All that a result may depend on.
    pub fn inputs(&self) -> String {
        let mut disk = self.as_kept().disk();
        for node in disk.values_mut() {
            if let Node::File(_, _, way) = node {
                *way = Way::InPlace;
            }
        }
        let platforms = self.platforms.as_deref();
        format!("{disk:?} {:?} {:?} {platforms:?}", self.args, self.target)
    }

    /// The state for a reader.
    pub fn shown(&self) -> String {
        let mut text = format!("{}\n", self.dockerfile());
        for (path, node) in &self.files {
            let line = match node {
                Node::File(bytes, mode, way) => format!(
                    "{path}: {} bytes {:?} mode {mode:o} {way:?}",
                    bytes.len(),
                    String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
                ),
                Node::Folder(mode) => format!("{path}/: mode {mode:o}"),
                Node::Link(target) => format!("{path} -> {target}"),
            };
            let _ = writeln!(text, "  {line}");
        }
        let ignore: Vec<&str> = self.ignore.iter().map(|line| line.text.as_str()).collect();
        let _ = writeln!(
            text,
            "  ignore {ignore:?}, args {:?}, target {:?}, moves {:?}, flags {:?}, prune {:?}",
            self.args, self.target, self.moves, self.flags, self.prune
        );
        let _ = writeln!(
            text,
            "  {:?}, platforms {:?}, disturbed {:?}, inline {:?}, {:?}",
            self.kinds, self.platforms, self.disturbed, self.inline, self.elsewhere
        );
        text
    }
}

/// Moves what lies at a path, and below it, in a list of files.
pub fn move_files(files: &mut BTreeMap<String, Node>, from: &str, to: &str) {
    let below = format!("{from}/");
    let moved: Vec<String> = files
        .keys()
        .filter(|path| *path == from || path.starts_with(&below))
        .cloned()
        .collect();
    for path in moved {
        let node = files.remove(&path).unwrap();
        files.insert(format!("{to}{}", &path[from.len()..]), node);
    }
}

/// Makes the context folder what `new` says; it is what `old` said.
pub fn lay_out(dir: &Path, old: Option<&World>, new: &World) {
    let mut has = old.map(World::disk).unwrap_or_default();
    fs::create_dir_all(dir).unwrap();
    for (from, to) in &new.moves {
        if fs::rename(dir.join(from), dir.join(to)).is_ok() {
            let below = format!("{to}/");
            has.retain(|path, _| path != to && !path.starts_with(&below));
            move_files(&mut has, from, to);
        }
    }
    let wants = new.disk();
    let kind = std::mem::discriminant::<Node>;
    for (path, node) in has.clone().iter().rev() {
        if wants.get(path).map(kind) == Some(kind(node)) {
            continue;
        }
        has.remove(path);
        let path = dir.join(path);
        if matches!(node, Node::Folder(_)) {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    for (path, node) in &wants {
        if has.get(path) != Some(node) {
            put(&dir.join(path), node, has.get(path));
        }
    }
    if let Some(seed) = new.disturbed {
        let git = new.kinds.contains(&Kind::Git);
        disturb(dir, &wants, git, &mut Random::new(seed, 0));
    }
}

/// Changes what no result depends on: times, the order in which files were made, and modes if Git does not keep them.
fn disturb(dir: &Path, nodes: &BTreeMap<String, Node>, git: bool, random: &mut Random) {
    let mut nodes: Vec<(&String, &Node)> = nodes.iter().collect();
    let all = random.chance(50);
    if all {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                fs::remove_dir_all(entry.path()).unwrap();
            } else {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        // Folders stay before what they hold.
        nodes.sort_by_cached_key(|(path, _)| (path.matches('/').count(), random.next()));
        for (path, node) in &nodes {
            put(&dir.join(path), node, None);
        }
    }
    for (path, node) in nodes {
        let path = dir.join(path);
        if matches!(node, Node::Link(_)) || !(all || random.chance(40)) {
            continue;
        }
        if git {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            let noise = [0, 0o022, 0o055, 0o077, 0o002, 0o4050, 0o2000, 0o1005][random.below(8)];
            let mode = mode & 0o700 | noise;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let age = Duration::from_secs(random.below(100_000_000) as u64);
        let file = fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
}

fn put(path: &Path, node: &Node, old: Option<&Node>) {
    match node {
        Node::File(bytes, mode, way) => {
            let kept = (*way == Way::TimeKept && old.is_some())
                .then(|| fs::metadata(path).unwrap().modified().unwrap());
            let same = matches!(old, Some(Node::File(old, ..)) if old == bytes);
            if *way == Way::Renamed {
                let beside = path.with_file_name(".new");
                fs::write(&beside, bytes).unwrap();
                fs::rename(&beside, path).unwrap();
            } else if !same {
                fs::write(path, bytes).unwrap();
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
            if let Some(time) = kept {
                set_time(path, time);
            }
        }
        Node::Folder(mode) => {
            if old.is_none() {
                fs::create_dir(path).unwrap();
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        Node::Link(target) => {
            if old.is_some() {
                fs::remove_file(path).unwrap();
            }
            symlink(target, path).unwrap();
        }
    }
}

fn set_time(path: &Path, time: SystemTime) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}
