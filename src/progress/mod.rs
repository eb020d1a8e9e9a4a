//! The progress display: one model of what happens, several ways to show it, all on stderr.
//!
//! Events come from any thread. The live display starts its ticking thread with the first step
//! that really runs, so that a fully cached build starts none; others do with the first step on another machine.

pub mod lines;
mod model;
mod plain;
mod rawjson;
mod tty;

use crate::args::ProgressMode;
use crate::environment::Environment;
use crate::render::finding::{self, File};
use executor::build::Ui;
use model::Model;
use parser::Diagnostic;
use planner::plan::{Plan, StepId};
use planner::scheduler::{Observer, StepEvent};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How often the live display is redrawn.
const TICK: Duration = Duration::from_millis(100);

/// Something that happened to a vertex, after the model has taken it in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Started,
    /// It is known why it was not cached.
    Missed,
    Cached,
    Transfer,
    /// What it is at on another machine.
    Elsewhere,
    Note,
    Ended,
}

/// A way to show the model.
trait Renderer: Send {
    /// One vertex changed.
    fn change(&mut self, model: &Model, vertex: usize, change: Change, out: &mut dyn Write);
    /// Output lines of a vertex that were completed by the last event.
    fn lines(&mut self, _model: &Model, _vertex: usize, _lines: &[String], _out: &mut dyn Write) {}
    /// Raw output bytes, for displays that pass them on.
    fn raw(
        &mut self,
        _model: &Model,
        _vertex: usize,
        _stderr: bool,
        _data: &[u8],
        _out: &mut dyn Write,
    ) {
    }
    /// A finding about the Dockerfile; summaries tell it again at the end.
    fn finding(
        &mut self,
        _model: &Model,
        _vertex: usize,
        _finding: (File<'_>, &Diagnostic),
        _out: &mut dyn Write,
    ) {
    }
    /// Whether findings are told again at the end.
    fn summarises(&self) -> bool {
        true
    }
    /// A warning text.
    fn warning(&mut self, text: &str, out: &mut dyn Write);
    /// Time passed.
    fn tick(&mut self, _model: &Model, _out: &mut dyn Write) {}
    /// No more events.
    fn finish(&mut self, _model: &Model, _out: &mut dyn Write) {}
    /// Whether it wants ticks.
    fn is_live(&self) -> bool {
        false
    }
}

struct Shared {
    model: Model,
    renderer: Option<Box<dyn Renderer>>,
    out: Box<dyn Write + Send>,
    finished: bool,
    ticking: bool,
}

impl Shared {
    /// Lets the renderer draw, where there is one; what it wrote is seen at once.
    fn draw(&mut self, with: impl FnOnce(&mut dyn Renderer, &Model, &mut dyn Write)) {
        if let Some(renderer) = &mut self.renderer {
            with(renderer.as_mut(), &self.model, &mut *self.out);
        }
        let _ = self.out.flush();
    }
}

/// The display of one build.
pub struct Progress {
    shared: Arc<Mutex<Shared>>,
    /// Name and text, once they are known.
    dockerfile: OnceLock<(String, String)>,
    /// What the checks found, and the vertex that it is shown at.
    found: Mutex<(Vec<Diagnostic>, Option<usize>)>,
    /// Warnings for the end.
    closing: Mutex<Vec<String>>,
    /// Findings are told at the end, and how.
    summary: Summary,
    colour: bool,
}

/// How findings are told at the end of a build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Summary {
    /// Not at all: the caller does.
    None,
    /// One line each.
    Short,
    /// All there is to say.
    Full,
}

