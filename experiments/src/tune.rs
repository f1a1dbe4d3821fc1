//! Tunes a policy's weights on an experiment, and accepts the result only if it is better on held-out seeds.
//!
//! Each step draws fresh seeds and runs incumbent and candidate with them, so neither is scored on what it was chosen by
//! ([`gorgo_core::tuner::Paired`]). At the end the weights found are compared with those of the start on held-out seeds, seed
//! by seed. Only if the whole 95 % interval of the difference of losses is below 0 are they taken.

mod online;
pub use online::OnlineTuned;

use crate::runner::{RunError, simulate};
use crate::spec::{Experiment, PlannedArm, SpecError};
use crate::stats::{Difference, Verdict, paired};
use gorgo_core::policy::PolicyConfig;
use gorgo_core::record::RequestRecord;
use gorgo_core::rng;
use gorgo_core::tuner::{Dimension, Paired, PairedConfig, loss, usual, weights, with_weights};
use rayon::prelude::*;

/// What a request counts that did not finish: ten minutes to each token.
const UNDONE_MS: f64 = 600_000.0;
/// First seeds of training and of the held-out runs; far from those that files name.
const TRAINING: u64 = 1_000_000;
const HELD_OUT: u64 = 2_000_000;

/// How to tune.
#[derive(Debug, Clone)]
pub struct TuneOptions {
    /// Name of the arm; its cells of `[vary]` are tuned together. The first arm with a known policy when absent.
    pub arm: Option<String>,
    /// Settings of the policy to search, with their bounds; the policy's usual ones when empty.
    pub keys: Vec<Dimension>,
    /// Candidates to try at most.
    pub steps: u32,
    /// Seeds that compare one candidate with the incumbent.
    pub seeds: u64,
    /// Seeds that decide at the end.
    pub held_out: u64,
    /// Seed of the search.
    pub seed: u64,
    /// Search as a router with `[tune]` does, on the requests of one run, in place of `steps` and `seeds`.
    pub online: bool,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Number, from 1.
    pub number: u32,
    /// Weights tried.
    pub weights: Vec<f64>,
    /// Mean difference of losses from the incumbent; below 0 is better.
    pub difference: f64,
    /// Whether it became the incumbent.
    pub accepted: bool,
}

/// The result.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The arm.
    pub arm: String,
    /// The policy as the file has it.
    pub before: PolicyConfig,
    /// The policy with the weights found.
    pub found: PolicyConfig,
    /// Candidates tried.
    pub steps: u32,
    /// What a router's own search did meanwhile; `None` for one of whole runs.
    pub online: Option<OnlineTuned>,
    /// Held-out seeds.
    pub held_out: u64,
    /// Loss, found less before, over held-out seeds: `mean ln TTFT + mean ln E2E`.
    pub loss: Difference,
    /// Mean TTFT, found less before, ms.
    pub ttft: Difference,
    /// Mean E2E, found less before, ms.
    pub e2e: Difference,
}

impl Tuned {
    /// Whether the held-out seeds show that the weights found are better.
    pub fn is_better(&self) -> bool {
        self.loss.verdict == Some(Verdict::Better)
    }

    /// The policy to use.
    pub fn chosen(&self) -> &PolicyConfig {
        if self.is_better() { &self.found } else { &self.before }
    }

    /// One sentence: what the held-out seeds show.
    pub fn verdict(&self) -> String {
        let percent = |d: &Difference| d.percent.map_or_else(String::new, |p| format!("{p:+.1} %"));
        let interval = self.loss.ci95.map_or_else(String::new, |half| format!(" ± {half:.4}"));
        let said =
            if self.is_better() { "the weights found are better" } else { "no gain is shown, so the weights stay" };
        format!(
            "{} held-out seeds: {said}; loss {:+.4}{interval}, mean TTFT {}, mean E2E {}",
            self.held_out,
            self.loss.value,
            percent(&self.ttft),
            percent(&self.e2e)
        )
    }
}

/// Mean loss, TTFT and E2E of a run, ms.
fn score(records: &[RequestRecord]) -> [f64; 3] {
    let n = records.len().max(1) as f64;
    let of = |r: &RequestRecord| {
        let ms = |span: Option<gorgo_core::Span>| span.map_or(UNDONE_MS, gorgo_core::Span::ms);
        r.e2e().map_or((UNDONE_MS, UNDONE_MS), |e2e| (ms(r.ttft()), e2e.ms()))
    };
    records
        .iter()
        .map(of)
        .fold([0.0; 3], |sum, (ttft, e2e)| [sum[0] + loss(ttft, e2e) / n, sum[1] + ttft / n, sum[2] + e2e / n])
}

struct Bench<'a> {
    experiment: &'a Experiment,
    cells: Vec<PlannedArm>,
}

