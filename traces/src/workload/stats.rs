//! What a trace holds ([`Stats`]; its [`stamps`]): size, lengths, people, places and how much of its prompts a perfect cache would have.

pub mod stamps;

use crate::geo::country_name;
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use rustc_hash::FxHashSet;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// Quantiles of a token count.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Lengths {
    /// Mean.
    pub mean: f64,
    /// Median (nearest rank, like the others).
    pub p50: u32,
    /// 90th percentile.
    pub p90: u32,
    /// 95th percentile.
    pub p95: u32,
    /// 99th percentile.
    pub p99: u32,
    /// Largest.
    pub max: u32,
}

impl Lengths {
    /// Percentiles of `values` by nearest rank; zeros without values.
    pub fn of(values: impl IntoIterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = values.into_iter().collect();
        sorted.sort_unstable();
        let Some(&max) = sorted.last() else { return Self::default() };
        let n = sorted.len();
        let rank = |p: usize| sorted[(n * p).div_ceil(100).max(1) - 1];
        let sum: u64 = sorted.iter().map(|&v| u64::from(v)).sum();
        Self { mean: sum as f64 / n as f64, p50: rank(50), p90: rank(90), p95: rank(95), p99: rank(99), max }
    }
}

/// Share of prompts that a cache without limit or delay would hold, as the trace is cut. A request finds the longest
/// beginning that an earlier request left behind; in `own` one of the same user, in `global` any.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Reuse {
    /// Tokens found that the same user left, over all prompt tokens.
    pub own: f64,
    /// Tokens found beyond what the same user left.
    pub cross_user: f64,
    /// Tokens found: own and cross-user together.
    pub global: f64,
    /// Blocks found, over all prompt blocks.
    pub global_blocks: f64,
    /// Requests that found at least one block.
    pub requests_with_hit: f64,
}

/// What earlier requests leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Their prompts only: what a trace by itself tells.
    Prompts,
    /// Prompts and answers, as an engine keeps them; more than `Prompts` only where the trace has answer ids.
    PromptsAndAnswers,
}

impl Reuse {
    /// Replays `requests` in their order.
    pub fn of(requests: &[TraceRequest], kept: Kept) -> Self {
        let (mut anyone, mut by_user) = (FxHashSet::default(), FxHashSet::default());
        let (mut own, mut global, mut tokens) = (0u64, 0u64, 0u64);
        let (mut found_blocks, mut blocks, mut hits) = (0u64, 0u64, 0u64);
        for r in requests {
            let run = r.blocks.iter().take_while(|&&id| anyone.contains(&id)).count();
            let mine = r.blocks.iter().take_while(|&&id| by_user.contains(&(r.user, id))).count();
            let worth = |n: usize| (n as u64 * u64::from(r.block_tokens)).min(u64::from(r.input_tokens));
            own += worth(mine);
            global += worth(run);
            tokens += u64::from(r.input_tokens);
            found_blocks += run as u64;
            blocks += r.blocks.len() as u64;
            hits += u64::from(run > 0);
            let answers = if kept == Kept::PromptsAndAnswers { &r.answer_blocks[..] } else { &[] };
            for &id in r.blocks.iter().chain(answers) {
                anyone.insert(id);
                by_user.insert((r.user, id));
            }
        }
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        Self {
            own: share(own, tokens),
            cross_user: share(global - own, tokens),
            global: share(global, tokens),
            global_blocks: share(found_blocks, blocks),
            requests_with_hit: share(hits, requests.len() as u64),
        }
    }
}

