//! Limits on what a command may launch, and what it will cost.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// Limits that hold for the whole account as the ledger knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Machines at one time.
    pub nodes: usize,
    /// Price of all machines together, US cents an hour; no limit when absent.
    pub cents_per_hour: Option<u64>,
    /// Launches of one command, those in other regions after a refusal included.
    pub launches: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { nodes: 8, cents_per_hour: Some(5_000), launches: 16 }
    }
}

/// What a command is about to launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Machines.
    pub nodes: usize,
    /// Their price together, US cents an hour; absent when the price of one is unknown.
    pub cents_per_hour: Option<u64>,
    /// Lease, milliseconds.
    pub lease_ms: u64,
}

impl Quote {
    /// Price of the whole lease, US cents, where it is known.
    pub fn cents(&self) -> Option<u64> {
        Some((self.cents_per_hour? * self.lease_ms).div_ceil(3_600_000))
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.lease_ms / 60_000;
        let lease = match minutes % 60 {
            0 => format!("{} h", minutes / 60),
            _ if minutes < 60 => format!("{minutes} min"),
            rest => format!("{} h {rest} min", minutes / 60),
        };
        match (self.cents_per_hour, self.cents()) {
            (Some(hour), Some(whole)) => {
                let (hour, whole) = (dollars(hour), dollars(whole));
                write!(f, "{} node(s), {hour} an hour, at most {whole} in a lease of {lease}", self.nodes)
            }
            _ => write!(f, "{} node(s) for a lease of {lease}; the provider does not tell their price", self.nodes),
        }
    }
}

/// `$1.29`
pub fn dollars(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

/// `$1.29`, or what stands for a price that the provider does not tell.
pub fn price(cents: Option<u64>) -> String {
    cents.map_or_else(|| "unknown".to_owned(), dollars)
}

/// The sum of these prices, and of how many none is known: `$1.29`, `$1.29 and 2 unknown` or `unknown`.
pub fn total(prices: impl Iterator<Item = Option<u64>>) -> String {
    let (known, unknown): (Vec<_>, Vec<_>) = prices.partition(Option::is_some);
    let sum = dollars(known.iter().flatten().sum());
    match (known.len(), unknown.len()) {
        (_, 0) => sum,
        (0, _) => "unknown".to_owned(),
        (_, count) => format!("{sum} and {count} unknown"),
    }
}

impl Caps {
    /// Whether `quote` may be launched beside machines of these prices.
    ///
    /// # Errors
    /// When a limit would be passed, or an unknown price keeps one from being checked.
    pub fn check(&self, running: &[Option<u64>], quote: &Quote) -> Result<()> {
        let guard = |sign: String, meaning: String, option: &str| {
            let remedy = format!("end machines with `gorgo kill`, or raise the limit with {option}");
            Err(Error::new(Kind::Guard, sign, meaning, remedy))
        };
        let nodes = running.len() + quote.nodes;
        if nodes > self.nodes {
            let sign = format!("{nodes} nodes");
            let meaning = format!("more than the limit of {}, {} of them run now", self.nodes, running.len());
            return guard(sign, meaning, "--max-nodes");
        }
        let Some(limit) = self.cents_per_hour else { return Ok(()) };
        let known: Option<u64> = running.iter().copied().sum();
        let Some((known, new)) = known.zip(quote.cents_per_hour) else {
            let sign = if known.is_none() { "a machine that runs" } else { "a machine to launch" };
            let meaning = format!("its price is unknown, so the limit of {} an hour cannot be kept", dollars(limit));
            let remedy = "name another type, or lift the limit with --max-dollars-per-hour none";
            return Err(Error::new(Kind::Guard, sign, meaning, remedy));
        };
        if known + new > limit {
            let sign = format!("{} an hour", dollars(known + new));
            return guard(sign, format!("more than the limit of {}", dollars(limit)), "--max-dollars-per-hour");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_what_runs_already() {
        let caps = Caps { nodes: 3, cents_per_hour: Some(400), launches: 9 };
        let quote = |nodes, cents| Quote { nodes, cents_per_hour: Some(cents), lease_ms: 3_600_000 };
        let running = [Some(129)];
        caps.check(&running, &quote(2, 258)).unwrap();
        assert!(caps.check(&running, &quote(3, 3)).unwrap_err().to_string().contains("--max-nodes"));
        assert!(caps.check(&running, &quote(1, 272)).unwrap_err().to_string().contains("$4.01"));
    }

    #[test]
    fn an_unknown_price_passes_no_limit() {
        let unknown = Quote { nodes: 1, cents_per_hour: None, lease_ms: 3_600_000 };
        let caps = Caps::default();
        assert!(caps.check(&[], &unknown).unwrap_err().to_string().contains("price is unknown"));
        let known = Quote { cents_per_hour: Some(1), ..unknown };
        assert!(caps.check(&[Some(1), None], &known).unwrap_err().to_string().contains("that runs"));
        Caps { cents_per_hour: None, ..caps }.check(&[None], &unknown).unwrap();
        assert_eq!(unknown.to_string(), "1 node(s) for a lease of 1 h; the provider does not tell their price");
        assert_eq!((price(None), price(Some(5))), ("unknown".to_owned(), "$0.05".to_owned()));
    }

    #[test]
    fn a_sum_says_what_is_unknown() {
        let total = |prices: &[Option<u64>]| total(prices.iter().copied());
        assert_eq!((total(&[]), total(&[Some(129), Some(1)])), ("$0.00".to_owned(), "$1.30".to_owned()));
        assert_eq!(
            (total(&[None]), total(&[None, Some(129)])),
            ("unknown".to_owned(), "$1.29 and 1 unknown".to_owned())
        );
    }

    #[test]
    fn a_quote_shows_price_times_lease() {
        let quote = Quote { nodes: 3, cents_per_hour: Some(387), lease_ms: 4 * 3_600_000 };
        assert_eq!(quote.to_string(), "3 node(s), $3.87 an hour, at most $15.48 in a lease of 4 h");
        let lease = |lease_ms| Quote { lease_ms, ..quote }.to_string();
        assert!(lease(60_000).ends_with("a lease of 1 min") && lease(5_400_000).ends_with("a lease of 1 h 30 min"));
    }
}
