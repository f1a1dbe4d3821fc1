//! Compares two results: a measured run with its simulation, or any two runs.
//!
//! Two result folders are compared here by their stored figures, over seeds. Everything else, or the same with more
//! detail, is compared request by request: [`compare_rows`] (figures with the recording's noise beside each error) uses
//! `settings`, `join` (which requests are the same), `figures` and `order` (which arms the recording tells apart); `show` makes
//! tables and curves of it.
//!
//! Arms are matched by name; seeds are pooled. An error is (simulated - measured) / measured in per cent. Its interval
//! is the grouped jackknife's: the error is taken again with each seed left out of both runs, and
//! `t(0.975, n - 1) * sqrt((n - 1) / n * sum((e_i - mean)^2))` is half the width. It bounds how far
//! chance alone (order of reports, random ties) may move the error. Percentiles are those of [`crate::stats`].

mod figures;
mod join;
mod order;
mod rows;
mod settings;
mod show;
#[cfg(test)]
mod tests;

pub use order::Order;
pub use rows::{Agreement, ArmRows, Class, RowComparison, RowFigure, compare_rows};
pub use settings::RowSettings;
pub use show::{curves, rows_table};

use crate::results::{Point, Results};
use crate::stats::{Digest, jackknife};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use serde::Serialize;
use std::collections::BTreeSet;

/// One figure of both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Name, with its unit.
    pub name: String,
    /// In the measured run.
    pub measured: f64,
    /// In the simulated one.
    pub simulated: f64,
    /// Error in per cent of the measured; `None` when that is 0. For shares and rates, already in per cent, the
    /// difference in points.
    pub error: Option<f64>,
    /// Half the width of its 95 % interval; `None` with fewer than three common seeds.
    pub ci95: Option<f64>,
    /// Whether `--max-error` applies: p50 and p95 of TTFT and E2E.
    pub judged: bool,
}

/// One arm of both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmErrors {
    /// Its name.
    pub arm: String,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Judged figures that one of the runs does not have: nothing to compare is no agreement.
    pub missing: Vec<String>,
}

/// Two results side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The arms that both have.
    pub arms: Vec<ArmErrors>,
    /// Arms of one result only.
    pub unmatched: Vec<String>,
    /// Seeds that one of the results lacks; one sentence each.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Why this comparison shows no agreement, whatever its errors are; one sentence each.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps: Vec<String> = self.unmatched.clone();
        for arm in &self.arms {
            gaps.extend(arm.missing.iter().map(|figure| format!("{}: {figure}", arm.arm)));
        }
        gaps
    }
}

/// Why two results cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ValidateError {
    /// They have no arm in common.
    #[error(
        "the results have no arm in common (measured: {measured}; simulated: {simulated}); compare runs of one experiment"
    )]
    NoCommonArm {
        /// Arms of the measured result.
        measured: String,
        /// Arms of the simulated result.
        simulated: String,
    },
}

/// Compares every arm that both results have.
///
/// # Errors
/// When they have no arm in common.
pub fn compare(measured: &Results, simulated: &Results) -> Result<Comparison, ValidateError> {
    let groups = |results: &'_ Results| -> Vec<(String, Vec<Point>)> {
        let chunks = results.points.chunk_by(|a, b| a.arm == b.arm);
        chunks.map(|points| (points[0].arm.clone(), points.to_vec())).collect()
    };
    let (ours, theirs) = (groups(measured), groups(simulated));
    let common: Vec<ArmErrors> = ours
        .iter()
        .filter_map(|(arm, a)| {
            let (_, b) = theirs.iter().find(|(other, _)| other == arm)?;
            let figures = with_intervals(a, b);
            let missing = missing(&figures, a, b);
            Some(ArmErrors { arm: arm.clone(), figures, missing })
        })
        .collect();
    if common.is_empty() {
        let names =
            |groups: &[(String, Vec<Point>)]| groups.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
        return Err(ValidateError::NoCommonArm { measured: names(&ours), simulated: names(&theirs) });
    }
    let only = |all: &[(String, Vec<Point>)], other: &[(String, Vec<Point>)], which: &str| -> Vec<String> {
        let alone = all.iter().filter(|(arm, _)| !other.iter().any(|(o, _)| o == arm));
        alone.map(|(arm, _)| format!("arm `{arm}` is in the {which} result only")).collect()
    };
    let mut unmatched = only(&ours, &theirs, "measured");
    unmatched.extend(only(&theirs, &ours, "simulated"));
    Ok(Comparison { arms: common, unmatched, notes: other_seeds(measured, simulated).into_iter().collect() })
}

