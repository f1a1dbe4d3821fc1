//! What a timeline file holds: spans, arrows between rows, and the runs they were drawn from.

use super::Cut;
use gorgo_core::{Span, Time};
use std::collections::BTreeMap;

/// One span.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanEvent {
    /// Process.
    pub pid: u64,
    /// Row.
    pub tid: u64,
    /// For example `prefill`.
    pub name: String,
    /// `router` or `replica`.
    pub category: String,
    /// Begin.
    pub start: Time,
    /// Length.
    pub dur: Span,
    /// Spans around it on its row.
    pub depth: usize,
    /// Arguments, with the request's number.
    pub args: BTreeMap<String, serde_json::Value>,
}

impl SpanEvent {
    /// End.
    pub fn end(&self) -> Time {
        self.start + self.dur
    }

    /// Whether it is a whole request at its router: named by policy and outcome, or `request` in files of other writers.
    pub fn is_request(&self) -> bool {
        self.name == "request" || (self.category == "router" && self.depth == 0)
    }

    /// Number of the request it belongs to.
    pub fn request(&self) -> Option<u64> {
        self.args.get("request")?.as_u64()
    }
}

/// An arrow between two rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Number of the arrow.
    pub id: u64,
    /// Where it leaves.
    pub from: FlowEnd,
    /// Where it arrives.
    pub to: FlowEnd,
}

/// One end of an arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEnd {
    /// Number of the row (`tid`).
    pub tid: u64,
    /// When.
    pub at: Time,
}

/// A whole file. Spans are in order of process, row, start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// Process names by number.
    pub processes: BTreeMap<u64, String>,
    /// Spans.
    pub spans: Vec<SpanEvent>,
    /// Arrows by number.
    pub flows: Vec<Flow>,
    /// Which requests of each run are drawn; empty for files of other writers.
    pub runs: Vec<Cut>,
}

impl Timeline {
    /// Length of the stage `name` of each request of the run `label`: zero where the request is drawn without such a
    /// stage. Ordered by request.
    pub fn stage(&self, label: &str, name: &str) -> BTreeMap<u64, Span> {
        let mut lengths = BTreeMap::new();
        for span in &self.spans {
            let ours = self.processes.get(&span.pid).is_some_and(|process| process == label);
            let Some(request) = span.request().filter(|_| ours) else { continue };
            let length = lengths.entry(request).or_insert(Span::ZERO);
            if span.name == name {
                *length = *length + span.dur;
            }
        }
        lengths
    }
}
