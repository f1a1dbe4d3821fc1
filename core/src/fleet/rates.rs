//! Rates learned from the router's own requests: what a first token and a decode step cost at each replica.
//!
//! ```text
//! TTFT - network = offset_u + p U + q W + r n + s w              at the first token of a first attempt
//! time per token = d0 + d1 n + ps S / (outputs - 1)              at the end of an answer of 8 tokens and more
//! ```
//!
//! U uncached tokens of the request, W waiting uncached tokens, n running and w waiting requests, all as booked at
//! dispatch; S tokens prefilled at the replica while the request decoded. p, q, r, s are shared by replicas of one
//! configured rate (one kind of GPU), the offset is the replica's own. Both are fitted by [`super::rls`]. `kappa`, the
//! price of a millisecond of others, follows from the run: it makes a relative gain in TTFT worth a relative loss in
//! E2E. Quantiles are multipliers of the prediction, moved by the pinball rule.

mod learned;
mod saved;
pub use learned::Learned;
pub use saved::{Number, SavedKind, SavedOffset, SavedRates};

use super::PeerRates;
use super::rls::{Prior, Rls};
use crate::{Span, Time};

const RATE: usize = 0;
const WAITING: usize = 1;
const RUNNING: usize = 2;
const QUEUED: usize = 3;
/// Numbers shared by replicas of one kind; their offsets follow.
const SHARED: usize = 4;

/// Answers shorter than this say little about a decode step.
const LEAST_OUTPUTS: u32 = 8;

/// What was booked when a request was dispatched: the terms of its prediction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Booked {
    pub at: Time,
    pub network_ms: f64,
    pub uncached: u32,
    pub waiting_uncached: u64,
    pub running: u32,
    pub waiting: u32,
    /// Predicted TTFT without the network, ms.
    pub predicted_ms: f64,
}

/// Time-weighted load of one replica, to know what a request met while it decoded.
#[derive(Debug, Clone, Copy, Default)]
struct Meter {
    at: Time,
    /// Integral of running requests over time, request-ms.
    running_ms: f64,
    /// Tokens prefilled.
    prefilled: f64,
}

/// The meter when a request got its first token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Started {
    pub at: Time,
    running_ms: f64,
    prefilled: f64,
}

/// Replicas of one configured rate.
#[derive(Debug, Clone)]
struct Kind {
    per_token: Option<u64>,
    /// Of TTFT; the offset of a replica is number 4 + slot.
    ttft: Rls,
    /// Of a decode step.
    decode: Rls,
}

#[derive(Debug, Clone)]
struct PerReplica {
    kind: usize,
    meter: Meter,
    /// ln of the multipliers for 0.5, 0.9 and 0.95, and the samples behind them.
    log: [f64; 3],
    /// Their exponentials, which every decision reads.
    quantiles: [f64; 3],
    samples: u32,
    /// The rates that a peer reported of the engine behind it.
    told: Option<PeerRates>,
}

/// First tokens that a peer must have measured before its reported rates count.
const LEAST_TOLD: u32 = 20;

/// The quantiles of the time to first token that are predicted, those of [`Learned::quantiles`].
pub const QUANTILES: [f64; 3] = [0.5, 0.9, 0.95];

/// Learned rates of a fleet.
#[derive(Debug, Clone)]
pub struct Rates {
    kinds: Vec<Kind>,
    replicas: Vec<PerReplica>,
    ttft_ms: f64,
    e2e_ms: f64,
    output_tokens: f64,
    ended: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { kinds: Vec::new(), replicas: Vec::new(), ttft_ms: 0.0, e2e_ms: 0.0, output_tokens: 300.0, ended: 0 }
    }
}

fn shared(per_token: Option<f64>) -> [Prior; SHARED] {
    let p = per_token.filter(|p| p.is_finite() && *p > 0.0).map_or(60.0, |p| (p * 1e3).clamp(5.0, 400.0));
    [
        Prior { mean: p, sd: 20.0, low: 5.0, high: 400.0 },
        Prior { mean: 0.3 * p, sd: 10.0, low: 0.0, high: 400.0 },
        Prior { mean: 9.0, sd: 5.0, low: 0.0, high: 60.0 },
        Prior { mean: 40.0, sd: 30.0, low: 0.0, high: 300.0 },
    ]
}

const OFFSET: Prior = Prior { mean: 10.0, sd: 60.0, low: -400.0, high: 500.0 };

fn decode() -> Rls {
    let mut rls = Rls::default();
    rls.push(Prior { mean: 8.0, sd: 8.0, low: 0.1, high: 500.0 });
    rls.push(Prior { mean: 0.5, sd: 0.7, low: 0.0, high: 50.0 });
    rls.push(Prior { mean: 0.06, sd: 0.03, low: 0.0, high: 1.0 });
    rls
}

