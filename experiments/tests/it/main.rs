//! Whole experiments and the shape of the workspace.
#![allow(clippy::unwrap_used)]

mod architecture;
mod runs;
