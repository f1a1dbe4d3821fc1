//! Does the simulator tell the truth? A measured and a simulated result, compared quantile by quantile.
//!
//! Both come from `requests.csv`. Arms are paired by name; where each side has one arm, these two. The seeds of an arm
//! are pooled. A limit judges the medians and 95th percentiles of TTFT and E2E (relative errors) and the shares of
//! replicas and the hit rate (percentage points); other lines are shown to explain. The tail beyond p95 is not judged:
//! the same recorded window measured twice differs there by up to 32 %.

use crate::results::requests::{self, ArmRows};
use crate::results::{Names, ResultError};
use crate::stats::Digest;
use crate::table::ms;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::{Span, Time};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Rows read of one arm and seed at most.
const MOST_ROWS: usize = 10_000_000;

/// One figure of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What it is, with its unit.
    pub figure: String,
    /// On the measured side.
    pub measured: Option<f64>,
    /// On the simulated side.
    pub simulated: Option<f64>,
    /// Simulated against measured: percent, or percentage points for shares.
    pub error: Option<f64>,
    /// Whether a limit applies to it.
    pub judged: bool,
}

/// One arm, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Arm of the measured side.
    pub measured: String,
    /// Arm of the simulated side.
    pub simulated: String,
    /// Its figures.
    pub lines: Vec<Line>,
}

impl Comparison {
    /// The judged line with the largest error, figures that only one side has first.
    pub fn worst(&self) -> Option<&Line> {
        let size = |line: &&Line| line.error.map_or(f64::INFINITY, f64::abs);
        let both_absent = |line: &&Line| line.measured.is_none() && line.simulated.is_none();
        let judged = self.lines.iter().filter(|line| line.judged && !both_absent(line));
        judged.max_by(|a, b| size(a).total_cmp(&size(b)))
    }

    /// Whether every judged figure is within `percent`.
    pub fn within(&self, percent: f64) -> bool {
        self.worst().is_some_and(|line| line.error.is_some_and(|error| error.abs() <= percent))
    }

    /// The table; each line ends without blanks.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        let style = TableStyle::new().header_separator(LineStyle::none().fill('─'));
        table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["", "measured", "simulated", "error", "judged"]);
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), ms);
        for line in &self.lines {
            let unit = if line.figure.ends_with('%') { "points" } else { "%" };
            let error = line.error.map_or_else(|| "-".to_owned(), |e| format!("{e:+.1} {unit}"));
            let judged = if line.judged { "yes" } else { "" };
            table.add_row([&line.figure, &cell(line.measured), &cell(line.simulated), &error, judged]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        format!("{} (measured) against {} (simulated)\n{lines}", self.measured, self.simulated)
    }
}

/// Compares two result folders, arm by arm.
///
/// # Errors
/// A folder has no readable `requests.csv`, or no arm has a partner.
pub fn folders(measured: &Path, simulated: &Path) -> Result<Vec<Comparison>, ResultError> {
    let (left, right) = (arms(measured)?, arms(simulated)?);
    if let ([one], [other]) = (&left[..], &right[..]) {
        return Ok(vec![compare(one, other)]);
    }
    let partner = |arm: &Arm| right.iter().find(|other| other.name == arm.name).map(|other| compare(arm, other));
    let pairs: Vec<Comparison> = left.iter().filter_map(partner).collect();
    if pairs.is_empty() {
        let names = |arms: &[Arm]| arms.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ");
        let why = format!("has the arms {}, of which none is in the other folder ({})", names(&left), names(&right));
        return Err(ResultError::Bad { path: measured.to_owned(), why });
    }
    Ok(pairs)
}

/// An arm with its seeds pooled.
struct Arm {
    name: String,
    replicas: Vec<String>,
    records: Vec<RequestRecord>,
}

