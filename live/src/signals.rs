//! Signals from replicas and peers. Read `probe` (the tasks), then `scrape` and `prom_text` (engines' metrics) and
//! `peer_report` (the message between edges).

pub(crate) mod loops;
pub(crate) mod peer_report;
pub(crate) mod probe;
pub(crate) mod prom_text;
pub(crate) mod scrape;
