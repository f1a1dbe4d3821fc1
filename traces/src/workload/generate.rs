//! `wildchat-like`: traffic with WildChat's published marginals, of any size and rate, without any text.
//!
//! A conversation has a country, a user, turns, message lengths and pauses. Its opening is new, a near-duplicate of an
//! earlier one of the same user, or begins with one of a pool of templates that many users paste. Block ids follow
//! from that: a prompt is the chain of its pieces, so history, near-duplicates and templates share real prefixes.

mod laws;

use super::blocks::{BLOCK_TOKENS, BlockChain};
use super::marginals::{Drawn, Marginals};
use super::wildchat::ANSWER_NS_PER_TOKEN;
use crate::error::TraceError;
use crate::geo::{Weights, utc_offset_h, weights::place_in};
use gorgo_core::request::{Place, TraceRequest};
use gorgo_core::rng::{ChaCha8Rng, stream};
use gorgo_core::{Span, Time};
use laws::{ANSWER, FIRST_USER, LATER_USER};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Gamma, LogNormal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Chance that a later opening of a user repeats most of the one before. Published is that 45.7 % of all openings do
/// (American English, whole corpus); this chance makes it 39 % and is tuned to the published own reuse.
const NEAR_DUPLICATES: f64 = 0.57;
/// Part of the earlier opening that a near-duplicate keeps.
const KEPT_PART: std::ops::Range<f64> = 0.85..1.0;
/// Templates in the pool and their lengths in tokens.
const TEMPLATES: usize = 40;
const TEMPLATE_TOKENS: std::ops::Range<f64> = 300.0..3_300.0;
/// Zipf exponents over templates and over a country's users.
const TEMPLATE_ZIPF: f64 = 1.0;
const USER_ZIPF: f64 = 1.1;
/// Think time: median in s and sigma of its logarithm (estimate).
const THINK_S: f64 = 40.0;
const THINK_SIGMA: f64 = 1.2;
/// Share of conversations without a country.
const MISSING_PLACE: f64 = 0.001_15;

/// What to generate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Generate {
    /// Requests (turns of all conversations together).
    pub requests: usize,
    /// Mean requests per second over the time in which conversations start.
    pub rate: f64,
    /// Seed; equal seeds give equal traces.
    pub seed: u64,
    /// Country shares to follow.
    pub weights: Weights,
    /// Mean conversations of a user.
    pub conversations_per_user: f64,
    /// Chance that an opening which repeats nothing begins with a template. Tuned so that the reuse over all users is
    /// the published one.
    pub template_share: f64,
    /// Coefficient of variation of the gaps between conversations: 1 is a Poisson process, more is bursty.
    pub gap_cv: f64,
    /// UTC hour the trace begins at. With it, each country's traffic follows its local day; without, all hours are
    /// alike, so that a short trace has the published country shares.
    pub start_hour: Option<f64>,
    /// Seconds of the trace that a day takes: 86,400 in real time; the trace's length to see a day in it.
    pub day_s: f64,
    /// Cuts answers to this length (tokens).
    pub max_output_tokens: Option<u32>,
    /// Tokens per block.
    pub block_tokens: u32,
}

impl Default for Generate {
    fn default() -> Self {
        Self {
            requests: 8_893,
            rate: 5.0,
            seed: 0,
            weights: Weights::Full1m,
            conversations_per_user: 5.0,
            template_share: 0.48,
            gap_cv: 1.0,
            start_hour: None,
            day_s: 86_400.0,
            max_output_tokens: None,
            block_tokens: BLOCK_TOKENS,
        }
    }
}

/// A generated trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Requests by arrival, the first at zero.
    pub requests: Vec<TraceRequest>,
    /// Its marginals beside the published ones.
    pub marginals: Marginals,
}

