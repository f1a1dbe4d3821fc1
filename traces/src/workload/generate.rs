//! Generator `wildchat-like`: traffic of any size and rate with WildChat's published marginals, without text.
//!
//! Each conversation has a country, a user, a number of turns, message lengths and think times. Its opening is new, a
//! near-duplicate of an earlier opening of the same user, or starts with a template from a pool shared by all users. A
//! prompt is the chain of its pieces, so history, near-duplicates and templates share block ids as prefixes.

mod laws;
mod openings;
mod people;

use super::blocks::{BLOCK_TOKENS, BlockChain};
use super::marginals::{Drawn, Marginals};
use super::wildchat::ANSWER_NS_PER_TOKEN;
use crate::error::TraceError;
use crate::geo::Weights;
use gorgo_core::request::TraceRequest;
use gorgo_core::rng::{ChaCha8Rng, stream};
use gorgo_core::{Span, Time};
use laws::{ANSWER, LATER_USER};
use openings::{Piece, draw_openings};
use people::{Talk, draw_talks, draw_turns};
use rand_distr::{Distribution, LogNormal};
use serde::{Deserialize, Serialize};

/// Think time: median in s and sigma of its logarithm (estimate).
const THINK_S: f64 = 40.0;
const THINK_SIGMA: f64 = 1.2;
/// Parameters of the generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Generate {
    /// Number of requests: the turns of all conversations.
    pub requests: usize,
    /// Mean requests per second over the time in which conversations start, `requests / rate`. The last turns of long
    /// conversations come after it: cut or redraw arrivals ([`super::arrange::redraw`]) for an even load to the end.
    pub rate: f64,
    /// Seed; equal seeds give equal traces.
    pub seed: u64,
    /// Country shares to follow.
    pub weights: Weights,
    /// Mean number of conversations per user.
    pub conversations_per_user: f64,
    /// Probability that a new opening starts with a template. Fitted to the published prefix reuse across users.
    pub template_share: f64,
    /// Coefficient of variation of the gaps between conversations: 1 is a Poisson process, more is bursty.
    pub gap_cv: f64,
    /// UTC hour at the start of the trace. If set, the traffic of each country follows its local time of day; if not, the
    /// rate is constant, so that a short trace has the published country shares.
    pub start_hour: Option<f64>,
    /// Seconds of the trace that a day takes: 86,400 in real time; the trace's length to see a day in it.
    pub day_s: f64,
    /// Limit of the length of an answer, tokens.
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
    /// The marginals of the trace beside the published ones.
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
/// A parameter is out of range.
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

/// Generates the requests of all conversations: prompts with history, answers and think times.
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
                router_tokens: None,
                refused: false,
                answer_blocks: chain.whole_from(whole),
                delay: None,
                awaited: false,
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
    use crate::workload::parser::answer_len;
    use std::collections::BTreeMap;

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
