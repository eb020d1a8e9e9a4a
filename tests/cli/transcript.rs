//! Transcripts of guides: the ```` ```console ```` blocks of a Markdown page, run as they stand, their outputs compared.
//!
//! All blocks of a page run in order, in one shell, in one empty folder with one empty store.
//! - `$ COMMAND` is run; lines that begin with `> ` continue it. What follows is what it prints, on both streams.
//! - A command must fail when a line shown begins with `ERROR:`, and must succeed otherwise.
//! - A line `...` stands for any lines, `...` within a line for any text. Runs of blanks count as one.
//! - `<digest>` stands for `sha256:` and 64 hexadecimal digits, `<id>` for 12 or 64 of them, `<size>` for a number of bytes
//!   with its unit. In a command they stand for what they last stood for in an output.
//! - Other programs than `kiln` are those of [`TOOLS`].
//!
//! Comments that a page does not show set the stage (`<!-- transcript: ... -->`):
//! - `base NAME`: the base image that ships is in the store under that name.
//! - `registry HOST:PORT [tls=CERT,KEY] [htpasswd=FILE] [deletes]`: from here on a docker-registry answers there. Its real
//!   port is put into the commands, and the port of the page into what they print. Files are those that the page has made.
//! - `needs PROGRAM...`: without them the page is not replayed.

use crate::support::program;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use testkit::{DockerRegistry, RegistrySetup, Scratch};

/// Programs that commands may use beside the shell's own and `kiln`. The last two are used by `kiln` itself.
const TOOLS: &[&str] = &[
    "base64",
    "cat",
    "chmod",
    "cp",
    "curl",
    "cut",
    "diff",
    "du",
    "find",
    "grep",
    "gzip",
    "head",
    "htpasswd",
    "ls",
    "mkdir",
    "mv",
    "openssl",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "tail",
    "tar",
    "tee",
    "tr",
    "uniq",
    "wc",
    "zstd",
    "newuidmap",
    "newgidmap",
];
/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a page asks for, in its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// `base`, `registry`, `needs` and what follows the word.
    Directive(String, Vec<String>),
    /// A command of a line, and what it prints.
    Command {
        line: usize,
        text: String,
        output: Vec<String>,
    },
}

/// Reads a page.
pub fn parse(page: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        let directive = line
            .trim()
            .strip_prefix("<!-- transcript:")
            .and_then(|rest| rest.strip_suffix("-->"));
        if let Some(directive) = directive.filter(|_| !inside) {
            let mut words = directive.split_whitespace().map(str::to_owned);
            items.push(Item::Directive(
                words.next().unwrap_or_default(),
                words.collect(),
            ));
            continue;
        }
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        if let Some(text) = line.strip_prefix("$ ") {
            items.push(Item::Command {
                line: number + 1,
                text: text.to_owned(),
                output: Vec::new(),
            });
            continue;
        }
        let Some(Item::Command { text, output, .. }) = items.last_mut() else {
            panic!("line {}: output without a command", number + 1);
        };
        match line.strip_prefix('>').filter(|_| output.is_empty()) {
            Some(more) => {
                text.push('\n');
                text.push_str(more.strip_prefix(' ').unwrap_or(more));
            }
            None => output.push(line.to_owned()),
        }
    }
    items
}

/// What placeholders last stood for.
pub type Captures = BTreeMap<&'static str, String>;

/// Whether an output is what was shown.
pub fn matches(shown: &[String], found: &[String], captures: &mut Captures) -> bool {
    let Some((first, rest)) = shown.split_first() else {
        return found.iter().all(|line| line.trim().is_empty());
    };
    if first.trim() == "..." {
        return (0..=found.len()).any(|skipped| {
            let mut tried = captures.clone();
            let fits = matches(rest, &found[skipped..], &mut tried);
            if fits {
                *captures = tried;
            }
            fits
        });
    }
    let Some((line, others)) = found.split_first() else {
        return shown.iter().all(|line| line.trim().is_empty());
    };
    matches_line(&blanks(first), &blanks(line), captures) && matches(rest, others, captures)
}