impl Generate {
    fn check(&self) -> Result<(), TraceError> {
        let bad = |option, problem: String| Err(TraceError::Option { option, problem });
        for (option, value, least, most) in [
            ("requests", self.requests as f64, 1.0, 1e8),
            ("rate", self.rate, 1e-6, 1e6),
            ("conversations_per_user", self.conversations_per_user, 1.0, 1e6),
            ("template_share", self.template_share, 0.0, 1.0),
            ("gap_cv", self.gap_cv, 0.1, 10.0),
            ("day_s", self.day_s, 1.0, 1e9),
            ("start_hour", self.start_hour.unwrap_or(0.0), 0.0, 24.0),
            ("block_tokens", f64::from(self.block_tokens), 1.0, 65_536.0),
            ("max_output_tokens", f64::from(self.max_output_tokens.unwrap_or(1)), 1.0, 1e7),
        ] {
            if !(least..=most).contains(&value) {
                return bad(option, format!("is {value}: it must be from {least} to {most}"));
            }
        }
        Ok(())
    }
}

/// Generates a trace.
///
/// # Errors
/// When an option is out of range.
pub fn wildchat_like(options: &Generate) -> Result<Generated, TraceError> {
    options.check()?;
    let rng = |concern| stream(options.seed, concern, 0);
    let turns = draw_turns(options.requests, &mut rng("generate turns"));
    let mut talks = draw_talks(&turns, options, &mut rng("generate people"));
    let (openings, repeats) = draw_openings(&mut talks, options, &mut rng("generate openings"));
    let later = LATER_USER.draw(options.requests - talks.len(), &mut rng("generate later"));
    let mut answers = ANSWER.draw(options.requests, &mut rng("generate answers"));
    let full_answers = answers.clone();
    if let Some(most) = options.max_output_tokens {
        answers.iter_mut().for_each(|a| *a = (*a).min(most));
    }
    let mut requests = converse(&talks, &later, &answers, options, &mut rng("generate think"));
    requests.sort_by_key(|r| r.at);
    let start = requests.first().map_or(Time::ZERO, |r| r.at);
    requests.iter_mut().for_each(|r| r.at = Time(r.at.since(start).0));
    let countries = talks.iter().map(|t| t.country).collect();
    let drawn = Drawn { openings, repeats, later, answers: full_answers, countries };
    let marginals = Marginals::new(&requests, options, drawn);
    Ok(Generated { requests, marginals })
}

/// A conversation before its messages.
#[derive(Debug)]
struct Talk {
    start: Time,
    country: Option<[u8; 2]>,
    place: Option<Place>,
    user: u64,
    turns: u32,
    opening: Vec<Piece>,
}

/// A run of tokens: the first `tokens` of text number `text`.
#[derive(Debug, Clone, Copy)]
struct Piece {
    text: u64,
    tokens: u32,
}

impl Piece {
    fn symbols(self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.tokens)).map(move |i| (self.text << 24) | i)
    }
}

/// Turns of each conversation, `requests` in all.
fn draw_turns(requests: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let n = ((requests as f64 / laws::mean_turns()).round() as usize).clamp(1, requests);
    let mut turns: Vec<u32> = laws::strata(n, rng).into_iter().map(laws::turns_at).collect();
    let sum: usize = turns.iter().map(|&t| t as usize).sum();
    // The few turns that are missing or too many go to conversations in random (that is: this) order.
    (0..requests.saturating_sub(sum)).for_each(|i| turns[i % n] += 1);
    let mut excess = sum.saturating_sub(requests);
    while excess > 0 {
        for t in turns.iter_mut().filter(|t| **t > 1) {
            if excess == 0 {
                break;
            }
            *t -= 1;
            excess -= 1;
        }
    }
    turns
}

