//! Learned rates as they survive a restart: values and standard deviations, without correlations.

use super::{Kind, Rates, SHARED};
use serde::{Deserialize, Serialize};

/// A learned number with its standard deviation.
pub type Number = [f64; 2];

/// Rates of one kind of replicas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedKind {
    /// The configured rate that makes the kind; absent for replicas without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_token: Option<f64>,
    /// ms per 1,000 uncached tokens, per 1,000 waiting tokens, per running and per waiting request.
    pub ttft: [Number; SHARED],
    /// ms of a decode step, per further request in it, per token prefilled meanwhile.
    pub decode: [Number; 3],
}

/// What is one replica's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedOffset {
    /// The replica's name.
    pub name: String,
    /// ms beyond network and rates.
    pub offset: Number,
    /// ln of the quantiles' multipliers.
    pub log: [f64; 3],
    /// Samples behind them.
    pub samples: u32,
}

/// Everything a router learned of its fleet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SavedRates {
    /// Requests that ended.
    pub ended: u64,
    /// Mean TTFT, ms.
    pub ttft_ms: f64,
    /// Mean E2E, ms.
    pub e2e_ms: f64,
    /// Mean tokens of an answer.
    pub output_tokens: f64,
    /// Kinds of replicas.
    pub kinds: Vec<SavedKind>,
    /// Replicas.
    pub replicas: Vec<SavedOffset>,
}

impl Rates {
    /// What was learned; `names` are those of the slots, `None` for a slot without a replica.
    pub(crate) fn saved<'a>(&self, names: impl Iterator<Item = Option<&'a str>>) -> SavedRates {
        let number = |rls: &super::Rls, i: usize| [rls.get(i), rls.sd(i)];
        let kind = |kind: &Kind| SavedKind {
            per_token: kind.per_token.map(f64::from_bits),
            ttft: std::array::from_fn(|i| number(&kind.ttft, i)),
            decode: std::array::from_fn(|i| number(&kind.decode, i)),
        };
        let offset = |(slot, (name, replica)): (usize, (Option<&str>, &super::PerReplica))| {
            let rls = &self.kinds[replica.kind].ttft;
            Some(SavedOffset {
                name: name?.to_owned(),
                offset: number(rls, SHARED + slot),
                log: replica.log,
                samples: replica.samples,
            })
        };
        SavedRates {
            ended: self.ended,
            ttft_ms: self.ttft_ms,
            e2e_ms: self.e2e_ms,
            output_tokens: self.output_tokens,
            kinds: self.kinds.iter().map(kind).collect(),
            replicas: names.zip(&self.replicas).enumerate().filter_map(offset).collect(),
        }
    }

    /// Takes over what was learned before. Numbers out of their bounds are moved into them; what is not of this fleet is
    /// left out.
    pub(crate) fn restore<'a>(&mut self, saved: &SavedRates, names: impl Iterator<Item = Option<&'a str>>) {
        if [saved.ttft_ms, saved.e2e_ms].iter().all(|ms| (0.0..=1e9).contains(ms)) {
            (self.ended, self.ttft_ms, self.e2e_ms) = (saved.ended, saved.ttft_ms, saved.e2e_ms);
        }
        if saved.output_tokens.is_finite() && saved.output_tokens > 0.0 {
            self.output_tokens = saved.output_tokens.clamp(16.0, 2048.0);
        }
        for kind in &mut self.kinds {
            let same = |other: &&SavedKind| other.per_token.map(f64::to_bits) == kind.per_token;
            let Some(before) = saved.kinds.iter().find(same) else { continue };
            before.ttft.iter().enumerate().for_each(|(i, &[value, sd])| kind.ttft.set(i, value, sd));
            before.decode.iter().enumerate().for_each(|(i, &[value, sd])| kind.decode.set(i, value, sd));
        }
        for (slot, (name, replica)) in names.zip(&mut self.replicas).enumerate() {
            let Some(before) = name.and_then(|name| saved.replicas.iter().find(|one| one.name == name)) else {
                continue;
            };
            let [value, sd] = before.offset;
            self.kinds[replica.kind].ttft.set(SHARED + slot, value, sd);
            if before.log.iter().all(|log| log.is_finite()) {
                replica.log = before.log.map(|log| log.clamp(-5.0, 5.0));
                replica.quantiles = replica.log.map(f64::exp);
                replica.samples = before.samples;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::rates::tests::{teach, two};

    const NAMES: [Option<&str>; 2] = [Some("a"), Some("b")];

    #[test]
    fn rates_survive_a_restart_though_slots_change() {
        let mut rates = two();
        teach(&mut rates, 400, 0.2, [20.0, 90.0]);
        let saved = rates.saved(NAMES.into_iter());
        let text = toml::to_string(&saved).unwrap();
        let read: SavedRates = toml::from_str(&text).unwrap();
        let mut again = two();
        again.restore(&read, [Some("b"), Some("a")].into_iter());
        for (before, after) in [(0, 1), (1, 0)] {
            assert_eq!(rates.learned(before, None), again.learned(after, None));
            let (was, is) = (rates.uncertainty(before).unwrap(), again.uncertainty(after).unwrap());
            assert!((was.0 - is.0).abs() < 1e-9 && (was.1 - is.1).abs() < 1e-6, "{was:?} {is:?}");
        }
    }

    #[test]
    fn a_damaged_file_does_no_harm() {
        let mut rates = two();
        let mut saved = rates.saved(NAMES.into_iter());
        let before = rates.learned(0, None);
        (saved.ttft_ms, saved.output_tokens) = (f64::NAN, -3.0);
        saved.kinds[0].ttft = [[f64::INFINITY, 1.0], [1e9, -1.0], [9.0, f64::NAN], [40.0, 1e9]];
        saved.replicas[0].log = [f64::NAN; 3];
        saved.replicas[1].name = "z".to_owned();
        rates.restore(&saved, NAMES.into_iter());
        let after = rates.learned(0, None);
        assert_eq!((after.ms_per_token, after.output_tokens, after.quantiles), (before.ms_per_token, 300.0, [1.0; 3]));
        assert!(after.ms_per_waiting_token <= 0.4 && rates.uncertainty(0).unwrap().0.is_finite());
        teach(&mut rates, 400, 0.06, [20.0, 90.0]);
        assert!((rates.learned(0, None).ms_per_token / 0.06 - 1.0).abs() < 0.1);
    }
}
