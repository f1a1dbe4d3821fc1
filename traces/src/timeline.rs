//! Timelines of requests as Chrome trace-event JSON, which ui.perfetto.dev opens.
//!
//! Reading order: [`write()`] (records in, file out) uses `lanes` (which row a request gets) → [`read()`] (file in,
//! checked spans out, used by tests and by the comparison of a measured with a simulated run).
//!
//! The look: one process per router and per replica, one row per request (rows are reused once free), and nested in
//! the router's `request` span `uplink`, `queue`, `forward`, `first-token`, `stream`; in the replica's `serve` span
//! `engine-queue`, `prefill`, `decode`. A flow arrow goes from each `forward` to its `serve`.
//! Stages of no length are left out; [`Timeline::stage`] gives zero for them.

mod lanes;
mod read;
mod rows;
mod write;

#[cfg(test)]
mod tests;

pub use read::{Flow, SpanEvent, Timeline, TimelineError, read};
pub use write::{Cut, Run, write};
