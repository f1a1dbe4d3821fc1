//! Splits the name of an arm. `gorgo rate=5.0 ms_per_token=0.1` is the arm `gorgo ms_per_token=0.1` under the
//! load `rate=5.0`, and a point of the line `gorgo`. Settings of policies make arms; all others are conditions that
//! every arm of a comparison shares, called the load here.

use super::ArmSummary;
use std::collections::BTreeMap;

type Settings = BTreeMap<String, String>;

/// Whether a varied setting belongs to the load rather than to the arm.
pub(crate) fn is_load(key: &str) -> bool {
    !key.starts_with("policy")
}

/// The word that a varied setting adds to the name of an arm.
fn word(key: &str, value: &str) -> String {
    format!("{}={value}", key.rsplit('.').next().unwrap_or(key))
}

/// The name `label` of an arm without the words of the settings that `left_out` names.
pub(crate) fn without(label: &str, settings: &Settings, left_out: impl Fn(&str) -> bool) -> String {
    let mut words: Vec<(String, bool)> = settings.iter().map(|(k, v)| (word(k, v), left_out(k))).collect();
    let (mut head, mut kept) = (label, Vec::new());
    // Values may hold blanks, so words are taken from the end one by one, in whatever order they stand.
    while let Some((i, rest)) = words.iter().enumerate().find_map(|(i, (word, _))| {
        let rest = head.strip_suffix(word.as_str())?.strip_suffix(' ')?;
        Some((i, rest))
    }) {
        let (word, out) = words.swap_remove(i);
        head = rest;
        kept.extend((!out).then_some(word));
    }
    kept.reverse();
    std::iter::once(head.to_owned()).chain(kept).collect::<Vec<_>>().join(" ")
}

/// The name of the arm without its load.
pub(crate) fn arm_name(label: &str, settings: &Settings) -> String {
    without(label, settings, is_load)
}

/// The load, for example `rate=5.0`; empty where nothing but policies varies.
pub(crate) fn load_name(settings: &Settings) -> String {
    let words: Vec<String> = settings.iter().filter(|(k, _)| is_load(k)).map(|(k, v)| word(k, v)).collect();
    words.join(" ")
}

/// The arms that ran under one load, in their order.
#[derive(Debug, Clone)]
pub(crate) struct Load<'a> {
    /// See [`load_name`].
    pub(crate) name: String,
    /// Arms with their names without the load.
    pub(crate) arms: Vec<(String, &'a ArmSummary)>,
}

impl<'a> Load<'a> {
    /// The arms by mean TTFT, the lowest first; those without a first token last.
    pub(crate) fn by_ttft(&self) -> Vec<&(String, &'a ArmSummary)> {
        let mean = |arm: &ArmSummary| arm.ttft_ms.map_or(f64::INFINITY, |ttft| ttft.mean.value);
        let mut arms: Vec<_> = self.arms.iter().collect();
        arms.sort_by(|a, b| mean(a.1).total_cmp(&mean(b.1)));
        arms
    }
}

/// All loads in the order of their first arm. Arms of an empty load that stand beside others have their own.
pub(crate) fn loads(arms: &[ArmSummary]) -> Vec<Load<'_>> {
    let mut loads: Vec<Load<'_>> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for arm in arms {
        let name = load_name(&arm.settings);
        let at = *places.entry(name.clone()).or_insert_with(|| {
            loads.push(Load { name, arms: Vec::new() });
            loads.len() - 1
        });
        loads[at].arms.push((arm_name(&arm.arm, &arm.settings), arm));
    }
    loads
}

/// Arms of a load beyond which a terminal shows the ten best.
const LONG: usize = 24;

/// The arms that a terminal shows where a load has more than 24: of such a load the ten best, and its baseline. Best is
/// the lowest mean TTFT, or what comes first where the arms are `sorted`. `None` where all are shown.
pub fn ten_best(arms: &[ArmSummary], sorted: bool) -> Option<Vec<ArmSummary>> {
    let loads = loads(arms);
    if loads.iter().all(|load| load.arms.len() <= LONG) {
        return None;
    }
    let mut shown = Vec::new();
    for load in loads {
        let is_long = load.arms.len() > LONG;
        let ranked = if is_long && !sorted { load.by_ttft() } else { load.arms.iter().collect() };
        let mut best: Vec<&ArmSummary> = ranked.into_iter().map(|(_, arm)| *arm).collect();
        if is_long {
            let name = best.iter().find_map(|arm| arm.against_baseline.as_ref()).map(|against| &against.baseline);
            let baseline = best.iter().skip(10).find(|arm| Some(&arm.arm) == name).copied();
            best.truncate(10);
            best.extend(baseline);
        }
        shown.extend(best.into_iter().cloned());
    }
    Some(shown)
}

/// Names of arms in the order of their first load: the place of a name is its colour in every picture.
pub(crate) fn arm_names(arms: &[ArmSummary]) -> Vec<String> {
    distinct(arms.iter().map(|arm| arm_name(&arm.arm, &arm.settings)))
}

fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    names.filter(|name| seen.insert(name.clone())).collect()
}

/// Short names of arms: the first word, and every word that another name of two words or more lacks. Settings that all
/// arms share are left out.
pub(crate) fn short_names(names: &[&str]) -> Vec<String> {
    let long: Vec<Vec<&str>> = names.iter().map(|n| n.split(' ').collect()).filter(|w: &Vec<_>| w.len() > 1).collect();
    let shared = |word: &str| long.len() > 1 && long.iter().all(|words| words.contains(&word));
    let short = |name: &&str| {
        let words = name.split(' ').enumerate().filter(|(i, word)| *i == 0 || !shared(word));
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    names.iter().map(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn line_name(label: &str, settings: &Settings) -> String {
        without(label, settings, |_| true)
    }

    #[test]
    fn a_line_is_an_arm_by_its_name_whatever_its_policy() {
        let varied = settings(&[("workload.rate", "5.0"), ("policy.ms_per_token", "0.1")]);
        let label = "physical proxy ms_per_token=0.1 rate=5.0";
        assert_eq!(line_name(label, &varied), "physical proxy");
        assert_eq!(arm_name(label, &varied), "physical proxy ms_per_token=0.1");
        assert_eq!(load_name(&varied), "rate=5.0");
        assert_eq!(arm_name("least-load", &settings(&[])), "least-load");
    }

    #[test]
    fn words_of_a_name_that_no_setting_made_stay() {
        let varied = settings(&[("workload.rate", "5.0")]);
        assert_eq!(line_name("tuned to rate=3.8 rate=5.0", &varied), "tuned to rate=3.8");
        assert_eq!(line_name("rate=5.0", &varied), "rate=5.0");
        let blanks = settings(&[("fleet.replicas", "[{ name = \"a b\" }]"), ("workload.rate", "2")]);
        assert_eq!(line_name("gorgo replicas=[{ name = \"a b\" }] rate=2", &blanks), "gorgo");
    }
}