/// Conversations in order of their start, with country, place and user.
fn draw_talks(turns: &[u32], options: &Generate, rng: &mut ChaCha8Rng) -> Vec<Talk> {
    let n = turns.len();
    let span_s = options.requests as f64 / options.rate;
    let countries = options.weights.countries();
    let missing = (n as f64 * MISSING_PLACE).round() as usize;
    let shares: Vec<f64> = countries.iter().map(|(_, share)| *share).collect();
    let mut who: Vec<Option<[u8; 2]>> = vec![None; missing];
    for ((code, _), count) in countries.iter().zip(laws::quotas(n - missing, &shares)) {
        who.extend(std::iter::repeat_n(Some(*code), count));
    }
    who.shuffle(rng);
    let parts = renewal(n, options.gap_cv, rng);
    let mut next_user = 0;
    let mut crowds: BTreeMap<Option<[u8; 2]>, Crowd> = BTreeMap::new();
    let mut sizes: BTreeMap<Option<[u8; 2]>, usize> = BTreeMap::new();
    who.iter().for_each(|c| *sizes.entry(*c).or_default() += 1);
    let mut talks: Vec<Talk> = Vec::with_capacity(n);
    for ((country, part), &turns) in who.into_iter().zip(parts).zip(turns) {
        let part = match options.start_hour {
            None => part,
            Some(hour) => {
                let offset = country.map_or(0.0, utc_offset_h);
                laws::part_of_span(part, hour, offset, span_s / options.day_s)
            }
        };
        let crowd = crowds.entry(country).or_insert_with(|| {
            let users = (sizes[&country] as f64 / options.conversations_per_user).round().max(1.0) as usize;
            Crowd { running: laws::zipf(users, USER_ZIPF), places: BTreeMap::new(), come: 0 }
        });
        let rank = crowd.next(rng);
        let (user, place) = *crowd.places.entry(rank).or_insert_with(|| {
            next_user += 1;
            (next_user - 1, country.and_then(|c| place_in(c, rng)))
        });
        let start = Time::from_ms(part * span_s * 1e3);
        talks.push(Talk { start, country, place, user, turns, opening: Vec::new() });
    }
    talks.sort_by_key(|t| t.start);
    talks
}

/// Users of a country.
#[derive(Debug)]
struct Crowd {
    running: Vec<f64>,
    places: BTreeMap<usize, (u64, Option<Place>)>,
    come: usize,
}

impl Crowd {
    /// Rank of the next conversation's user: every user comes once, so that their number holds, then the busy ones
    /// come again. Conversations are in random order, so "once" happens anywhere in the trace.
    fn next(&mut self, rng: &mut ChaCha8Rng) -> usize {
        self.come += 1;
        if self.come <= self.running.len() { self.come - 1 } else { laws::rank_at(&self.running, rng.random()) }
    }
}

/// `n` arrivals of a renewal process with Gamma gaps, as shuffled fractions of the span. With CV 1 that is a Poisson
/// process given its count.
fn renewal(n: usize, cv: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let shape = 1.0 / (cv * cv);
    let Ok(gamma) = Gamma::new(shape, 1.0 / shape) else { return laws::strata(n, rng) };
    let mut at = 0.0;
    let mut parts: Vec<f64> = (0..=n)
        .map(|_| {
            at += gamma.sample(rng);
            at
        })
        .collect();
    let end = parts.pop().unwrap_or(1.0);
    parts.iter_mut().for_each(|p| *p /= end);
    parts.shuffle(rng);
    parts
}

/// How a conversation opens.
#[derive(Debug)]
enum Kind {
    /// With a text of its own.
    New,
    /// With most of the opening of conversation number ...
    Repeats(usize),
    /// With the template of popularity rank ...
    Template(usize),
}

/// Lengths of the new openings, in order. Those that are repeated most get lengths spread evenly over the law, so that
/// not one long opening of a busy user decides how much the trace repeats.
fn new_lengths(kinds: &[Kind], rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut origin: Vec<usize> = Vec::with_capacity(kinds.len()); // the new opening each conversation goes back to
    let mut repeats = vec![0usize; kinds.len()];
    for (i, kind) in kinds.iter().enumerate() {
        origin.push(if let Kind::Repeats(before) = kind { origin[*before] } else { i });
        repeats[origin[i]] += 1;
    }
    let new: Vec<usize> = (0..kinds.len()).filter(|&i| matches!(kinds[i], Kind::New)).collect();
    let mut by_repeats: Vec<usize> = (0..new.len()).collect();
    by_repeats.sort_by_key(|&k| std::cmp::Reverse(repeats[new[k]]));
    // Ranks of a golden-ratio sequence are a permutation: the draws stay exactly stratified.
    let mut order: Vec<usize> = (0..new.len()).collect();
    let key = |&k: &usize| (0.5 + k as f64 * GOLDEN).fract();
    order.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let mut lengths = vec![0; new.len()];
    for (stratum, &k) in order.iter().enumerate() {
        lengths[by_repeats[k]] = FIRST_USER.at((stratum as f64 + rng.random::<f64>()) / new.len() as f64);
    }
    lengths
}

