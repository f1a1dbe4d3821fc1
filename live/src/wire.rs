//! What is read of bodies and event streams, in place.

pub mod answer_tap;
pub mod prompt_blocks;
pub mod request_fields;

pub(crate) mod json;
