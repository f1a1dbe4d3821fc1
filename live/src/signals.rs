//! What replicas and peers report: probes, metrics, load.

pub mod peer_report;
pub mod probe;
pub mod prom_text;
pub mod scrape;
