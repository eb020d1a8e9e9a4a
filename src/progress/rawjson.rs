//! JSON lines in the shape of BuildKit's solve status: `vertexes`, `statuses`, `logs`, `warnings`.

use super::model::{Model, State, Vertex, words};
use super::{Change, Renderer};
use crate::render::finding::{File, base64, solve_warning};
use parser::Diagnostic;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

/// Transfers of one vertex are told no more often than this.
const INTERVAL: Duration = Duration::from_millis(100);

/// The JSON display.
#[derive(Debug, Default)]
pub struct RawJson {
    started: Vec<Option<String>>,
    /// When the transfers of a vertex were last told.
    told: HashMap<usize, Instant>,
    /// What vertices are at on other machines: the name of the status, and when it began.
    elsewhere: HashMap<usize, (String, String)>,
}

impl RawJson {
    fn start_time(&mut self, vertex: usize) -> String {
        if self.started.len() <= vertex {
            self.started.resize(vertex + 1, None);
        }
        self.started[vertex].get_or_insert_with(now).clone()
    }

    /// Ends the status of what a vertex was at elsewhere, and begins that of what it is at now.
    fn elsewhere(&mut self, view: &Vertex, vertex: usize, out: &mut dyn Write) {
        let time = now();
        let status = |id: &str, started: &str| {
            json!({
                "id": id, "vertex": digest(vertex), "current": 0, "timestamp": time, "started": started,
            })
        };
        let mut statuses = Vec::new();
        if let Some((id, started)) = self.elsewhere.remove(&vertex) {
            let mut ended = status(&id, &started);
            ended["completed"] = json!(time);
            statuses.push(ended);
        }
        if let Some((state, _)) = &view.elsewhere {
            let id = words(state);
            statuses.push(status(&id, &time));
            self.elsewhere.insert(vertex, (id, time.clone()));
        }
        if !statuses.is_empty() {
            print(&json!({ "statuses": statuses }), out);
        }
    }
}

/// RFC 3339 with nanoseconds.
fn now() -> String {
    jiff::Timestamp::try_from(SystemTime::now())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// A stable name for a vertex within one build, in the form of a digest.
pub(super) fn digest(vertex: usize) -> String {
    format!("sha256:{vertex:064x}")
}

fn print(value: &Value, out: &mut dyn Write) {
    let _ = writeln!(out, "{value}");
}

fn print_transfers(view: &Vertex, vertex: usize, out: &mut dyn Write) {
    let statuses: Vec<Value> = view
        .transfers
        .iter()
        .map(|(what, (done, total))| {
            json!({"id": what, "vertex": digest(vertex), "current": done, "total": total, "timestamp": now()})
        })
        .collect();
    print(&json!({ "statuses": statuses }), out);
}

impl Renderer for RawJson {
    fn change(&mut self, model: &Model, vertex: usize, change: Change, out: &mut dyn Write) {
        let Some(view) = model.vertices.get(vertex) else {
            return;
        };
        if change == Change::Transfer {
            let told = self.told.get(&vertex);
            if told.is_none_or(|told| told.elapsed() >= INTERVAL) {
                self.told.insert(vertex, Instant::now());
                print_transfers(view, vertex, out);
            }
            return;
        }
        if matches!(change, Change::Elsewhere | Change::Ended) {
            self.elsewhere(view, vertex, out);
        }
        if change == Change::Elsewhere {
            return;
        }
        if change == Change::Ended && !view.transfers.is_empty() {
            print_transfers(view, vertex, out);
        }
        if change == Change::Note {
            let text = view.note.clone().unwrap_or_default();
            return print(
                &json!({"warnings": [{"vertex": digest(vertex), "level": 1, "short": base64(text.as_bytes())}]}),
                out,
            );
        }
        if change == Change::Missed {
            // A status with a text for its id, as BuildKit tells of what has no size.
            let why = view.why.as_deref().unwrap_or_default();
            let time = now();
            return print(
                &json!({"statuses": [{
                    "id": format!("cache miss: {why}"), "vertex": digest(vertex), "current": 0, "total": 0,
                    "timestamp": time, "started": time, "completed": time,
                }]}),
                out,
            );
        }
        let mut entry = json!({"digest": digest(vertex), "name": view.name, "started": self.start_time(vertex)});
        match &view.state {
            State::Pending | State::Running => {}
            State::Cached => {
                entry["cached"] = json!(true);
                entry["completed"] = json!(now());
            }
            State::Done => entry["completed"] = json!(now()),
            State::Failed(message) => {
                entry["completed"] = json!(now());
                entry["error"] = json!(message);
            }
            State::Cancelled => {
                entry["completed"] = json!(now());
                entry["error"] = json!("context canceled");
            }
        }
        print(&json!({ "vertexes": [entry] }), out);
    }

    fn raw(
        &mut self,
        _model: &Model,
        vertex: usize,
        stderr: bool,
        data: &[u8],
        out: &mut dyn Write,
    ) {
        let stream = if stderr { 2 } else { 1 };
        print(
            &json!({"logs": [{"vertex": digest(vertex), "stream": stream, "data": base64(data), "timestamp": now()}]}),
            out,
        );
    }

    fn finding(
        &mut self,
        _model: &Model,
        vertex: usize,
        (file, finding): (File<'_>, &Diagnostic),
        out: &mut dyn Write,
    ) {
        let warning = solve_warning(file, finding, &digest(vertex));
        print(&json!({ "warnings": [warning] }), out);
    }

    fn summarises(&self) -> bool {
        false
    }

    fn warning(&mut self, text: &str, out: &mut dyn Write) {
        print(
            &json!({"warnings": [{"level": 1, "short": base64(text.as_bytes())}]}),
            out,
        );
    }
}