/// Says that the results were made with other seeds, whose workloads may differ.
fn other_seeds(measured: &Results, simulated: &Results) -> Option<String> {
    let seeds = |results: &Results| results.points.iter().map(|point| point.seed).collect::<BTreeSet<u64>>();
    let list = |seeds: &BTreeSet<u64>| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let (a, b) = (seeds(measured), seeds(simulated));
    let common = if a.is_disjoint(&b) { "none is common" } else { "all of them are pooled" };
    (a != b)
        .then(|| format!("the seeds of the results differ (measured: {}; simulated: {}); {common}", list(&a), list(&b)))
}

/// Judged figures without a value or an error.
fn missing(figures: &[Figure], a: &[Point], b: &[Point]) -> Vec<String> {
    let none = |points: &[Point]| points.iter().all(|p| p.counts.finished == 0);
    let mut missing = Vec::new();
    for (which, points) in [("measured", a), ("simulated", b)] {
        if none(points) {
            missing.push(format!("no request of the {which} run finished"));
        }
    }
    for name in ["TTFT p50, ms", "TTFT p95, ms", "E2E p50, ms", "E2E p95, ms"] {
        let known = figures.iter().find(|f| f.name == name).and_then(|f| f.error).is_some_and(f64::is_finite);
        if !known {
            missing.push(format!("{name} cannot be compared"));
        }
    }
    missing
}

/// All figures with their intervals: each error is computed again without each common seed.
fn with_intervals(a: &[Point], b: &[Point]) -> Vec<Figure> {
    let mut all = figures(a, b);
    let seeds: Vec<u64> = a.iter().map(|p| p.seed).filter(|seed| b.iter().any(|p| p.seed == *seed)).collect();
    if seeds.len() < 3 {
        return all;
    }
    let without =
        |points: &[Point], seed: u64| -> Vec<Point> { points.iter().filter(|p| p.seed != seed).cloned().collect() };
    let left: Vec<Vec<Figure>> = seeds.iter().map(|&seed| figures(&without(a, seed), &without(b, seed))).collect();
    for figure in &mut all {
        let same = |figures: &Vec<Figure>| figures.iter().find(|f| f.name == figure.name).and_then(|f| f.error);
        let errors: Option<Vec<f64>> = left.iter().map(same).collect();
        figure.ci95 = errors.as_deref().and_then(jackknife);
    }
    all
}

fn figures(a: &[Point], b: &[Point]) -> Vec<Figure> {
    let mut found = Vec::new();
    type Pick = fn(&Point) -> &Digest;
    let latencies: [(&str, Pick, bool); 4] = [
        ("TTFT", |p| &p.latency.ttft, true),
        ("TTFT at the router", |p| &p.latency.router_ttft, false),
        ("E2E", |p| &p.latency.e2e, true),
        ("TPOT", |p| &p.latency.tpot, false),
    ];
    for (name, pick, judged) in latencies {
        let pool = |points: &[Point]| points.iter().fold(Digest::default(), |sum, p| sum.merge(pick(p)));
        let (a, b) = (pool(a), pool(b));
        for (label, p) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)] {
            let (Some(measured), Some(simulated)) = (a.quantile(p), b.quantile(p)) else { continue };
            let error = (measured != 0.0).then(|| 100.0 * (simulated - measured) / measured);
            let judged = judged && (label == "p50" || label == "p95");
            found.push(Figure { name: format!("{name} {label}, ms"), measured, simulated, error, ci95: None, judged });
        }
    }
    let mut points = |name: String, measured: f64, simulated: f64| {
        let error = Some(simulated - measured);
        found.push(Figure { name, measured, simulated, error, ci95: None, judged: false });
    };
    let hit = |points: &[Point]| {
        let sum = |pick: fn(&Point) -> u64| points.iter().map(pick).sum::<u64>() as f64;
        100.0 * sum(|p| p.counts.cached_tokens) / sum(|p| p.counts.prompt_tokens).max(1.0)
    };
    points("hit rate, %".to_owned(), hit(a), hit(b));
    let share = |points: &[Point], replica: &str| {
        let of = |p: &Point| p.names.replicas.iter().position(|r| r == replica).map_or(0, |i| p.per_replica[i]);
        let all: u64 = points.iter().flat_map(|p| &p.per_replica).sum();
        100.0 * points.iter().map(of).sum::<u64>() as f64 / all.max(1) as f64
    };
    for replica in &a[0].names.replicas {
        points(format!("share of {replica}, %"), share(a, replica), share(b, replica));
    }
    let finished = |points: &[Point]| points.iter().map(|p| p.counts.finished).sum::<u64>() as f64;
    let (measured, simulated) = (finished(a), finished(b));
    let error = (measured != 0.0).then(|| 100.0 * (simulated - measured) / measured);
    found.push(Figure { name: "finished requests".to_owned(), measured, simulated, error, ci95: None, judged: false });
    found
}

