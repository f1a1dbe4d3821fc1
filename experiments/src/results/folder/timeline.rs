//! The timeline of a result folder: the first requests of each arm, with the decisions behind them.

use super::{Point, ResultError, ResultFolder, atomic};
use crate::results::requests;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use gorgo_core::Time;
use gorgo_traces::timeline;
use std::fs::File;
use std::io;

/// Runs drawn into the timeline: the first seed of each of the first arms.
const TIMELINE_RUNS: usize = 16;
/// Requests drawn of each run at most, and of all runs together: the viewer should open at once.
const TIMELINE_REQUESTS: (usize, usize) = (DECISIONS, 16_000);
/// Requests whose decisions a run keeps: as many as are drawn of it.
pub(crate) const DECISIONS: usize = 2000;

impl ResultFolder {
    /// Writes `timeline.json.gz` from the rows and decisions that the folder holds.
    pub(super) fn write_timeline(&self, points: &[Point]) -> Result<(), ResultError> {
        let mut firsts: Vec<&Point> = Vec::new();
        for point in points {
            let rows = self.rows_path(&Point::key(&point.arm, point.seed));
            if firsts.last().is_none_or(|last| last.arm != point.arm) && rows.exists() {
                firsts.push(point);
            }
        }
        firsts.truncate(TIMELINE_RUNS);
        if firsts.is_empty() {
            return Ok(());
        }
        let limit = (TIMELINE_REQUESTS.1 / firsts.len()).min(TIMELINE_REQUESTS.0);
        let mut loaded = Vec::new();
        for point in &firsts {
            let path = self.rows_path(&Point::key(&point.arm, point.seed));
            let file = File::open(&path).map_err(ResultError::io("read", &path))?;
            let rows = MultiGzDecoder::new(io::BufReader::new(file));
            let arms = requests::read(rows, &point.names, limit).map_err(|why| ResultError::bad(&path, why))?;
            loaded.push(arms.into_iter().next().unwrap_or_default());
        }
        let decisions = firsts.iter().map(|point| self.decisions(point)).collect::<Result<Vec<_>, _>>()?;
        let counters: Vec<Vec<timeline::Counter>> = firsts.iter().map(|point| counters(point)).collect();
        let runs: Vec<timeline::Run<'_>> = firsts
            .iter()
            .zip(&loaded)
            .zip(&decisions)
            .zip(&counters)
            .map(|(((point, rows), decisions), counters)| timeline::Run {
                label: &point.arm,
                policy: &point.policy,
                seed: point.seed,
                origins: &point.names.origins,
                routers: &point.names.routers,
                replicas: &point.names.replicas,
                records: &rows.records,
                total: point.counts.requests,
                decisions,
                counters,
            })
            .collect();
        atomic(&self.dir.join("timeline.json.gz"), |out| {
            let mut packed = GzEncoder::new(out, Compression::default());
            timeline::write(&mut packed, &runs, limit)?;
            packed.finish().map(|_| ())
        })
    }

    /// The decisions kept of a run; none of a run that kept none.
    fn decisions(&self, point: &Point) -> Result<Vec<timeline::Decision>, ResultError> {
        let path = self.decisions_path(&Point::key(&point.arm, point.seed));
        if !path.exists() {
            return Ok(Vec::new());
        }
        let file = File::open(&path).map_err(ResultError::io("read", &path))?;
        let read = io::BufReader::new(MultiGzDecoder::new(io::BufReader::new(file)));
        serde_json::from_reader(read).map_err(|e| ResultError::bad(&path, format!("holds no decisions: {e}")))
    }
}

/// Queue, running requests and KV use of each replica, and the fullest router's queue.
fn counters(point: &Point) -> Vec<timeline::Counter> {
    let q = &point.queues;
    let counter = |place: &str, what, values: &[u32]| timeline::Counter {
        place: place.to_owned(),
        what,
        values: q.at_ms.iter().zip(values).map(|(&ms, &n)| (Time::from_ms(ms as f64), u64::from(n))).collect(),
    };
    let mut all = vec![counter("fullest router", "queued", &q.router)];
    for (i, replica) in point.names.replicas.iter().enumerate() {
        for (what, rows) in [("waiting", &q.waiting), ("running", &q.running), ("KV tokens", &q.kv_tokens)] {
            all.extend(rows.get(i).map(|values| counter(replica, what, values)));
        }
    }
    all
}
