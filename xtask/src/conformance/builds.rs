//! Build cases: BuildKit's integration tests, fresh examples and Buildah's conformance cases, replayed with the
//! `kiln` binary and compared level by level with BuildKit's recorded answers.
//!
//! L1 exit status, L2 merged tree, L3 config: the pass mark. L4 layer split, L5 history, L6 error text: reported apart.

use super::SuiteResult;
use super::fixture::{self, Texts};
use super::harness::Case;
use super::image::{self, Entry, Image};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mount points that BuildKit leaves behind in images that lack them; Kiln leaves none.
const STUBS: &[&str] = &[
    "proc",
    "sys",
    "dev",
    "etc/resolv.conf",
    "etc/hosts",
    "etc/hostname",
];

/// Begins the reason of a case whose data the corpus does not have: it is named, not counted.
pub const LEFT_OUT: &str = "left out: ";

/// One build of a case.
#[derive(Debug, Default)]
pub struct Build {
    /// Arguments of `kiln build` apart from the output that is compared.
    pub args: Vec<String>,
    /// Environment on top of ours.
    pub env: Vec<(String, String)>,
    /// Folder it runs in.
    pub cwd: PathBuf,
    /// Whether it must succeed.
    pub ok: bool,
    /// Recorded image; null where nothing is recorded.
    pub golden: Value,
    /// Texts that the error must hold.
    pub error_contains: Vec<String>,
    /// Whether files hold what is another thing in each run (random bytes): only content is not compared then.
    pub random: bool,
    /// Text of the recorded history that stands for another one of ours (addresses of servers).
    pub alias: Option<(String, String)>,
    /// Folder of the store beside the contexts, if it is not that of the other builds.
    pub store: Option<String>,
}

/// What a build left.
#[derive(Debug)]
pub struct Ran {
    /// The image, when it succeeded.
    pub image: Option<Image>,
    /// What it printed.
    pub output: String,
}

/// The suites of one corpus file.
#[derive(Debug)]
pub struct Levels {
    pass: SuiteResult,
    layers: SuiteResult,
    history: SuiteResult,
    errors: SuiteResult,
}

impl Levels {
    /// Empty ones under this name.
    pub fn new(name: &str) -> Self {
        let suite = |level: &str| SuiteResult {
            name: format!("{name} {level}"),
            ..SuiteResult::default()
        };
        Self {
            pass: suite("L1-L3"),
            layers: suite("L4 layers"),
            history: suite("L5 history"),
            errors: suite("L6 errors"),
        }
    }

    /// All four.
    pub fn into_results(self) -> Vec<SuiteResult> {
        vec![self.pass, self.layers, self.history, self.errors]
    }

    /// Adds what another one counted.
    pub fn absorb(&mut self, other: Self) {
        let pairs = self.iter_mut().into_iter().zip(other.into_results());
        for (mine, theirs) in pairs {
            mine.passed += theirs.passed;
            mine.total += theirs.total;
            mine.failures.extend(theirs.failures);
            mine.left_out.extend(theirs.left_out);
        }
    }

    fn iter_mut(&mut self) -> [&mut SuiteResult; 4] {
        [
            &mut self.pass,
            &mut self.layers,
            &mut self.history,
            &mut self.errors,
        ]
    }

    /// Counts a case that cannot be run.
    pub fn fail(&mut self, name: &str, reason: &str) {
        if let Some(reason) = reason.strip_prefix(LEFT_OUT) {
            self.pass
                .left_out
                .push((name.to_owned(), reason.to_owned()));
            return;
        }
        self.pass.total += 1;
        self.pass.failures.push(format!("{name}: {reason}"));
    }

    /// Counts a case: all its builds must pass, and `check` after them.
    pub fn case(
        &mut self,
        case: Case<'_>,
        builds: &[Build],
        check: impl FnOnce(&[Ran]) -> Result<(), String>,
    ) {
        self.pass.total += 1;
        let mut ran = Vec::new();
        let mut result = Ok(());
        for (number, build) in builds.iter().enumerate() {
            match self.build(case, build, number) {
                Ok(done) => ran.push(done),
                Err(reason) => {
                    result = Err(format!("build {number}: {reason}"));
                    break;
                }
            }
        }
        match result.and_then(|()| check(&ran)) {
            Ok(()) => self.pass.passed += 1,
            Err(reason) => self.pass.failures.push(format!("{}: {reason}", case.name)),
        }
    }