impl Rates {
    /// A replica joined at `slot`.
    pub fn joined(&mut self, slot: usize, per_token: Option<f64>) {
        let kind = self.kind_of(slot, per_token);
        self.kinds[kind].ttft.reset(SHARED + slot);
        let fresh =
            PerReplica { kind, meter: Meter::default(), log: [0.0; 3], quantiles: [1.0; 3], samples: 0, told: None };
        while self.replicas.len() <= slot {
            self.replicas.push(fresh.clone());
        }
        self.replicas[slot] = fresh;
    }

    /// The replica at `slot` has another configured rate, and so is of another kind; what is its own stays, but for its
    /// offset, which was learned beside the other kind's rates.
    pub(crate) fn rated(&mut self, slot: usize, per_token: Option<f64>) {
        if slot >= self.replicas.len() {
            return;
        }
        let kind = self.kind_of(slot, per_token);
        self.kinds[kind].ttft.reset(SHARED + slot);
        self.replicas[slot].kind = kind;
    }

    /// The kind of replicas with this configured rate, with room for an offset of the replica at `slot`.
    fn kind_of(&mut self, slot: usize, per_token: Option<f64>) -> usize {
        let key = per_token.map(f64::to_bits);
        let kind = self.kinds.iter().position(|kind| kind.per_token == key).unwrap_or_else(|| {
            let mut ttft = Rls::default();
            shared(per_token).into_iter().for_each(|prior| ttft.push(prior));
            self.kinds.push(Kind { per_token: key, ttft, decode: decode() });
            self.kinds.len() - 1
        });
        let rls = &mut self.kinds[kind].ttft;
        while rls.len() <= SHARED + slot {
            rls.push(OFFSET);
        }
        kind
    }

    /// What policies may know of the replica at `slot`; the priors if it is unknown.
    pub fn learned(&self, slot: usize, per_token: Option<f64>) -> Learned {
        let ratio = if self.ended == 0 { 0.08 } else { self.ttft_ms / self.e2e_ms.max(1e-9) };
        let kappa = (1.25 * ratio).clamp(0.015, 0.3);
        let output_tokens = self.output_tokens;
        let Some(replica) = self.replicas.get(slot) else {
            let [p, q, r, s] = shared(per_token).map(|prior| prior.mean);
            let decode = decode();
            return Learned {
                offset_ms: OFFSET.mean,
                ms_per_token: p / 1e3,
                ms_per_waiting_token: q / 1e3,
                ms_per_running: r,
                ms_per_waiting: s,
                step_ms: decode.get(0),
                step_ms_per_running: decode.get(1),
                output_tokens,
                kappa,
                quantiles: [1.0; 3],
            };
        };
        if let Some(PeerRates { offset, ttft: [p, q, r, s], step: [first, further], .. }) = replica.told {
            return Learned {
                offset_ms: f64::from(offset),
                ms_per_token: f64::from(p) / 1e3,
                ms_per_waiting_token: f64::from(q) / 1e3,
                ms_per_running: f64::from(r),
                ms_per_waiting: f64::from(s),
                step_ms: f64::from(first),
                step_ms_per_running: f64::from(further),
                output_tokens,
                kappa,
                quantiles: replica.quantiles,
            };
        }
        let Kind { ttft: rls, decode, .. } = &self.kinds[replica.kind];
        Learned {
            offset_ms: rls.get(SHARED + slot),
            ms_per_token: rls.get(RATE) / 1e3,
            ms_per_waiting_token: rls.get(WAITING) / 1e3,
            ms_per_running: rls.get(RUNNING),
            ms_per_waiting: rls.get(QUEUED),
            step_ms: decode.get(0),
            step_ms_per_running: decode.get(1),
            output_tokens,
            kappa,
            quantiles: replica.quantiles,
        }
    }

    /// What was learned of the replica at `slot`, for peers.
    pub(crate) fn tells(&self, slot: usize) -> Option<PeerRates> {
        let replica = self.replicas.get(slot)?;
        let Kind { ttft, decode, .. } = &self.kinds[replica.kind];
        Some(PeerRates {
            samples: replica.samples,
            offset: ttft.get(SHARED + slot) as f32,
            ttft: std::array::from_fn(|i| ttft.get(i) as f32),
            step: std::array::from_fn(|i| decode.get(i) as f32),
        })
    }

