//! Keys in the configuration: code that sends or compares a key can read it, formatting and serialization cannot.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// A key. Its `Debug` output and its serialized form are [`Secret::PLACEHOLDER`], so that neither a log nor an answer
/// of the admin API contains it.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Stands for a key that is set and not shown. In a configuration that is sent back it means "the key in force".
    pub const PLACEHOLDER: &'static str = "(set)";

    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is no key but the mark that one is set.
    pub fn is_placeholder(&self) -> bool {
        self.0 == Self::PLACEHOLDER
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PLACEHOLDER)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::PLACEHOLDER)
    }
}

impl From<String> for Secret {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl From<&str> for Secret {
    fn from(key: &str) -> Self {
        Self(key.to_owned())
    }
}
