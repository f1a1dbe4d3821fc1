//! When requests are sent: profiles with GuideLLM's names, and the schedules they produce.

use crate::input_error::InputError;
use gorgo_core::{Span, Time, rng};
use rand::RngExt;

/// A profile: one strategy, or several one after another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Profile {
    /// Open loop, exponential gaps with this mean rate, requests/s.
    Poisson(f64),
    /// Open loop, equal gaps, requests/s.
    Constant(f64),
    /// Closed loop, one request at a time.
    Synchronous,
    /// Closed loop, this many requests at a time.
    Concurrent(usize),
    /// Closed loop, as many requests at a time as allowed.
    Throughput,
    /// Synchronous, throughput, and constant rates between the two: this many strategies in all, at least 3.
    Sweep(usize),
    /// Open loop, at the times of the trace, which the reader has scaled.
    Trace,
}

/// End of a run: the first limit that is reached. Without limits, one pass through the data.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// No request is scheduled later than this, s.
    pub duration_s: Option<f64>,
    /// Most requests.
    pub max_requests: Option<usize>,
}

/// One strategy: an open-loop schedule or a closed loop.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// Open loop: requests at fixed times.
    Open {
        /// Name of the profile.
        name: &'static str,
        /// Requested rate, requests/s; `None` for a trace.
        rate: Option<f64>,
        /// The times, ascending.
        at: Vec<Time>,
    },
    /// Closed loop: workers that send their next request when the previous one has ended.
    Closed {
        /// Name of the profile.
        name: &'static str,
        /// Number of workers.
        workers: usize,
        /// Most requests.
        requests: usize,
        /// No request is sent later.
        until: Time,
    },
}

impl Limits {
    fn most(&self, data: usize) -> usize {
        // A duration alone goes through the data as often as it takes.
        self.max_requests.unwrap_or(if self.duration_s.is_some() { usize::MAX } else { data })
    }

    fn until(&self) -> Time {
        self.duration_s.map_or(Time::NEVER, |s| Time::ZERO + Span::from_secs(s))
    }

    fn check(&self) -> Result<(), InputError> {
        if let Some(s) = self.duration_s.filter(|s| !(0.001..=1e6).contains(s)) {
            return Err(format!("duration is {s} s: give 0.001 to 1,000,000").into());
        }
        match self.max_requests {
            Some(0) => Err("max_requests is 0: give at least 1".into()),
            _ => Ok(()),
        }
    }
}

/// Most requests of an open-loop schedule, which is kept in memory.
const MOST: usize = 10_000_000;

impl Profile {
    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poisson(_) => "poisson",
            Self::Constant(_) => "constant",
            Self::Synchronous => "synchronous",
            Self::Concurrent(_) => "concurrent",
            Self::Throughput => "throughput",
            Self::Sweep(_) => "sweep",
            Self::Trace => "trace",
        }
    }

    /// The strategy of this profile over `data`, the times of the trace. `seed` draws the gaps, `most_workers` limits
    /// closed loops. A sweep consists of several strategies: see [`sweep_rates`].
    ///
    /// # Errors
    /// A number is out of range, or the schedule would be empty or too long.
    pub fn strategy(
        self,
        data: &[Time],
        limits: &Limits,
        seed: u64,
        most_workers: usize,
    ) -> Result<Strategy, InputError> {
        limits.check()?;
        let name = self.name();
        let (most, until) = (limits.most(data.len()), limits.until());
        let rate_of = |rate: f64| {
            let fits = (1e-4..=1e6).contains(&rate);
            fits.then_some(rate).ok_or(format!("rate is {rate}: give requests a second from 0.0001 to 1,000,000"))
        };
        let closed = |workers: usize| Ok(Strategy::Closed { name, workers, requests: most, until });
        let (rate, at) = match self {
            Self::Poisson(rate) => (Some(rate), poisson(rate_of(rate)?, most, until, seed)),
            Self::Constant(rate) => (Some(rate), constant(rate_of(rate)?, most, until)),
            Self::Trace => (None, data.iter().copied().take(most).take_while(|&at| at <= until).collect()),
            Self::Synchronous => return closed(1),
            Self::Throughput => return closed(most_workers.max(1)),
            Self::Concurrent(n) if (1..=most_workers).contains(&n) => return closed(n),
            Self::Concurrent(n) => {
                return Err(format!("{n} concurrent requests: give 1 to the limit of {most_workers} in flight").into());
            }
            Self::Sweep(_) => return Err("a sweep is several runs".into()),
        };
        match at.len() {
            0 => Err("no request falls into the duration: make it longer or the rate higher".into()),
            n if n > MOST => Err(format!("the schedule has more than {MOST} requests: limit it").into()),
            _ => Ok(Strategy::Open { name, rate, at }),
        }
    }
}

