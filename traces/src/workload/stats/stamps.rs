//! The times of a trace as its file holds them: equal ones, those out of order, and those beside the clock's tick.

use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use serde::Serialize;
use std::fmt;

/// Ticks that clocks of traces have, coarsest first, ns.
const TICKS: [u64; 5] = [60_000_000_000, 1_000_000_000, 100_000_000, 10_000_000, 1_000_000];
/// A clock has a tick if this share of its stamps lies on it.
const ON_TICK: f64 = 0.95;

/// Counts of the times of a trace, before they are spread or drawn. Turns that wait for another turn have none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Stamps {
    /// Requests with a time of their own.
    pub requests: usize,
    /// Distinct times.
    pub distinct: usize,
    /// Most requests on one time.
    pub most_on_one: usize,
    /// Requests whose time is before that of the row above them.
    pub backwards: usize,
    /// Tick of the clock, s; `None` where it is finer than 1 ms.
    pub tick_s: Option<f64>,
    /// Requests beside the tick.
    pub off_tick: usize,
}

impl Stamps {
    /// Counts the times of requests in the order of their file.
    pub(crate) fn of(requests: &[TraceRequest]) -> Self {
        let mut times: Vec<Time> = requests.iter().filter(|r| r.delay.is_none()).map(|r| r.at).collect();
        let backwards = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
        times.sort_unstable();
        let runs: Vec<usize> = times.chunk_by(|a, b| a == b).map(<[Time]>::len).collect();
        let start = times.first().copied().unwrap_or_default();
        let beside = |tick: u64| times.iter().filter(|at| !(at.0 - start.0).is_multiple_of(tick)).count();
        let tick = TICKS
            .into_iter()
            .map(|tick| (tick, beside(tick)))
            .find(|&(_, off)| times.len() > 2 && times.len() as f64 * (1.0 - ON_TICK) >= off as f64);
        Self {
            requests: times.len(),
            distinct: runs.len(),
            most_on_one: runs.into_iter().max().unwrap_or(0),
            backwards,
            tick_s: tick.map(|(ns, _)| ns as f64 / 1e9),
            off_tick: tick.map_or(0, |(_, off)| off),
        }
    }
}

impl fmt::Display for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} distinct of {}", self.distinct, self.requests)?;
        if self.distinct < self.requests {
            write!(f, ", up to {} requests on one", self.most_on_one)?;
        }
        if let Some(tick) = self.tick_s {
            write!(f, ", tick {tick} s")?;
        }
        if self.off_tick > 0 {
            write!(f, ", {} beside the tick", self.off_tick)?;
        }
        if self.backwards > 0 {
            write!(f, ", {} before the row above them", self.backwards)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(ms: &[u64]) -> Stamps {
        let rows: Vec<_> =
            ms.iter().map(|&ms| TraceRequest::lone(0, Time::from_ms(ms as f64), 1, 1, 16, [1].into())).collect();
        Stamps::of(&rows)
    }

    #[test]
    fn equal_odd_and_backward_stamps_are_counted() {
        let mut all: Vec<u64> = (0..60).map(|i| i / 3 * 3_000).collect();
        assert_eq!(stamps(&all).to_string(), "20 distinct of 60, up to 3 requests on one, tick 1 s");
        all.extend([61_001, 57_000]);
        assert_eq!(
            stamps(&all).to_string(),
            "21 distinct of 62, up to 4 requests on one, tick 1 s, 1 beside the tick, 1 before the row above them"
        );
        assert_eq!(stamps(&[0, 7, 1_003, 2_117]).to_string(), "4 distinct of 4, tick 0.001 s");
        assert_eq!(stamps(&[5]).to_string(), "1 distinct of 1");
        assert_eq!(stamps(&[]).to_string(), "0 distinct of 0");
    }
}
