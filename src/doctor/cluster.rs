//! What `kiln doctor --executor` says: what was found of a cluster judged, and shown as lines or as JSON. Nothing is asked here.

use super::{Granted, Report, State, Verdict, line};
use executor::cluster::check::{Capabilities, Check, SymlinkPolicy, WorkerCheck};
use sandbox::{Fact, IdMapping, Mode, NetworkKind, RootKind};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// What only builds on a machine of one's own use, or what has a line of its own here.
const UNUSED: [&str; 10] = [
    "pasta",
    "slirp4netns",
    "tun-device",
    "binfmt",
    "binfmt-namespace",
    "qemu",
    "cgroup",
    "memory-limit",
    "pids-limit",
    "cpu-limit",
];

/// What a worker can do without where owners are recorded.
const OWNERS: [&str; 4] = ["subuid", "subgid", "newuidmap", "newgidmap"];

/// A line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    /// `linux/amd64` of what a worker says.
    platform: Option<String>,
    /// What programs call it.
    id: &'static str,
    state: State,
    text: String,
}

/// All lines.
#[derive(Debug)]
pub struct ClusterReport {
    url: String,
    findings: Vec<Finding>,
    probes: Vec<(String, Value)>,
    works: bool,
}

impl ClusterReport {
    /// Of what was found.
    pub fn new(check: &Check) -> Self {
        let mut report = Self {
            url: check.url.clone(),
            findings: Vec::new(),
            probes: Vec::new(),
            works: true,
        };
        report.server(check);
        for worker in &check.workers {
            report.worker(worker);
        }
        report
    }

    /// Whether steps can be carried out there, with namespaces, on each platform.
    pub fn works(&self) -> bool {
        self.works
    }

    fn add(&mut self, id: &'static str, state: State, text: String) {
        let platform = None;
        self.findings.push(Finding {
            platform,
            id,
            state,
            text,
        });
    }

    /// Without it nothing goes there.
    fn fails(&mut self, id: &'static str, text: String) {
        self.works = false;
        self.add(id, State::Missing, text);
    }

    fn server(&mut self, check: &Check) {
        match &check.addresses {
            Err(why) => return self.fails("address", format!("address of {}: {why}", check.url)),
            Ok(found) => {
                let each: Vec<String> = found.iter().map(ToString::to_string).collect();
                self.add(
                    "address",
                    State::Works,
                    format!("address: {}", each.join(", ")),
                );
            }
        }
        match &check.capabilities {
            None => {}
            Some(Err(why)) => return self.fails("connection", format!("connection: {why}")),
            Some(Ok((server, took))) => {
                let how = if check.url.starts_with("grpcs://") {
                    "TLS"
                } else {
                    "no TLS: whoever is between reads and changes everything"
                };
                let text = format!("connection: {how}; first answer in {}", time(*took));
                self.add("connection", State::Works, text);
                self.capabilities(server);
            }
        }
        match &check.lookup {
            None => {}
            Some(Err(why)) => self.fails("lookup", format!("lookup in the action cache: {why}")),
            Some(Ok(took)) => {
                let text = format!("lookup in the action cache: {}", time(*took));
                self.add("lookup", State::Works, text);
            }
        }
        match &check.storage {
            None => {}
            Some(Err(why)) => self.fails("storage", format!("a blob sent and read: {why}")),
            Some(Ok(took)) => {
                let text = format!("a blob sent and read: {}", time(*took));
                self.add("storage", State::Works, text);
            }
        }
        match &check.writes {
            None => {}
            Some(Ok(true)) => {
                let text = "action cache: it takes results from here".to_owned();
                self.add("action-cache-write", State::Works, text);
            }
            Some(Ok(false)) => {
                let text = "action cache: only read from here, as it should be for whoever is not trusted (--remote-cache ...,mode=ro)";
                self.add("action-cache-write", State::NotNeeded, text.to_owned());
            }
            Some(Err(why)) => {
                let text = format!("action cache: {why}");
                self.add("action-cache-write", State::Missing, text);
            }
        }
    }