/// The golden ratio's fraction: its multiples spread evenly over [0, 1).
const GOLDEN: f64 = 0.618_033_988_749_895;

/// Gives each conversation its opening. Returns the lengths of the new ones, which the published law
/// describes, and the number of near-duplicates.
fn draw_openings(talks: &mut [Talk], options: &Generate, rng: &mut ChaCha8Rng) -> (Vec<u32>, usize) {
    let popular = laws::zipf(TEMPLATES, TEMPLATE_ZIPF);
    let mut latest: BTreeMap<u64, usize> = BTreeMap::new();
    let mut pasted: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut kinds = Vec::with_capacity(talks.len());
    for (i, talk) in talks.iter().enumerate() {
        let before = latest.get(&talk.user).copied().filter(|_| rng.random_bool(NEAR_DUPLICATES));
        let template = laws::rank_at(&popular, rng.random());
        // A user pastes a template once; else the own reuse would be far above the published one.
        let kind = if let Some(before) = before {
            Kind::Repeats(before)
        } else if rng.random_bool(options.template_share) && pasted.insert((talk.user, template)) {
            Kind::Template(template)
        } else {
            Kind::New
        };
        if !matches!(kind, Kind::Template(_)) {
            latest.insert(talk.user, i);
        }
        kinds.push(kind);
    }
    let new = new_lengths(&kinds, rng);
    let repeats = kinds.iter().filter(|k| matches!(k, Kind::Repeats(_))).count();
    let (mut lengths, mut next_text) = (new.iter(), TEMPLATES as u64);
    for (i, kind) in kinds.into_iter().enumerate() {
        next_text += 1;
        let opening = match kind {
            Kind::New => lengths.next().map(|&tokens| Piece { text: next_text, tokens }).into_iter().collect(),
            Kind::Repeats(other) => repeat(&talks[other].opening, rng.random_range(KEPT_PART), next_text),
            Kind::Template(t) => {
                let tail = LATER_USER.at(rng.random());
                vec![Piece { text: t as u64, tokens: template_tokens(t) }, Piece { text: next_text, tokens: tail }]
            }
        };
        talks[i].opening = opening;
    }
    (new, repeats)
}

/// Length of the template of that popularity rank. The pool is the same for every seed: its most popular members
/// decide the trace's reuse, and chance should not.
fn template_tokens(rank: usize) -> u32 {
    let part = (0.5 + rank as f64 * GOLDEN).fract();
    (TEMPLATE_TOKENS.start + (TEMPLATE_TOKENS.end - TEMPLATE_TOKENS.start) * part) as u32
}

/// The first `part` of an opening with a new end, as long as it was.
fn repeat(opening: &[Piece], part: f64, text: u64) -> Vec<Piece> {
    let total: u32 = opening.iter().map(|p| p.tokens).sum();
    let mut left = (f64::from(total) * part) as u32;
    let mut pieces = Vec::with_capacity(opening.len() + 1);
    for piece in opening {
        let tokens = piece.tokens.min(left);
        left -= tokens;
        if tokens > 0 {
            pieces.push(Piece { tokens, ..*piece });
        }
    }
    let kept: u32 = pieces.iter().map(|p| p.tokens).sum();
    pieces.push(Piece { text, tokens: (total - kept).max(1) });
    pieces
}

