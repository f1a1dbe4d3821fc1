//! What replicas and peers report: probes, metrics, load.

pub(crate) mod peer_report;
pub(crate) mod probe;
pub(crate) mod prom_text;
pub(crate) mod scrape;
