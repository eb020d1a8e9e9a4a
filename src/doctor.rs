//! What `kiln doctor` says: facts about this place judged, and shown as lines or as JSON. Nothing is tried here.

pub mod cluster;

use sandbox::{Fact, IdMapping, Mode, NetworkKind, RootKind};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a build here would get.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// How commands are isolated, or why they cannot be.
    pub sandbox: Result<Granted, String>,
    /// Whether Kiln is root.
    pub is_root: bool,
}

/// What the sandbox came to when it was started.
#[derive(Clone, Debug)]
pub struct Granted {
    /// How commands are isolated.
    pub mode: Mode,
    /// How ids are mapped.
    pub ids: IdMapping,
    /// How root file systems are put together.
    pub root: RootKind,
    /// The network that commands get by default, or why they get none.
    pub network: Result<NetworkKind, String>,
    /// What a build would be told.
    pub notes: Vec<String>,
}

/// How a fact is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It works.
    Works,
    /// It does not, and would be better if it did.
    Missing,
    /// It does not, and makes no difference here.
    NotNeeded,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Works => "ok",
            Self::Missing => "missing",
            Self::NotNeeded => "not needed",
        }
    }
}

/// What was found, with what a build would get.
#[derive(Debug)]
pub struct Report {
    facts: Vec<Fact>,
    verdict: Verdict,
}

impl Report {
    /// Of these facts.
    pub fn new(facts: Vec<Fact>, verdict: Verdict) -> Self {
        Self { facts, verdict }
    }

    /// Whether RUN works with namespaces.
    pub fn is_isolated(&self) -> bool {
        matches!(&self.verdict.sandbox, Ok(granted) if granted.mode != Mode::Chroot)
    }

    fn works(&self, id: &str) -> bool {
        self.facts.iter().any(|fact| fact.id == id && fact.works)
    }

    /// How a fact counts, given the others.
    fn state(&self, fact: &Fact) -> State {
        if fact.works {
            return State::Works;
        }
        let granted = self.verdict.sandbox.as_ref().ok();
        let mode = granted.map(|granted| granted.mode);
        let has_namespaces = matches!(mode, Some(Mode::Full | Mode::Nested));
        let needed = match fact.id.as_str() {
            "subuid" | "subgid" | "newuidmap" | "newgidmap" => {
                !self.verdict.is_root && self.works("user-namespace")
            }
            "id-mapped-mounts" => self.verdict.is_root,
            "chroot" => !has_namespaces,
            "mknod" => self.verdict.is_root,
            "fuse-overlayfs" | "fuse-device" | "sysfs" => false,
            "reflink" => !self.works("overlay"),
            "overlay-many" => self.works("overlay"),
            "seccomp-notify" => {
                self.verdict.is_root || granted.is_some_and(|one| one.ids == IdMapping::Single)
            }
            "landlock" => !has_namespaces,
            "slirp4netns" => !self.works("pasta"),
            "binfmt-namespace" => !self.works("binfmt"),
            "binfmt" => !self.works("binfmt-namespace"),
            _ => true,
        };
        if needed {
            State::Missing
        } else {
            State::NotNeeded
        }
    }

    /// The limits that `--memory` and the like can set.
    fn limits(&self) -> Vec<&'static str> {
        [
            ("memory-limit", "memory"),
            ("pids-limit", "processes"),
            ("cpu-limit", "processors"),
        ]
        .into_iter()
        .filter(|(id, _)| self.works(id))
        .map(|(_, name)| name)
        .collect()
    }

    /// One line a fact, and the verdict.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for fact in &self.facts {
            let state = self.state(fact);
            let _ = writeln!(text, "{:<11} {}", state.name(), line(fact, state));
        }
        text.push('\n');
        for (name, value) in self.verdict_lines() {
            let _ = writeln!(text, "{name:<11} {value}");
        }
        text
    }

    fn verdict_lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        match &self.verdict.sandbox {
            Err(why) => lines.push(("RUN", format!("not possible: {why}"))),
            Ok(granted) => {
                lines.push(("RUN", format!("isolation {}", granted.mode)));
                lines.push(("ids", ids(granted.ids).to_owned()));
                lines.push(("roots", root(granted.root).to_owned()));
                lines.push(("network", network(&granted.network)));
            }
        }
        let limits = self.limits();
        let limits = if limits.is_empty() {
            "none can be set".to_owned()
        } else {
            limits.join(", ")
        };
        lines.push(("limits", limits));
        if let Ok(granted) = &self.verdict.sandbox {
            lines.extend(granted.notes.iter().map(|note| ("note", note.clone())));
        }
        lines
    }

    /// All of it for programs.
    pub fn json(&self) -> Value {
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|fact| {
                json!({
                    "id": fact.id,
                    "name": fact.name,
                    "state": self.state(fact).name().replace(' ', "-"),
                    "tried": fact.tried,
                    "found": fact.found,
                    "errno": fact.errno,
                    "error": fact.errno.map(error_text),
                    "fix": fact.fix,
                })
            })
            .collect();
        let granted = self.verdict.sandbox.as_ref().ok();
        json!({
            "verdict": {
                "works": self.is_isolated(),
                "isolation": granted.map(|granted| granted.mode.to_string()),
                "ids": granted.map(|granted| granted.ids.to_string()),
                "roots": granted.map(|granted| root(granted.root)),
                "network": granted.map(|granted| network(&granted.network)),
                "limits": self.limits(),
                "notes": granted.map(|granted| granted.notes.clone()).unwrap_or_default(),
                "error": self.verdict.sandbox.as_ref().err(),
            },
            "facts": facts,
        })
    }
}

/// A fact on one line: what it is, what was found, the error, and what would change it where that matters.
fn line(fact: &Fact, state: State) -> String {
    let mut text = fact.name.clone();
    let mut add = |part: &str| {
        if !part.is_empty() {
            text.push_str(": ");
            text.push_str(part);
        }
    };
    if !fact.works && fact.errno.is_some() {
        add(&fact.tried);
    }
    add(&fact.found);
    if let Some(errno) = fact.errno {
        add(&error_text(errno));
    }
    if state == State::Missing && !fact.fix.is_empty() {
        let _ = write!(text, " (fix: {})", fact.fix);
    }
    text
}

fn error_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

fn ids(mapping: IdMapping) -> &'static str {
    match mapping {
        IdMapping::Idmapped => "all, mapped to ids that the host does not use",
        IdMapping::Subordinate => "the user's subordinate ids",
        IdMapping::Single => "only the user's own",
        IdMapping::Host => "the same as around Kiln",
    }
}

fn network(made: &Result<NetworkKind, String>) -> String {
    match made {
        Ok(NetworkKind::Program(program)) => format!("the build's own, through {}", program.name()),
        Ok(NetworkKind::Loopback) => "loopback only, as the machine has no more".to_owned(),
        Ok(NetworkKind::Host) => "the host's".to_owned(),
        Err(why) => format!("not possible: {why}"),
    }
}

fn root(kind: RootKind) -> &'static str {
    match kind {
        RootKind::Overlay => "overlay",
        RootKind::Fuse => "fuse-overlayfs",
        RootKind::Reflink => "copies that share their blocks (reflink)",
        RootKind::Copy => "copies",
    }
}

#[cfg(test)]
mod tests;