/// A summary of a trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Requests.
    pub requests: usize,
    /// Seconds from the first to the last request.
    pub span_s: f64,
    /// Requests per second over that span; `None` when the span is 0.
    pub rate: Option<f64>,
    /// Coefficient of variation of the gaps between requests; 1 for a Poisson process.
    pub gap_cv: f64,
    /// Median, 95th percentile (nearest rank) and largest of these gaps, s.
    pub gaps_s: [f64; 3],
    /// When the largest gap began, s after the start.
    pub largest_gap_at_s: f64,
    /// Turns that wait for the turn before them. Span, rate and gaps are those of all other requests.
    pub waiting_turns: usize,
    /// Median and 95th percentile (nearest rank) of their delays, s.
    pub delays_s: [f64; 2],
    /// Prompt tokens.
    pub input: Lengths,
    /// Answer tokens, at most the `max_tokens` of their requests.
    pub output: Lengths,
    /// Conversations.
    pub sessions: usize,
    /// Turns a conversation has in the trace.
    pub turns: Lengths,
    /// Users.
    pub users: usize,
    /// Share of requests by the busiest user.
    pub busiest_user: f64,
    /// Countries and their requests, most first; unknown ones are in `unknown_place`.
    #[serde(serialize_with = "named")]
    pub countries: Vec<([u8; 2], usize)>,
    /// Requests without a place.
    pub unknown_place: usize,
    /// Tokens per block, when all rows agree.
    pub block_tokens: Option<u32>,
    /// Reuse of prompts.
    pub prompts: Reuse,
    /// Reuse of prompts and answers.
    pub with_answers: Reuse,
}

