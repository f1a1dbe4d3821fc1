//! The fits by class: decode steps and the least prefill step from stalls inside answers, then the network from tiny
//! prompts, then one robust regression of the time to first token.
//!
//! ```text
//! (done - first)      = (out - 1) (fixed + weights + row B) + floor S + g S_o + p_s U_o
//! TTFT - known        = rtt_r rounds + overhead + max(floor, p U) + l [long] + q W + a w + b n + c [n > 0]
//!                       + opening rtt_r [new]
//! ```
//!
//! B: mean padded batch; S, S_o: prefills of tiny and of other prompts meanwhile, U_o: uncached tokens of the others; U:
//! uncached tokens; l: what a prompt beyond the tiny ones takes in any case, as where a hybrid model resumes before the end of
//! the cached prefix; W, w: waiting tokens and requests; n: running requests, whose step under way ends first (c). Probes are not used: they show another path.

use super::fleet::{Fleet, Seen, TINY};
use super::least::{dot, robust};
use gorgo_sim::engine::EngineConfig;
use gorgo_sim::network::NetworkConfig;

/// Tried idle limits of connections, ms, and bytes of a token.
const KEEP_ALIVES: [f64; 14] = [1e3, 2e3, 3e3, 4e3, 5e3, 6e3, 8e3, 10e3, 15e3, 20e3, 30e3, 60e3, 90e3, 120e3];
const TOKEN_BYTES: [f64; 9] = [0.5, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 6.0, 9.0];
/// Answers shorter than this have too few steps to show one.
const LEAST_OUTPUT: f64 = 8.0;

/// What a fit found. Numbers that the records do not show are `None`.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Constant part of a decode step and what a request of the batch adds, ms.
    pub(super) step: Option<f64>,
    pub(super) row: Option<f64>,
    /// Least prefill step, ms, and the rate that stalls show, ms a token.
    pub(super) floor: Option<f64>,
    pub(super) stall: Option<f64>,
    /// Round trip of requests to each replica, ms.
    pub(super) rtt: Vec<f64>,
    /// Prefill rate, and what waiting tokens, waiting requests and running requests add.
    pub(super) rate: Option<f64>,
    pub(super) waiting_token: Option<f64>,
    pub(super) waiting: Option<f64>,
    pub(super) running: Option<f64>,
    /// Rest of the step that is under way when anything runs, ms.
    pub(super) rest: Option<f64>,
    /// What a prompt beyond the tiny ones takes in any case, ms.
    pub(super) longer: Option<f64>,
    /// Round trips to open a connection.
    pub(super) opening: Option<f64>,
}

/// Which slopes of the decode fit are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// What a request of the batch adds to a step.
    pub(super) row: bool,
    /// The least prefill step.
    pub(super) floor: bool,
}

/// What all replicates of a fit share.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) engine: EngineConfig,
    pub(super) network: NetworkConfig,
    /// Idle limit of connections, ms; `None` when no limit explains the records better than none.
    pub(super) keep_alive: Option<f64>,
    pub(super) bytes_per_token: f64,
    /// Whether the records tell bytes apart.
    pub(super) bytes_known: bool,
    /// Slopes of the decode fit that stay at the engine's values, because the records do not tell them.
    pub(super) held: Held,
}

impl Model {
    /// Round trips of the upload beyond the first, on a window that starts at its initial size.
    pub(super) fn rounds(&self, seen: &Seen) -> f64 {
        let bytes = seen.prompt * self.bytes_per_token;
        ((1.0 + bytes / self.network.initial_window as f64).log2().ceil() - 1.0).max(0.0)
    }

    pub(super) fn opened(&self, seen: &Seen) -> bool {
        self.keep_alive.is_some_and(|limit| seen.idle >= limit)
    }

    /// The least prefill step of the engine that is believed in, ms.
    pub(super) fn least_step(&self) -> f64 {
        self.engine.prefill.ms(1, 0.0)
    }

    /// Attention of a prompt's new tokens, ms.
    fn pairs_ms(&self, seen: &Seen) -> f64 {
        let past = (seen.prompt - seen.uncached).max(0.0);
        self.engine.prefill.ms_per_pair * seen.uncached * (past + seen.uncached / 2.0)
    }

    /// What an engine adds to each request outside of its steps, ms.
    fn overhead(&self, seen: &Seen) -> f64 {
        let e = &self.engine;
        e.receive_ms + e.output_ms + e.tokenizer_fixed_ms + e.tokenizer_ms_per_token * seen.prompt
    }
}

