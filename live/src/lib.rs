//! The live router.
pub mod extract;
pub mod prompt;
pub mod sse;
