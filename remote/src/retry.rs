//! When a call is tried again, and after how long.

use crate::endpoint::Retry;
use crate::trouble::Trouble;
use ring::rand::SecureRandom;
use std::time::Duration;

/// The tries of one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: Retry,
    made: u32,
    waited: Duration,
}

impl Attempts {
    pub(crate) fn new(policy: Retry) -> Self {
        Self {
            policy,
            made: 1,
            waited: Duration::ZERO,
        }
    }

    /// Something moved since the last failure: a transfer that goes on is not a call that fails again and again.
    pub(crate) fn progressed(&mut self) {
        self.made = 1;
        self.waited = Duration::ZERO;
    }

    /// Waits until the next try, or gives the trouble back when there is to be none.
    pub(crate) async fn wait_or_give_up(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        match self.next(&trouble, jitter()) {
            Some(delay) => {
                tracing::debug!(?trouble, ?delay, try_ = self.made, "trying again");
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Err(trouble),
        }
    }

    /// The delay before the next try; `jitter` is between 0 and 1.
    fn next(&mut self, trouble: &Trouble, jitter: f64) -> Option<Duration> {
        if !trouble.is_transient() || self.made >= self.policy.tries {
            return None;
        }
        let doubled = self
            .policy
            .first
            .saturating_mul(1 << (self.made - 1).min(16));
        let delay = match trouble.retry_after() {
            Some(asked) => asked.max(doubled),
            None => doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0)),
        };
        if self.waited + delay > self.policy.budget {
            return None;
        }
        self.made += 1;
        self.waited += delay;
        Some(delay)
    }
}

/// Between 0 and 1, so that clients which failed together do not come back together.
fn jitter() -> f64 {
    let mut byte = [0];
    match ring::rand::SystemRandom::new().fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ConnectFailure;

    fn transient() -> Trouble {
        Trouble::Connect(ConnectFailure::Refused)
    }

    #[test]
    fn tries_and_budget_end() {
        let mut attempts = Attempts::new(Retry::default());
        let mut delays = Vec::new();
        while let Some(delay) = attempts.next(&transient(), 0.5) {
            delays.push(delay.as_millis());
        }
        assert_eq!(delays, [100, 200, 400, 800]);
        let mut short = Attempts::new(Retry {
            tries: u32::MAX,
            budget: Duration::from_secs(1),
            first: Duration::from_millis(300),
        });
        assert!(short.next(&transient(), 0.5).is_some());
        assert!(short.next(&transient(), 0.5).is_some());
        assert!(
            short.next(&transient(), 0.5).is_none(),
            "0.3 + 0.6 + 1.2 > 1"
        );
        short.progressed();
        assert!(short.next(&transient(), 0.5).is_some());
    }

    #[test]
    fn lasting_trouble_is_not_tried_again() {
        let lasting = Trouble::Connect(ConnectFailure::NotTls);
        assert!(
            Attempts::new(Retry::default())
                .next(&lasting, 0.5)
                .is_none()
        );
    }
}