    fn build(&mut self, case: Case<'_>, build: &Build, number: usize) -> Result<Ran, String> {
        let layout = case.dir.join(format!("image{number}"));
        let mut command = Command::new(&case.bases.kiln);
        command
            .current_dir(&build.cwd)
            .args(["build", "--progress", "plain", "--root"])
            .arg(case.dir.join(build.store.as_deref().unwrap_or("store")))
            .arg("-o")
            .arg(format!("type=oci,dest={},tar=false", layout.display()))
            .args(&build.args)
            .env_remove("SOURCE_DATE_EPOCH")
            .envs(build.env.iter().map(|(key, value)| (key, value)));
        let output = command
            .output()
            .map_err(|error| format!("could not start kiln: {error}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if stderr.contains("panicked at") {
            return Err(format!("panic: {}", last_lines(&stderr)));
        }
        if output.status.success() != build.ok {
            let expected = if build.ok { "success" } else { "failure" };
            return Err(format!(
                "expected {expected}, got {}: {}",
                output.status,
                last_lines(&stderr)
            ));
        }
        if !build.ok {
            self.errors(case.name, build, &stderr);
            return Ok(Ran {
                image: None,
                output: stderr,
            });
        }
        let ours = image::read(&layout)?;
        if !build.golden["layers"].is_null() {
            self.compare(case, build, &ours)?;
        }
        Ok(Ran {
            image: Some(ours),
            output: stderr,
        })
    }

    fn errors(&mut self, name: &str, build: &Build, stderr: &str) {
        if build.error_contains.is_empty() {
            return;
        }
        self.errors.total += 1;
        match build
            .error_contains
            .iter()
            .find(|text| !stderr.contains(text.as_str()))
        {
            None => self.errors.passed += 1,
            Some(text) => self
                .errors
                .failures
                .push(format!("{name}: no {text:?} in {}", last_lines(stderr))),
        }
    }

    fn compare(&mut self, case: Case<'_>, build: &Build, ours: &Image) -> Result<(), String> {
        let golden = &build.golden;
        // The base is the same on both sides: what is compared is what the build adds.
        let mut theirs: Vec<Vec<(String, Entry)>> = Vec::new();
        let recorded = golden["layers"].as_array().into_iter().flatten();
        for (number, layer) in recorded.enumerate() {
            theirs.push(match layer.as_str() {
                Some(_) => case
                    .bases
                    .known_layer(ours.layers.get(number))
                    .ok_or("the first layer is not the base's")?,
                None => image::golden_layer(layer),
            });
        }
        // Compressed archives of the contexts are made anew, with other bytes than the recorded ones.
        for (theirs, ours) in theirs.iter_mut().zip(&ours.layers) {
            let archives = theirs
                .iter_mut()
                .filter(|(path, _)| path.ends_with(".gz") || path.ends_with(".tgz"));
            archives.for_each(|entry| forget_content(std::slice::from_mut(entry), ours));
        }
        if build.random {
            theirs
                .iter_mut()
                .zip(&ours.layers)
                .for_each(|(theirs, ours)| forget_content(theirs, ours));
        }
        self.history(case.name, build, ours);
        self.layers(case.name, &theirs, ours);
        same_tree(&theirs, &ours.layers)?;
        let (theirs, ours) = (normal(&golden["config"]), normal(&ours.config));
        if theirs != ours {
            return Err(format!("config differs: BuildKit {theirs}, ours {ours}"));
        }
        Ok(())
    }

    fn history(&mut self, name: &str, build: &Build, ours: &Image) {
        let line = |entry: &Value| {
            let empty = if entry["empty_layer"] == Value::Bool(true) {
                " (empty)"
            } else {
                ""
            };
            let text = entry["created_by"].as_str().unwrap_or_default();
            let text = match &build.alias {
                Some((ours, theirs)) => text.replace(ours.as_str(), theirs),
                None => text.to_owned(),
            };
            format!("{text}{empty}")
        };
        let theirs: Vec<String> = build.golden["history"]
            .as_array()
            .into_iter()
            .flatten()
            .map(line)
            .filter(|l| !l.starts_with("base "))
            .collect();
        let ours: Vec<String> = ours
            .history
            .iter()
            .map(line)
            .filter(|l| !l.starts_with("base "))
            .collect();
        self.history.total += 1;
        if theirs == ours {
            self.history.passed += 1;
        } else {
            self.history
                .failures
                .push(format!("{name}: BuildKit {theirs:?}, ours {ours:?}"));
        }
    }

    fn layers(&mut self, name: &str, theirs: &[Vec<(String, Entry)>], ours: &Image) {
        self.layers.total += 1;
        let sorted = |layers: &[Vec<(String, Entry)>]| -> Vec<image::Tree> {
            layers
                .iter()
                .map(|layer| {
                    layer
                        .iter()
                        .filter(|(path, _)| !STUBS.contains(&path.as_str()))
                        .cloned()
                        .collect()
                })
                .collect()
        };
        let (theirs, ours) = (sorted(theirs), sorted(&ours.layers));
        if theirs == ours {
            self.layers.passed += 1;
            return;
        }
        let different = theirs.iter().zip(&ours).position(|(a, b)| a != b);
        let detail = match different {
            Some(number) => format!(
                "layer {number}: {}",
                difference(&theirs[number], &ours[number])
            ),
            None => format!("{} layers, ours {}", theirs.len(), ours.len()),
        };
        self.layers.failures.push(format!("{name}: {detail}"));
    }
}

/// Takes over the content of our files.
fn forget_content(theirs: &mut [(String, Entry)], ours: &[(String, Entry)]) {
    for (path, entry) in theirs {
        if let Some((_, other)) = ours.iter().find(|(other, _)| other == path)
            && other.kind == "file"
        {
            entry.sha256.clone_from(&other.sha256);
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

fn same_tree(theirs: &[Vec<(String, Entry)>], ours: &[Vec<(String, Entry)>]) -> Result<(), String> {
    let (mut theirs, mut ours) = (image::merge(theirs), image::merge(ours));
    for stub in STUBS {
        if theirs.contains_key(*stub) != ours.contains_key(*stub) {
            theirs.remove(*stub);
            ours.remove(*stub);
        }
    }
    if theirs == ours {
        Ok(())
    } else {
        Err(format!("tree differs: {}", difference(&theirs, &ours)))
    }
}

fn difference(theirs: &image::Tree, ours: &image::Tree) -> String {
    let mut texts = Vec::new();
    for (path, entry) in theirs {
        match ours.get(path) {
            None => texts.push(format!("missing {path}")),
            Some(other) if other != entry => {
                texts.push(format!("{path}: BuildKit {entry:?}, ours {other:?}"));
            }
            Some(_) => {}
        }
    }
    texts.extend(
        ours.keys()
            .filter(|path| !theirs.contains_key(*path))
            .map(|path| format!("extra {path}")),
    );
    texts.truncate(3);
    texts.join("; ")
}

/// Drops what is empty: `null`, `""`, `[]`, `{}` and absence mean the same in a config.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), normal(value)));
            // Values of ExposedPorts and Volumes are empty objects that mean something: keep them.
            Value::Object(
                kept.filter(|(_, value)| !value.is_null() && value.as_str() != Some(""))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

/// Makes the contexts of a case under `dir`.
pub fn contexts(dir: &Path, contexts: &Value, texts: &Texts) -> Result<(), String> {
    for (name, ops) in contexts.as_object().into_iter().flatten() {
        fixture::context(&dir.join(name), ops, texts)?;
    }
    Ok(())
}

/// What an error of ours must hold of BuildKit's recorded message: the message without the prefixes that name
/// BuildKit's own steps, its hint apart, and nothing of what the recorded run's registry said.
pub fn error_tail(error: &Value) -> Vec<String> {
    let text = error[0].as_str().unwrap_or_default();
    let mut text = text.rsplit("failed to solve: ").next().unwrap_or(text);
    if let Some((_, rest)) = text.rsplit_once("::") {
        text = rest.split_once(": ").map_or(rest, |(_, path)| path);
    }
    if let Some(rest) = text.strip_prefix("dockerfile parse error on line ") {
        text = rest.split_once(": ").map_or(rest, |(_, message)| message);
    }
    const METADATA: &str = "failed to resolve source metadata for ";
    if let Some(start) = text.find(METADATA) {
        let name = &text[start + METADATA.len()..];
        let name = name.split(": ").next().unwrap_or(name);
        return vec![format!("{METADATA}{name}")];
    }
    let (message, hint) = match text.split_once(" (did you mean ") {
        Some((message, hint)) => (message, Some(hint.trim_end_matches(')'))),
        None => (text, None),
    };
    [Some(message), hint]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
