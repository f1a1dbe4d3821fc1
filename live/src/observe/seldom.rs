//! Rate limit of repeated log lines.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Lets one line through, then none for a period, and counts those it held back.
#[derive(Debug)]
pub(crate) struct Seldom {
    period: Duration,
    inner: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// A limit of one line in `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self { period, inner: Mutex::new((None, 0)) }
    }

    /// The number of lines held back since the last one, if a line may be logged now.
    pub(crate) fn take(&self) -> Option<u64> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        if inner.0.is_some_and(|last| now < last + self.period) {
            inner.1 += 1;
            return None;
        }
        inner.0 = Some(now);
        Some(std::mem::take(&mut inner.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_period_and_the_others_counted() {
        let seldom = Seldom::new(Duration::from_secs(60));
        assert_eq!((seldom.take(), seldom.take(), seldom.take()), (Some(0), None, None));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((seldom.take(), seldom.take()), (Some(2), None));
    }
}