/// Decode steps and the least prefill step.
pub(super) fn decode(fleet: &Fleet, weights: &[f64], model: &Model) -> Found {
    let context = model.engine.decode.ms_per_context_token;
    let most = f64::from(model.engine.decode.cuda_graph_max_bs);
    let mut rows = Vec::new();
    for (seen, &weight) in fleet.seen.iter().zip(weights) {
        // Steps above the captured sizes follow another law.
        if seen.output < LEAST_OUTPUT || seen.most > most || seen.batch <= 0.0 {
            continue;
        }
        let steps = seen.output - 1.0;
        let row = if model.held.row { model.engine.decode.ms_per_row * seen.batch } else { 0.0 };
        let floor = if model.held.floor { model.least_step() * seen.tiny_stalls } else { 0.0 };
        let known = floor + steps * (row + context * (seen.prompt + seen.output / 2.0) * seen.batch);
        // Longer answers are surer of their step: per step, every answer weighs the same.
        let x = vec![1.0, seen.batch, seen.tiny_stalls / steps, seen.stalled_tokens / steps, seen.other_stalls / steps];
        rows.push((x, (seen.decode - known) / steps, weight * steps.sqrt()));
    }
    // A run without short or without long stalls does not show their length.
    let mut used = vec![0, 1];
    used.extend((2..5).filter(|&i| rows.iter().filter(|row| row.0[i] > 0.0).count() >= 20));
    let uniform = rows.iter().all(|row| row.0[1] == rows[0].0[1]);
    used.retain(|&i| !(i == 1 && (model.held.row || uniform)) && !(i == 2 && model.held.floor));
    let picked: Vec<_> =
        rows.into_iter().map(|(x, y, w)| (used.iter().map(|&i| x[i]).collect::<Vec<f64>>(), y, w)).collect();
    let Some(found) = robust(&picked) else { return Found::default() };
    let of = |i: usize| used.iter().position(|&u| u == i).map(|place| found[place]);
    Found { step: of(0), row: of(1), floor: of(2), stall: of(3), ..Found::default() }
}

/// A request that no other request delayed, on an idle connection, with a prompt that takes one least step.
fn alone(seen: &Seen, model: &Model) -> bool {
    seen.prompt <= TINY && seen.waiting == 0.0 && !model.opened(seen)
}

/// Round trips from the floors of tiny prompts: the 5th percentile less the least step; 0.1 ms at least.
pub(super) fn floors(fleet: &Fleet, model: &Model, floor: f64) -> Vec<f64> {
    let of = |replica: usize| {
        let tiny = fleet.seen.iter().filter(|s| s.replica == replica && alone(s, model));
        let mut values: Vec<f64> = tiny.map(|seen| seen.ttft - floor - model.overhead(seen)).collect();
        if values.is_empty() {
            // Without tiny prompts the least answer bounds the round trip.
            let all = fleet.seen.iter().filter(|s| s.replica == replica);
            let least = all.map(|s| s.ttft - s.uncached * model.engine.prefill.ms_per_token - model.overhead(s));
            return least.fold(f64::INFINITY, f64::min).clamp(0.1, 1e5);
        }
        values.sort_by(f64::total_cmp);
        values[(values.len() - 1) / 20].max(0.1)
    };
    (0..fleet.replicas.len()).map(of).collect()
}

/// The idle limit of connections that explains tiny prompts best, if it does so by 2 % at least and a new connection takes
/// half a round trip at least: TCP takes one, TLS another.
pub(super) fn keep_alive(fleet: &Fleet, rtt: &[f64]) -> Option<f64> {
    let tiny: Vec<&Seen> = fleet.seen.iter().filter(|s| s.prompt <= TINY && s.waiting == 0.0).collect();
    let loss = |limit: f64| -> Option<(f64, f64)> {
        let row = |seen: &&Seen| {
            let mut x = vec![0.0; rtt.len() + 1];
            x[seen.replica] = 1.0;
            x[rtt.len()] = if seen.idle >= limit { rtt[seen.replica] } else { 0.0 };
            (x, seen.ttft, 1.0)
        };
        let opened = tiny.iter().filter(|seen| seen.idle >= limit).count();
        if opened < 20 || tiny.len() - opened < 20 {
            return None;
        }
        let rows: Vec<_> = tiny.iter().map(row).collect();
        let found = robust(&rows)?;
        let sum = rows.iter().map(|(x, y, _)| (y - dot(x, &found)).abs()).sum::<f64>();
        Some((sum, found[rtt.len()]))
    };
    let plain: f64 = {
        let row = |seen: &&Seen| {
            let mut x = vec![0.0; rtt.len()];
            x[seen.replica] = 1.0;
            (x, seen.ttft, 1.0)
        };
        let rows: Vec<_> = tiny.iter().map(row).collect();
        let found = robust(&rows)?;
        rows.iter().map(|(x, y, _)| (y - dot(x, &found)).abs()).sum()
    };
    let tried = KEEP_ALIVES.iter().filter_map(|&limit| Some((limit, loss(limit)?)));
    let (limit, (sum, opening)) = tried.min_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
    (sum < 0.98 * plain && opening > 0.5).then_some(limit)
}

