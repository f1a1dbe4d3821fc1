//! Joins the requests of one arm in both sources: run by run where both name their runs, else by id alone.

use super::settings::RowSettings;
use crate::records::Row;
use crate::stats::blocks::{Blocks, NoBlocks};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A measured request with those of the simulated runs that have its id.
pub(super) struct Pair<'a> {
    pub(super) measured: &'a Row,
    pub(super) simulated: Vec<&'a Row>,
}

/// Requests of one arm in both sources.
#[derive(Default)]
pub(super) struct Joined<'a> {
    pub(super) pairs: Vec<Pair<'a>>,
    /// Simulated requests; those of the pairs, or all when unpaired.
    pub(super) simulated: Vec<&'a Row>,
    pub(super) blocks: Option<Blocks>,
    /// Why no blocks can be drawn, where the times are known.
    pub(super) no_blocks: Option<NoBlocks>,
    /// Measured requests that were answered, in the runs that are joined.
    pub(super) answered: usize,
    /// What was left out; one sentence each.
    pub(super) notes: Vec<String>,
    /// What was left out in such numbers that no agreement shows; one sentence each.
    pub(super) gaps: Vec<String>,
    /// Why nothing was joined, where the runs do not tell which requests are the same.
    pub(super) refused: Option<String>,
}

/// Joins the measured requests `a` with the simulated ones `b`.
pub(super) fn join<'a>(a: &[&'a Row], b: &[&'a Row], settings: &RowSettings) -> Joined<'a> {
    let answered = after_warm_up(a, settings.warm_up_s).filter(|row| row.ok).collect();
    let mut joined = if settings.unpaired {
        let simulated = after_warm_up(b, settings.warm_up_s).filter(|row| row.ok).collect();
        side_by_side(answered, simulated)
    } else {
        by_id(answered, b.iter().copied().filter(|row| row.ok).collect())
    };
    let times: Option<Vec<f64>> =
        joined.pairs.iter().map(|pair| pair.measured.at.or(pair.measured.scheduled)).collect();
    match times.map(|times| Blocks::draw(&times, settings.block_s * 1e3)) {
        Some(Ok(blocks)) => joined.blocks = Some(blocks),
        Some(Err(why)) => joined.no_blocks = Some(why),
        None => {}
    }
    joined
}

/// Requests from `seconds` after the first one on, and those without a time.
fn after_warm_up<'a>(rows: &[&'a Row], seconds: f64) -> impl Iterator<Item = &'a Row> {
    let first = rows.iter().filter_map(|row| row.at).fold(f64::INFINITY, f64::min);
    rows.iter().copied().filter(move |row| row.at.is_none_or(|at| at - first >= seconds * 1e3))
}

/// Requests that are not the same: each measured one alone, and all simulated ones.
fn side_by_side<'a>(answered: Vec<&'a Row>, simulated: Vec<&'a Row>) -> Joined<'a> {
    let count = answered.len();
    let pairs = answered.into_iter().map(|measured| Pair { measured, simulated: Vec::new() }).collect();
    Joined { pairs, simulated, answered: count, ..Joined::default() }
}

