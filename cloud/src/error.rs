//! Failures as an operator needs them: the sign, its meaning, the remedy.

use thiserror::Error;

/// How a caller reacts to a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request was refused and had no effect.
    Refused,
    /// The region has no machine of this type now; the request had no effect.
    Capacity,
    /// Too many requests; the request had no effect.
    Throttled,
    /// The credentials were refused.
    Credentials,
    /// The object does not exist.
    NotFound,
    /// The answer was lost: the request may have had its effect.
    Unknown,
    /// A file, an option or a host entry is wrong.
    Usage,
    /// A local file could not be read or written.
    File,
    /// A node could not be reached.
    Unreachable,
    /// A command on a node failed.
    Command,
    /// A step of set-up failed.
    SetUp,
    /// A guard on money or on the number of machines refused.
    Guard,
    /// The operator interrupted.
    Interrupted,
}

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{sign}: {meaning}; {remedy}")]
pub struct Error {
    /// How a caller reacts.
    pub kind: Kind,
    /// What was observed: a status, a code, a line of a log.
    pub sign: String,
    /// What it means.
    pub meaning: String,
    /// What to do.
    pub remedy: String,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure.
    pub fn new(kind: Kind, sign: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, sign: sign.into(), meaning: meaning.into(), remedy: remedy.into() }
    }

    /// A wrong file, option or entry.
    pub fn usage(sign: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Kind::Usage, sign, meaning, remedy)
    }

    /// A local file that cannot be used.
    pub fn file(path: &std::path::Path, why: &std::io::Error) -> Self {
        let remedy = "check the path, its permissions and the free space";
        Self::new(Kind::File, format!("`{}`", path.display()), why.to_string(), remedy)
    }
}