    fn capabilities(&mut self, server: &Capabilities) {
        let version = |version: Option<(u32, u32)>| {
            version.map_or("?".to_owned(), |(major, minor)| format!("{major}.{minor}"))
        };
        let (low, high) = (version(server.low_api), version(server.high_api));
        let text = format!("protocol: versions {low} to {high}, SHA-256");
        self.add("protocol", State::Works, text);
        if server.exec_enabled {
            self.add("execution", State::Works, "execution: on".to_owned());
        } else {
            let text = "execution: this server runs nothing (fix: name the address of the cluster's front end; a cache alone is for --remote-cache)";
            self.fails("execution", text.to_owned());
        }
        let batch = server.max_batch.div_ceil(1024);
        self.add("batch", State::Works, format!("batches: up to {batch} KiB"));
        let (state, text) = if server.zstd {
            (State::Works, "transfers: zstd")
        } else {
            (State::NotNeeded, "transfers: not compressed")
        };
        self.add("compression", state, text.to_owned());
        let (state, text) = match server.symlinks {
            SymlinkPolicy::Disallowed => (
                State::NotNeeded,
                "absolute links: not in inputs; they are carried beside them",
            ),
            SymlinkPolicy::Allowed => (State::Works, "absolute links: allowed"),
            SymlinkPolicy::Unknown => (State::Works, "absolute links: the server does not say"),
        };
        self.add("symlinks", state, text.to_owned());
        let (state, text) = if server.carries("unix_mode") && server.carries("mtime") {
            (
                State::Works,
                "modes and times: carried to workers".to_owned(),
            )
        } else {
            let text = "modes and times: not announced; workers put them right, which takes time with large bases";
            (State::NotNeeded, text.to_owned())
        };
        self.add("node-properties", state, text);
    }

    fn worker(&mut self, worker: &WorkerCheck) {
        let platform = Some(worker.platform.clone());
        let first = self.findings.len();
        match &worker.probe {
            Err(why) => self.fails("worker", format!("worker: {why}")),
            Ok((probe, took)) => {
                self.answered(worker, probe, *took);
                self.probes.push((worker.platform.clone(), probe.clone()));
            }
        }
        for finding in &mut self.findings[first..] {
            finding.platform.clone_from(&platform);
        }
    }

    fn answered(&mut self, worker: &WorkerCheck, probe: &Value, took: Duration) {
        let text = |at: &str| told(&probe[at]);
        let name = told(&Value::String(worker.name.clone()));
        let name = if name.is_empty() {
            name
        } else {
            format!(" {name}")
        };
        let is = format!(
            "worker{name}: user {}, Linux {}, {}, kiln {}, answered in {}",
            text("uid"),
            text("kernel"),
            text("machine"),
            text("kiln"),
            time(took)
        );
        self.add("worker", State::Works, is);
        let granted = &probe["granted"];
        if let Some(why) = granted["error"].as_str() {
            let why = told(&Value::String(why.to_owned()));
            self.fails("isolation", format!("RUN: not possible: {why}"));
            return self.lacks(probe, None);
        }
        let Some(facts) = Granted::of(granted) else {
            return self.fails(
                "isolation",
                "RUN: the worker's answer makes no sense".to_owned(),
            );
        };
        let isolated = facts.mode != Mode::Chroot;
        let isolation = format!("RUN: isolation {}", facts.mode);
        if isolated {
            self.add("isolation", State::Works, isolation);
        } else {
            self.fails("isolation", isolation);
        }
        let roots = format!(
            "roots: {}{}",
            super::root(facts.root),
            scratch(probe, granted)
        );
        let state = if facts.root == RootKind::Overlay {
            State::Works
        } else {
            State::Missing
        };
        self.add("root", state, roots);
        let (state, text) = owners(&facts, granted["records_owners"] == true);
        self.add("owners", state, text);
        let (state, text) = network(&probe["network"]);
        self.add("network", state, text);
        self.holds(probe);
        self.lacks(probe, Some(facts));
    }

    /// The worker's own secrets and agents, by name.
    fn holds(&mut self, probe: &Value) {
        for (id, what, allow) in [
            ("secrets", "secrets", "secret"),
            ("agents", "SSH agents", "ssh"),
        ] {
            let words = |key: &str| {
                let each = probe[id][key].as_array();
                let words: Vec<String> = each.into_iter().flatten().map(told).collect();
                words.join(", ")
            };
            let ids = words("ids");
            if ids.is_empty() {
                let text = format!("{what}: none in {}", words("folders"));
                self.add(id, State::NotNeeded, text);
            } else {
                let text = format!("{what}: {ids} (for steps with allow={allow})");
                self.add(id, State::Works, text);
            }
        }
    }