/// Runs of blanks as one, none at the end.
fn blanks(line: &str) -> String {
    let start = if line.starts_with([' ', '\t']) {
        " "
    } else {
        ""
    };
    format!(
        "{start}{}",
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    )
}

fn matches_line(shown: &str, found: &str, captures: &mut Captures) -> bool {
    if let Some(rest) = shown.strip_prefix("...") {
        let mut ends = found.char_indices().map(|(at, _)| at).chain([found.len()]);
        return ends.any(|at| matches_line(rest, &found[at..], captures));
    }
    for (name, length) in PLACEHOLDERS {
        let Some(rest) = shown.strip_prefix(name) else {
            continue;
        };
        let Some(length) = length(found) else {
            return false;
        };
        let fits = matches_line(rest, &found[length..], captures);
        if fits {
            // What stands further right was noted first.
            captures.insert(name, found[..length].to_owned());
        }
        return fits;
    }
    let mut chars = (shown.chars(), found.chars());
    match (chars.0.next(), chars.1.next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => matches_line(chars.0.as_str(), chars.1.as_str(), captures),
        _ => false,
    }
}

type Length = fn(&str) -> Option<usize>;

/// Placeholders, and how long a text at the start of a line is that each stands for.
const PLACEHOLDERS: [(&str, Length); 3] = [
    ("<digest>", |text| {
        let rest = text.strip_prefix("sha256:")?;
        (hex_length(rest) == 64).then_some(71)
    }),
    ("<id>", |text| {
        let length = hex_length(text);
        [12, 64].contains(&length).then_some(length)
    }),
    ("<size>", |text| {
        let number = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let rest = &text[number..];
        let unit = ["B", "kB", "KB", "MB", "GB", "KiB", "MiB", "GiB"];
        let unit = unit
            .iter()
            .find(|unit| rest.trim_start().starts_with(*unit))?;
        let blank = rest.len() - rest.trim_start().len();
        (number > 0).then_some(number + blank + unit.len())
    }),
];

fn hex_length(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_hexdigit).count()
}

/// A shell in a folder of its own, and the registries of the page.
struct Stage {
    scratch: Scratch,
    shell: Child,
    registries: Vec<(String, DockerRegistry)>,
    captures: Captures,
    commands: usize,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

impl Stage {
    fn new() -> Self {
        let scratch = Scratch::new();
        for folder in ["bin", "home", "run", "tmp", "work"] {
            fs::create_dir(scratch.join(folder)).unwrap();
        }
        let kiln = Path::new(env!("CARGO_BIN_EXE_kiln"));
        std::os::unix::fs::symlink(kiln, scratch.join("bin/kiln")).unwrap();
        for (name, path) in TOOLS.iter().filter_map(|name| Some((name, find(name)?))) {
            std::os::unix::fs::symlink(path, scratch.join("bin").join(name)).unwrap();
        }
        let mut command = program(&find("sh").expect("there is a shell"));
        command
            .env_clear()
            .env("PATH", scratch.join("bin"))
            .env("HOME", scratch.join("home"))
            .env("KILN_ROOT", scratch.join("store"))
            .env("XDG_RUNTIME_DIR", scratch.join("run"))
            .env("TMPDIR", scratch.join("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir(scratch.join("work"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            shell: command.spawn().unwrap(),
            scratch,
            registries: Vec::new(),
            captures: Captures::new(),
            commands: 0,
        }
    }

    /// Runs a text in the shell. Its status (`None` when the shell has ended) and output, as a page would show them.
    fn run(&mut self, text: &str) -> (Option<i32>, Vec<String>) {
        self.commands += 1;
        let path = |kind: &str| self.scratch.join(format!("{}.{kind}", self.commands));
        let [script, out, done, status] = ["sh", "out", "done", "status"].map(path);
        let mut text = text.to_owned();
        for (name, value) in &self.captures {
            text = text.replace(name, value);
        }
        for (shown, registry) in &self.registries {
            text = text.replace(shown.as_str(), &real(shown, registry));
        }
        fs::write(&script, text).unwrap();
        let [script, out_text, done_text, status_text] =
            [&script, &out, &done, &status].map(|path| path.display());
        let line = format!(
            ". {script} >{out_text} 2>&1 </dev/null; echo $? >{status_text}; mv {status_text} {done_text}\n"
        );
        let stdin = self.shell.stdin.as_mut().unwrap();
        let written = stdin
            .write_all(line.as_bytes())
            .and_then(|()| stdin.flush());
        let deadline = Instant::now() + PATIENCE;
        while written.is_ok() && !done.exists() && self.shell.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "a command hangs");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut output = fs::read_to_string(&out).unwrap_or_default();
        for (shown, registry) in &self.registries {
            output = output.replace(&real(shown, registry), shown);
            output = output.replace(&registry.host(), shown);
        }
        let status = fs::read_to_string(&done).ok();
        (
            status.and_then(|status| status.trim().parse().ok()),
            output.lines().map(str::to_owned).collect(),
        )
    }

