//! Where a step's time went, in a phrase.

use reapi::proto;
use std::time::Duration;

/// The worker and the times, as the server tells them.
pub(super) fn told(result: &proto::ActionResult, from_cache: bool) -> String {
    if from_cache {
        return "remote hit".to_owned();
    }
    let metadata = result.execution_metadata.clone().unwrap_or_default();
    let between = |from: &Option<_>, to: &Option<_>| span(from.as_ref()?, to.as_ref()?);
    let spans = [
        (
            "queued",
            between(&metadata.queued_timestamp, &metadata.worker_start_timestamp),
        ),
        (
            "fetched",
            between(
                &metadata.input_fetch_start_timestamp,
                &metadata.input_fetch_completed_timestamp,
            ),
        ),
        (
            "ran",
            between(
                &metadata.execution_start_timestamp,
                &metadata.execution_completed_timestamp,
            ),
        ),
        (
            "uploaded",
            between(
                &metadata.output_upload_start_timestamp,
                &metadata.output_upload_completed_timestamp,
            ),
        ),
    ];
    let spans = spans.iter();
    let spans: Vec<String> = spans
        .filter_map(|(what, span)| span.map(|span| format!("{what} {:.1}s", span.as_secs_f64())))
        .collect();
    // What a server calls its workers is shown on a terminal.
    let name: String = metadata
        .worker
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect();
    let worker = if name.is_empty() {
        "on a worker".to_owned()
    } else {
        format!("on worker {name}")
    };
    if spans.is_empty() {
        return worker;
    }
    format!("{worker}: {}", spans.join(", "))
}

type Timestamp = reapi::google::protobuf::Timestamp;

/// Times that make no sense are none.
fn span(from: &Timestamp, to: &Timestamp) -> Option<Duration> {
    let nanoseconds = |time: &Timestamp| -> Option<i128> {
        Some(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
    };
    let span = nanoseconds(to)?.checked_sub(nanoseconds(from)?)?;
    let span = u64::try_from(span).ok()?;
    Some(Duration::from_nanos(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_far_as_they_are_known() {
        let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let mut metadata = proto::ExecutedActionMetadata {
            worker: "w1\u{1b}[2J".to_owned(),
            queued_timestamp: time(10, 0),
            worker_start_timestamp: time(11, 500_000_000),
            execution_start_timestamp: time(12, 0),
            execution_completed_timestamp: time(14, 0),
            ..proto::ExecutedActionMetadata::default()
        };
        let said = |metadata: &proto::ExecutedActionMetadata| {
            let result = proto::ActionResult {
                execution_metadata: Some(metadata.clone()),
                ..proto::ActionResult::default()
            };
            told(&result, false)
        };
        assert_eq!(said(&metadata), "on worker w1[2J: queued 1.5s, ran 2.0s");
        metadata.execution_completed_timestamp = time(i64::MIN, i32::MIN);
        metadata.queued_timestamp = time(i64::MIN, 0);
        metadata.worker_start_timestamp = time(i64::MAX, 0);
        assert_eq!(said(&metadata), "on worker w1[2J");
        assert_eq!(told(&proto::ActionResult::default(), false), "on a worker");
        assert_eq!(told(&proto::ActionResult::default(), true), "remote hit");
    }
}