impl Progress {
    /// A display in the mode asked for; `auto` is `tty` on a terminal and `plain` elsewhere.
    pub fn new(mode: ProgressMode, environment: &Environment) -> Self {
        let mode = match mode {
            ProgressMode::Auto if environment.terminal => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            other => other,
        };
        let renderer: Option<Box<dyn Renderer>> = match mode {
            ProgressMode::Tty => Some(Box::new(tty::Tty::new(environment))),
            ProgressMode::Rawjson => Some(Box::new(rawjson::RawJson::default())),
            ProgressMode::Quiet | ProgressMode::None => None,
            ProgressMode::Plain | ProgressMode::Auto => Some(Box::new(plain::Plain::default())),
        };
        Self {
            shared: Arc::new(Mutex::new(Shared {
                model: Model::default(),
                renderer,
                out: Box::new(std::io::BufWriter::with_capacity(
                    1 << 16,
                    std::io::stderr(),
                )),
                finished: false,
                ticking: false,
            })),
            dockerfile: OnceLock::new(),
            found: Mutex::default(),
            closing: Mutex::default(),
            summary: if environment.debug {
                Summary::Full
            } else {
                Summary::Short
            },
            colour: environment.colour,
        }
    }

    /// Leaves telling findings to the caller.
    pub fn without_findings(self) -> Self {
        Self {
            summary: Summary::None,
            ..self
        }
    }

    /// What the checks found, each finding once for every time that it was found.
    pub fn findings(&self) -> Vec<Diagnostic> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.0.clone()
    }

    /// Findings as a metadata file has them, each once.
    pub fn solve_warnings(&self) -> Vec<serde_json::Value> {
        let mut told = Vec::new();
        for finding in self.findings() {
            let warning = finding::solve_warning(self.file(), &finding, &rawjson::digest(0));
            if !told.contains(&warning) {
                told.push(warning);
            }
        }
        told
    }

    fn file(&self) -> File<'_> {
        let (name, text) = self
            .dockerfile
            .get()
            .map_or(("", ""), |(name, text)| (name.as_str(), text.as_str()));
        File { name, text }
    }

    /// The vertex that findings are shown at.
    fn definition(&self) -> usize {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).1;
        if let Some(vertex) = known {
            return vertex;
        }
        let name = format!("[internal] load build definition from {}", self.file().name);
        let vertex = usize::try_from(self.task_started(&name)).unwrap_or(usize::MAX);
        self.found.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(vertex);
        vertex
    }

    /// Says what a flag does not do; silent where progress is.
    pub fn warn(&self, message: &str) {
        self.lock()
            .draw(|renderer, _, out| renderer.warning(&format!("WARNING: {message}\n"), out));
    }

    /// The Dockerfile that findings are about.
    pub fn set_dockerfile(&self, name: &str, text: &str) {
        drop(self.dockerfile.set((name.to_owned(), text.to_owned())));
    }

    /// Ends the display: the last state is drawn, the cursor is below it.
    pub fn finish(&self) {
        let mut shared = self.lock();
        if shared.finished {
            return;
        }
        shared.finished = true;
        shared.draw(|renderer, model, out| {
            renderer.finish(model, out);
            if renderer.summarises() && self.summary != Summary::None {
                let full = self.summary == Summary::Full;
                let text = finding::summary(self.file(), &self.findings(), full, self.colour);
                let _ = out.write_all(text.as_bytes());
            }
            let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
            for text in closing.iter() {
                renderer.warning(&format!("WARNING: {text}\n"), out);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, vertex: usize, change: Change) {
        let mut shared = self.lock();
        shared.draw(|renderer, model, out| renderer.change(model, vertex, change, out));
        // What is at work elsewhere says nothing: time itself is to be shown, whatever shows it.
        let passes = match (&shared.renderer, change) {
            (None, _) => false,
            (Some(_), Change::Elsewhere) => true,
            (Some(renderer), change) => change == Change::Started && renderer.is_live(),
        };
        if passes && !shared.ticking {
            shared.ticking = true;
            self.start_ticking();
        }
    }

    /// Redraws until the display is finished or dropped.
    fn start_ticking(&self) {
        let shared = Arc::downgrade(&self.shared);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TICK);
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if shared.finished {
                    return;
                }
                let Shared {
                    model,
                    renderer,
                    out,
                    ..
                } = &mut *shared;
                if let Some(renderer) = renderer {
                    renderer.tick(model, out);
                    let _ = out.flush();
                }
            }
        });
    }

    fn output(&self, vertex: usize, stderr: bool, data: &[u8]) {
        let mut shared = self.lock();
        let lines = shared.model.output(vertex, data);
        shared.draw(|renderer, model, out| {
            renderer.raw(model, vertex, stderr, data, out);
            if !lines.is_empty() {
                renderer.lines(model, vertex, &lines, out);
            }
        });
    }
}

