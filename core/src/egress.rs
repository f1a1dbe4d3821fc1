//! Price of data between regions, as milliseconds in a score.
//!
//! A cloud bills what leaves a region: the request from the router's region, the answer from the replica's. The
//! operator states what a unit of money is worth in milliseconds of waiting; at 0, the default, prices change nothing.

use crate::range::{OutOfRange, check_ranges};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Bytes of a streamed answer per output token: an SSE event with its JSON.
pub const ANSWER_BYTES_PER_TOKEN: f64 = 250.0;

/// Most prices of a configuration.
const MAX_PRICES: usize = 4_096;

/// Price of data from one region to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressPrice {
    /// Region that the data leaves.
    pub from: String,
    /// Region that it reaches.
    pub to: String,
    /// Money per gigabyte (10^9 bytes).
    pub per_gb: f64,
}

/// Prices of data between regions and their weight. A pair that is not listed costs nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// What one unit of money is worth, ms of a request's waiting; 0 turns the term off.
    pub ms_per_unit: f64,
    /// The prices.
    pub prices: Vec<EgressPrice>,
}

/// What data costs between a router and one replica, ms per byte.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Egress {
    /// Of a request.
    pub up: f64,
    /// Of an answer.
    pub down: f64,
}

impl EgressConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first one out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        check_ranges([
            ("ms_per_unit", self.ms_per_unit, 0.0..=1e12),
            ("prices.len", self.prices.len() as f64, 0.0..=MAX_PRICES as f64),
        ])?;
        check_ranges(self.prices.iter().map(|price| ("prices.per_gb", price.per_gb, 0.0..=1e6)))
    }

    /// The first price of a pair that has one before it, which alone would hold.
    pub fn doubled(&self) -> Option<&EgressPrice> {
        let pair = |price: &EgressPrice| (price.from.clone(), price.to.clone());
        let mut seen = BTreeSet::new();
        self.prices.iter().find(|price| !seen.insert(pair(price)))
    }

    /// What data costs between a router and a replica in these regions.
    pub fn between(&self, router: &str, replica: Option<&str>) -> Egress {
        let Some(replica) = replica.filter(|_| self.ms_per_unit > 0.0) else { return Egress::default() };
        let per_byte = |from: &str, to: &str| {
            let price = self.prices.iter().find(|price| price.from == from && price.to == to);
            price.map_or(0.0, |price| price.per_gb / 1e9 * self.ms_per_unit)
        };
        Egress { up: per_byte(router, replica), down: per_byte(replica, router) }
    }
}

impl Egress {
    /// Cost of a request of `bytes` with an answer of `output_tokens`, ms.
    pub fn ms(self, bytes: u64, output_tokens: f64) -> f64 {
        // 0 times an infinite guess of the output would be NaN.
        let down = if self.down > 0.0 { self.down * output_tokens * ANSWER_BYTES_PER_TOKEN } else { 0.0 };
        self.up * bytes as f64 + down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EgressConfig {
        let price = |from: &str, to: &str, per_gb| EgressPrice { from: from.into(), to: to.into(), per_gb };
        EgressConfig { ms_per_unit: 1e6, prices: vec![price("eu", "us", 0.02), price("us", "eu", 0.09)] }
    }

    #[test]
    fn each_direction_has_its_price_and_unlisted_pairs_are_free() {
        let there = config().between("eu", Some("us"));
        // 100 kB to the US at 0.02 a GB, 200 tokens back at 0.09, a unit worth 10^6 ms.
        let ms = 1e-4 * 0.02 * 1e6 + 200.0 * 250.0 / 1e9 * 0.09 * 1e6;
        assert!((there.ms(100_000, 200.0) - ms).abs() < 1e-9);
        for (router, replica) in [("eu", Some("eu")), ("eu", None), ("", Some("us")), ("eu", Some("asia"))] {
            assert_eq!(config().between(router, replica), Egress::default(), "{router} {replica:?}");
        }
        let off = EgressConfig { ms_per_unit: 0.0, ..config() };
        assert_eq!(off.between("eu", Some("us")).ms(u64::MAX, f64::INFINITY), 0.0);
    }

    #[test]
    fn a_pair_with_two_prices_is_found_and_two_directions_are_two_pairs() {
        let mut prices = config();
        assert_eq!(prices.doubled(), None);
        prices.prices.push(EgressPrice { per_gb: 7.0, ..prices.prices[0].clone() });
        assert_eq!(prices.doubled().map(|price| price.per_gb), Some(7.0));
    }

    #[test]
    fn prices_are_bounded() {
        assert!(config().check().is_ok());
        let mut wrong = config();
        wrong.prices[1].per_gb = f64::NAN;
        assert!(wrong.check().unwrap_err().to_string().starts_with("prices.per_gb is NaN"));
        let wrong = EgressConfig { ms_per_unit: -1.0, ..config() };
        assert!(wrong.check().unwrap_err().to_string().starts_with("ms_per_unit is -1"));
        let price = config().prices[0].clone();
        let many = EgressConfig { prices: vec![price; 4_097], ..config() };
        assert!(many.check().unwrap_err().to_string().starts_with("prices.len is 4097"));
    }
}
