//! The reader: a timeline file in, checked spans out.

use super::spans::{Flow, FlowEnd, SpanEvent, Timeline};
use super::write::Cut;
use flate2::read::MultiGzDecoder;
use gorgo_core::{Span, Time};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

/// The most bytes a timeline may unpack to, so that a hostile file cannot fill the memory.
const MAX_BYTES: u64 = 1 << 30;

/// Why a timeline could not be read. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The bytes could not be had.
    #[error("cannot read the timeline: {0}; check that the file exists and is whole")]
    Io(#[from] io::Error),
    /// Too much after unpacking.
    #[error("the timeline unpacks to more than {MAX_BYTES} bytes; draw fewer requests into it")]
    TooLarge,
    /// Not a trace-event file.
    #[error("the timeline is neither a list of trace events nor an object with `traceEvents` ({0}); write it again")]
    Json(#[from] serde_json::Error),
    /// One event is wrong.
    #[error("event {index} of the timeline: {why}; write the file again")]
    Event {
        /// 0-based position in `traceEvents`.
        index: usize,
        /// What is wrong, with the value.
        why: String,
    },
    /// Two spans of one row cross.
    #[error("spans `{first}` and `{second}` of row {tid} overlap without nesting at {at_us} us; put them on two rows")]
    Overlap {
        /// The row.
        tid: u64,
        /// The span that began first.
        first: String,
        /// The span that crosses its end.
        second: String,
        /// Where the second begins, us.
        at_us: f64,
    },
    /// An arrow without both ends.
    #[error("flow {id} of the timeline has {starts} starts and {ends} ends; each arrow needs one of each")]
    Flow {
        /// The arrow.
        id: u64,
        /// Events with `ph` = `s`.
        starts: usize,
        /// Events with `ph` = `f`.
        ends: usize,
    },
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(rename = "traceEvents", borrow)]
    events: Vec<Event<'a>>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    runs: Vec<Cut>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    cat: Cow<'a, str>,
    #[serde(borrow)]
    ph: Cow<'a, str>,
    #[serde(borrow)]
    ts: Option<&'a RawValue>,
    #[serde(borrow)]
    dur: Option<&'a RawValue>,
    #[serde(default)]
    pid: u64,
    #[serde(default)]
    tid: u64,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    args: BTreeMap<String, serde_json::Value>,
}

