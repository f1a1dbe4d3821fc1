//! The GORGO router as a pure state machine.
//!
//! Reading order: [`ids`], [`time`], [`time_queue`], [`request`] and [`turns`] (input) → [`radix`], [`prefix`] (which
//! replica holds which prefix), [`kv_events`] (what engines publish of it) → [`network`] (cost of distance),
//! [`judgement`] (the cause of a failed dispatch), [`residency`] (where a request may go), [`egress`] (price of data) →
//! [`fleet`] (state of each replica) → [`policy`] (which replica gets a request) →
//! [`router`] (events in, actions out) → [`peering`] (load reports between routers), [`sharing`] (prefixes exchanged by
//! routers of the same replicas), [`digest`] (prefixes exchanged by edges) → [`record`] (the record of one request).
//! Utilities: [`settings`] (TOML tables and `--set`), [`range`] (bounds of numeric settings), [`tuner`] (search for
//! weights), [`decide`] (repeats one decision from its line in a log), [`off_policy`] (evaluates another policy from a
//! decision log), [`rng`] (streams of random numbers), [`optional`] (optional times and indices of a record), [`csv`]
//! (text in CSV files), [`url`] (`URL[@REGION]`), [`suggest`] ("did you mean").
//!
//! Nothing here reads a clock, does I/O, spawns, locks or draws from a global generator: time and randomness are
//! arguments. The simulator and the live server differ only in where events come from and where actions go.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod csv;
pub mod decide;
pub mod digest;
pub mod egress;
pub mod fleet;
pub mod ids;
pub mod judgement;
pub mod kv_events;
pub mod network;
pub mod off_policy;
pub mod optional;
pub mod peering;
pub mod policy;
pub mod prefix;
pub mod radix;
pub mod range;
pub mod record;
pub mod request;
pub mod residency;
pub mod rng;
pub mod router;
pub mod settings;
pub mod sharing;
pub mod suggest;
pub mod time;
pub mod time_queue;
pub mod tuner;
pub mod turns;
pub mod url;

pub use ids::{MAX_REPLICAS, ReplicaId, ReplicaSet, RequestId};
pub use optional::{MaybeIndex, MaybeTime};
pub use time::{Span, Time};
pub use time_queue::TimeQueue;