impl Bench<'_> {
    /// Scores of two policies, cell by cell and seed by seed.
    fn compare(&self, seeds: &[u64], a: &PolicyConfig, b: &PolicyConfig) -> Result<Vec<[[f64; 3]; 2]>, RunError> {
        let runs: Vec<(&PlannedArm, u64)> =
            self.cells.iter().flat_map(|c| seeds.iter().map(move |&s| (c, s))).collect();
        let one = |&(cell, seed): &(&PlannedArm, u64)| {
            let requests = cell.spec.workload.load(&self.experiment.dir, seed)?;
            let run = |policy: &PolicyConfig| {
                let mut arm = cell.clone();
                arm.spec.policy = policy.clone();
                simulate(&self.experiment.file, &arm, seed, &requests).map(|(run, _)| score(&run.records))
            };
            Ok([run(a)?, run(b)?])
        };
        runs.par_iter().map(one).collect()
    }

    /// Compares the policy found with that of the start on held-out seeds.
    fn judge(
        &self,
        held_out: u64,
        arm: String,
        before: PolicyConfig,
        found: PolicyConfig,
        steps: u32,
        online: Option<OnlineTuned>,
    ) -> Result<Tuned, RunError> {
        let seeds: Vec<u64> = (HELD_OUT..HELD_OUT + held_out).collect();
        let scores = self.compare(&seeds, &found, &before)?;
        // The cells of one seed share their requests: they are one sample.
        let by_seed = |i: usize| -> Option<Difference> {
            let of = |seed: usize, side: usize| {
                let cells = scores.iter().skip(seed).step_by(seeds.len());
                cells.clone().map(|both| both[side][i]).sum::<f64>() / self.cells.len() as f64
            };
            paired(&(0..seeds.len()).map(|seed| (of(seed, 0), of(seed, 1))).collect::<Vec<_>>())
        };
        let (Some(loss), Some(ttft), Some(e2e)) = (by_seed(0), by_seed(1), by_seed(2)) else {
            return Err(bad(self.experiment, "there is no held-out seed; give --held-out 2 or more".into()));
        };
        Ok(Tuned { arm, before, found, steps, online, held_out, loss, ttft, e2e })
    }
}

fn bad(experiment: &Experiment, message: String) -> RunError {
    RunError::Spec(SpecError::Key { file: experiment.file.clone(), place: "tune".to_owned(), message })
}

