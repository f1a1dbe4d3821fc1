//! Observability: records for operators. Read `request_log` and `metrics` (every request), `explain` (every decision),
//! `shadow` (policies that decide without dispatching), `capture` and `merge` (timelines), `otel` (traces), `deciding`
//! (the term that decided), `viewers` (open streams of the overview) and `dashboard` (the page).

pub(crate) mod access_log;
pub(crate) mod capture;
pub(crate) mod changes;
pub(crate) mod dashboard;
pub(crate) mod deciding;
pub(crate) mod explain;
pub(crate) mod line_log;
pub(crate) mod merge;
pub(crate) mod metrics;
#[cfg(feature = "otel")]
pub mod otel;
pub(crate) mod request_log;
pub(crate) mod seldom;
pub(crate) mod shadow;
pub(crate) mod viewers;
