//! Strict parsing of policy settings: a map of values becomes a checked struct; errors name the key.

use crate::suggest::in_words;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The greatest weight or time a setting may have; keeps sums of products finite.
pub(crate) const MOST: f64 = 1e9;

/// Settings of a policy: serde plus a check of ranges.
pub(crate) trait Settings: DeserializeOwned + Default {
    /// Checks the ranges.
    ///
    /// # Errors
    /// One sentence about the first value out of range.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The settings of a policy that has none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

impl Settings for NoSettings {}

/// Refuses a number outside `low..=high`, NaN included.
pub(crate) fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(format!("`{key}` is {value}; it must lie between {low} and {high}"))
}

/// Refuses negative, huge and NaN weights.
pub(crate) fn weight(key: &str, value: f64) -> Result<(), String> {
    within(key, value, 0.0, MOST)
}

/// A value that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The key of the value; `None` when the message names it.
    pub(crate) key: Option<String>,
    /// The problem and the accepted values.
    pub(crate) message: String,
}

/// Parses `T` from `map`. `T` must have a default for every field: serde's message does not name the wrong key, so each
/// key is parsed alone to find it.
pub(crate) fn strict<T: DeserializeOwned>(mut map: Map<String, Value>) -> Result<T, Fault> {
    map.values_mut().for_each(whole);
    let error = match serde_json::from_value(Value::Object(map.clone())) {
        Ok(value) => return Ok(value),
        Err(error) => in_words(&error.to_string()),
    };
    if error.starts_with("unknown field") {
        return Err(Fault { key: None, message: error });
    }
    for (key, value) in map {
        let alone = Map::from_iter([(key.clone(), value)]);
        if let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) {
            let message = in_words(&error.to_string());
            return Err(Fault { key: Some(key), message });
        }
    }
    Err(Fault { key: None, message: error })
}

/// Writes 5200.0 as 5200: data frames turn counts into floats, and a float setting reads either.
fn whole(value: &mut Value) {
    if let Some(number) = value.as_f64()
        && value.is_f64()
        && number.fract() == 0.0
        && number.abs() < 9e15
    {
        *value = Value::from(number as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Knobs {
        count: u32,
        rate: f64,
    }

    fn read(json: &str) -> Result<Knobs, Fault> {
        strict(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn whole_floats_are_counts() {
        assert_eq!(read(r#"{"count": 5200.0, "rate": 2.0}"#), Ok(Knobs { count: 5200, rate: 2.0 }));
    }

    #[test]
    fn a_fault_names_the_key_and_the_value() {
        let fault = read(r#"{"count": 5, "rate": "fast"}"#).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("rate"));
        assert!(fault.message.contains("\"fast\""), "{}", fault.message);
        let fault = read(r#"{"count": -5}"#).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("count"));
        assert!(fault.message.contains("-5"), "{}", fault.message);
        assert!(read(r#"{"cuont": 5}"#).unwrap_err().message.contains("did you mean `count`?"));
    }

    #[test]
    fn ranges_refuse_nan_and_infinity() {
        assert!(weight("w", f64::NAN).is_err() && weight("w", f64::INFINITY).is_err() && weight("w", -1.0).is_err());
        assert_eq!(within("min_match", 2.0, 0.0, 1.0).unwrap_err(), "`min_match` is 2; it must lie between 0 and 1");
        assert!(weight("w", 0.0).is_ok());
    }
}