fn arms(dir: &Path) -> Result<Vec<Arm>, ResultError> {
    let path = dir.join("requests.csv");
    let file = File::open(&path).map_err(|source| ResultError::Io { action: "read", path: path.clone(), source })?;
    let rows = requests::read(BufReader::new(file), &Names::default(), MOST_ROWS)
        .map_err(|why| ResultError::Bad { path: path.clone(), why })?;
    let mut arms: Vec<Arm> = Vec::new();
    for ArmRows { arm, names, records, .. } in rows {
        match arms.iter_mut().find(|a| a.name == arm && a.replicas == names.replicas) {
            Some(known) => known.records.extend(records),
            None => match arms.iter_mut().find(|a| a.name == arm) {
                // Names come in order of appearance, which may differ between seeds.
                Some(known) => known.add(&names.replicas, records),
                None => arms.push(Arm { name: arm, replicas: names.replicas, records }),
            },
        }
    }
    if arms.is_empty() {
        return Err(ResultError::Bad { path, why: "holds no requests".to_owned() });
    }
    Ok(arms)
}

impl Arm {
    fn add(&mut self, names: &[String], records: Vec<RequestRecord>) {
        let places: Vec<u16> = names
            .iter()
            .map(|name| {
                let place = self.replicas.iter().position(|n| n == name).unwrap_or_else(|| {
                    self.replicas.push(name.clone());
                    self.replicas.len() - 1
                });
                u16::try_from(place).unwrap_or(u16::MAX)
            })
            .collect();
        let moved = records.into_iter().map(|mut r| {
            r.replica = places.get(usize::from(r.replica)).copied().unwrap_or(u16::MAX);
            r
        });
        self.records.extend(moved);
    }

    fn shares(&self) -> BTreeMap<&str, f64> {
        let mut count: BTreeMap<&str, f64> = BTreeMap::new();
        for record in &self.records {
            if let Some(name) = self.replicas.get(usize::from(record.replica)) {
                *count.entry(name).or_default() += 100.0;
            }
        }
        let total: f64 = count.values().sum::<f64>() / 100.0;
        count.values_mut().for_each(|n| *n /= total.max(1.0));
        count
    }

    /// Percent of the prompt tokens of answered requests that were cached.
    fn hit_rate(&self) -> Option<f64> {
        let answered = self.records.iter().filter(|r| r.first_token != Time::NEVER);
        let (prompt, cached) =
            answered.fold((0u64, 0u64), |(p, c), r| (p + u64::from(r.prompt_tokens), c + u64::from(r.cached_tokens)));
        (prompt > 0).then(|| 100.0 * cached as f64 / prompt as f64)
    }

    fn digest(&self, value: impl Fn(&RequestRecord) -> Option<Span>) -> Digest {
        Digest::of(self.records.iter().filter_map(value))
    }
}

/// The requests that are in both arms, so that a run that was stopped early is compared with its part of the other;
/// all, where none is.
fn common(arm: &Arm, other: &Arm) -> Arm {
    let theirs: std::collections::BTreeSet<u64> = other.records.iter().map(|r| r.request).collect();
    let mut records: Vec<RequestRecord> = arm.records.iter().filter(|r| theirs.contains(&r.request)).cloned().collect();
    if records.is_empty() {
        records.clone_from(&arm.records);
    }
    Arm { name: arm.name.clone(), replicas: arm.replicas.clone(), records }
}

