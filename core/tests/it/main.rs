//! Tests of the crate as its users see it.
#![allow(clippy::unwrap_used, missing_docs)]

mod golden;
mod laws;
mod published_search;
