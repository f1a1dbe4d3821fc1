//! Signals from replicas and peers. Read `probe` (the tasks), `pages` (what replicas are asked for) and `health` (what
//! an answer to a probe says), then `scrapes` (the task) with `scrape` and `prom_text` (engines' metrics), `model_list`
//! (what they serve), `peer_report` (the message between edges) and `digest` (which prefixes edges hold).

pub(crate) mod digest;
mod health;
pub(crate) mod loops;
pub(crate) mod model_list;
pub(crate) mod pages;
pub(crate) mod peer_report;
pub(crate) mod probe;
pub(crate) mod prom_text;
pub(crate) mod scrape;
mod scrapes;
