//! The error for invalid settings and descriptions in a user's input.

/// A setting or description was refused. Its text is one sentence: the part, its value, what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(String);

impl InputError {
    /// The text, without a copy.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl From<String> for InputError {
    fn from(sentence: String) -> Self {
        Self(sentence)
    }
}

impl From<&str> for InputError {
    fn from(sentence: &str) -> Self {
        Self(sentence.to_owned())
    }
}
