//! Build cases: BuildKit's integration tests, fresh examples and Buildah's conformance cases, replayed with the
//! `kiln` binary and compared level by level with BuildKit's recorded answers.
//!
//! L1 exit status, L2 merged tree, L3 config: the pass mark. L4 layer split, L5 history, L6 error text: reported apart.

use super::SuiteResult;
use super::fixture::{self, Bases};
use super::image::{self, Entry, Image};
use serde_json::Value;
use std::path::Path;
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
pub const LEFT_OUT: &str = "left out:";

/// One build of a case.
#[derive(Debug, Default)]
pub struct Build {
    /// Arguments of `kiln build` apart from the output that is compared.
    pub args: Vec<String>,
    /// Folder it runs in.
    pub cwd: std::path::PathBuf,
    /// Whether it must succeed.
    pub ok: bool,
    /// Recorded image.
    pub golden: Value,
    /// Texts that the error must hold.
    pub error_contains: Vec<String>,
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

    /// Counts a case that cannot be run.
    pub fn fail(&mut self, name: &str, reason: &str) {
        if let Some(reason) = reason.strip_prefix(LEFT_OUT) {
            println!("left out of {}: {name}:{reason}", self.pass.name);
            return;
        }
        self.pass.total += 1;
        self.pass.failures.push(format!("{name}: {reason}"));
    }

    /// Counts a case: all its builds must pass, and `check` after them.
    pub fn case(
        &mut self,
        name: &str,
        builds: &[Build],
        bases: &Bases,
        store: &Path,
        check: impl FnOnce() -> Result<(), String>,
    ) {
        self.pass.total += 1;
        let mut result = Ok(());
        for (number, build) in builds.iter().enumerate() {
            let layout = store.with_extension(format!("out{number}"));
            result = self.build(name, build, bases, store, &layout);
            if result.is_err() {
                break;
            }
        }
        match result.and_then(|()| check()) {
            Ok(()) => self.pass.passed += 1,
            Err(reason) => self.pass.failures.push(format!("{name}: {reason}")),
        }
    }

    fn build(
        &mut self,
        name: &str,
        build: &Build,
        bases: &Bases,
        store: &Path,
        layout: &Path,
    ) -> Result<(), String> {
        let mut command = Command::new(&bases.kiln);
        command
            .current_dir(&build.cwd)
            .args(["build", "--progress", "plain", "--root"])
            .arg(store)
            .arg("-o")
            .arg(format!("type=oci,dest={},tar=false", layout.display()))
            .args(&build.args)
            .env_remove("SOURCE_DATE_EPOCH");
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
            self.errors(name, build, &stderr);
            return Ok(());
        }
        if build.golden["layers"].is_null() {
            return Ok(());
        }
        let ours = image::read(layout)?;
        self.compare(name, &build.golden, &ours, bases)
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

    fn compare(
        &mut self,
        name: &str,
        golden: &Value,
        ours: &Image,
        bases: &Bases,
    ) -> Result<(), String> {
        // The base is the same on both sides: what is compared is what the build adds.
        let mut theirs: Vec<Vec<(String, Entry)>> = Vec::new();
        for (number, layer) in golden["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            theirs.push(match layer.as_str() {
                Some(_) => bases
                    .known_layer(ours.layers.get(number))
                    .ok_or("the first layer is not the base's")?,
                None => image::golden_layer(layer),
            });
        }
        self.history(name, golden, ours);
        self.layers(name, &theirs, ours);
        same_tree(&theirs, &ours.layers)?;
        let (theirs, ours) = (normal(&golden["config"]), normal(&ours.config));
        if theirs != ours {
            return Err(format!("config differs: BuildKit {theirs}, ours {ours}"));
        }
        Ok(())
    }

    fn history(&mut self, name: &str, golden: &Value, ours: &Image) {
        let line = |entry: &Value| {
            let empty = if entry["empty_layer"] == Value::Bool(true) {
                " (empty)"
            } else {
                ""
            };
            format!(
                "{}{empty}",
                entry["created_by"].as_str().unwrap_or_default()
            )
        };
        let theirs: Vec<String> = golden["history"]
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

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

fn same_tree(theirs: &[Vec<(String, Entry)>], ours: &[Vec<(String, Entry)>]) -> Result<(), String> {
    let (mut theirs, mut ours) = (image::merge(theirs), image::merge(ours));
    // Compressed archives of the contexts are made anew, with other bytes than the recorded ones.
    for (path, entry) in &mut theirs {
        if (path.ends_with(".gz") || path.ends_with(".tgz"))
            && let Some(other) = ours.get_mut(path)
        {
            other.sha256.clone_from(&entry.sha256);
            entry.kind.clone_from(&other.kind);
        }
    }
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
pub fn contexts(dir: &Path, contexts: &Value) -> Result<(), String> {
    for (name, ops) in contexts.as_object().into_iter().flatten() {
        fixture::context(&dir.join(name), ops)?;
    }
    Ok(())
}
