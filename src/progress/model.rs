//! What the displays show: vertices in the order in which they began, with state, times, transfers and output tails.

use planner::plan::{Plan, StepId};
use planner::scheduler::Elsewhere;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Lines kept of each vertex for the live display.
const TAIL: usize = 8;
/// Bytes of a line after which it counts as ended.
const LONGEST_LINE: usize = 256 << 10;

/// State of a vertex.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Found in the cache.
    Cached,
    /// Ended well.
    Done,
    /// Ended badly.
    Failed(String),
    /// Stopped with the build.
    Cancelled,
}

/// One line of the display.
#[derive(Debug, Default)]
pub struct Vertex {
    /// What people see.
    pub name: String,
    /// State.
    pub state: State,
    /// When it began.
    pub started: Option<Instant>,
    /// How long it took.
    pub took: Duration,
    /// Last output lines.
    pub tail: VecDeque<String>,
    /// Bytes done and in all, by what is moved.
    pub transfers: BTreeMap<String, (u64, u64)>,
    /// Why it was not cached.
    pub why: Option<String>,
    /// What it is at on another machine, and since when.
    pub elsewhere: Option<(Elsewhere, Instant)>,
    /// The latest note.
    pub note: Option<String>,
    partial: Vec<u8>,
}

impl Vertex {
    /// Time since its start, or the time it took.
    pub fn elapsed(&self) -> Duration {
        match (&self.state, self.started) {
            (State::Running, Some(started)) => started.elapsed(),
            _ => self.took,
        }
    }
}

/// All vertices.
#[derive(Debug, Default)]
pub struct Model {
    /// In order of first appearance.
    pub vertices: Vec<Vertex>,
    /// Steps of the plan.
    pub total_steps: usize,
    step_names: Vec<String>,
    by_step: HashMap<StepId, usize>,
}

impl Model {
    /// Takes the names of the plan's steps.
    pub fn set_plan(&mut self, plan: &Plan) {
        self.step_names = plan
            .steps
            .iter()
            .map(|step| step.origin.name.clone())
            .collect();
        self.total_steps = plan.steps.len();
    }

    /// The vertex of a step, made on first use.
    pub fn step(&mut self, step: StepId) -> usize {
        if let Some(&vertex) = self.by_step.get(&step) {
            return vertex;
        }
        let name = self
            .step_names
            .get(step.0 as usize)
            .cloned()
            .unwrap_or_else(|| format!("step {}", step.0));
        let vertex = self.add(name);
        self.by_step.insert(step, vertex);
        vertex
    }

    /// A new vertex.
    pub fn add(&mut self, name: String) -> usize {
        self.vertices.push(Vertex {
            name,
            ..Vertex::default()
        });
        self.vertices.len() - 1
    }

    /// It begins.
    pub fn start(&mut self, vertex: usize) {
        if let Some(vertex) = self.vertices.get_mut(vertex) {
            vertex.state = State::Running;
            vertex.started = Some(Instant::now());
        }
    }

    /// It ends.
    pub fn end(&mut self, vertex: usize, state: State) {
        if let Some(vertex) = self.vertices.get_mut(vertex) {
            vertex.took = vertex
                .started
                .map(|started| started.elapsed())
                .unwrap_or_default();
            vertex.state = state;
            vertex.elsewhere = None;
        }
    }

    /// What it is at on another machine. Whether that is something else than before.
    pub fn elsewhere(&mut self, vertex: usize, state: Option<Elsewhere>) -> bool {
        let Some(vertex) = self.vertices.get_mut(vertex) else {
            return false;
        };
        let before = vertex.elsewhere.as_ref().map(|(state, _)| state);
        if before == state.as_ref() {
            return false;
        }
        vertex.elsewhere = state.map(|state| (state, Instant::now()));
        true
    }

    /// Bytes moved.
    pub fn transfer(&mut self, vertex: usize, what: &str, done: u64, total: u64) {
        if let Some(vertex) = self.vertices.get_mut(vertex) {
            vertex.transfers.insert(what.to_owned(), (done, total));
        }
    }

    /// Something to tell.
    pub fn note(&mut self, vertex: usize, text: String) {
        if let Some(vertex) = self.vertices.get_mut(vertex) {
            vertex.note = Some(text);
        }
    }

    /// Why it was not cached.
    pub fn miss(&mut self, vertex: usize, why: String) {
        if let Some(vertex) = self.vertices.get_mut(vertex) {
            vertex.why = Some(why);
        }
    }

    /// Takes output in; gives the lines that it completed.
    pub fn output(&mut self, index: usize, data: &[u8]) -> Vec<String> {
        let Some(vertex) = self.vertices.get_mut(index) else {
            return Vec::new();
        };
        vertex.partial.extend_from_slice(data);
        let Some(end) = vertex.partial.iter().rposition(|&byte| byte == b'\n') else {
            // A line that does not end is not held in memory for ever.
            let is_long = vertex.partial.len() >= LONGEST_LINE;
            return is_long
                .then(|| self.flush_line(index))
                .flatten()
                .into_iter()
                .collect();
        };
        let complete: Vec<u8> = vertex.partial.drain(..=end).collect();
        let lines: Vec<String> = complete[..complete.len() - 1]
            .split(|&byte| byte == b'\n')
            .map(line_text)
            .collect();
        for line in &lines {
            push_tail(vertex, line.clone());
        }
        lines
    }

    /// An unfinished last line, when there is one.
    pub fn flush_line(&mut self, vertex: usize) -> Option<String> {
        let vertex = self.vertices.get_mut(vertex)?;
        if vertex.partial.is_empty() {
            return None;
        }
        let line = line_text(&std::mem::take(&mut vertex.partial));
        push_tail(vertex, line.clone());
        Some(line)
    }
}

fn push_tail(vertex: &mut Vertex, line: String) {
    if vertex.tail.len() == TAIL {
        vertex.tail.pop_front();
    }
    vertex.tail.push_back(line);
}

/// Progress bars rewrite their line with carriage returns: the last state counts.
fn line_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    text.rsplit('\r').next().unwrap_or_default().to_owned()
}

/// What a step is at on another machine, in words.
pub fn words(state: &Elsewhere) -> String {
    match state {
        Elsewhere::Sent => "sent to the cluster".to_owned(),
        Elsewhere::Queued => "queued".to_owned(),
        Elsewhere::Running(Some(worker)) => format!("running on {worker}"),
        Elsewhere::Running(None) => "running on a worker".to_owned(),
        Elsewhere::Fetching => "fetching the result".to_owned(),
    }
}

/// `1.5s`, as BuildKit prints times.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// `12.3MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with at most four digits")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count}B")
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_newlines_and_carriage_returns() {
        let mut model = Model::default();
        let vertex = model.add("x".into());
        assert!(model.output(vertex, b"ab").is_empty());
        assert_eq!(
            model.output(vertex, b"c\n10%\r100%\r\nrest"),
            ["abc", "100%"]
        );
        assert_eq!(model.flush_line(vertex).as_deref(), Some("rest"));
        assert_eq!(model.flush_line(vertex), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1_500), "1.5kB");
        assert_eq!(bytes(2_000_000_000), "2.0GB");
    }
}