    /// What would make it better, in the words of the machine's own doctor.
    fn lacks(&mut self, probe: &Value, granted: Option<Granted>) {
        let notes = granted
            .as_ref()
            .map(|it| it.notes.clone())
            .unwrap_or_default();
        let facts: Vec<Fact> = serde_json::from_value(probe["facts"].clone()).unwrap_or_default();
        let verdict = Verdict {
            sandbox: granted.ok_or_else(String::new),
            is_root: probe["uid"] == 0,
        };
        let recorded = probe["granted"]["records_owners"] == true;
        let report = Report::new(facts, verdict);
        if !report.facts.is_empty() {
            let limits = report.limits();
            let (state, text) = if limits.is_empty() {
                let text = "limits: none can be set; steps with --memory and the like fail";
                (State::NotNeeded, text.to_owned())
            } else {
                (State::Works, format!("limits: {}", limits.join(", ")))
            };
            self.add("limits", state, text);
        }
        for fact in &report.facts {
            let id = fact.id.as_str();
            let is_unused = UNUSED.contains(&id) || recorded && OWNERS.contains(&id);
            if !is_unused && report.state(fact) == State::Missing {
                let text = line(fact, State::Missing);
                self.add("fact", State::Missing, clean(&text));
            }
        }
        for note in notes {
            self.add("note", State::NotNeeded, format!("note: {}", clean(&note)));
        }
    }

    /// A line each.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        let mut platform = None;
        for finding in &self.findings {
            if finding.platform != platform {
                platform.clone_from(&finding.platform);
                let _ = writeln!(text, "\n{}", platform.as_deref().unwrap_or_default());
            }
            let _ = writeln!(text, "{:<11} {}", finding.state.name(), finding.text);
        }
        let verdict = if self.works {
            "steps can be carried out"
        } else {
            "steps cannot be carried out as they should"
        };
        let _ = writeln!(text, "\n{}: {verdict}", self.url);
        text
    }

    /// All of it for programs.
    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "platform": finding.platform,
                    "id": finding.id,
                    "state": finding.state.name().replace(' ', "-"),
                    "text": finding.text,
                })
            })
            .collect();
        let probes = self.probes.iter().cloned();
        json!({
            "url": self.url,
            "works": self.works,
            "findings": findings,
            "workers": probes.collect::<serde_json::Map<String, Value>>(),
        })
    }
}

impl Granted {
    /// From what a worker says.
    fn of(value: &Value) -> Option<Self> {
        let notes = value["notes"].as_array().cloned().unwrap_or_default();
        Some(Self {
            mode: match value["isolation"].as_str()? {
                "full" => Mode::Full,
                "nested" => Mode::Nested,
                "chroot" => Mode::Chroot,
                _ => return None,
            },
            ids: match value["ids"].as_str()? {
                "id-mapped" => IdMapping::Idmapped,
                "subordinate" => IdMapping::Subordinate,
                "single" => IdMapping::Single,
                "host" => IdMapping::Host,
                _ => return None,
            },
            root: value["root"].as_str()?.parse().ok()?,
            network: Ok(NetworkKind::Host),
            notes: notes.iter().map(told).collect(),
        })
    }
}

fn owners(granted: &Granted, recorded: bool) -> (State, String) {
    match granted.ids {
        IdMapping::Single if recorded => (
            State::Works,
            "owners: exact; the worker has one id, and the others are recorded".to_owned(),
        ),
        IdMapping::Single => (
            State::Missing,
            "owners: only the worker's own; chown and USER fail (fix: a newer kernel on the worker, or `newuidmap` and ranges in /etc/subuid)".to_owned(),
        ),
        _ => (State::Works, "owners: exact".to_owned()),
    }
}

/// Where steps write, and how much room there is.
fn scratch(probe: &Value, granted: &Value) -> String {
    let Some(folder) = granted["scratch"].as_str() else {
        return String::new();
    };
    let each = probe["scratch"].as_array();
    let mut found = each.into_iter().flatten();
    let free = found.find(|it| it["folder"] == folder);
    let free = free.and_then(|it| it["free"].as_u64());
    let room = free.map_or(String::new(), |free| format!(", {} MiB free", free >> 20));
    format!(" in {}{room}", clean(folder))
}

fn network(value: &Value) -> (State, String) {
    let each = value["interfaces"].as_array();
    let names: Vec<String> = each.into_iter().flatten().map(told).collect();
    if value["default_route"] == true {
        let text = format!("network: {}, with a default route", names.join(", "));
        return (State::Works, text);
    }
    let text = format!(
        "network: {} and no default route; steps that fetch something fail (fix: give workers a network (buildbox: property=network=on), or keep such steps here with network=off)",
        names.join(", ")
    );
    (State::Missing, text)
}

fn time(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

/// A word of somebody else's, for a terminal.
fn told(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    }
}

fn clean(text: &str) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(500).collect()
}

#[cfg(test)]
mod tests;