fn poisson(rate: f64, most: usize, until: Time, seed: u64) -> Vec<Time> {
    let mut rng = rng::stream(seed, "bench-arrivals", 0);
    let mut at = Time::ZERO;
    std::iter::from_fn(|| {
        at += Span::from_secs(-(1.0 - rng.random::<f64>()).ln() / rate);
        Some(at)
    })
    .take(most.min(MOST + 1))
    .take_while(|&at| at <= until)
    .collect()
}

fn constant(rate: f64, most: usize, until: Time) -> Vec<Time> {
    // From the count, not by adding up, so that no rounding accumulates.
    (0..most.min(MOST + 1)).map(|i| Time::from_ms(i as f64 * 1e3 / rate)).take_while(|&at| at < until).collect()
}

/// Constant rates of a sweep of `strategies` strategies, between the rate of one worker and that of all workers.
pub fn sweep_rates(strategies: usize, slowest: f64, fastest: f64) -> Vec<f64> {
    let inner = strategies.saturating_sub(2).max(1);
    let step = (fastest - slowest).max(0.0) / (inner + 1) as f64;
    (1..=inner).map(|i| slowest + step * i as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::Strategy; // proptest has a trait of that name
    use super::*;
    use proptest::prelude::*;

    fn open(profile: Profile, limits: Limits, seed: u64) -> Vec<Time> {
        match profile.strategy(&[Time(5), Time(6)], &limits, seed, 10).unwrap() {
            Strategy::Open { at, .. } => at,
            Strategy::Closed { .. } => panic!("closed"),
        }
    }

    fn requests(n: usize) -> Limits {
        Limits { max_requests: Some(n), ..Limits::default() }
    }

    proptest! {
        #[test]
        fn constant_gaps_are_equal_to_the_nanosecond(rate in 0.01f64..10_000.0, n in 2usize..2000) {
            let at = open(Profile::Constant(rate), requests(n), 0);
            prop_assert_eq!(at.len(), n);
            let gap = 1e9 / rate;
            for pair in at.windows(2) {
                prop_assert!(((pair[1] - pair[0]).0 as f64 - gap).abs() <= 1.0);
            }
        }

        #[test]
        fn a_duration_ends_every_schedule(rate in 1f64..500.0, s in 0.5f64..20.0, seed in any::<u64>()) {
            let limits = Limits { duration_s: Some(s), max_requests: None };
            for profile in [Profile::Poisson(rate), Profile::Constant(rate)] {
                if let Ok(Strategy::Open { at, .. }) = profile.strategy(&[Time(0)], &limits, seed, 1) {
                    prop_assert!(at.iter().all(|at| at.secs() <= s + 1e-9));
                    prop_assert!(at.is_sorted());
                }
            }
        }
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_spread_of_an_exponential() {
        let at = open(Profile::Poisson(50.0), requests(20_000), 7);
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]).ms()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let sd = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean - 20.0).abs() < 0.5 && (sd - 20.0).abs() < 0.7, "{mean} {sd}");
        assert_eq!(at, open(Profile::Poisson(50.0), requests(20_000), 7));
        assert_ne!(at, open(Profile::Poisson(50.0), requests(20_000), 8));
    }

    #[test]
    fn a_trace_is_replayed_at_its_own_times() {
        assert_eq!(open(Profile::Trace, Limits::default(), 0), [Time(5), Time(6)]);
        assert_eq!(open(Profile::Trace, requests(1), 0), [Time(5)]);
    }

    #[test]
    fn sweep_rates_lie_evenly_between_the_ends() {
        assert_eq!(sweep_rates(5, 1.0, 9.0), [3.0, 5.0, 7.0]);
        assert_eq!(sweep_rates(3, 4.0, 2.0), [4.0]);
    }

    #[test]
    fn bad_numbers_are_named() {
        let say = |p: Profile, l: Limits| p.strategy(&[Time(0)], &l, 0, 8).unwrap_err().to_string();
        assert_eq!(
            say(Profile::Poisson(0.0), requests(1)),
            "rate is 0: give requests a second from 0.0001 to 1,000,000"
        );
        assert_eq!(
            say(Profile::Concurrent(9), requests(1)),
            "9 concurrent requests: give 1 to the limit of 8 in flight"
        );
        assert!(say(Profile::Throughput, requests(0)).starts_with("max_requests is 0"));
        let short = Limits { duration_s: Some(0.001), max_requests: None };
        assert!(say(Profile::Poisson(0.001), short).starts_with("no request falls"));
    }
}