/// Plays the conversations: prompts with their history, answers, pauses.
fn converse(
    talks: &[Talk],
    later: &[u32],
    answers: &[u32],
    options: &Generate,
    rng: &mut ChaCha8Rng,
) -> Vec<TraceRequest> {
    let think = LogNormal::new(THINK_S.ln(), THINK_SIGMA).ok();
    let (mut later, mut answers) = (later.iter().copied(), answers.iter().copied());
    let mut next_text = 1u64 << 36; // above all openings
    let mut text = |tokens| {
        next_text += 1;
        Piece { text: next_text, tokens }
    };
    let mut requests = Vec::with_capacity(options.requests);
    for (session, talk) in talks.iter().enumerate() {
        let mut chain = BlockChain::new(options.block_tokens);
        talk.opening.iter().for_each(|p| chain.extend(p.symbols()));
        let mut at = talk.start;
        for turn in 1..=talk.turns {
            if turn > 1 {
                chain.extend(text(later.next().unwrap_or(1)).symbols());
            }
            let (input_tokens, blocks, whole) = (chain.tokens() as u32, chain.ids(), chain.whole_len());
            let output_tokens = answers.next().unwrap_or(1);
            chain.extend(text(output_tokens).symbols());
            requests.push(TraceRequest {
                at,
                session: session as u64,
                user: talk.user,
                turn,
                place: talk.place,
                country: talk.country,
                input_tokens,
                output_tokens,
                max_tokens: options.max_output_tokens,
                block_tokens: options.block_tokens,
                blocks,
                answer_blocks: chain.whole_from(whole),
            });
            let pause = think.map_or(THINK_S, |law| law.sample(rng));
            at = at + Span(u64::from(output_tokens) * ANSWER_NS_PER_TOKEN) + Span::from_secs(pause);
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::reader::answer_len;

    #[test]
    fn the_default_trace_meets_the_published_marginals() {
        let made = wildchat_like(&Generate::default()).unwrap();
        assert_eq!(made.requests.len(), 8_893);
        assert!(made.marginals.within_tolerance(), "\n{}", made.marginals);
    }

    #[test]
    fn the_other_cut_and_other_seeds_meet_them_too() {
        for seed in 1..4 {
            let made = wildchat_like(&Generate { seed, weights: Weights::First10k, ..Generate::default() }).unwrap();
            assert!(made.marginals.within_tolerance(), "seed {seed}\n{}", made.marginals);
        }
    }

    #[test]
    fn equal_seeds_give_equal_traces_and_others_differ() {
        let make = |seed| wildchat_like(&Generate { seed, requests: 300, ..Generate::default() }).unwrap();
        assert_eq!(make(5), make(5));
        assert_ne!(make(5).requests, make(6).requests);
    }

    #[test]
    fn every_request_is_well_formed() {
        for options in [
            Generate { requests: 1, ..Generate::default() },
            Generate {
                requests: 700,
                max_output_tokens: Some(128),
                block_tokens: 64,
                gap_cv: 3.4,
                ..Generate::default()
            },
            Generate { requests: 700, start_hour: Some(9.0), day_s: 140.0, ..Generate::default() },
        ] {
            let made = wildchat_like(&options).unwrap();
            assert_eq!(made.requests.len(), options.requests);
            assert!(made.requests.is_sorted_by_key(|r| r.at));
            for r in &made.requests {
                assert_eq!(r.blocks.len() as u32, r.input_tokens.div_ceil(options.block_tokens));
                assert_eq!(r.answer_blocks.len(), answer_len(r));
                assert!(r.output_tokens >= 1 && r.place.is_none_or(crate::geo::is_real));
                assert!(options.max_output_tokens.is_none_or(|most| r.output_tokens <= most));
            }
        }
    }

    #[test]
    fn a_later_turn_begins_with_the_turn_before_and_its_answer() {
        let made = wildchat_like(&Generate { requests: 400, ..Generate::default() }).unwrap();
        let mut last: BTreeMap<u64, &TraceRequest> = BTreeMap::new();
        let mut checked = 0;
        for r in &made.requests {
            if let Some(before) = last.insert(r.session, r) {
                let whole = before.blocks.len() - usize::from(before.input_tokens % 16 != 0);
                let chain = before.blocks[..whole].iter().chain(before.answer_blocks.iter());
                assert!(
                    chain.zip(r.blocks.iter()).all(|(a, b)| a == b) && r.turn == before.turn + 1 && r.at > before.at
                );
                checked += 1;
            }
        }
        assert!(checked > 100);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let e = wildchat_like(&Generate { rate: 0.0, ..Generate::default() }).unwrap_err().to_string();
        assert_eq!(e, "option rate is 0: it must be from 0.000001 to 1000000");
        assert!(wildchat_like(&Generate { gap_cv: f64::NAN, ..Generate::default() }).is_err());
    }
}
