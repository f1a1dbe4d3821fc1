//! What operators see of the router.

pub(crate) mod capture;
pub(crate) mod decision_log;
pub(crate) mod explain;
pub(crate) mod merge;
pub(crate) mod metrics;
#[cfg(feature = "otel")]
pub mod otel;
pub(crate) mod request_log;
pub(crate) mod shadow;
