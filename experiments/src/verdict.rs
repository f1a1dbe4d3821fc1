//! Verdicts on results, as data and as sentences: for each load and objective the best arm, its lead, and the arms
//! without a significant difference. The terminal and the page print the same [`Finding`]s.
//!
//! Arms are compared seed by seed, see [`crate::stats`]. Latencies count answered requests only, so an arm that answers
//! a smaller share of its requests than the others is not ranked by latency ([`LoadVerdict::unranked`]).

use crate::results::Point;
use crate::stats::{Difference, Estimate, Verdict, paired};
use crate::summary::loads::{arm_name, load_name};
use crate::summary::regret::is_oracle;
use crate::table::ms;
use std::collections::BTreeMap;

/// Arms are ranked by latency when their answered share is within this of the largest of the load.
pub const SHARE_SLACK: f64 = 0.01;
/// Arms named in a sentence; the rest are counted.
const NAMED: usize = 2;

/// What the results show under one load.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadVerdict {
    /// The varied settings that all arms share, for example `rate=5.0`; empty where none varies.
    pub load: String,
    /// One for each objective that was measured.
    pub findings: Vec<Finding>,
    /// Arms that answered too few of their requests to be ranked: name and answered share, 0..1.
    pub unranked: Vec<(String, f64)>,
    /// The largest answered share, 0..1.
    pub answered: f64,
}

/// The best arm by one objective: the lowest latency, or the highest goodput.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// For example `TTFT p50`.
    pub objective: &'static str,
    /// Whether more is better.
    pub higher: bool,
    /// Name of the best arm, without the load.
    pub best: String,
    /// Its value in ms; goodput in requests a second.
    pub value: Estimate,
    /// The best arm against the baseline: the baseline's name and the difference, best less baseline. `None` when the
    /// best arm is the baseline, and without common seeds.
    pub baseline: Option<(String, Difference)>,
    /// Whether the best arm is the baseline.
    pub is_baseline: bool,
    /// The best arm against the next arm.
    pub next: Option<(String, Difference)>,
    /// Other arms whose difference from the best is not shown: its interval holds 0, or there is only one seed.
    pub tied: Vec<String>,
}

/// Name of an objective, whether more of it is better, its value in one run.
type Objective = (&'static str, bool, fn(&Point) -> Option<f64>);
const LATENCIES: [Objective; 4] = [
    ("TTFT p50", false, |p| p.latency.ttft.quantile(0.5)),
    ("TTFT p95", false, |p| p.latency.ttft.quantile(0.95)),
    ("E2E p95", false, |p| p.latency.e2e.quantile(0.95)),
    ("E2E p99", false, |p| p.latency.e2e.quantile(0.99)),
];
const GOODPUT: Objective = ("goodput", true, |p| p.per_second(p.loaded.good));

/// The runs of one arm under one load.
struct Arm<'a> {
    name: String,
    label: &'a str,
    baseline: &'a str,
    points: Vec<&'a Point>,
}

impl Arm<'_> {
    fn answered(&self) -> f64 {
        let sum = |count: fn(&Point) -> u64| self.points.iter().map(|p| count(p)).sum::<u64>() as f64;
        sum(|p| p.counts.finished) / sum(|p| p.counts.requests).max(1.0)
    }

    /// Value by seed.
    fn values(&self, value: fn(&Point) -> Option<f64>) -> BTreeMap<u64, f64> {
        self.points.iter().filter_map(|p| Some((p.seed, value(p)?))).collect()
    }
}

