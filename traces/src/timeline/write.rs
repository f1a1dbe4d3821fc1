//! The writer: records in, one Chrome trace-event JSON object out.

use super::decision::Decision;
use super::lanes::Lanes;
use super::rows::{TimelineRow, replica_row, router_row};
use gorgo_core::Time;
use gorgo_core::record::RequestRecord;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::{self, Write};

/// One run to draw. Several runs may share a file; `label` distinguishes their processes.
pub struct Run<'a> {
    /// First part of the process names, for example the arm.
    pub label: &'a str,
    /// Routing policy, shown with every request.
    pub policy: &'a str,
    /// Seed of the run.
    pub seed: u64,
    /// Names behind `RequestRecord::origin`.
    pub origins: &'a [String],
    /// Names behind `RequestRecord::router`.
    pub routers: &'a [String],
    /// Names behind `RequestRecord::replica`.
    pub replicas: &'a [String],
    /// The requests, in any order.
    pub records: &'a [RequestRecord],
    /// Requests of the run, of which `records` may be the first part.
    pub total: u64,
    /// Decisions of the requests' routers, in order of time; the last of a request is shown.
    pub decisions: &'a [Decision],
    /// Values over time. They are drawn up to the end of the last request that is drawn.
    pub counters: &'a [Counter],
}

/// One value over time, for example the requests that wait at a replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Counter {
    /// Where, for example a replica.
    pub place: String,
    /// What it counts.
    pub what: &'static str,
    /// Its values, in order of time.
    pub values: Vec<(Time, u64)>,
}

/// Which requests of a run are in the file; part of the file's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The run's label.
    pub run: String,
    /// Its seed.
    pub seed: u64,
    /// Requests of the run.
    pub requests: u64,
    /// Requests drawn: the first ones by the time they were sent.
    pub drawn: u64,
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: char,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<&'a RawValue>,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<char>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<serde_json::Value>,
}