/// Countries by their codes.
fn named<S: Serializer>(countries: &[([u8; 2], usize)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(countries.iter().map(|(code, n)| (String::from_utf8_lossy(code), n)))
}

impl Stats {
    /// Summarises requests in order of arrival.
    pub fn of(requests: &[TraceRequest]) -> Self {
        let times: Vec<Time> = requests.iter().filter(|r| r.delay.is_none()).map(|r| r.at).collect();
        let span_s = match times[..] {
            [first, .., last] => (last - first).ms() / 1e3,
            _ => 0.0,
        };
        let mut gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).ms() / 1e3).collect();
        let gap_cv = cv(&gaps);
        let largest_gap = gaps.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
        gaps.sort_unstable_by(f64::total_cmp);
        let mut delays: Vec<f64> = requests.iter().filter_map(|r| r.delay).map(|d| d.ms() / 1e3).collect();
        delays.sort_unstable_by(f64::total_cmp);
        let (mut sessions, mut users, mut countries) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for r in requests {
            *sessions.entry(r.session).or_insert(0u32) += 1;
            *users.entry(r.user).or_insert(0usize) += 1;
            if let Some(code) = r.country {
                *countries.entry(code).or_insert(0usize) += 1;
            }
        }
        let mut countries: Vec<_> = countries.into_iter().collect();
        countries.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        let sizes: BTreeSet<u32> = requests.iter().map(|r| r.block_tokens).collect();
        Self {
            requests: requests.len(),
            span_s,
            rate: (span_s > 0.0).then(|| times.len() as f64 / span_s),
            gap_cv,
            gaps_s: [rank(&gaps, 50), rank(&gaps, 95), rank(&gaps, 100)],
            largest_gap_at_s: times.get(largest_gap).map_or(0.0, |&at| (at - times[0]).ms() / 1e3),
            waiting_turns: delays.len(),
            delays_s: [rank(&delays, 50), rank(&delays, 95)],
            input: Lengths::of(requests.iter().map(|r| r.input_tokens)),
            output: Lengths::of(requests.iter().map(|r| r.output_tokens.min(r.max_tokens.unwrap_or(u32::MAX)))),
            sessions: sessions.len(),
            turns: Lengths::of(sessions.into_values()),
            busiest_user: users.values().copied().max().unwrap_or(0) as f64 / requests.len().max(1) as f64,
            users: users.len(),
            countries,
            unknown_place: requests.iter().filter(|r| r.place.is_none()).count(),
            block_tokens: if sizes.len() == 1 { sizes.first().copied() } else { None },
            prompts: Reuse::of(requests, Kept::Prompts),
            with_answers: Reuse::of(requests, Kept::PromptsAndAnswers),
        }
    }

    /// The summary as pairs of name and value, ready for a table.
    pub fn rows(&self) -> Vec<(String, String)> {
        let lengths = |l: &Lengths| {
            format!("mean {:.1}, p50 {}, p90 {}, p95 {}, p99 {}, max {}", l.mean, l.p50, l.p90, l.p95, l.p99, l.max)
        };
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let reuse = |r: &Reuse| {
            format!("own {}, cross-user {}, global {}", percent(r.own), percent(r.cross_user), percent(r.global))
        };
        let share = |n: usize| percent(n as f64 / self.requests.max(1) as f64);
        let places: Vec<_> =
            self.countries.iter().take(10).map(|&(code, n)| format!("{} {}", country_name(code), share(n))).collect();
        let places = if places.is_empty() { "none known".to_owned() } else { places.join(", ") };
        let block = self.block_tokens.map_or("several sizes".to_owned(), |b| format!("{b} tokens"));
        let [gap_p50, gap_p95, gap_max] = self.gaps_s;
        let what = if self.waiting_turns > 0 { "session starts" } else { "requests" };
        let mut rows = vec![
            ("requests", self.requests.to_string()),
            ("span", format!("{:.1} s", self.span_s)),
            (
                "rate",
                match self.rate {
                    Some(rate) => format!("{rate:.3} {what}/s, gap CV {:.2}", self.gap_cv),
                    None => format!("unknown: all {what} come at one time"),
                },
            ),
            (
                "gaps",
                format!(
                    "p50 {gap_p50:.3} s, p95 {gap_p95:.3} s, largest {gap_max:.3} s, {:.1} s after the start",
                    self.largest_gap_at_s
                ),
            ),
        ];
        if self.waiting_turns > 0 {
            let [p50, p95] = self.delays_s;
            let n = self.waiting_turns;
            rows.push(("delays", format!("{n} turns wait for the turn before them, p50 {p50:.1} s, p95 {p95:.1} s")));
        }
        rows.extend([
            ("prompt tokens", lengths(&self.input)),
            ("answer tokens", lengths(&self.output)),
            ("conversations", self.sessions.to_string()),
            ("turns", lengths(&self.turns)),
            ("users", format!("{}, busiest {}", self.users, percent(self.busiest_user))),
            ("places", format!("{places}; unknown {}", share(self.unknown_place))),
            ("block", block),
            ("prefix reuse, prompts", reuse(&self.prompts)),
            ("prefix reuse, prompts and answers", reuse(&self.with_answers)),
            (
                "prefix reuse, blocks",
                format!(
                    "{}, requests with a hit {}",
                    percent(self.prompts.global_blocks),
                    percent(self.prompts.requests_with_hit)
                ),
            ),
            ("percentiles", "nearest rank".to_owned()),
        ]);
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Percentile of sorted values by nearest rank; 0 without values.
fn rank(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Coefficient of variation; 0 without variation.
fn cv(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Options, open, read_bytes};

    /// The publisher's trace, against figures computed elsewhere from the same file.
    #[test]
    fn mooncake_conversation_has_its_known_reuse() {
        let stats = Stats::of(&open("mooncake-conversation", &Options::default()).unwrap().requests);
        assert_eq!(stats.requests, 12_031);
        assert_eq!(format!("{:.2}", stats.prompts.global * 100.0), "37.36");
        assert_eq!(format!("{:.2}", stats.prompts.global_blocks * 100.0), "36.64");
        assert_eq!(format!("{:.2}", stats.prompts.requests_with_hit * 100.0), "99.99");
        assert_eq!((stats.input.p50, stats.input.max, stats.output.p50), (6_909, 126_195, 350));
        assert!(stats.rate.is_some_and(|rate| (rate - 3.40).abs() < 0.005), "{:?}", stats.rate);
    }

    #[test]
    fn azure_slice_is_nearly_poisson_and_shares_nothing() {
        let stats = Stats::of(&open("azure-conv", &Options::default()).unwrap().requests);
        assert_eq!((stats.requests, stats.prompts.global, stats.unknown_place), (6_000, 0.0, 6_000));
        assert!((0.9..1.3).contains(&stats.gap_cv), "{}", stats.gap_cv);
    }

    #[test]
    fn own_reuse_is_told_from_other_users() {
        let row = |user: u32, ids: &str| {
            format!(
                r#"{{"timestamp":0,"user_id":{user},"input_length":40,"output_length":1,"block_size":16,"hash_ids":[{ids}]}}"#
            )
        };
        let text = [row(1, "1,2,3"), row(2, "1,2,4"), row(1, "1,5,6")].join("\n");
        let reuse = Reuse::of(&read_bytes("t", text.as_bytes(), &Options::default()).unwrap().requests, Kept::Prompts);
        assert_eq!(reuse.global, 48.0 / 120.0, "32 tokens of the first user's prompt, then 16");
        assert_eq!((reuse.own, reuse.requests_with_hit), (16.0 / 120.0, 2.0 / 3.0));
        assert!((reuse.cross_user - 32.0 / 120.0).abs() < 1e-12);
    }

    #[test]
    fn a_kept_answer_is_found_by_the_next_turn_only_if_answers_are_kept() {
        let text = r#"{"timestamp":0,"session_id":1,"input_length":20,"output_length":20,"block_size":16,"hash_ids":[1,2],"answer_hash_ids":[3]}
{"timestamp":1,"session_id":1,"input_length":50,"output_length":1,"block_size":16,"hash_ids":[1,3,4,5]}"#;
        let stats = Stats::of(&read_bytes("t", text.as_bytes(), &Options::default()).unwrap().requests);
        assert_eq!((stats.prompts.own * 70.0, stats.with_answers.own * 70.0), (16.0, 32.0));
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let lengths = Lengths::of(1..=100);
        assert_eq!(
            (lengths.p50, lengths.p90, lengths.p95, lengths.p99, lengths.max, lengths.mean),
            (50, 90, 95, 99, 100, 50.5)
        );
        assert_eq!(Lengths::of([]), Lengths::default());
        assert_eq!(Lengths::of([7]).p50, 7);
    }

    #[test]
    fn requests_of_one_stamp_have_no_rate_and_answers_end_at_max_tokens() {
        let row = r#"{"timestamp":5,"input_length":20,"output_length":50,"max_tokens":10}"#;
        let workload = read_bytes("t", format!("{row}\n{row}").as_bytes(), &Options::default()).unwrap();
        assert!(workload.notes.iter().any(|note| note.contains("output_length above their max_tokens")));
        let stats = Stats::of(&workload.requests);
        assert_eq!((stats.rate, stats.output.max), (None, 10));
        let rate = stats.rows().into_iter().find(|(name, _)| name == "rate").unwrap().1;
        assert_eq!(rate, "unknown: all requests come at one time");
    }

    #[test]
    fn rows_read_well() {
        let text = r#"{"timestamp":0,"country":"DE","input_length":20,"output_length":2}
{"timestamp":1500,"country":"Germany","input_length":40,"output_length":2}
{"timestamp":2000,"input_length":40,"output_length":2}"#;
        let rows = Stats::of(&read_bytes("t", text.as_bytes(), &Options::default()).unwrap().requests).rows();
        insta::assert_snapshot!(rows.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>().join("\n"), @r#"
requests: 3
span: 2.0 s
rate: 1.500 requests/s, gap CV 0.50
gaps: p50 0.500 s, p95 1.500 s, largest 1.500 s, 0.0 s after the start
prompt tokens: mean 33.3, p50 40, p90 40, p95 40, p99 40, max 40
answer tokens: mean 2.0, p50 2, p90 2, p95 2, p99 2, max 2
conversations: 3
turns: mean 1.0, p50 1, p90 1, p95 1, p99 1, max 1
users: 3, busiest 33.33 %
places: Germany 66.67 %; unknown 33.33 %
block: 16 tokens
prefix reuse, prompts: own 0.00 %, cross-user 0.00 %, global 0.00 %
prefix reuse, prompts and answers: own 0.00 %, cross-user 0.00 %, global 0.00 %
prefix reuse, blocks: 0.00 %, requests with a hit 0.00 %
percentiles: nearest rank
"#);
    }
}
