//! Bounds of numeric settings.

use std::ops::RangeInclusive;

/// Periods and timeouts that must not be 0, ms: up to 11 days.
pub const PERIOD_MS: RangeInclusive<f64> = 1.0..=1e9;

/// Durations that may be 0, ms.
pub const DURATION_MS: RangeInclusive<f64> = 0.0..=1e9;

/// A setting outside its bounds.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key} is {value}; it must lie between {low} and {high}")]
pub struct OutOfRange {
    /// The setting, with the tables that hold it: `gates.max_kv_use`.
    pub key: String,
    /// Its value.
    pub value: f64,
    /// Its least value.
    pub low: f64,
    /// Its greatest value.
    pub high: f64,
}

impl OutOfRange {
    /// The same error with the name of the table that holds the key.
    #[must_use]
    pub fn within(mut self, table: &str) -> Self {
        self.key = format!("{table}.{}", self.key);
        self
    }
}

/// Checks each setting against its bounds. NaN is outside of all bounds.
///
/// # Errors
/// The first setting that is out of bounds.
pub fn check_ranges<'a>(
    settings: impl IntoIterator<Item = (&'a str, f64, RangeInclusive<f64>)>,
) -> Result<(), OutOfRange> {
    let wrong = settings.into_iter().find(|(_, value, bounds)| !bounds.contains(value));
    wrong.map_or(Ok(()), |(key, value, bounds)| {
        Err(OutOfRange { key: key.to_owned(), value, low: *bounds.start(), high: *bounds.end() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_out_of_bounds_is_named_with_its_value() {
        let check = |value| check_ranges([("a", 1.0, PERIOD_MS), ("b_ms", value, PERIOD_MS)]);
        assert_eq!(check(1.0), Ok(()));
        for wrong in [1e-9, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(check(wrong).unwrap_err().key, "b_ms");
        }
        let error = check(0.0).unwrap_err().within("signals");
        assert_eq!(error.to_string(), "signals.b_ms is 0; it must lie between 1 and 1000000000");
    }
}
