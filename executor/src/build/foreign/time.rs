//! How long emulated steps took, for the warning at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Steps that are named; of more only the number is told.
const NAMED: usize = 5;
/// Characters of a step's name.
const NAME_LENGTH: usize = 60;

/// One emulated command.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) architecture: String,
    /// What ran it; `None` for a handler that could not be seen.
    pub(super) by: Option<String>,
    pub(super) step: String,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

/// All of a build.
#[derive(Debug, Default)]
pub(super) struct Spans(Mutex<Vec<Span>>);

impl Spans {
    pub(super) fn add(&self, span: Span) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(span);
    }

    /// A line for each emulator: how many steps, and how much of the time since the build began.
    pub(super) fn warnings(&self, begun: Instant) -> Vec<String> {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups: BTreeMap<_, Vec<&Span>> = BTreeMap::new();
        for span in spans.iter() {
            let group = (span.architecture.as_str(), span.by.as_deref());
            groups.entry(group).or_default().push(span);
        }
        let total = begun.elapsed();
        groups
            .into_values()
            .map(|spans| warning(spans, total))
            .collect()
    }
}

fn warning(mut spans: Vec<&Span>, total: Duration) -> String {
    spans.sort_by_key(|span| span.began);
    let (count, first) = (spans.len(), spans[0]);
    let (steps, were) = if count == 1 {
        ("step", "was")
    } else {
        ("steps", "were")
    };
    let by = first.by.as_deref().unwrap_or("a handler of the machine");
    let mut text = format!(
        "{count} {steps} {were} emulated by {by} ({}): {:.1} s of {:.1} s: ",
        first.architecture,
        covered(&spans).as_secs_f64(),
        total.as_secs_f64()
    );
    let names: Vec<String> = spans
        .iter()
        .take(NAMED)
        .map(|span| short(&span.step))
        .collect();
    text.push_str(&names.join(", "));
    if count > NAMED {
        let _ = write!(text, " and {} more", count - NAMED);
    }
    text
}

fn short(name: &str) -> String {
    match name.char_indices().nth(NAME_LENGTH) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// Time during which at least one of them ran; they come in the order in which they began.
fn covered(spans: &[&Span]) -> Duration {
    let mut sum = Duration::ZERO;
    let mut until: Option<Instant> = None;
    for span in spans {
        let from = until.map_or(span.began, |until| until.max(span.began));
        sum += span.ended.saturating_duration_since(from);
        until = Some(until.map_or(span.ended, |until| until.max(span.ended)));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mp14_time_that_steps_share_counts_once() {
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let span = |step: &str, began, ended| Span {
            architecture: "arm64".to_owned(),
            by: Some("qemu-aarch64".to_owned()),
            step: step.to_owned(),
            began: at(began),
            ended: at(ended),
        };
        let one = span("RUN a", 0, 10);
        assert_eq!(
            warning(vec![&one], Duration::from_secs(2)),
            "1 step was emulated by qemu-aarch64 (arm64): 1.0 s of 2.0 s: RUN a"
        );
        let spans = [
            span("RUN c", 30, 40),
            one,
            span("RUN b", 5, 20),
            span("RUN d", 6, 7),
        ];
        assert_eq!(
            warning(spans.iter().collect(), Duration::from_secs(4)),
            "4 steps were emulated by qemu-aarch64 (arm64): 3.0 s of 4.0 s: RUN a, RUN b, RUN d, RUN c"
        );
        let many = vec![&spans[0]; 7];
        assert!(warning(many, Duration::from_secs(4)).ends_with("RUN c and 2 more"));
        assert_eq!(short(&"é".repeat(61)), format!("{}...", "é".repeat(60)));
    }
}
