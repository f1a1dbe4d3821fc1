//! See ARCHITECTURE.md.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod timeline;