fn compare(measured: &Arm, simulated: &Arm) -> Comparison {
    let (measured, simulated) = (&common(measured, simulated), &common(simulated, measured));
    let mut lines = Vec::new();
    let mut latency = |name: &str, judged: &[f64], value: &dyn Fn(&RequestRecord) -> Option<Span>| {
        let (left, right) = (measured.digest(value), simulated.digest(value));
        for (word, p) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)] {
            let (a, b) = (left.quantile(p), right.quantile(p));
            let error = a.zip(b).filter(|(a, _)| *a > 0.0).map(|(a, b)| 100.0 * (b / a - 1.0));
            let judged = judged.contains(&p);
            lines.push(Line { figure: format!("{name} {word} ms"), measured: a, simulated: b, error, judged });
        }
    };
    latency("TTFT", &[0.5, 0.95], &RequestRecord::ttft);
    latency("E2E", &[0.5, 0.95], &RequestRecord::e2e);
    latency("TPOT", &[], &|r| r.tpot_ms().map(Span::from_ms));
    let mut points = |figure: String, a: Option<f64>, b: Option<f64>, judged: bool| {
        let error = a.zip(b).map(|(a, b)| b - a);
        lines.push(Line { figure, measured: a, simulated: b, error, judged });
    };
    let finished = |arm: &Arm| {
        let n = arm.records.iter().filter(|r| r.status == Status::Finished).count();
        (!arm.records.is_empty()).then(|| 100.0 * n as f64 / arm.records.len() as f64)
    };
    points("finished %".to_owned(), finished(measured), finished(simulated), true);
    points("hit rate %".to_owned(), measured.hit_rate(), simulated.hit_rate(), true);
    let (left, right) = (measured.shares(), simulated.shares());
    // Without names on both sides (an engine asked directly gives none) there is nothing to compare.
    if !left.is_empty() && !right.is_empty() {
        let names: std::collections::BTreeSet<&str> = left.keys().chain(right.keys()).copied().collect();
        for name in names {
            let of = |shares: &BTreeMap<&str, f64>| Some(shares.get(name).copied().unwrap_or(0.0));
            points(format!("share of {name} %"), of(&left), of(&right), true);
        }
    }
    Comparison { measured: measured.name.clone(), simulated: simulated.name.clone(), lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::ArmRun;
    use crate::results::test_data::run;

    fn folder(dir: &Path, arms: &[(&str, &[u64])]) {
        std::fs::create_dir(dir).unwrap();
        let mut file = File::create(dir.join("requests.csv")).unwrap();
        let runs = arms.iter().flat_map(|(arm, seeds)| seeds.iter().map(|&seed| run(arm, seed, 300)));
        for (i, run) in runs.enumerate() {
            requests::write(&mut file, &run, i == 0).unwrap();
        }
    }

    #[test]
    fn a_result_agrees_with_itself_and_not_with_another_policy() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        folder(&a, &[("gorgo", &[1, 2])]);
        folder(&b, &[("least-load", &[1, 2])]);
        folder(&c, &[("gorgo", &[1, 2]), ("least-load", &[1])]);
        let same = &folders(&a, &a).unwrap()[0];
        assert!(same.within(0.0), "{}", same.table());
        let other = &folders(&a, &b).unwrap()[0];
        assert!(!other.within(5.0), "{}", other.table());
        assert_eq!((other.measured.as_str(), other.simulated.as_str()), ("gorgo", "least-load"));
        let paired = folders(&c, &a).unwrap();
        assert_eq!(paired.len(), 1);
        assert!(paired[0].within(0.0));
        insta::assert_snapshot!(other.table());
    }

    #[test]
    fn a_run_that_was_stopped_is_compared_with_its_part_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        folder(&a, &[("gorgo", &[1])]);
        std::fs::create_dir(&b).unwrap();
        let whole = run("gorgo", 1, 300);
        let part = ArmRun { records: whole.records[..100].to_vec(), ..whole };
        requests::write(File::create(b.join("requests.csv")).unwrap(), &part, true).unwrap();
        assert!(folders(&a, &b).unwrap()[0].within(0.0) && folders(&b, &a).unwrap()[0].within(0.0));
    }

    #[test]
    fn folders_without_rows_or_partners_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = folders(dir.path(), dir.path()).unwrap_err().to_string();
        assert!(error.contains("requests.csv"), "{error}");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        folder(&a, &[("gorgo", &[1]), ("random", &[1])]);
        folder(&b, &[("least-load", &[1])]);
        let error = folders(&a, &b).unwrap_err().to_string();
        assert!(error.contains("none is in the other folder (least-load)"), "{error}");
    }
}