/// The regression of the time to first token, with the least step and the round trips of openings given.
pub(super) fn first_token(
    fleet: &Fleet,
    weights: &[f64],
    model: &Model,
    floor: f64,
    rtt: &[f64],
) -> Option<(Found, f64)> {
    let count = rtt.len();
    let mut rate = model.engine.prefill.ms_per_token;
    let mut last = None;
    // Which prompts outlast the least step depends on the rate.
    for _ in 0..6 {
        let long = |seen: &Seen| model.engine.prefill.fixed_ms + rate * seen.uncached > floor;
        let mut rows = Vec::with_capacity(fleet.seen.len());
        for (seen, &weight) in fleet.seen.iter().zip(weights) {
            let mut x = vec![0.0; count + 7];
            x[seen.replica] = 1.0 + model.rounds(seen);
            let step = if long(seen) {
                x[count] = seen.uncached;
                model.engine.prefill.fixed_ms + model.pairs_ms(seen)
            } else {
                floor
            };
            (x[count + 1], x[count + 2], x[count + 3]) = (seen.waiting_tokens, seen.waiting, seen.running);
            x[count + 4] = if model.opened(seen) { rtt[seen.replica] } else { 0.0 };
            x[count + 5] = f64::from(u8::from(seen.running > 0.0));
            x[count + 6] = f64::from(u8::from(seen.prompt > TINY));
            let known = step + model.overhead(seen);
            rows.push((x, seen.ttft - known, weight));
        }
        let used: Vec<usize> =
            (0..count + 7).filter(|&i| rows.iter().filter(|row| row.0[i] != 0.0).count() >= 20).collect();
        let picked: Vec<_> =
            rows.iter().map(|(x, y, w)| (used.iter().map(|&i| x[i]).collect::<Vec<f64>>(), *y, *w)).collect();
        let found = robust(&picked)?;
        let loss = picked.iter().map(|(x, y, w)| w * (y - dot(x, &found)).abs()).sum::<f64>();
        let of = |i: usize| used.iter().position(|&u| u == i).map(|place| found[place]);
        let next = of(count);
        last = Some((
            Found {
                rtt: (0..count).map(|r| of(r).unwrap_or(rtt[r]).max(0.1)).collect(),
                rate: next,
                waiting_token: of(count + 1),
                waiting: of(count + 2),
                running: of(count + 3),
                opening: of(count + 4),
                rest: of(count + 5),
                longer: of(count + 6),
                ..Found::default()
            },
            loss,
        ));
        match next.filter(|next| *next > 0.0) {
            Some(next) if (next / rate - 1.0).abs() > 1e-3 => rate = next,
            _ => break,
        }
    }
    last
}

/// Bytes of a token on the wire: the tried value with the least loss, and whether the others are worse by 1 %.
pub(super) fn token_bytes(fleet: &Fleet, model: &mut Model, floor: f64, rtt: &[f64]) {
    let weights = vec![1.0; fleet.seen.len()];
    let mut losses: Vec<(f64, f64)> = Vec::new();
    for bytes in TOKEN_BYTES {
        model.bytes_per_token = bytes;
        losses.extend(first_token(fleet, &weights, model, floor, rtt).map(|(_, loss)| (bytes, loss)));
    }
    let best = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    let far = |best: f64| {
        losses
            .iter()
            .filter(|(bytes, _)| !(0.5 * best..=2.0 * best).contains(bytes))
            .all(|(_, l)| best_loss(&losses).is_some_and(|least| *l > 1.01 * least))
    };
    model.bytes_known = best.is_some_and(|(bytes, _)| far(bytes));
    model.bytes_per_token = match best {
        Some((bytes, _)) if model.bytes_known => bytes,
        _ => model.network.bytes_per_token,
    };
}

fn best_loss(losses: &[(f64, f64)]) -> Option<f64> {
    losses.iter().map(|(_, loss)| *loss).min_by(f64::total_cmp)
}

/// The time to first token that a fit predicts, ms.
pub(super) fn predicted(seen: &Seen, model: &Model, found: &Found) -> f64 {
    let prefill = &model.engine.prefill;
    let rtt = found.rtt.get(seen.replica).copied().unwrap_or_default();
    let long = prefill.fixed_ms + found.rate.unwrap_or(prefill.ms_per_token) * seen.uncached + model.pairs_ms(seen);
    let step = long.max(found.floor.unwrap_or_default());
    let opening = if model.opened(seen) { rtt * found.opening.unwrap_or_default() } else { 0.0 };
    let queue = found.waiting_token.unwrap_or_default() * seen.waiting_tokens
        + found.waiting.unwrap_or_default() * seen.waiting
        + found.running.unwrap_or_default() * seen.running
        + if seen.running > 0.0 { found.rest.unwrap_or_default() } else { 0.0 }
        + if seen.prompt > TINY { found.longer.unwrap_or_default() } else { 0.0 };
    rtt * (1.0 + model.rounds(seen)) + opening + step + queue + model.overhead(seen)
}