fn by_id<'a>(answered: Vec<&'a Row>, finished: Vec<&'a Row>) -> Joined<'a> {
    let plan = match Plan::of(&answered, &finished) {
        Ok(plan) => plan,
        Err(why) => return Joined { answered: answered.len(), refused: Some(why), ..Joined::default() },
    };
    let (mut notes, mut gaps) = (plan.notes, Vec::new());
    let mut keep = |rows: Vec<&'a Row>, runs: &BTreeSet<&str>, source: &str| {
        let rows: Vec<&Row> = rows.into_iter().filter(|row| runs.contains(&*row.run)).collect();
        let (all, first, once) = (rows.len(), repeated(&rows), each_once(rows));
        if let Some((id, times)) = first {
            let more = all - once.len();
            notes.push(format!(
                "{more} answered requests of the {source} source repeat the id of an earlier one of their run and are left out, the first is `{id}`, {times} times"
            ));
            if more as f64 >= MANY_REPEATS * all as f64 {
                gaps.push(format!(
                    "{more} of {all} answered requests of the {source} source repeat an id, the first is `{id}`, {times} times; name a column that tells requests apart with --columns id=..., or compare distributions with --unpaired"
                ));
            }
        }
        (all, once)
    };
    let (all, answered) = keep(answered, &plan.measured, "measured");
    let (_, finished) = keep(finished, &plan.simulated, "simulated");
    let key = |row: &'a Row| (if plan.by_run { &*row.run } else { "" }, &*row.id);
    let mut places: HashMap<(&str, &str), Vec<&Row>> = HashMap::new();
    for row in finished {
        places.entry(key(row)).or_default().push(row);
    }
    let pair = |measured: &'a Row| Some(Pair { measured, simulated: places.get(&key(measured))?.clone() });
    let pairs: Vec<Pair<'_>> = answered.into_iter().filter_map(pair).collect();
    let simulated = pairs.iter().flat_map(|pair| pair.simulated.iter().copied()).collect();
    Joined { pairs, simulated, answered: all, notes, gaps, ..Joined::default() }
}

/// Share of repeated requests from which on they are no odd ones, and the ids may be others.
const MANY_REPEATS: f64 = 0.1;

/// The first id that a run repeats, and how often it stands there.
fn repeated<'a>(rows: &[&'a Row]) -> Option<(&'a str, usize)> {
    let mut seen = HashSet::new();
    let first = rows.iter().find(|row| !seen.insert((&*row.run, &*row.id)))?;
    let same = |row: &&&Row| (&*row.run, &*row.id) == (&*first.run, &*first.id);
    Some((&first.id, rows.iter().filter(same).count()))
}

/// The first request of each id of a run.
fn each_once(rows: Vec<&Row>) -> Vec<&Row> {
    let mut seen = HashSet::new();
    rows.into_iter().filter(|row| seen.insert((&*row.run, &*row.id))).collect()
}

/// Which runs of both sources are joined.
struct Plan<'a> {
    measured: BTreeSet<&'a str>,
    simulated: BTreeSet<&'a str>,
    /// Whether requests must have the same run as well as the same id.
    by_run: bool,
    notes: Vec<String>,
}

impl<'a> Plan<'a> {
    fn of(answered: &[&'a Row], finished: &[&'a Row]) -> Result<Self, String> {
        let runs = |rows: &[&'a Row]| rows.iter().map(|row| &*row.run).collect::<BTreeSet<&str>>();
        let (measured, simulated) = (runs(answered), runs(finished));
        let named = |runs: &BTreeSet<&str>| runs.iter().any(|run| !run.is_empty());
        match (named(&measured), named(&simulated)) {
            (true, true) => Self::common(&measured, &simulated),
            (false, true) if simulated.len() > 1 && !answered.is_empty() => {
                let kept = runs_of_requests(finished, answered).ok_or_else(|| unclear("measured", &simulated))?;
                let notes = left_out("simulated", "holds other requests", simulated.difference(&kept));
                Ok(Self { measured, simulated: kept, by_run: false, notes })
            }
            (true, false) if measured.len() > 1 && !finished.is_empty() => {
                let kept = runs_of_requests(answered, finished).ok_or_else(|| unclear("simulated", &measured))?;
                let notes = left_out("measured", "holds other requests", measured.difference(&kept));
                Ok(Self { measured: kept, simulated, by_run: false, notes })
            }
            _ => Ok(Self { measured, simulated, by_run: false, notes: Vec::new() }),
        }
    }

    /// The runs whose names both sources have.
    fn common(measured: &BTreeSet<&'a str>, simulated: &BTreeSet<&'a str>) -> Result<Self, String> {
        let common: BTreeSet<&str> = measured.intersection(simulated).copied().collect();
        if common.is_empty() {
            return Err(format!(
                "the sources have no run in common (measured: {}; simulated: {}), so equal ids name other requests; run both with the same seeds, or compare distributions with --unpaired",
                list(measured),
                list(simulated)
            ));
        }
        let mut notes = left_out("measured", "has no partner", measured.difference(&common));
        notes.extend(left_out("simulated", "has no partner", simulated.difference(&common)));
        Ok(Self { measured: common.clone(), simulated: common, by_run: true, notes })
    }
}

/// Names of runs, at most twelve.
fn list<'a>(runs: impl IntoIterator<Item = &'a &'a str>) -> String {
    let names: Vec<&str> = runs.into_iter().map(|run| if run.is_empty() { "without a name" } else { run }).collect();
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    names[..names.len().min(12)].join(", ") + &more
}

