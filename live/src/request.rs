//! One client request, from its head to the last byte of its answer.

pub mod body;
pub mod errors;
pub mod forward;
pub mod guard;
pub mod headers;
pub mod response_body;

pub(crate) mod attempt;
pub(crate) mod context;
pub(crate) mod read_body;