/// The largest judged error in per cent, with its arm and name.
pub fn worst(arms: &[ArmErrors]) -> Option<(f64, &str, &str)> {
    let judged = arms.iter().flat_map(|arm| arm.figures.iter().filter(|f| f.judged).map(move |f| (arm, f)));
    judged
        .filter_map(|(arm, f)| Some((f.error?.abs(), arm.arm.as_str(), f.name.as_str())))
        .max_by(|a, b| a.0.total_cmp(&b.0))
}

/// The comparison as a table.
pub fn table(arms: &[ArmErrors]) -> String {
    table_in(arms, usize::MAX)
}

/// The comparison as a table in `width` columns; where it does not fit, as a table for each arm below its name.
pub fn table_in(arms: &[ArmErrors], width: usize) -> String {
    const HEADER: [&str; 6] = ["arm", "figure", "measured", "simulated", "error", "± 95 %"];
    let rows: Vec<Vec<String>> = arms.iter().flat_map(rows_of).collect();
    let room = show::room_of(0, &HEADER, &rows, width);
    if arms.iter().any(|arm| arm.arm.chars().count() > room) {
        let each = |arm: &ArmErrors| {
            let rows = rows_of(arm).map(|row| row[1..].to_vec());
            let name = crate::table::fold(&arm.arm, width).join("\n");
            format!("{name}\n{}", show::table(&HEADER[1..], rows, width))
        };
        return arms.iter().map(each).collect::<Vec<_>>().join("\n\n");
    }
    let mut table = Table::new();
    let style = TableStyle::new().header_separator(LineStyle::none().fill('─'));
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADER);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The figures of an arm as cells.
fn rows_of(arm: &ArmErrors) -> impl Iterator<Item = Vec<String>> {
    arm.figures.iter().enumerate().map(|(i, f)| {
        let unit = if f.name.ends_with(", %") { "points" } else { "%" };
        vec![
            if i == 0 { arm.arm.clone() } else { String::new() },
            f.name.clone(),
            crate::table::ms(f.measured),
            crate::table::ms(f.simulated),
            f.error.map_or_else(|| "-".to_owned(), |e| format!("{e:+.1} {unit}")),
            f.ci95.map_or_else(|| "-".to_owned(), |half| format!("{half:.1}")),
        ]
    })
}

#[cfg(test)]
mod folder_tests {
    use super::*;
    use crate::results::test_data::{points, results};

    #[test]
    fn a_run_against_itself_has_no_error() {
        let run = results(points(&["least-load", "gorgo"], 2, 200));
        let arms = compare(&run, &run).unwrap();
        assert!(arms.gaps().is_empty());
        let arms = arms.arms;
        assert_eq!(arms.len(), 2);
        assert!(arms.iter().flat_map(|a| &a.figures).all(|f| f.error == Some(0.0)));
        assert_eq!(worst(&arms).map(|w| w.0), Some(0.0));
        assert!(table(&arms).contains("TTFT p95, ms"));
    }

