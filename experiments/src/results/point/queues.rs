//! The queue series of a point, thinned.

use crate::results::QueueSample;
use gorgo_core::Time;
use serde::{Deserialize, Serialize};

/// Queues over time, thinned to at most [`MAX_INSTANTS`] instants and [`MAX_CELLS`] numbers: neighbouring instants share their largest value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queues {
    /// Instants, ms since the start.
    pub at_ms: Vec<u64>,
    /// Requests waiting in the engine of each replica, at each instant.
    pub waiting: Vec<Vec<u32>>,
    /// Requests running in the engine of each replica, at each instant.
    #[serde(default)]
    pub running: Vec<Vec<u32>>,
    /// KV tokens held by requests in each replica, at each instant.
    #[serde(default)]
    pub kv_tokens: Vec<Vec<u32>>,
    /// Requests held at the fullest router, at each instant.
    pub router: Vec<u32>,
    /// Most requests ever waiting in one engine, before thinning.
    pub max_waiting: u32,
    /// Most requests ever held at one router, before thinning.
    pub max_router: u32,
}

/// Numbers kept of the queue series of one point.
pub const MAX_CELLS: usize = 6000;

/// Instants kept of the queue series: about one for two pixels of a plot.
pub const MAX_INSTANTS: usize = 400;

pub(super) fn queues(replicas: usize, samples: &[QueueSample]) -> Queues {
    let mut instants: Vec<Time> = samples.iter().map(|s| s.at).collect();
    instants.sort_unstable();
    instants.dedup();
    let wanted = (MAX_CELLS / (replicas + 2)).clamp(1, MAX_INSTANTS);
    let group = instants.len().div_ceil(wanted).max(1);
    let slots = instants.len().div_ceil(group);
    let mut queues = Queues {
        at_ms: instants.iter().step_by(group).map(|t| t.0 / 1_000_000).collect(),
        waiting: vec![vec![0; slots]; replicas],
        running: vec![vec![0; slots]; replicas],
        kv_tokens: vec![vec![0; slots]; replicas],
        router: vec![0; slots],
        ..Queues::default()
    };
    let mut seen = vec![vec![false; slots]; replicas];
    for sample in samples {
        let slot = instants.partition_point(|&t| t < sample.at) / group;
        queues.router[slot] = queues.router[slot].max(sample.queued_at_router);
        queues.max_router = queues.max_router.max(sample.queued_at_router);
        queues.max_waiting = queues.max_waiting.max(sample.waiting);
        let replica = usize::from(sample.replica);
        for (rows, value) in [
            (&mut queues.waiting, sample.waiting),
            (&mut queues.running, sample.running),
            (&mut queues.kv_tokens, sample.kv_tokens),
        ] {
            if let Some(row) = rows.get_mut(replica) {
                row[slot] = row[slot].max(value);
                seen[replica][slot] = true;
            }
        }
    }
    // A replica without a sample at an instant keeps its last value.
    for rows in [&mut queues.waiting, &mut queues.running, &mut queues.kv_tokens] {
        for (row, seen) in rows.iter_mut().zip(&seen) {
            for slot in 1..slots {
                if !seen[slot] {
                    row[slot] = row[slot - 1];
                }
            }
        }
    }
    queues
}