/// Writes the first `limit` requests (by send time) of each run as one JSON object
/// `{"displayTimeUnit", "metadata", "traceEvents"}`. `ts` and `dur` are microseconds with three decimals, so no
/// nanosecond is lost.
///
/// # Errors
/// Only those of `out`.
pub fn write(out: impl Write, runs: &[Run<'_>], limit: usize) -> io::Result<Vec<Cut>> {
    let picks: Vec<Vec<&RequestRecord>> = runs.iter().map(|run| pick(run.records, limit)).collect();
    let cuts: Vec<Cut> = runs
        .iter()
        .zip(&picks)
        .map(|(run, pick)| Cut {
            run: run.label.to_owned(),
            seed: run.seed,
            requests: run.total.max(run.records.len() as u64),
            drawn: pick.len() as u64,
        })
        .collect();
    let mut writer = Writer { out, first: true, pid: 0, tid: 0, flow: 0 };
    // Rows are numbered after all processes, so that no row has a process's number (Perfetto would call it "main").
    writer.tid = runs.len() as u32;
    let metadata = serde_json::json!({ "writer": "gorgo", "requests_per_run": limit, "runs": cuts });
    write!(writer.out, "{{\"displayTimeUnit\":\"ms\",\"metadata\":{metadata},\"traceEvents\":[")?;
    for (run, pick) in runs.iter().zip(&picks) {
        writer.run(run, pick)?;
    }
    writeln!(writer.out, "\n]}}")?;
    writer.out.flush()?;
    Ok(cuts)
}

fn pick(records: &[RequestRecord], limit: usize) -> Vec<&RequestRecord> {
    let mut all: Vec<&RequestRecord> = records.iter().collect();
    all.sort_by_key(|r| (r.sent, r.request));
    all.truncate(limit);
    all
}

struct Writer<W> {
    out: W,
    first: bool,
    pid: u32,
    tid: u32,
    flow: u64,
}

impl<W: Write> Writer<W> {
    fn run(&mut self, run: &Run<'_>, records: &[&RequestRecord]) -> io::Result<()> {
        // One bucket per node; the last of each kind takes what no name belongs to.
        let mut routers: Vec<Vec<TimelineRow<'_>>> = (0..=run.routers.len()).map(|_| Vec::new()).collect();
        let mut replicas: Vec<Vec<TimelineRow<'_>>> = (0..=run.replicas.len()).map(|_| Vec::new()).collect();
        let decisions: FxHashMap<u64, &Decision> = run.decisions.iter().map(|one| (one.request, one)).collect();
        for &record in records {
            let arrow = record.accepted.is_some().then(|| {
                self.flow += 1;
                self.flow
            });
            let router = usize::from(record.router).min(run.routers.len());
            routers[router].push(router_row(run, record, decisions.get(&record.request).copied(), arrow));
            if let (Some(id), Some(accepted)) = (arrow, record.accepted.get()) {
                let named = record.replica.get().map(usize::from).filter(|&i| i < run.replicas.len());
                replicas[named.unwrap_or(run.replicas.len())].push(replica_row(record, accepted, id));
            }
        }
        self.pid += 1;
        self.meta("process_name", self.pid, None, serde_json::json!({ "name": run.label }))?;
        self.meta("process_sort_index", self.pid, None, serde_json::json!({ "sort_index": self.pid }))?;
        let end = routers.iter().chain(&replicas).flatten().map(|row| row.end).max().unwrap_or_default();
        // An edge's replica follows its router; a proxy's replicas follow the proxy.
        let nodes = routers.len().max(replicas.len());
        let (mut routers, mut replicas) = (routers.into_iter(), replicas.into_iter());
        for i in 0..nodes {
            for (kind, names, rows) in
                [("router", run.routers, routers.next()), ("replica", run.replicas, replicas.next())]
            {
                let name = names.get(i).map_or("(unnamed)", String::as_str);
                if let Some(rows) = rows.filter(|rows| !rows.is_empty()) {
                    self.node(&format!("{kind} {name}"), rows)?;
                }
            }
        }
        for counter in run.counters {
            for &(at, value) in counter.values.iter().take_while(|(at, _)| *at <= end) {
                let ts = micros(at.0)?;
                let args = Some(serde_json::json!({ counter.what: value }));
                let event = Event {
                    name: &counter.place,
                    cat: "",
                    ph: 'C',
                    ts: Some(&ts),
                    dur: None,
                    pid: self.pid,
                    tid: None,
                    id: None,
                    bp: None,
                    args,
                };
                self.event(&event)?;
            }
        }
        Ok(())
    }

    /// The rows of one router or replica.
    fn node(&mut self, name: &str, mut rows: Vec<TimelineRow<'_>>) -> io::Result<()> {
        let pid = self.pid;
        rows.sort_by_key(|row| (row.start, row.record.request));
        let mut lanes = Lanes::default();
        for row in &rows {
            let known = lanes.count();
            let lane = lanes.take(row.start, row.end);
            let tid = self.tid + 1 + lane as u32;
            if lane == known {
                let name = if lane == 0 { name.to_owned() } else { format!("{name}, {}", lane + 1) };
                self.meta("thread_name", pid, Some(tid), serde_json::json!({ "name": name }))?;
                self.meta("thread_sort_index", pid, Some(tid), serde_json::json!({ "sort_index": tid }))?;
            }
            self.row(pid, tid, row)?;
        }
        self.tid += lanes.count() as u32;
        Ok(())
    }

    fn row(&mut self, pid: u32, tid: u32, row: &TimelineRow<'_>) -> io::Result<()> {
        self.span(pid, tid, &row.name, row.category, row.start, row.end, Some(row.args.clone()))?;
        for &(name, from, to) in &row.stages {
            let args = serde_json::json!({ "request": row.record.request });
            self.span(pid, tid, name, row.category, from, to, Some(args))?;
        }
        let Some((ph, id, at)) = row.arrow else { return Ok(()) };
        let ts = micros(at.0)?;
        let bp = (ph == 'f').then_some('e');
        self.event(&Event {
            name: "dispatch",
            cat: "flow",
            ph,
            ts: Some(&ts),
            dur: None,
            pid,
            tid: Some(tid),
            id: Some(id),
            bp,
            args: None,
        })
    }

    fn span(
        &mut self,
        pid: u32,
        tid: u32,
        name: &str,
        cat: &str,
        from: Time,
        to: Time,
        args: Option<serde_json::Value>,
    ) -> io::Result<()> {
        let (ts, dur) = (micros(from.0)?, micros((to - from).0)?);
        self.event(&Event {
            name,
            cat,
            ph: 'X',
            ts: Some(&ts),
            dur: Some(&dur),
            pid,
            tid: Some(tid),
            id: None,
            bp: None,
            args,
        })
    }

    fn meta(&mut self, name: &str, pid: u32, tid: Option<u32>, args: serde_json::Value) -> io::Result<()> {
        self.event(&Event {
            name,
            cat: "",
            ph: 'M',
            ts: None,
            dur: None,
            pid,
            tid,
            id: None,
            bp: None,
            args: Some(args),
        })
    }

    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut self.out, event)?;
        Ok(())
    }
}

/// Nanoseconds as a JSON number of microseconds, exactly.
fn micros(ns: u64) -> io::Result<Box<RawValue>> {
    Ok(RawValue::from_string(format!("{}.{:03}", ns / 1000, ns % 1000))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_survive_as_decimals_of_microseconds() {
        assert_eq!(micros(1_234_567_890_123_456_789).unwrap().get(), "1234567890123456.789");
        assert_eq!(micros(7).unwrap().get(), "0.007");
    }
}