fn left_out<'a>(source: &str, why: &str, runs: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    let runs: Vec<&&str> = runs.collect();
    if runs.is_empty() {
        return Vec::new();
    }
    let names = list(runs.iter().copied());
    vec![if runs.len() == 1 {
        format!("run {names} of the {source} source {why} and is left out")
    } else {
        format!("runs {names} of the {source} source are left out, each of which {why}")
    }]
}

/// Why a source without names of runs cannot be joined with one that has several.
fn unclear(source: &str, others: &BTreeSet<&str>) -> String {
    let other = if source == "measured" { "simulated" } else { "measured" };
    format!(
        "the {source} source names no run, and the lengths of its prompts do not tell which run of the {other} source ({}) holds the same requests; name its run (--columns run=...), give one run of the {other} source, or compare distributions with --unpaired",
        list(others)
    )
}

/// Share of the joined requests that must have prompts of one length for two runs to hold the same requests.
const ALIKE: f64 = 0.9;

/// The runs of `many` that hold the requests of `single`, as the lengths of their prompts tell: several where these hold
/// the same requests among themselves. `None` where it is not clear.
fn runs_of_requests<'a>(many: &[&'a Row], single: &[&'a Row]) -> Option<BTreeSet<&'a str>> {
    let mut runs: BTreeMap<&str, HashMap<&str, &Row>> = BTreeMap::new();
    for &row in many {
        runs.entry(&row.run).or_default().entry(&row.id).or_insert(row);
    }
    let mut own: HashMap<&str, &Row> = HashMap::new();
    for &row in single {
        own.entry(&row.id).or_insert(row);
    }
    let near: Vec<(&str, &HashMap<&str, &Row>)> = runs
        .iter()
        .filter(|(_, run)| share(&own, run, near_lengths).is_some_and(|share| share >= ALIKE))
        .map(|(name, run)| (*name, run))
        .collect();
    let (_, first) = near.first()?;
    let same = |a: &HashMap<&str, &Row>, b: &HashMap<&str, &Row>| {
        share(a, b, |a, b| a.to_bits() == b.to_bits()).is_some_and(|share| share >= ALIKE)
    };
    if near.iter().all(|(_, run)| same(first, run)) {
        return Some(near.into_iter().map(|(name, _)| name).collect());
    }
    // Prompts of other runs are near in length by chance: only equal lengths tell.
    let equal: Vec<&str> = near.iter().filter(|(_, run)| same(&own, run)).map(|(name, _)| *name).collect();
    (equal.len() == 1).then(|| equal.into_iter().collect())
}

/// The share of common ids whose prompts have lengths that `alike` accepts; `None` without a known pair.
fn share(a: &HashMap<&str, &Row>, b: &HashMap<&str, &Row>, alike: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let lengths: Vec<(f64, f64)> = a.iter().filter_map(|(id, row)| lengths(row, b.get(id)?)).collect();
    let count = lengths.iter().filter(|(a, b)| alike(*a, *b)).count();
    (!lengths.is_empty()).then(|| count as f64 / lengths.len() as f64)
}

/// The lengths of two prompts in the same count, where both are known.
pub(super) fn lengths(a: &Row, b: &Row) -> Option<(f64, f64)> {
    a.prompt_tokens.zip(b.prompt_tokens).or_else(|| a.router_tokens.zip(b.router_tokens))
}

/// Whether two prompts may be the same: their lengths differ by at most a quarter, because tokenizers differ by less.
pub(super) fn near_lengths(a: f64, b: f64) -> bool {
    (a - b).abs() <= 16.0 + 0.25 * a.max(b)
}
