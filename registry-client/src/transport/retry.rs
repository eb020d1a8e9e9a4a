//! When to try again and how long to wait first.
//!
//! The loops live with the operations; this keeps their count and sleeps.

use crate::{Error, RetryPolicy};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, SystemTime};

/// A host that cannot be reached at all gets fewer attempts, for it is most often a wrong name. So does one that
/// is too slow, for each attempt takes long.
const UNREACHABLE_ATTEMPTS: u32 = 3;

/// The attempts of one operation.
pub(crate) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
    /// Someone else can be asked next.
    impatient: bool,
}

impl Backoff {
    pub(crate) fn new(policy: RetryPolicy, impatient: bool) -> Self {
        Self {
            policy,
            failures: 0,
            impatient,
        }
    }

    /// Waits before the next attempt, or gives the error back when there is to be none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        self.failures += 1;
        let Some(wait) = self.wait_for(&error) else {
            return Err(error);
        };
        tracing::debug!(
            error = error.chain(),
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            attempt = self.failures,
            "trying again"
        );
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Enough came before the failure that it counts as the first.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    fn wait_for(&self, error: &Error) -> Option<Duration> {
        let hopeless = error.is_unreachable() || matches!(error, Error::Stalled { .. });
        let limit = match (hopeless, self.impatient) {
            (true, true) => 1,
            (true, false) => self.policy.attempts.min(UNREACHABLE_ATTEMPTS),
            (false, true) => self.policy.attempts.min(2),
            (false, false) => self.policy.attempts,
        };
        if !error.is_retryable() || self.failures >= limit {
            return None;
        }
        if let Some(asked) = error.retry_after() {
            let patient = if self.impatient {
                self.policy.max
            } else {
                self.policy.max_retry_after
            };
            return (asked <= patient).then_some(asked);
        }
        let doubled = self
            .policy
            .base
            .saturating_mul(1 << (self.failures - 1).min(16));
        let full = doubled.min(self.policy.max);
        Some(full / 2 + full.mul_f64(fraction() / 2.0))
    }
}

/// A random number in 0..1. Only for jitter: clients that failed together should not return together.
fn fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(random).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

/// Reads `Retry-After`: seconds, or a date that is compared with the answer's own `Date` where there is one,
/// as the server's clock need not be ours.
pub(crate) fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(value)?;
    let now = date.and_then(http_date).or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.ok().map(|since| since.as_secs())
    })?;
    Some(Duration::from_secs(until.saturating_sub(now)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7, the one form that may be sent).
pub(crate) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.trim().split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = 1 + u64::try_from(MONTHS.iter().position(|month| *month == name)?).ok()?;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (
        clock.next()?.ok()?,
        clock.next()?.ok()?,
        clock.next()?.ok()?,
    );
    let valid = (1..=31).contains(&day) && (1970..=9999).contains(&year) && hour < 24;
    if !valid || minute > 59 || second > 60 || words.next() != Some("GMT") {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days of the Gregorian calendar; March is taken as the first month so that leap days come last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let shifted_year = if month > 2 { year } else { year - 1 };
    let shifted_month = (month + 9) % 12;
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let in_year = (153 * shifted_month + 2) / 5 + day - 1;
    // 719468 days lie between the first of March of year 0 and the epoch.
    shifted_year * 365 + leap_days + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_seconds() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(http_date(date), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            http_date("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        for bad in [
            "",
            "soon",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
        let later = "Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(retry_after(" 7 ", None), Some(Duration::from_secs(7)));
        assert_eq!(
            retry_after(later, Some(date)),
            Some(Duration::from_secs(10))
        );
        assert_eq!(retry_after(date, Some(later)), Some(Duration::ZERO));
        assert_eq!(retry_after("-3", None), None);
    }

    #[test]
    fn waits_grow_and_end() {
        let policy = RetryPolicy {
            attempts: 6,
            base: Duration::from_millis(100),
            max: Duration::from_millis(500),
            ..RetryPolicy::default()
        };
        let error = Error::Short {
            url: String::new(),
            received: 0,
            expected: 1,
        };
        let mut backoff = Backoff::new(policy, false);
        for (failures, full) in [(1, 100), (2, 200), (3, 400), (4, 500), (5, 500)] {
            backoff.failures = failures;
            let wait = backoff.wait_for(&error).unwrap();
            let full = Duration::from_millis(full);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
        }
        backoff.failures = 6;
        assert_eq!(backoff.wait_for(&error), None);
    }
}
