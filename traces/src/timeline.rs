//! Timelines of requests as Chrome trace-event JSON, which ui.perfetto.dev opens.
//!
//! Reading order: [`write()`] (records in, file out) uses `lanes` (which row a request gets) and `decision` (the scores
//! shown with it) → [`read()`] (file in,
//! checked spans out, used by tests and by the comparison of a measured with a simulated run).
//!
//! The look: one process per run, named by it. In it the rows of each router and, beside them, of its replica; a request
//! has a row of its own (rows are reused once free). A request's span at its router is named by policy and outcome and
//! holds `uplink`, `queue`, `forward`, `first-token`, `stream`; its span `serve` at the replica holds `engine-queue`,
//! `prefill`, `decode`. The arguments of a router's span show the decision: each candidate with the terms of its score,
//! `decision.candidates.NAME.total`. A flow arrow goes from each `forward` to its `serve`. Counters show queues, running requests and
//! KV use of each replica.
//! Stages of no length are left out; [`Timeline::stage`] gives zero for them.

mod decision;
mod lanes;
mod read;
mod rows;
mod spans;
mod write;

#[cfg(test)]
mod tests;

pub use decision::{Decision, ShownCandidate};
pub use read::{TimelineError, read};
pub use spans::{Flow, SpanEvent, Timeline};
pub use write::{Counter, Cut, Run, write};
