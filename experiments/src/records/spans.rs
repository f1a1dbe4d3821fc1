//! Timelines: the spans of a request become one row with its stages.

use super::{MAX_ROWS, RecordError, Row};
use gorgo_core::Span;
use gorgo_traces::timeline::{self, SpanEvent, TimelineError};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Stages from sending to the first token at the user, whose sum is the time to first token where no argument tells it.
const BEFORE_FIRST: [&str; 4] = ["uplink", "queue", "forward", "first-token"];

/// Reads a timeline of ours (arms are the runs of the file, whose runs are their seeds) or a Chrome trace of another writer (`arm` for all).
pub(super) fn read(path: &Path, input: impl Read, arm: &str) -> Result<Vec<Row>, RecordError> {
    let bad = |source: TimelineError| RecordError::Timeline { path: path.to_owned(), source };
    let timeline = timeline::read(input).map_err(bad)?;
    // The arm and its seed.
    let runs: HashMap<&str, (Arc<str>, Arc<str>)> = timeline
        .runs
        .iter()
        .map(|cut| (cut.run.as_str(), (cut.run.as_str().into(), cut.seed.to_string().into())))
        .collect();
    let other: (Arc<str>, Arc<str>) = (arm.into(), "".into());
    let arms: BTreeMap<u64, &(Arc<str>, Arc<str>)> = timeline
        .processes
        .iter()
        .filter_map(|(pid, name)| Some((*pid, runs.get(name.split(" | ").next()?)?)))
        .collect();
    let mut names: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut places: HashMap<(Arc<str>, String), usize> = HashMap::new();
    let mut rows: Vec<Row> = Vec::new();
    // The outer span first: it makes the row that the stages belong to.
    for span in timeline.spans.iter().filter(|span| span.is_request()) {
        let (arm, run) = arms.get(&span.pid).copied().unwrap_or(&other);
        let Some(id) = key(span) else { continue };
        if rows.len() >= MAX_ROWS {
            let why = format!("has more than {MAX_ROWS} requests; draw fewer");
            return Err(RecordError::File { path: path.to_owned(), why });
        }
        places.insert((Arc::clone(arm), id.clone()), rows.len());
        rows.push(row(span, arm, run, &id));
    }
    for span in timeline.spans.iter().filter(|span| !span.is_request() && span.name != "serve") {
        let (arm, _) = arms.get(&span.pid).copied().unwrap_or(&other);
        let Some(id) = key(span) else { continue };
        let Some(&place) = places.get(&(Arc::clone(arm), id)) else { continue };
        let name = names.entry(span.name.clone()).or_insert_with(|| span.name.as_str().into());
        let stages = &mut rows[place].stages;
        match stages.iter_mut().find(|(known, _)| known == name) {
            Some((_, length)) => *length += span.dur.ms(),
            None => stages.push((Arc::clone(name), span.dur.ms())),
        }
    }
    for row in &mut rows {
        let before = row.stages.iter().filter(|(name, _)| BEFORE_FIRST.contains(&&**name));
        let sum = before.map(|(_, length)| length).sum::<f64>();
        let streamed = row.stages.iter().any(|(name, _)| &**name == "stream");
        row.ttft = row.ttft.or((streamed && sum > 0.0).then_some(sum));
    }
    Ok(rows)
}

/// The request that a span belongs to.
fn key(span: &SpanEvent) -> Option<String> {
    match span.args.get("request").or_else(|| span.args.get("request_id"))? {
        Value::String(id) => Some(id.clone()),
        id => Some(id.to_string()),
    }
}

fn row(span: &SpanEvent, arm: &Arc<str>, run: &Arc<str>, id: &str) -> Row {
    let number = |name: &str| span.args.get(name).and_then(Value::as_f64);
    let text = |name: &str| span.args.get(name).and_then(Value::as_str).map(Arc::from);
    let ok = match (span.args.get("status"), span.args.get("status_code").and_then(Value::as_u64)) {
        (Some(status), _) => status == "finished",
        (None, Some(code)) => (200..300).contains(&code),
        (None, None) => true,
    };
    let length = (span.dur != Span::ZERO).then(|| span.dur.ms());
    Row {
        arm: Arc::clone(arm),
        run: Arc::clone(run),
        id: id.into(),
        at: Some(span.start.ms()),
        scheduled: None,
        replica: text("replica").or_else(|| text("served_by")),
        prompt_tokens: number("prompt_tokens"),
        router_tokens: None,
        cached_tokens: number("cached_tokens"),
        believed_tokens: number("predicted_cached_tokens"),
        output_tokens: number("output_tokens"),
        ttft: number("ttft_ms"),
        e2e: number("e2e_ms").or(length.filter(|_| ok)),
        ok,
        stages: Vec::new(),
    }
}
