//! The live display: finished steps scroll away above, running ones are redrawn below with their timers,
//! transfer bars and the tail of their output.

use super::model::{Model, State, Vertex, bytes, seconds, words};
use super::{Change, Renderer};
use crate::environment::Environment;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Instant;

/// Output lines shown under a running step.
const SHOWN_TAIL: usize = 5;

/// The live display.
#[derive(Debug)]
pub struct Tty {
    columns: usize,
    rows: usize,
    colour: bool,
    drawn: usize,
    printed: Vec<bool>,
    began: Instant,
}

impl Tty {
    /// For a terminal of this size.
    pub fn new(environment: &Environment) -> Self {
        Self {
            columns: environment.columns.max(20),
            rows: environment.rows.max(6),
            colour: environment.colour,
            drawn: 0,
            printed: Vec::new(),
            began: Instant::now(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Erases the live part.
    fn erase(&mut self, frame: &mut String) {
        if self.drawn > 0 {
            let _ = write!(frame, "\x1b[{}A", self.drawn);
        }
        frame.push_str("\r\x1b[J");
        self.drawn = 0;
    }

    /// Prints vertices that ended since the last time, for good.
    fn print_ended(&mut self, model: &Model, frame: &mut String) {
        self.printed.resize(model.vertices.len(), false);
        for (index, vertex) in model.vertices.iter().enumerate() {
            if self.printed[index] || matches!(vertex.state, State::Pending | State::Running) {
                continue;
            }
            self.printed[index] = true;
            let _ = writeln!(frame, "{}", self.ended_line(vertex));
            if let Some(why) = &vertex.why {
                let line = self.fit(&format!(" => => cache miss: {why}"), "");
                let _ = writeln!(frame, "{}", self.paint("2", &line));
            }
        }
    }

    fn ended_line(&self, vertex: &Vertex) -> String {
        match &vertex.state {
            State::Cached => {
                self.paint("36", &self.fit(&format!(" => CACHED {}", vertex.name), ""))
            }
            State::Failed(_) => self.paint(
                "31",
                &self.fit(&format!(" => ERROR {}", vertex.name), &seconds(vertex.took)),
            ),
            State::Cancelled => self.paint(
                "33",
                &self.fit(
                    &format!(" => CANCELED {}", vertex.name),
                    &seconds(vertex.took),
                ),
            ),
            _ => self.paint(
                "34",
                &self.fit(&format!(" => {}", vertex.name), &seconds(vertex.took)),
            ),
        }
    }

    /// Cuts to the width and puts the time at the right edge.
    fn fit(&self, left: &str, right: &str) -> String {
        let room = self.columns.saturating_sub(right.chars().count() + 1);
        let left = printable(left);
        let cut: String = left.chars().take(room).collect();
        if right.is_empty() {
            return cut;
        }
        let padding = room.saturating_sub(cut.chars().count());
        format!("{cut}{}{right}", " ".repeat(padding))
    }

    fn draw(&mut self, model: &Model, out: &mut dyn Write) {
        let mut frame = String::new();
        self.erase(&mut frame);
        self.print_ended(model, &mut frame);
        let running: Vec<&Vertex> = model
            .vertices
            .iter()
            .filter(|v| v.state == State::Running)
            .collect();
        let mut lines = Vec::new();
        if !running.is_empty() {
            let done = model.vertices.len() - running.len();
            let head = format!(
                "[+] Building {} ({done}/{})",
                seconds(self.began.elapsed()),
                model.vertices.len()
            );
            lines.push(self.fit(&head, ""));
        }
        for vertex in running {
            lines.extend(self.running_lines(vertex));
        }
        lines.truncate(self.rows - 1);
        for line in &lines {
            frame.push_str(line);
            frame.push('\n');
        }
        self.drawn = lines.len();
        let _ = out.write_all(frame.as_bytes());
        let _ = out.flush();
    }

    fn running_lines(&self, vertex: &Vertex) -> Vec<String> {
        let mut lines = vec![self.fit(&format!(" => {}", vertex.name), &seconds(vertex.elapsed()))];
        if let Some(why) = &vertex.why {
            let line = self.fit(&format!(" => => cache miss: {why}"), "");
            lines.push(self.paint("2", &line));
        }
        if let Some((state, since)) = &vertex.elsewhere {
            let line = self.fit(
                &format!(" => => {}", words(state)),
                &seconds(since.elapsed()),
            );
            lines.push(self.paint("2", &line));
        }
        for (what, (done, total)) in &vertex.transfers {
            lines.push(self.paint(
                "2",
                &self.fit(&format!(" => => {}", transfer(what, *done, *total)), ""),
            ));
        }
        if let Some(note) = &vertex.note {
            lines.push(self.paint("33", &self.fit(&format!(" => => {note}"), "")));
        }
        let skip = vertex.tail.len().saturating_sub(SHOWN_TAIL);
        for line in vertex.tail.iter().skip(skip) {
            lines.push(self.paint("2", &self.fit(&format!("    {line}"), "")));
        }
        lines
    }
}

/// `name [#####-----] 5.0MB / 10.0MB`.
fn transfer(what: &str, done: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let what = short(what);
    if total == 0 {
        return format!("{what} {}", bytes(done));
    }
    let filled = usize::try_from(done.min(total) * WIDTH / total).unwrap_or_default();
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(20 - filled));
    format!("{what} [{bar}] {} / {}", bytes(done), bytes(total))
}

/// A digest's first digits: enough to tell layers apart, and the bar still fits.
fn short(what: &str) -> &str {
    const SHOWN: usize = "sha256:".len() + 12;
    match what.strip_prefix("sha256:") {
        Some(_) => what.get(..SHOWN).unwrap_or(what),
        None => what,
    }
}

/// Without control characters and escape sequences: output of a step must not move the cursor.
fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_escape(&mut chars),
            '\t' => clean.push(' '),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

/// Skips one escape sequence: CSI up to its final byte, OSC up to BEL, others one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            chars.find(|c| ('@'..='~').contains(c));
        }
        Some(']') => {
            chars.find(|&c| c == '\x07');
        }
        _ => {}
    }
}

impl Renderer for Tty {
    fn change(&mut self, model: &Model, _vertex: usize, change: Change, out: &mut dyn Write) {
        if matches!(change, Change::Ended | Change::Cached | Change::Started) {
            self.draw(model, out);
        }
    }

    fn warning(&mut self, text: &str, out: &mut dyn Write) {
        let mut frame = String::new();
        self.erase(&mut frame);
        frame.push_str(text);
        let _ = out.write_all(frame.as_bytes());
    }

    fn tick(&mut self, model: &Model, out: &mut dyn Write) {
        self.draw(model, out);
    }

    fn finish(&mut self, model: &Model, out: &mut dyn Write) {
        self.draw(model, out);
        let cached = model
            .vertices
            .iter()
            .filter(|v| v.state == State::Cached)
            .count();
        let line = format!(
            "[+] Finished in {}, {cached} steps cached\n",
            seconds(self.began.elapsed())
        );
        let _ = out.write_all(line.as_bytes());
    }

    fn is_live(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(
            printable("a\x1b[31mred\x1b[0m\x1b]0;title\x07b\tc\x08"),
            "aredb c"
        );
    }

    #[test]
    fn bars() {
        assert_eq!(
            transfer("x", 5_000_000, 10_000_000),
            "x [##########----------] 5.0MB / 10.0MB"
        );
        assert_eq!(transfer("x", 7, 0), "x 7B");
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(transfer(&digest, 7, 0), "sha256:0123456789ab 7B");
    }
}
