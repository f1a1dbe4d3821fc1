//! Rate limit of log lines, by what they are about.

use super::Change;
use rustc_hash::FxHashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Lines about one thing that are written at once.
const BURST: u32 = 6;
/// After that, one line in this time.
const REFILL: Duration = Duration::from_secs(10);
/// Most subjects with a limit of their own; further ones share one limit.
const KEYS: usize = 1_024;

/// The limit of the lines about one thing.
struct Limit {
    left: u32,
    since: Instant,
    held_back: u64,
}

/// Limits lines by what they are about.
#[derive(Default)]
pub(super) struct Limits(FxHashMap<(u8, String), Limit>);

impl Limits {
    /// The number of lines held back before this one; `None` if this one is held back, too.
    pub(super) fn pass(&mut self, change: &Change) -> Option<u64> {
        let (kind, about) = change.key();
        let about = if self.0.len() < KEYS { about } else { "" };
        let now = Instant::now();
        let limit = self.0.entry((kind, about.to_owned())).or_insert(Limit { left: BURST, since: now, held_back: 0 });
        let refills = (now - limit.since).as_secs() / REFILL.as_secs();
        if refills > 0 {
            limit.left = (u64::from(limit.left) + refills).min(u64::from(BURST)) as u32;
            limit.since = now;
        }
        if limit.left == 0 {
            limit.held_back += 1;
            return None;
        }
        limit.left -= 1;
        Some(std::mem::take(&mut limit.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_about_one_thing_are_limited_and_those_held_back_are_counted() {
        let mut limits = Limits::default();
        let down = |name: &str| Change::Down { replica: name.to_owned(), why: String::new() };
        let passed = (0..100).filter(|_| limits.pass(&down("a")).is_some()).count();
        assert_eq!((passed, limits.pass(&down("b"))), (BURST as usize, Some(0)), "another replica has its own limit");
        tokio::time::advance(REFILL).await;
        assert_eq!((limits.pass(&down("a")), limits.pass(&down("a"))), (Some(100 - u64::from(BURST)), None));
    }
}