/// Tunes a policy and calls `progress` for each candidate.
///
/// # Errors
/// An arm or key that does not exist, or a run that fails.
pub fn tune(experiment: &Experiment, options: &TuneOptions, progress: &dyn Fn(&Step)) -> Result<Tuned, RunError> {
    let bad = |message: String| bad(experiment, message);
    let plan = experiment.plan()?;
    let is_of = |arm: &PlannedArm, name: &str| arm.label == name || arm.label.starts_with(&format!("{name} "));
    let name = match &options.arm {
        Some(name) => name.clone(),
        None => {
            let known = |arm: &&PlannedArm| !options.keys.is_empty() || !usual(&arm.spec.policy).is_empty();
            let first = plan.iter().find(known);
            let first =
                first.ok_or_else(|| bad("no arm has a policy with usual weights; name the arm and its keys".into()))?;
            first.label.split(' ').next().unwrap_or(&first.label).to_owned()
        }
    };
    let cells: Vec<PlannedArm> = plan.iter().filter(|arm| is_of(arm, &name)).cloned().collect();
    let Some(first) = cells.first() else {
        let labels: Vec<&str> = plan.iter().map(|arm| arm.label.as_str()).collect();
        return Err(bad(format!("no arm is called `{name}`; {}", gorgo_core::suggest::did_you_mean(&name, labels))));
    };
    let before = first.spec.policy.clone();
    let keys = &options.keys;
    if let Some((i, twice)) = keys.iter().enumerate().find(|(i, key)| keys[..*i].iter().any(|k| k.key == key.key)) {
        let first = keys[..i].iter().find(|key| key.key == twice.key).unwrap_or(twice);
        let (key, a, b) =
            (&twice.key, format!("{}..{}", first.low, first.high), format!("{}..{}", twice.low, twice.high));
        return Err(bad(format!("`{key}` has two ranges, {a} and {b}; give --key {key}=... once")));
    }
    let dimensions = if options.keys.is_empty() { usual(&before) } else { options.keys.clone() };
    if dimensions.is_empty() {
        return Err(bad(format!(
            "policy `{}` has no usual weights to search; name them with --key KEY=LOW..HIGH",
            before.name()
        )));
    }
    let start = weights(&before, &dimensions);
    with_weights(&before, &dimensions, &start).map_err(|wrong| bad(wrong.to_string()))?; // an unknown key is told before anything runs
    let bench = Bench { experiment, cells };
    if options.online {
        let [cell] = &bench.cells[..] else {
            let message =
                format!("--online tunes one run, and arm `{name}` has {}; set its [vary] keys", bench.cells.len());
            return Err(bad(message));
        };
        let (found, online) = online::run(experiment, cell, &dimensions, options.seed)?;
        return bench.judge(options.held_out, name, before, found, online.trials.ended as u32, Some(online));
    }
    let mut rng = rng::stream(options.seed, "tune", 0);
    let mut search = Paired::new(PairedConfig::default(), dimensions, &start);
    let mut steps = 0;
    while steps < options.steps && !search.has_converged() {
        let first_seed = TRAINING + u64::from(steps) * options.seeds;
        let seeds: Vec<u64> = (first_seed..first_seed + options.seeds).collect();
        let candidate = search.ask(&mut rng);
        let policies =
            [&candidate, &search.incumbent().to_vec()].map(|w| with_weights(&before, search.dimensions(), w));
        let [Ok(trial), Ok(incumbent)] = policies else {
            return Err(bad("a weight is out of its policy's range".into()));
        };
        let scores = bench.compare(&seeds, &trial, &incumbent)?;
        let pairs: Vec<(f64, f64)> = scores.iter().map(|[a, b]| (a[0], b[0])).collect();
        let verdict = search.tell(&candidate, &pairs);
        steps += 1;
        let (difference, accepted) = (verdict.difference, verdict.accepted);
        progress(&Step { number: steps, weights: candidate, difference, accepted });
    }
    let found =
        with_weights(&before, search.dimensions(), search.incumbent()).map_err(|wrong| bad(wrong.to_string()))?;
    bench.judge(options.held_out, name, before, found, steps, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const FILE: &str = r#"
        seeds = 1
        [workload]
        trace = "wildchat-located"
        duration_s = 20.0
        rate = 5.0
        [fleet]
        max_running = 10
        replicas = [{ name = "a", region = "aws:us-east-1" }, { name = "b", region = "aws:eu-central-1" }]
        [[arms]]
        name = "far"
        policy = { name = "gorgo", rtt_weight = 5.0, queue_factor = 0.02 }
        [[arms]]
        policy = "random"
    "#;

    fn options() -> TuneOptions {
        TuneOptions { arm: None, keys: Vec::new(), steps: 6, seeds: 2, held_out: 3, seed: 1, online: false }
    }

    fn experiment() -> Experiment {
        Experiment::parse("x.toml", PathBuf::new(), FILE, &[], &[]).unwrap()
    }

    #[test]
    fn a_search_repeats_and_keeps_what_is_not_shown_to_be_better() {
        let run = || tune(&experiment(), &options(), &|_| ()).unwrap();
        let (one, two) = (run(), run());
        assert_eq!((one.found.clone(), one.loss), (two.found, two.loss));
        assert_eq!(one.arm, "far");
        assert_eq!(one.chosen() == &one.before, !one.is_better() || one.found == one.before, "{}", one.verdict());
    }

    #[test]
    fn a_routers_own_search_is_judged_on_held_out_seeds_too() {
        let sets = ["topology=proxy", "workload.rate=2.0", "workload.duration_s=1000"].map(str::to_owned);
        let experiment = Experiment::parse("x.toml", PathBuf::new(), FILE, &sets, &[]).unwrap();
        let run = || tune(&experiment, &TuneOptions { online: true, ..options() }, &|_| ()).unwrap();
        let (one, two) = (run(), run());
        assert_eq!((&one.found, &one.online, one.loss), (&two.found, &two.online, two.loss));
        let online = one.online.unwrap();
        assert!(online.trials.ended >= 3 && online.requests > 1_700, "{online:?}");
        assert!(online.means[0] != online.means[1], "candidates served: {online:?}");
        let edges = tune(&self::experiment(), &TuneOptions { online: true, ..options() }, &|_| ()).unwrap_err();
        assert!(edges.to_string().contains("--online tunes one router, and arm `far` has 2"), "{edges}");
    }

    #[test]
    fn unknown_arms_and_keys_are_named() {
        let error = |options: &TuneOptions| tune(&experiment(), options, &|_| ()).unwrap_err().to_string();
        let arm = error(&TuneOptions { arm: Some("farr".into()), ..options() });
        assert!(arm.contains("no arm is called `farr`; did you mean `far`?"), "{arm}");
        let random = error(&TuneOptions { arm: Some("random".into()), ..options() });
        assert!(random.contains("policy `random` has no usual weights"), "{random}");
        let keys = vec![Dimension::new("rtt_wieght", 0.1, 1.0).unwrap()];
        let key = error(&TuneOptions { keys, ..options() });
        assert!(key.contains("did you mean `rtt_weight`?"), "{key}");
        let keys =
            [(0.1, 1.0), (5.0, 20.0)].map(|(low, high)| Dimension::new("rtt_weight", low, high).unwrap()).to_vec();
        let twice = error(&TuneOptions { keys, ..options() });
        assert!(twice.contains("`rtt_weight` has two ranges, 0.1..1 and 5..20"), "{twice}");
    }
}
