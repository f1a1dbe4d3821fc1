//! Openings of conversations: new text, near-duplicate of an earlier opening, or template.

use super::Generate;
use super::laws::{self, FIRST_USER, LATER_USER};
use super::people::Talk;
use gorgo_core::rng::ChaCha8Rng;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};

/// Probability that a later opening of a user repeats most of the previous one. The published share is 45.7 % of all
/// openings (American English, whole corpus); this value yields 39 % and is fitted to the published reuse per user.
const NEAR_DUPLICATES: f64 = 0.57;
/// Share of the earlier opening that a near-duplicate keeps.
const KEPT_PART: std::ops::Range<f64> = 0.85..1.0;
/// Number of templates in the pool, and their lengths in tokens.
const TEMPLATES: usize = 40;
const TEMPLATE_TOKENS: std::ops::Range<f64> = 300.0..3_300.0;
/// Zipf exponent over templates.
const TEMPLATE_ZIPF: f64 = 1.0;
/// A run of tokens: the first `tokens` of text number `text`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) text: u64,
    pub(super) tokens: u32,
}

impl Piece {
    pub(super) fn symbols(self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.tokens)).map(move |i| (self.text << 24) | i)
    }
}

/// Kind of the opening of a conversation.
#[derive(Debug)]
enum Kind {
    /// New text.
    New,
    /// Most of the opening of the conversation with this number.
    Repeats(usize),
    /// The template with this popularity rank.
    Template(usize),
}

/// Lengths of the new openings, in order. The most repeated openings get lengths spread evenly over the distribution, so
/// that the reuse of the trace does not depend on one long opening of a busy user.
fn new_lengths(kinds: &[Kind], rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut origin: Vec<usize> = Vec::with_capacity(kinds.len()); // the new opening that each conversation repeats
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
pub(super) fn draw_openings(talks: &mut [Talk], options: &Generate, rng: &mut ChaCha8Rng) -> (Vec<u32>, usize) {
    let popular = laws::zipf(TEMPLATES, TEMPLATE_ZIPF);
    let mut latest: BTreeMap<u64, usize> = BTreeMap::new();
    let mut pasted: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut kinds = Vec::with_capacity(talks.len());
    for (i, talk) in talks.iter().enumerate() {
        let before = latest.get(&talk.user).copied().filter(|_| rng.random_bool(NEAR_DUPLICATES));
        let template = laws::rank_at(&popular, rng.random());
        // A user sends a template once; otherwise the reuse per user would be far above the published value.
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

/// Length of the template with that popularity rank. The pool is the same for every seed, because its most popular
/// templates determine the reuse of the trace.
fn template_tokens(rank: usize) -> u32 {
    let part = (0.5 + rank as f64 * GOLDEN).fract();
    (TEMPLATE_TOKENS.start + (TEMPLATE_TOKENS.end - TEMPLATE_TOKENS.start) * part) as u32
}

/// The first share `part` of an opening with new text behind it, of the same total length.
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
