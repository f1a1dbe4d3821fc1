//! Users and conversations: country, place, start time and number of turns.

use super::Generate;
use super::laws;
use super::openings::Piece;
use crate::geo::{utc_offset_h, weights::place_in};
use gorgo_core::Time;
use gorgo_core::request::Place;
use gorgo_core::rng::ChaCha8Rng;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Gamma};
use std::collections::BTreeMap;

/// Zipf exponent over the users of a country.
const USER_ZIPF: f64 = 1.1;
/// Share of conversations without a country.
const MISSING_PLACE: f64 = 0.001_15;

/// A conversation without its messages.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) start: Time,
    pub(super) country: Option<[u8; 2]>,
    pub(super) place: Option<Place>,
    pub(super) user: u64,
    pub(super) turns: u32,
    pub(super) opening: Vec<Piece>,
}

/// Turns of each conversation, `requests` in all.
pub(super) fn draw_turns(requests: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let n = ((requests as f64 / laws::mean_turns()).round() as usize).clamp(1, requests);
    let mut turns: Vec<u32> = laws::strata(n, rng).into_iter().map(laws::turns_at).collect();
    let sum: usize = turns.iter().map(|&t| t as usize).sum();
    // Missing or surplus turns are distributed over the conversations, which are in random order.
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
pub(super) fn draw_talks(turns: &[u32], options: &Generate, rng: &mut ChaCha8Rng) -> Vec<Talk> {
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
    /// Rank of the user of the next conversation: every user occurs once, so that their number is exact, and then busy
    /// users repeat. Conversations are in random order, so the first occurrences are spread over the trace.
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
