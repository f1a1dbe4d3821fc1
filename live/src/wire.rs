//! What is read of bodies and event streams, in place.

pub(crate) mod answer_tap;
pub(crate) mod prompt_blocks;
pub(crate) mod request_fields;

pub(crate) mod json;
