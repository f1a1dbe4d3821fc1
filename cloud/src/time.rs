//! Wall-clock time and waiting, replaceable so that a test passes through a 25-minute boot in milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall-clock time, or a clock that moves only by its waits.
#[derive(Debug, Clone)]
pub struct Time {
    stepped: Option<Arc<AtomicU64>>,
}

impl Time {
    /// The machine's own time.
    pub fn real() -> Self {
        Self { stepped: None }
    }

    /// Time that jumps to the end of each wait, for tests.
    pub fn stepped() -> Self {
        Self { stepped: Some(Arc::new(AtomicU64::new(machine_ms()))) }
    }

    /// Milliseconds since 1970, UTC. A suspended machine has moved on after it wakes.
    pub fn now_ms(&self) -> u64 {
        self.stepped.as_ref().map_or_else(machine_ms, |clock| clock.load(Ordering::SeqCst))
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        let Some(clock) = &self.stepped else { return tokio::time::sleep(duration).await };
        let until_ms = self.now_ms() + duration.as_millis() as u64;
        // Others act meanwhile, as they do in real time.
        tokio::time::sleep(Duration::from_millis(1)).await;
        clock.fetch_max(until_ms, Ordering::SeqCst);
    }

    /// Waits, at random between half and the whole of `duration`.
    pub async fn sleep_jittered(&self, duration: Duration) {
        let share = f64::from(crate::provider::random()[0]) / 255.0;
        self.sleep(duration.mul_f64(0.5 + 0.5 * share)).await;
    }
}

fn machine_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// `2026-11-28 07:51:46` in UTC. A time beyond the year 9999 is written as the last one before it.
pub fn utc(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.unwrap_or(jiff::Timestamp::MAX).strftime("%F %T").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_795_852_306_000), "2026-11-28 07:51:46");
        assert_eq!(utc(4_102_444_799_000), "2099-12-31 23:59:59");
        assert!(utc(u64::MAX).starts_with("9999-12-"), "no time is a panic");
    }

    #[tokio::test]
    async fn stepped_time_moves_by_waits_alone_and_concurrent_waits_overlap() {
        let time = Time::stepped();
        let before = time.now_ms();
        tokio::join!(time.sleep(Duration::from_secs(120)), time.sleep(Duration::from_secs(60)));
        assert_eq!(time.now_ms() - before, 120_000);
    }
}
