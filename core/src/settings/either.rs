//! Fields that hold a number or text. Unlike serde's untagged enums, an error names the value and its key.

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};
use std::fmt;

/// A whole number or text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NumberOrText {
    /// A whole number from 0 on.
    Number(u64),
    /// Text.
    Text(String),
}

struct Expected(&'static str);

impl Visitor<'_> for Expected {
    type Value = NumberOrText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<NumberOrText, E> {
        Ok(NumberOrText::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<NumberOrText, E> {
        let whole = u64::try_from(number).map(NumberOrText::Number);
        whole.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<NumberOrText, E> {
        Ok(NumberOrText::Text(text.to_owned()))
    }
}

/// Reads a field that holds `expected`.
///
/// # Errors
/// When it is neither a whole number from 0 on nor text.
pub fn number_or_text<'de, D: Deserializer<'de>>(from: D, expected: &'static str) -> Result<NumberOrText, D::Error> {
    from.deserialize_any(Expected(expected))
}