    #[test]
    fn errors_are_signed_shares_are_points_and_the_worst_is_found() {
        let a = results(points(&["gorgo"], 1, 200));
        let mut b = a.clone();
        let slower = points(&["least-load"], 1, 200).remove(0);
        b.points[0].latency = slower.latency;
        b.points[0].per_replica = vec![200, 0, 0];
        let arms = compare(&a, &b).unwrap().arms;
        let of = |name: &str| arms[0].figures.iter().find(|f| f.name.starts_with(name)).unwrap();
        let p50 = of("TTFT p50");
        assert!(
            (p50.error.unwrap() - 100.0 * (p50.simulated / p50.measured - 1.0)).abs() < 1e-9 && p50.error > Some(50.0)
        );
        assert_eq!(of("share of tel-aviv").simulated, 100.0);
        let (error, arm, _) = worst(&arms).unwrap();
        assert!(error >= p50.error.unwrap() && arm == "gorgo");
    }

    #[test]
    fn an_error_that_every_seed_shares_is_certain_and_one_of_a_single_seed_is_not() {
        let a = results(points(&["gorgo"], 5, 200));
        let mut b = a.clone();
        let slower = points(&["least-load"], 5, 200);
        for (point, slow) in b.points.iter_mut().zip(&slower) {
            point.latency = slow.latency.clone();
        }
        let p50 = |arms: &[ArmErrors]| arms[0].figures.iter().find(|f| f.name == "TTFT p50, ms").unwrap().clone();
        let all = p50(&compare(&a, &b).unwrap().arms);
        assert!(all.ci95.unwrap() < all.error.unwrap(), "the interval does not hold 0: {all:?}");
        let mut one = a.clone();
        one.points[2].latency = slower[2].latency.clone();
        let one = p50(&compare(&a, &one).unwrap().arms);
        assert!(one.ci95.unwrap() > one.error.unwrap(), "{one:?}");
        assert_eq!(
            p50(&compare(&results(a.points[..2].to_vec()), &a).unwrap().arms).ci95,
            None,
            "two seeds are too few"
        );
    }

    #[test]
    fn a_table_fits_the_width() {
        let run = results(points(&["an arm whose name is rather long"], 3, 50));
        let arms = compare(&run, &run).unwrap().arms;
        let shown = table_in(&arms, 80);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(shown.starts_with("an arm whose name is rather long\n"), "{shown}");
        assert!(table(&arms).contains("an arm whose name is rather long"));
    }

    #[test]
    fn other_seeds_are_noted() {
        let (a, b) = (results(points(&["x"], 3, 5)), results(points(&["x"], 2, 5)));
        assert!(compare(&a, &a).unwrap().notes.is_empty());
        let note = compare(&a, &b).unwrap().notes.remove(0);
        assert!(note.contains("the seeds of the results differ (measured:"), "{note}");
        let mut other = b.clone();
        other.points.iter_mut().for_each(|point| point.seed += 100);
        let note = compare(&a, &other).unwrap().notes.remove(0);
        assert!(note.contains("none is common"), "{note}");
    }

    #[test]
    fn runs_of_different_experiments_are_refused() {
        let (a, b) = (results(points(&["x"], 1, 5)), results(points(&["y"], 1, 5)));
        let message = compare(&a, &b).unwrap_err().to_string();
        assert!(message.contains("measured: x; simulated: y"), "{message}");
    }

    #[test]
    fn nothing_to_compare_and_arms_without_a_partner_are_gaps() {
        let a = results(points(&["x", "y"], 1, 50));
        let mut dead = results(points(&["x", "z"], 1, 50));
        for point in &mut dead.points {
            point.latency = Default::default();
            point.counts.finished = 0;
        }
        let gaps = compare(&a, &dead).unwrap().gaps().join("\n");
        for gap in [
            "arm `y` is in the measured result only",
            "arm `z` is in the simulated result only",
            "x: no request of the simulated run finished",
            "x: TTFT p50, ms cannot be compared",
        ] {
            assert!(gaps.contains(gap), "{gap}: {gaps}");
        }
    }
}