/// Reads a timeline, packed (`.gz`) or plain, and checks it: every span has a begin and a length, spans of a row nest,
/// every arrow has exactly one start and one end. Events that are neither spans, arrows nor names are passed over.
///
/// A bare list of events, as gotoni's nodes write it, is read without these two checks: rows of that writer are hashes
/// that several requests share, and its arrows have no ends. Begin (`B`) and end (`E`) events of one name, row and request
/// become a span; a begin without an end is no span.
///
/// # Errors
/// [`TimelineError`] names the place and the value.
pub fn read(input: impl Read) -> Result<Timeline, TimelineError> {
    let text = unpack(input)?;
    let list = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let file: File<'_> = match list {
        true => File { events: serde_json::from_slice(&text)?, metadata: Metadata::default() },
        false => serde_json::from_slice(&text)?,
    };
    let mut open = BTreeMap::new();
    let mut timeline = Timeline { runs: file.metadata.runs, ..Timeline::default() };
    let mut arrows: BTreeMap<u64, [Vec<FlowEnd>; 2]> = BTreeMap::new();
    for (index, mut event) in file.events.into_iter().enumerate() {
        let at = |key: &str, raw: Option<&RawValue>| {
            let text = raw.map_or("nothing", RawValue::get);
            nanos(text).ok_or_else(|| TimelineError::Event {
                index,
                why: format!("`{key}` of `{}` is {text}, not a number of microseconds >= 0", event.name),
            })
        };
        match event.ph.as_ref() {
            "M" if event.name == "process_name" => {
                if let Some(serde_json::Value::String(name)) = event.args.remove("name") {
                    timeline.processes.insert(event.pid, name);
                }
            }
            "X" => {
                let (start, dur) = (Time(at("ts", event.ts)?), Span(at("dur", event.dur)?));
                let name = event.name.into_owned();
                timeline.spans.push(SpanEvent {
                    pid: event.pid,
                    tid: event.tid,
                    name,
                    category: event.cat.into_owned(),
                    start,
                    dur,
                    depth: 0,
                    args: event.args,
                });
            }
            "B" => {
                let start = Time(at("ts", event.ts)?);
                let key = (event.pid, event.tid, event.name.to_string(), request_of(&event.args));
                // A request that is begun twice counts from the later begin.
                open.insert(key, (start, event.args));
            }
            "E" => {
                let end = Time(at("ts", event.ts)?);
                let key = (event.pid, event.tid, event.name.to_string(), request_of(&event.args));
                let Some((start, mut args)) = open.remove(&key) else { continue };
                args.extend(event.args);
                let (pid, tid, name, ..) = key;
                let category = event.cat.into_owned();
                timeline.spans.push(SpanEvent { pid, tid, name, category, start, dur: end - start, depth: 0, args });
            }
            // Its ids are texts, and its arrows have no ends.
            "s" | "f" if list => {}
            end @ ("s" | "f") => {
                let at = Time(at("ts", event.ts)?);
                let id = event.id.and_then(|id| id.get().parse().ok());
                let id = id.ok_or_else(|| TimelineError::Event { index, why: "a flow without an `id`".to_owned() })?;
                arrows.entry(id).or_default()[usize::from(end == "f")].push(FlowEnd { tid: event.tid, at });
            }
            _ => {}
        }
    }
    for (id, [starts, ends]) in arrows {
        match (starts.as_slice(), ends.as_slice()) {
            (&[from], &[to]) => timeline.flows.push(Flow { id, from, to }),
            _ => return Err(TimelineError::Flow { id, starts: starts.len(), ends: ends.len() }),
        }
    }
    if list {
        timeline.spans.sort_by_key(|span| (span.pid, span.tid, span.start, std::cmp::Reverse(span.dur)));
    } else {
        nest(&mut timeline.spans)?;
    }
    Ok(timeline)
}

/// The request that an event names, as text; empty for none.
fn request_of(args: &BTreeMap<String, serde_json::Value>) -> String {
    args.get("request").or_else(|| args.get("request_id")).map(ToString::to_string).unwrap_or_default()
}

fn unpack(input: impl Read) -> Result<Vec<u8>, TimelineError> {
    let mut input = BufReader::new(input);
    let packed = io::BufRead::fill_buf(&mut input)?.starts_with(&[0x1f, 0x8b]);
    let mut text = Vec::new();
    if packed {
        MultiGzDecoder::new(input).take(MAX_BYTES + 1).read_to_end(&mut text)?;
    } else {
        input.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    }
    if text.len() as u64 > MAX_BYTES { Err(TimelineError::TooLarge) } else { Ok(text) }
}

/// Orders the spans by row and fills in their depths.
fn nest(spans: &mut [SpanEvent]) -> Result<(), TimelineError> {
    spans.sort_by_key(|span| (span.pid, span.tid, span.start, std::cmp::Reverse(span.dur)));
    let mut open: Vec<usize> = Vec::new();
    for i in 0..spans.len() {
        let (before, rest) = spans.split_at_mut(i);
        let span = &mut rest[0];
        while let Some(&outer) = open.last() {
            let outer = &before[outer];
            if (outer.pid, outer.tid) == (span.pid, span.tid) && outer.end() > span.start {
                if outer.end() < span.end() {
                    return Err(TimelineError::Overlap {
                        tid: span.tid,
                        first: outer.name.clone(),
                        second: span.name.clone(),
                        at_us: span.start.0 as f64 / 1e3,
                    });
                }
                break;
            }
            open.pop();
        }
        span.depth = open.len();
        open.push(i);
    }
    Ok(())
}

/// Decimal microseconds to nanoseconds without passing through a float; digits after the third are rounded away.
fn nanos(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(rest) {
        // Exponents of other writers.
        let us: f64 = text.parse().ok()?;
        return (0.0..1.8e16).contains(&us).then(|| (us * 1e3).round() as u64);
    }
    let mut three = [b'0'; 3];
    for (to, from) in three.iter_mut().zip(rest.bytes()) {
        *to = from;
    }
    let part = three.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part)
}

#[cfg(test)]
mod tests;