    fn base(&mut self, name: &str) {
        let layout = testkit::busybox_layout();
        let command = format!(
            "kiln tag $(kiln load -q -i {} && kiln images -q) {name}",
            layout.display()
        );
        let (status, output) = self.run(&command);
        assert_eq!(status, Some(0), "{}", output.join("\n"));
    }

    fn registry(&mut self, words: &[String]) {
        let file = |name: &str| self.scratch.join("work").join(name);
        let mut setup = RegistrySetup::default();
        for word in &words[1..] {
            match word.split_once('=').unwrap_or((word, "")) {
                ("tls", files) => {
                    let (certificate, key) = files.split_once(',').expect("tls=CERT,KEY");
                    setup.tls = Some((file(certificate), file(key)));
                }
                ("htpasswd", name) => setup.htpasswd = Some(file(name)),
                ("deletes", _) => setup.deletes = true,
                _ => panic!("unknown setting of a registry: {word}"),
            }
        }
        let registry = DockerRegistry::start(&setup).expect("docker-registry was looked for");
        self.registries.push((words[0].clone(), registry));
    }
}

/// The page's host with the port that the registry really has.
fn real(shown: &str, registry: &DockerRegistry) -> String {
    let host = shown.rsplit_once(':').map_or(shown, |(host, _)| host);
    let real = registry.host();
    let port = real.rsplit_once(':').expect("a host has a port").1;
    format!("{host}:{port}")
}

/// A program on the path, or where administrators have theirs.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Replays a page. What differs is told for all of its commands; `Err` names the program that is missing.
pub fn replay(page: &str) -> Result<Vec<String>, String> {
    let items = parse(page);
    for item in &items {
        let needed = match item {
            Item::Directive(word, programs) if word == "needs" => programs.clone(),
            Item::Directive(word, _) if word == "registry" => vec!["docker-registry".to_owned()],
            _ => continue,
        };
        if let Some(missing) = needed.iter().find(|name| find(name).is_none()) {
            return Err(missing.clone());
        }
    }
    let mut stage = Stage::new();
    let mut differences = Vec::new();
    for item in &items {
        match item {
            Item::Directive(word, words) => match word.as_str() {
                "base" => stage.base(&words[0]),
                "registry" => stage.registry(words),
                "needs" => {}
                _ => panic!("unknown directive {word:?}"),
            },
            Item::Command { line, text, output } => {
                let (status, found) = stage.run(text);
                let fails = output.iter().any(|line| line.starts_with("ERROR:"));
                let fits = matches(output, &found, &mut stage.captures);
                if fits && status.is_some_and(|status| (status != 0) == fails) {
                    continue;
                }
                differences.push(format!(
                    "line {line}: {text}\n--- shown\n{}\n--- printed, status {status:?}\n{}\n",
                    output.join("\n"),
                    found.join("\n")
                ));
            }
        }
    }
    Ok(differences)
}