/// The verdict under each load, loads in the order of their first point. A load without any answer has no findings.
pub fn verdicts(points: &[Point]) -> Vec<LoadVerdict> {
    let mut loads: Vec<(String, Vec<Arm<'_>>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    // Oracles know what no router can; they are the measure of the others, not among them.
    for point in points.iter().filter(|point| !is_oracle(&point.policy)) {
        let load = load_name(&point.settings);
        let at = *places.entry(load.clone()).or_insert_with(|| {
            loads.push((load, Vec::new()));
            loads.len() - 1
        });
        let arms = &mut loads[at].1;
        // The seeds of an arm are adjacent.
        match arms.last_mut().filter(|arm| arm.label == point.arm) {
            Some(arm) => arm.points.push(point),
            None => arms.push(Arm {
                name: arm_name(&point.arm, &point.settings),
                label: &point.arm,
                baseline: &point.baseline,
                points: vec![point],
            }),
        }
    }
    loads.iter().map(|(load, arms)| verdict(load, arms)).collect()
}

fn verdict(load: &str, arms: &[Arm<'_>]) -> LoadVerdict {
    let answered = arms.iter().map(Arm::answered).fold(0.0, f64::max);
    let (ranked, rest): (Vec<&Arm<'_>>, Vec<&Arm<'_>>) =
        arms.iter().partition(|arm| arm.answered() >= answered - SHARE_SLACK);
    // Goodput ranks all arms. Where every request finishes and there is no objective, it is the offered rate.
    let has_slo = arms.iter().flat_map(|arm| &arm.points).any(|p| p.loaded.slo.is_some());
    let goodput = (has_slo || !rest.is_empty()).then(|| finding(GOODPUT, &arms.iter().collect::<Vec<_>>())).flatten();
    let latencies = LATENCIES.iter().filter_map(|&objective| finding(objective, &ranked));
    LoadVerdict {
        load: load.to_owned(),
        findings: goodput.into_iter().chain(latencies).collect(),
        unranked: rest.iter().map(|arm| (arm.name.clone(), arm.answered())).collect(),
        answered,
    }
}

fn finding((objective, higher, value_of): Objective, arms: &[&Arm<'_>]) -> Option<Finding> {
    let values = arms.iter().map(|arm| (*arm, arm.values(value_of)));
    let estimated =
        values.filter_map(|(arm, by_seed)| Some((arm, Estimate::over(by_seed.values().copied())?, by_seed)));
    let mut ranked: Vec<_> = estimated.collect();
    // Of equal arms, the first of the file leads.
    let sign = if higher { -1.0 } else { 1.0 };
    ranked.sort_by(|a, b| (sign * a.1.value).total_cmp(&(sign * b.1.value)));
    let (best, value, best_by_seed) = ranked.first()?;
    let against = |other: &BTreeMap<u64, f64>| {
        let pairs: Vec<(f64, f64)> =
            best_by_seed.iter().filter_map(|(seed, &value)| Some((value, *other.get(seed)?))).collect();
        paired(&pairs)
    };
    let others: Vec<(&Arm<'_>, Option<Difference>)> =
        ranked[1..].iter().map(|(arm, _, by_seed)| (*arm, against(by_seed))).collect();
    let named = |found: &(&Arm<'_>, Option<Difference>)| Some((found.0.name.clone(), found.1?));
    let is_baseline = best.baseline.is_empty() || best.baseline == best.label;
    // `stats` calls less better.
    let better = if higher { Verdict::Worse } else { Verdict::Better };
    let shown = |difference: &Option<Difference>| difference.is_some_and(|d| d.verdict == Some(better));
    Some(Finding {
        objective,
        higher,
        best: best.name.clone(),
        value: *value,
        baseline: others.iter().find(|(arm, _)| arm.label == best.baseline).and_then(named),
        is_baseline,
        next: others.first().and_then(named),
        tied: others.iter().filter(|(_, d)| !shown(d)).map(|(arm, _)| arm.name.clone()).collect(),
    })
}

impl Finding {
    /// Whether more than one seed was run, so that differences have intervals.
    fn has_interval(&self) -> bool {
        self.value.ci95.is_some()
    }

    /// The finding without its objective, for example
    /// `gorgo 214.0 ms, 12.3 % ± 2.1 % lower than least-load; not told apart from gorgo-proxy`.
    pub fn text(&self) -> String {
        if self.higher && self.value.value == 0.0 {
            return "no arm answered a request within the objective".to_owned();
        }
        let value = match self.higher {
            true => format!("{} {:.2}/s", self.best, self.value.value),
            false => format!("{} {} ms", self.best, ms(self.value.value)),
        };
        let (lower, end) =
            (|d: &Difference, than: &str| gap(d, self.higher, than), if self.higher { "highest" } else { "lowest" });
        let tied: Vec<&str> = self.tied.iter().map(String::as_str).collect();
        let Some((next, by)) = &self.next else { return format!("{value}; no other arm to compare with") };
        if !self.has_interval() {
            let (against, by) = self.baseline.as_ref().unwrap_or(&(next.clone(), *by)).clone();
            return format!("{end} is {value}, {}; one seed shows no difference from chance", lower(&by, &against));
        }
        match &self.baseline {
            Some((baseline, _)) if self.tied.contains(baseline) => {
                format!("no difference shown: {end} is {value}, not told apart from {}", list(&tied))
            }
            Some((baseline, by)) if tied.is_empty() && baseline == next => {
                format!("{value}, {}", lower(by, baseline))
            }
            Some((baseline, by_baseline)) if tied.is_empty() => {
                format!("{value}, {}, {}, the next", lower(by_baseline, baseline), lower(by, next))
            }
            Some((baseline, by)) => {
                format!("{value}, {}; not told apart from {}", lower(by, baseline), list(&tied))
            }
            None if tied.is_empty() => format!("{value}, {}, the next", lower(by, next)),
            None => format!("no difference shown: {end} is {value}, not told apart from {}", list(&tied)),
        }
    }
}

/// For example `12.3 % ± 2.1 % lower than least-load`.
fn gap(d: &Difference, higher: bool, than: &str) -> String {
    let (value, half, unit) = match (d.percent, higher) {
        (Some(percent), _) => (percent, d.percent_ci95, "%"),
        (None, true) => (d.value, d.ci95, "/s"),
        (None, false) => (d.value, d.ci95, "ms"),
    };
    let half = half.map_or_else(String::new, |half| format!(" ± {half:.1} {unit}"));
    // Rounded before it is shown, so that no difference is 0.0, not -0.0.
    let shown = |value: f64| (value * 10.0).round() / 10.0 + 0.0;
    match shown(value) {
        0.0 if half.is_empty() || d.value == 0.0 => format!("equal to {than}"),
        _ if higher => format!("{:.1} {unit}{half} higher than {than}", shown(value)),
        _ => format!("{:.1} {unit}{half} lower than {than}", shown(-value)),
    }
}

/// Some of the names, and how many more there are.
fn list(names: &[&str]) -> String {
    if names.len() <= NAMED + 1 {
        return names.join(", ");
    }
    format!("{} and {} more", names[..NAMED].join(", "), names.len() - NAMED)
}

impl LoadVerdict {
    /// One sentence on the arms that are not ranked; `None` when all are.
    pub fn shares_text(&self) -> Option<String> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let arms: Vec<String> =
            self.unranked.iter().map(|(name, share)| format!("{name} ({})", percent(*share))).collect();
        let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
        (!arms.is_empty()).then(|| {
            format!(
                "arms finish unequal shares of their requests, and latencies count answered requests only; not ranked by latency: {}; the best arm answered {}",
                list(&arms),
                percent(self.answered)
            )
        })
    }
}

/// The verdicts as lines of a terminal: a line for each load and one for each objective; empty without findings.
pub fn lines(verdicts: &[LoadVerdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts.iter().filter(|v| !v.findings.is_empty()) {
        let indent = if verdict.load.is_empty() { "" } else { "  " };
        if !verdict.load.is_empty() {
            text += &format!("{}\n", plain(&verdict.load));
        }
        for finding in &verdict.findings {
            text += &format!("{indent}{}: {}\n", finding.objective, plain(&finding.text()));
        }
        if let Some(shares) = verdict.shares_text() {
            text += &format!("{indent}{}\n", plain(&shares));
        }
    }
    text.trim_end().to_owned()
}

/// Control characters would break the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
