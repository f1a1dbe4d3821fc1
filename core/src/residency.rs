//! Residency: the labels of which a replica must have one to be eligible for a request.
//!
//! A fence excludes replicas, it does not score them: a replica without any of the labels is excluded whatever its
//! load, and so is a replica whose labels are not known. The router applies the fence to every dispatch of a request:
//! the first one, retries, forwards to peers, random choices and the decisions of shadow policies.

use crate::fleet::ReplicaSpec;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Most clauses of a fence.
pub const MAX_CLAUSES: usize = 16;
/// Most labels of a clause.
pub const MAX_LABELS: usize = 64;
/// Longest label: a key and value of Kubernetes fit.
const MAX_LABEL_BYTES: usize = 320;
/// Longest written form, so that it fits in a header.
const MAX_BYTES: usize = 4_096;

/// Where a request may go: in each clause the replica must have one of the labels, or be in a region of that name.
/// Written as `eu-west,eu-north;hipaa`: clauses apart by `;`, labels by `,`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fence(Arc<[Box<[String]>]>);

/// A fence or label that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FenceError {
    /// A label with other characters, or of another length.
    #[error("\"{0}\" is no label; give 1 to 320 letters, digits and `.`, `_`, `-`, `/`, `:` or `=`")]
    Label(String),
    /// A clause without labels, which would admit no replica.
    #[error("a clause without labels admits no replica; name a label")]
    Empty,
    /// Too many of them.
    #[error("{0} {1} are more than the {2} that fit")]
    TooMany(usize, &'static str, usize),
}

/// Checks a label of a replica or a fence.
///
/// # Errors
/// [`FenceError::Label`].
pub fn check_label(label: &str) -> Result<(), FenceError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:=".contains(&byte);
    let fits = (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(plain);
    if fits { Ok(()) } else { Err(FenceError::Label(label.chars().take(80).collect())) }
}

/// Checks the labels of a replica or of one clause.
///
/// # Errors
/// [`FenceError::Label`], or [`FenceError::TooMany`] for more than [`MAX_LABELS`].
pub fn check_labels(labels: &[String]) -> Result<(), FenceError> {
    if labels.len() > MAX_LABELS {
        return Err(FenceError::TooMany(labels.len(), "labels", MAX_LABELS));
    }
    labels.iter().try_for_each(|label| check_label(label))
}

impl Fence {
    /// A fence of these clauses, each a list of labels of which one is enough.
    ///
    /// # Errors
    /// When there is no clause or label, or one that cannot be written.
    pub fn new(clauses: Vec<Vec<String>>) -> Result<Self, FenceError> {
        if clauses.len() > MAX_CLAUSES {
            return Err(FenceError::TooMany(clauses.len(), "clauses", MAX_CLAUSES));
        }
        if clauses.is_empty() || clauses.iter().any(Vec::is_empty) {
            return Err(FenceError::Empty);
        }
        clauses.iter().try_for_each(|labels| check_labels(labels))?;
        let bytes: usize = clauses.iter().flatten().map(|label| label.len() + 1).sum();
        if bytes > MAX_BYTES {
            return Err(FenceError::TooMany(bytes, "bytes", MAX_BYTES));
        }
        Ok(Self(clauses.into_iter().map(Vec::into_boxed_slice).collect()))
    }

    /// Reads the written form.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn parse(text: &str) -> Result<Self, FenceError> {
        let labels = |clause: &str| clause.split(',').map(|label| label.trim().to_owned()).collect();
        Self::new(text.split(';').take(MAX_CLAUSES + 1).map(labels).collect())
    }

    /// A fence that admits what both admit.
    ///
    /// # Errors
    /// When the two together are too long.
    pub fn and(&self, other: &Self) -> Result<Self, FenceError> {
        let more = other.0.iter().filter(|clause| !self.0.contains(clause));
        Self::new(self.0.iter().chain(more).map(|clause| clause.to_vec()).collect())
    }

    /// Whether a replica with this region and these labels is inside. Without any it is outside.
    pub fn admits(&self, region: Option<&str>, labels: &[String]) -> bool {
        let carries = |wanted: &String| region == Some(wanted) || labels.contains(wanted);
        self.0.iter().all(|clause| clause.iter().any(carries))
    }

    /// The same for a replica's configuration.
    pub fn admits_replica(&self, spec: &ReplicaSpec) -> bool {
        self.admits(spec.region.as_deref(), &spec.labels)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, clause) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ";" }, clause.join(","))?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Fence {
    type Error = FenceError;

    fn try_from(text: String) -> Result<Self, FenceError> {
        Self::parse(&text)
    }
}

impl From<Fence> for String {
    fn from(fence: Fence) -> Self {
        fence.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fence(text: &str) -> Fence {
        Fence::parse(text).unwrap()
    }

    fn labels(text: &str) -> Vec<String> {
        text.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn every_clause_needs_one_of_its_labels_and_a_bare_replica_is_outside() {
        let eu = fence("eu-west,eu-north;hipaa");
        for (region, own, inside) in [
            (Some("eu-west"), "hipaa", true),
            (None, "eu-north,hipaa", true),
            (Some("hipaa"), "eu-west", true),
            (Some("eu-west"), "", false),
            (Some("us-east"), "hipaa", false),
            (Some("eu"), "hipaa", false),
            (Some("eu-west-1"), "hipaa", false),
            (None, "", false),
        ] {
            assert_eq!(eu.admits(region, &labels(own)), inside, "{region:?} {own}");
        }
    }

    #[test]
    fn what_cannot_be_a_fence_is_refused_in_one_sentence() {
        for (text, why) in [
            ("", "\"\" is no label; give 1 to 320 letters, digits and `.`, `_`, `-`, `/`, `:` or `=`"),
            ("eu;;x", "\"\" is no label; give 1 to 320 letters, digits and `.`, `_`, `-`, `/`, `:` or `=`"),
            ("e u", "\"e u\" is no label; give 1 to 320 letters, digits and `.`, `_`, `-`, `/`, `:` or `=`"),
        ] {
            assert_eq!(Fence::parse(text).unwrap_err().to_string(), why, "{text}");
        }
        let many = vec!["a"; 17].join(";");
        assert_eq!(Fence::parse(&many).unwrap_err().to_string(), "17 clauses are more than the 16 that fit");
        let many = vec!["a"; 65].join(",");
        assert_eq!(Fence::parse(&many).unwrap_err().to_string(), "65 labels are more than the 64 that fit");
        assert_eq!(Fence::new(vec![]), Err(FenceError::Empty));
        assert_eq!(Fence::new(vec![vec![]]), Err(FenceError::Empty));
        assert!(Fence::parse(&"a".repeat(321)).is_err());
        let long = vec!["a".repeat(320); 13].join(",");
        assert_eq!(Fence::parse(&long).unwrap_err().to_string(), "4173 bytes are more than the 4096 that fit");
    }

    proptest! {
        #[test]
        fn two_fences_admit_what_each_admits(a in "[a-c](,[a-c]){0,2}(;[a-c](,[a-c]){0,1}){0,2}",
                                             b in "[a-c](,[a-c]){0,2}(;[a-c]){0,2}", own in "([a-c],){0,3}",
                                             region in "[a-d]") {
            let (a, b, own) = (fence(&a), fence(&b), labels(&own));
            let region = Some(&*region).filter(|region| *region != "d");
            let both = a.and(&b).unwrap();
            prop_assert_eq!(both.admits(region, &own), a.admits(region, &own) && b.admits(region, &own));
            prop_assert_eq!(&fence(&both.to_string()), &both, "the written form reads back");
        }
    }
}