impl Observer for Progress {
    fn event(&self, step: StepId, event: StepEvent) {
        let vertex = self.lock().model.step(step);
        match event {
            StepEvent::Output { stderr, data } => self.output(vertex, stderr, &data),
            StepEvent::Transfer { what, done, total } => {
                self.lock().model.transfer(vertex, &what, done, total);
                self.show(vertex, Change::Transfer);
            }
            StepEvent::Elsewhere(state) => {
                let is_new = self.lock().model.elsewhere(vertex, state);
                if is_new {
                    self.show(vertex, Change::Elsewhere);
                }
            }
            StepEvent::Note(text) => {
                self.lock().model.note(vertex, text);
                self.show(vertex, Change::Note);
            }
            StepEvent::Started { why } => {
                self.lock().model.start(vertex);
                self.show(vertex, Change::Started);
                if let Some(why) = why {
                    self.lock().model.miss(vertex, why);
                    self.show(vertex, Change::Missed);
                }
            }
            StepEvent::Cached => {
                self.lock().model.end(vertex, model::State::Cached);
                self.show(vertex, Change::Cached);
            }
            StepEvent::Finished => self.end(vertex, model::State::Done),
            StepEvent::Failed(message) => self.end(vertex, model::State::Failed(message)),
            StepEvent::Cancelled => self.end(vertex, model::State::Cancelled),
        }
    }
}

impl Progress {
    /// Ends a vertex; an unfinished last line is shown first.
    fn end(&self, vertex: usize, state: model::State) {
        let mut shared = self.lock();
        if let Some(line) = shared.model.flush_line(vertex) {
            shared.draw(|renderer, model, out| renderer.lines(model, vertex, &[line], out));
        }
        shared.model.end(vertex, state);
        drop(shared);
        self.show(vertex, Change::Ended);
    }
}

impl Ui for Progress {
    fn diagnostics(&self, diagnostics: &[Diagnostic]) {
        if diagnostics.is_empty() {
            return;
        }
        let first = {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            let first = found.0.is_empty();
            found.0.extend(diagnostics.iter().cloned());
            first
        };
        if self.summary == Summary::None {
            return;
        }
        let vertex = self.definition();
        self.lock().draw(|renderer, model, out| {
            for finding in diagnostics {
                renderer.finding(model, vertex, (self.file(), finding), out);
            }
        });
        if first {
            self.end(vertex, model::State::Done);
        }
    }

    fn warning(&self, text: &str) {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        closing.push(text.to_owned());
    }

    fn plan(&self, plan: &Plan) {
        self.lock().model.set_plan(plan);
    }

    fn task_started(&self, name: &str) -> u64 {
        let vertex = {
            let mut shared = self.lock();
            let vertex = shared.model.add(name.to_owned());
            shared.model.start(vertex);
            vertex
        };
        self.show(vertex, Change::Started);
        vertex as u64
    }

    fn task_progress(&self, task: u64, what: &str, done: u64, total: u64) {
        let vertex = usize::try_from(task).unwrap_or(usize::MAX);
        self.lock().model.transfer(vertex, what, done, total);
        self.show(vertex, Change::Transfer);
    }

    fn task_finished(&self, task: u64, error: Option<&str>) {
        let state = match error {
            Some(message) => model::State::Failed(message.to_owned()),
            None => model::State::Done,
        };
        self.end(usize::try_from(task).unwrap_or(usize::MAX), state);
    }
}
