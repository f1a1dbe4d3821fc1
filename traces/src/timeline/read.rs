//! The reader: a timeline file in, checked spans out.

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
mod tests {
    use super::*;

    fn of(events: &str) -> Result<Timeline, TimelineError> {
        read(format!(r#"{{"traceEvents":[{events}]}}"#).as_bytes())
    }

    fn x(name: &str, tid: u64, ts: &str, dur: &str) -> String {
        format!(r#"{{"name":"{name}","ph":"X","pid":1,"tid":{tid},"ts":{ts},"dur":{dur}}}"#)
    }

    #[test]
    fn microseconds_are_read_to_the_nanosecond() {
        assert_eq!(nanos("1234567890123456.789"), Some(1_234_567_890_123_456_789));
        assert_eq!(nanos("0.5"), Some(500));
        assert_eq!(nanos("1.5e3"), Some(1_500_000));
        assert_eq!([nanos("-1"), nanos("null"), nanos("99999999999999999999")], [None; 3]);
    }

    #[test]
    fn depth_counts_the_spans_around() {
        let timeline =
            of(&[x("a", 1, "0", "10"), x("c", 1, "3", "7"), x("b", 1, "0", "3"), x("a", 2, "1", "1")].join(","))
                .unwrap();
        let depths: Vec<_> = timeline.spans.iter().map(|s| (s.name.as_str(), s.depth)).collect();
        assert_eq!(depths, [("a", 0), ("b", 1), ("c", 1), ("a", 0)]);
    }

    #[test]
    fn crossing_spans_and_half_arrows_are_refused_by_name() {
        let crossing = of(&[x("a", 1, "0", "10"), x("b", 1, "5", "10")].join(",")).unwrap_err().to_string();
        assert!(crossing.contains("`a` and `b` of row 1"), "{crossing}");
        let half = of(r#"{"name":"d","ph":"s","id":7,"pid":1,"tid":1,"ts":0}"#).unwrap_err().to_string();
        assert!(half.contains("flow 7") && half.contains("0 ends"), "{half}");
    }

    #[test]
    fn a_list_of_begins_and_ends_becomes_spans() {
        let event = |ph: &str, name: &str, ts: u32, id: &str, more: &str| {
            format!(r#"{{"name":"{name}","ph":"{ph}","pid":7,"tid":3,"ts":{ts},"args":{{"request_id":"{id}"{more}}}}}"#)
        };
        let events = [
            r#"{"name":"process_name","ph":"M","pid":7,"args":{"name":"node-a"}}"#.to_owned(),
            event("B", "request", 10, "a", ""),
            // Another request on the same row, as the hash has it, that crosses the first one.
            event("B", "request", 20, "b", ""),
            event("B", "queue", 30, "a", ""),
            event("E", "queue", 35, "a", ""),
            r#"{"name":"forward_flow","ph":"s","pid":7,"tid":3,"ts":31,"id":"a-b"}"#.to_owned(),
            event("E", "request", 50, "a", r#","status_code":200"#),
            event("E", "request", 80, "b", r#","status_code":503"#),
            event("B", "request", 90, "never ended", ""),
        ];
        let timeline = read(format!("\n [{}]", events.join(",")).as_bytes()).unwrap();
        let spans: Vec<_> =
            timeline.spans.iter().map(|s| (s.name.as_str(), s.start.0 / 1000, s.dur.0 / 1000)).collect();
        assert_eq!(spans, [("request", 10, 40), ("request", 20, 60), ("queue", 30, 5)]);
        assert_eq!(timeline.spans[1].args["status_code"], 503);
        assert_eq!(timeline.processes[&7], "node-a");
    }

    #[test]
    fn bad_input_is_named() {
        let why = |text: &str| of(text).unwrap_err().to_string();
        assert!(why(&x("a", 1, "-3", "1")).contains("event 0") && why(&x("a", 1, "-3", "1")).contains("-3"));
        assert!(why(r#"{"name":"a","ph":"X","ts":1}"#).contains("`dur` of `a` is nothing"));
        assert!(matches!(read(&b"[1,2"[..]), Err(TimelineError::Json(_))));
        assert!(matches!(read(&[0x1f, 0x8b, 0, 0][..]), Err(TimelineError::Io(_))));
    }
}
