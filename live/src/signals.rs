//! What replicas and peers report: probes, metrics, load.

pub mod probe;
pub mod prom_text;
pub mod scrape;