    /// Takes what the peer at `slot` learned of the engine behind it, within the bounds of the own numbers; without enough
    /// samples the own numbers stand. The router beside an engine sees it best: requests forwarded to it teach nothing here.
    pub(crate) fn told(&mut self, slot: usize, rates: Option<&PeerRates>) {
        let Some(replica) = self.replicas.get_mut(slot) else { return };
        let Kind { ttft, decode, .. } = &self.kinds[replica.kind];
        let all =
            |rates: &PeerRates| rates.ttft.iter().chain(&rates.step).chain([&rates.offset]).all(|n| n.is_finite());
        replica.told = rates.filter(|rates| rates.samples >= LEAST_TOLD && all(rates)).map(|rates| PeerRates {
            samples: rates.samples,
            offset: ttft.bounded(SHARED + slot, rates.offset),
            ttft: std::array::from_fn(|i| ttft.bounded(i, rates.ttft[i])),
            step: std::array::from_fn(|i| decode.bounded(i, rates.step[i])),
        });
    }

    /// Standard deviations of the prefill rate (ms per token) and of the offset (ms) at `slot`.
    pub fn uncertainty(&self, slot: usize) -> Option<(f64, f64)> {
        let replica = self.replicas.get(slot)?;
        let rls = &self.kinds[replica.kind].ttft;
        Some((rls.sd(RATE) / 1e3, rls.sd(SHARED + slot)))
    }

    /// The first token of a request arrived; `running` requests were past their first token until now. Learns from
    /// `booked` unless the request is a retry or was forwarded.
    pub(crate) fn first_token(
        &mut self,
        slot: usize,
        now: Time,
        running: u32,
        booked: Option<&Booked>,
        uncached: u32,
    ) -> Started {
        let Some(replica) = self.replicas.get_mut(slot) else { return Started::default() };
        replica.meter.advance(now, running);
        replica.meter.prefilled += f64::from(uncached);
        let Meter { running_ms, prefilled, .. } = replica.meter;
        if let Some(b) = booked {
            let y = (now - b.at).ms() - b.network_ms;
            let rls = &mut self.kinds[replica.kind].ttft;
            let x = [
                (RATE, f64::from(b.uncached) / 1e3),
                (WAITING, b.waiting_uncached as f64 / 1e3),
                (RUNNING, f64::from(b.running)),
                (QUEUED, f64::from(b.waiting)),
                (SHARED + slot, 1.0),
            ];
            let s = 40.0 + 0.25 * rls.predict(&x).max(20.0);
            rls.learn(&x, y, s);
            replica.samples = replica.samples.saturating_add(1);
            let step = (0.3 / f64::from(replica.samples).sqrt()).max(0.02);
            let ratio = ((now - b.at).ms() / (b.predicted_ms + b.network_ms).max(1e-3)).max(1e-6).ln();
            for (log, tau) in replica.log.iter_mut().zip(QUANTILES) {
                *log = (*log + step * (tau - f64::from(u8::from(ratio <= *log)))).clamp(-5.0, 5.0);
            }
            replica.quantiles = replica.log.map(f64::exp);
        }
        Started { at: now, running_ms, prefilled }
    }

    /// A request that got its first token as `started` says ended; `running` requests ran until now, itself included.
    /// `finished` holds its arrival and its output tokens unless it failed.
    pub(crate) fn ended(
        &mut self,
        slot: usize,
        now: Time,
        running: u32,
        started: Started,
        finished: Option<(Time, u32)>,
    ) {
        let Some(replica) = self.replicas.get_mut(slot) else { return };
        replica.meter.advance(now, running);
        let Some((arrived, outputs)) = finished else { return };
        self.ended += 1;
        let weight = (1.0 / self.ended as f64).max(0.01);
        self.ttft_ms += weight * ((started.at - arrived).ms() - self.ttft_ms);
        self.e2e_ms += weight * ((now - arrived).ms() - self.e2e_ms);
        if outputs > 0 {
            self.output_tokens =
                (self.output_tokens + 0.02 * (f64::from(outputs) - self.output_tokens)).clamp(16.0, 2048.0);
        }
        let decoded = (now - started.at).ms();
        if outputs >= LEAST_OUTPUTS && decoded > 0.0 {
            let steps = f64::from(outputs - 1);
            let mean = ((replica.meter.running_ms - started.running_ms) / decoded).max(1.0);
            let prefilled = replica.meter.prefilled - started.prefilled;
            let tau = decoded / steps;
            self.kinds[replica.kind].decode.learn(
                &[(0, 1.0), (1, mean - 1.0), (2, prefilled / steps)],
                tau,
                0.3 + 0.05 * tau,
            );
        }
    }
}

impl Meter {
    fn advance(&mut self, now: Time, running: u32) {
        let passed: Span = now - self.at;
        self.running_ms += passed.ms() * f64::from(running);
        self.at = now;
    }
}

#[cfg(test)]
pub(crate) mod tests;
