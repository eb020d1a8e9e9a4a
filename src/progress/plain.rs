//! Lines for logs: `#N name`, output with the seconds since the step began, `#N DONE`, as BuildKit's plain mode has it.

use super::model::{Model, State, bytes, seconds, words};
use super::{Change, Renderer};
use crate::render::finding::File;
use parser::Diagnostic;
use planner::scheduler::Elsewhere;
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// What a step waits for on another machine is told when it lasts.
const PATIENCE: Duration = Duration::from_secs(1);

/// The plain display.
#[derive(Debug, Default)]
pub struct Plain {
    last: Option<usize>,
    /// What was told of where vertices are, by the time at which that began.
    told: HashMap<usize, Instant>,
}

impl Plain {
    /// Names the vertex when the log switches to it.
    fn header(&mut self, model: &Model, vertex: usize, out: &mut dyn Write) {
        if self.last == Some(vertex) {
            return;
        }
        if self.last.is_some() {
            let _ = writeln!(out);
        }
        self.last = Some(vertex);
        let _ = writeln!(out, "#{} {}", vertex + 1, model.vertices[vertex].name);
    }

    /// What a vertex is at elsewhere: who works on it at once, all else when it has lasted; each once.
    fn elsewhere(&mut self, model: &Model, vertex: usize, out: &mut dyn Write) {
        let Some((state, since)) = &model.vertices[vertex].elsewhere else {
            return;
        };
        let is_told = match state {
            Elsewhere::Sent => false,
            Elsewhere::Running(_) => true,
            Elsewhere::Queued | Elsewhere::Fetching => since.elapsed() >= PATIENCE,
        };
        if is_told && self.told.insert(vertex, *since) != Some(*since) {
            self.header(model, vertex, out);
            let _ = writeln!(out, "#{} {}", vertex + 1, words(state));
        }
    }
}

impl Renderer for Plain {
    fn change(&mut self, model: &Model, vertex: usize, change: Change, out: &mut dyn Write) {
        let Some(view) = model.vertices.get(vertex) else {
            return;
        };
        let number = vertex + 1;
        if change == Change::Elsewhere {
            return self.elsewhere(model, vertex, out);
        }
        if change != Change::Transfer {
            self.header(model, vertex, out);
        }
        match (change, &view.state) {
            (Change::Note, _) => {
                let _ = writeln!(
                    out,
                    "#{number} {}",
                    view.note.as_deref().unwrap_or_default()
                );
            }
            (Change::Missed, _) => {
                let why = view.why.as_deref().unwrap_or_default();
                let _ = writeln!(out, "#{number} cache miss: {why}");
            }
            (Change::Cached, _) => {
                let _ = writeln!(out, "#{number} CACHED");
            }
            (Change::Ended, State::Done) => {
                for (what, (done, _)) in &view.transfers {
                    let _ = writeln!(out, "#{number} {what} {} done", bytes(*done));
                }
                let _ = writeln!(out, "#{number} DONE {}", seconds(view.took));
            }
            (Change::Ended, State::Failed(message)) => {
                let _ = writeln!(out, "#{number} ERROR: {message}");
            }
            (Change::Ended, State::Cancelled) => {
                let _ = writeln!(out, "#{number} CANCELED");
            }
            _ => {}
        }
    }

    fn lines(&mut self, model: &Model, vertex: usize, lines: &[String], out: &mut dyn Write) {
        self.header(model, vertex, out);
        let elapsed = model.vertices[vertex].elapsed().as_secs_f64();
        for line in lines {
            let _ = writeln!(out, "#{} {elapsed:.3} {line}", vertex + 1);
        }
    }

    fn finding(
        &mut self,
        model: &Model,
        vertex: usize,
        (_, finding): (File<'_>, &Diagnostic),
        out: &mut dyn Write,
    ) {
        self.header(model, vertex, out);
        let text = planner::checks::short(finding);
        let _ = writeln!(out, "#{} WARN: {text}", vertex + 1);
    }

    fn tick(&mut self, model: &Model, out: &mut dyn Write) {
        for vertex in 0..model.vertices.len() {
            self.elsewhere(model, vertex, out);
        }
    }

    fn warning(&mut self, text: &str, out: &mut dyn Write) {
        let _ = write!(out, "{text}");
    }
}
