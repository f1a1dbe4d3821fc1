//! Types of sandboxes, by GPU and count, with the account's own rates.

use crate::error::{Error, Result};
use crate::provider::{Offer, Region};
use std::collections::BTreeMap;

/// GPUs as types name them and as Modal does, with the most in one sandbox.
const GPUS: [(&str, &str, u32); 12] = [
    ("t4", "T4", 8),
    ("l4", "L4", 8),
    ("a10", "A10", 4),
    ("l40s", "L40S", 8),
    ("a100", "A100", 8),
    ("a100_40gb", "A100-40GB", 8),
    ("a100_80gb", "A100-80GB", 8),
    ("rtx_pro_6000", "RTX-PRO-6000", 8),
    ("h100", "H100", 8),
    ("h200", "H200", 8),
    ("b200", "B200", 8),
    ("b200plus", "B200+", 8),
];

/// A sandbox without a GPU, for the emulated engine.
const PLAIN: &str = "cpu";

/// Regions that users of Modal name; others pass.
const REGIONS: [&str; 8] = ["any", "us", "us-east", "us-west", "eu", "eu-west", "ap", "ap-northeast"];

/// What a rate that the account does not tell is counted as, US cents an hour: more than any GPU cost so far.
const UNKNOWN: u64 = 1_000;

/// GPU and count of a type; no GPU for `cpu`.
///
/// # Errors
/// When the type is none of ours.
pub(super) fn gpu(machine: &str) -> Result<Option<(String, u32)>> {
    if machine == PLAIN {
        return Ok(None);
    }
    let parts = machine.strip_prefix("gpu_").and_then(|rest| rest.split_once("x_"));
    let known = parts.and_then(|(count, name)| {
        let (_, gpu, most) = GPUS.iter().find(|(known, _, _)| *known == name)?;
        let count = count.parse::<u32>().ok().filter(|count| (1..=*most).contains(count))?;
        Some((String::from(*gpu), count))
    });
    let remedy = "name a type of `gorgo available --cloud modal`";
    known
        .map(Some)
        .ok_or_else(|| Error::usage(format!("type `{machine}`"), "none of Modal's GPUs, or too many of them", remedy))
}

/// Percent of the base price: a region costs half as much more, a narrow one three quarters.
pub(super) fn percent(region: &str) -> u64 {
    match region {
        "any" => 100,
        broad if !broad.contains('-') => 150,
        _ => 175,
    }
}

/// All types, priced by the account's rates.
pub(super) fn offers(rates: &BTreeMap<String, String>) -> Vec<Offer> {
    let regions: Vec<Region> = REGIONS
        .iter()
        .map(|name| {
            let description = if *name == "any" { String::new() } else { format!("{} % of the price", percent(name)) };
            Region { name: (*name).to_owned(), description }
        })
        .collect();
    let offer = |name: String, gpu: &str, count: u32| {
        let rate = cents(rates, gpu);
        let cents_per_hour = Some(rate.unwrap_or(UNKNOWN) * u64::from(count.max(1)));
        let unknown = if rate.is_none() { ", price unknown and counted high" } else { "" };
        let description =
            if count == 0 { format!("no GPU{unknown}") } else { format!("{count} x {gpu}, sandbox{unknown}") };
        Offer { name, description, gpus: count, cents_per_hour, regions: regions.clone() }
    };
    let mut all = vec![offer(PLAIN.to_owned(), "CPU", 0)];
    for (name, gpu, most) in GPUS {
        all.extend(
            [1, 2, 4, 8]
                .iter()
                .filter(|count| **count <= most)
                .map(|count| offer(format!("gpu_{count}x_{name}"), gpu, *count)),
        );
    }
    all
}

/// Cents an hour of one GPU, where the account's rates name it. Their keys are not published: a key is compared by its
/// letters and digits, with a unit at its end, and a rate below 5 cents is one by the second.
fn cents(rates: &BTreeMap<String, String>, gpu: &str) -> Option<u64> {
    let plain = |text: &str| -> String {
        let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '+');
        kept.collect::<String>().to_lowercase()
    };
    let wanted = plain(gpu);
    let is_it = |key: &str| {
        let key = plain(key);
        let key = key.strip_prefix("gpu").unwrap_or(&key);
        let end = ["", "hour", "hours", "perhour", "gpuhour", "gpuhours", "second", "seconds", "persecond"];
        key.strip_prefix(&wanted).is_some_and(|rest| end.contains(&rest))
    };
    let rate = rates.iter().find(|(key, _)| is_it(key))?.1.parse::<f64>().ok()?;
    let dollars = if rate < 0.05 { rate * 3_600.0 } else { rate };
    (dollars > 0.0 && dollars < 10_000.0).then_some((dollars * 100.0).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_name_a_gpu_and_a_count_within_modals_limits() {
        assert_eq!(gpu("gpu_8x_h100").unwrap(), Some(("H100".to_owned(), 8)));
        assert_eq!(gpu("gpu_1x_a100_80gb").unwrap(), Some(("A100-80GB".to_owned(), 1)));
        assert_eq!(gpu("cpu").unwrap(), None);
        for wrong in ["gpu_8x_a10", "gpu_0x_h100", "gpu_1x_z9", "h100", "gpu_x_h100", "gpu_9x_h100"] {
            assert!(gpu(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_read_by_hour_or_second_and_an_unknown_one_is_counted_high() {
        let rates =
            [("GPU_H100", "3.95"), ("A100-40GB per second", "0.000583"), ("h200", "free"), ("a100_80gb", "2.5")];
        let rates: BTreeMap<String, String> = rates.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let all = offers(&rates);
        let price = |name: &str| all.iter().find(|offer| offer.name == name).unwrap().cents_per_hour.unwrap();
        assert_eq!((price("gpu_1x_h100"), price("gpu_8x_h100")), (395, 3_160));
        assert_eq!((price("gpu_1x_a100_40gb"), price("gpu_1x_a100_80gb")), (210, 250));
        assert_eq!((price("gpu_1x_a100"), price("gpu_2x_h200")), (UNKNOWN, 2 * UNKNOWN));
        assert!(all.iter().find(|offer| offer.name == "gpu_1x_h200").unwrap().description.contains("unknown"));
        assert!(all.iter().all(|offer| offer.name != "gpu_8x_a10"));
    }

    #[test]
    fn a_region_costs_more_and_a_narrow_one_most() {
        assert_eq!(["any", "us", "us-west"].map(percent), [100, 150, 175]);
    }
}
