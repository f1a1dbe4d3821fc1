//! What operators see of the router.

pub mod capture;
pub mod decision_log;
pub mod explain;
pub mod merge;
pub mod metrics;
#[cfg(feature = "otel")]
pub mod otel;
pub mod request_log;
pub mod shadow;
