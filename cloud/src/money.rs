//! Limits on what a command may launch, and what it will cost.

use crate::error::{Error, Kind, Result};
use crate::ledger::Entry;
use std::fmt;

/// Limits that hold for the whole account as the ledger knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Machines at one time.
    pub nodes: usize,
    /// Price of all machines together, US cents an hour.
    pub cents_per_hour: u64,
    /// Launches of one command, those in other regions after a refusal included.
    pub launches: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { nodes: 8, cents_per_hour: 5_000, launches: 16 }
    }
}

/// What a command is about to launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Machines.
    pub nodes: usize,
    /// Their price together, US cents an hour.
    pub cents_per_hour: u64,
    /// Lease, milliseconds.
    pub lease_ms: u64,
}

impl Quote {
    /// Price of the whole lease, US cents.
    pub fn cents(&self) -> u64 {
        (self.cents_per_hour * self.lease_ms).div_ceil(3_600_000)
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.lease_ms as f64 / 3_600_000.0;
        let (hour, whole) = (dollars(self.cents_per_hour), dollars(self.cents()));
        write!(f, "{} node(s), {hour} an hour, at most {whole} in a lease of {hours:.1} h", self.nodes)
    }
}

/// `$1.29`
pub fn dollars(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

impl Caps {
    /// Whether `quote` may be launched beside `open`.
    ///
    /// # Errors
    /// When a limit would be passed.
    pub fn check(&self, open: &[Entry], quote: &Quote) -> Result<()> {
        let guard = |sign: String, meaning: String, option: &str| {
            let remedy = format!("end machines with `gorgo kill`, or raise the limit with {option}");
            Err(Error::new(Kind::Guard, sign, meaning, remedy))
        };
        let nodes = open.len() + quote.nodes;
        if nodes > self.nodes {
            let sign = format!("{nodes} nodes");
            return guard(
                sign,
                format!("more than the limit of {}, {} of them run now", self.nodes, open.len()),
                "--max-nodes",
            );
        }
        let running: u64 = open.iter().map(|entry| entry.intent.cents_per_hour).sum();
        let cents = running + quote.cents_per_hour;
        if cents > self.cents_per_hour {
            let limit = dollars(self.cents_per_hour);
            let sign = format!("{} an hour", dollars(cents));
            return guard(sign, format!("more than the limit of {limit}"), "--max-dollars-per-hour");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Intent, State};

    fn running(cents_per_hour: u64) -> Entry {
        let text = |t: &str| t.to_owned();
        let intent = Intent {
            key: text("k"),
            cloud: text("lambda"),
            account: text("a"),
            run: text("r"),
            name: text("n"),
            region: text("x"),
            machine: text("m"),
            cents_per_hour,
            expires_ms: 0,
        };
        Entry { intent, intended_ms: 0, id: None, state: State::Unanswered, since_ms: 0 }
    }

    #[test]
    fn limits_count_what_runs_already_even_without_an_answer() {
        let caps = Caps { nodes: 3, cents_per_hour: 400, launches: 9 };
        let quote = |nodes, cents_per_hour| Quote { nodes, cents_per_hour, lease_ms: 3_600_000 };
        let open = [running(129)];
        caps.check(&open, &quote(2, 258)).unwrap();
        assert!(caps.check(&open, &quote(3, 3)).unwrap_err().to_string().contains("--max-nodes"));
        assert!(caps.check(&open, &quote(1, 272)).unwrap_err().to_string().contains("$4.01"));
    }

    #[test]
    fn a_quote_shows_price_times_lease() {
        let quote = Quote { nodes: 3, cents_per_hour: 387, lease_ms: 4 * 3_600_000 };
        assert_eq!(quote.to_string(), "3 node(s), $3.87 an hour, at most $15.48 in a lease of 4.0 h");
    }
}
