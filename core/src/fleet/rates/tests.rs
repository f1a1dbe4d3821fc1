use super::*;
use crate::rng::stream;
use rand::RngExt;

/// Dispatches `count` requests to two replicas of one kind whose truth is known.
pub(super) fn teach(rates: &mut Rates, count: usize, ms_per_token: f64, offsets: [f64; 2]) -> f64 {
    let mut rng = stream(7, "rates", 0);
    let (mut error, mut counted) = (0.0, 0);
    for i in 0..count {
        let slot = usize::from(rng.random::<bool>());
        let (uncached, running) = (rng.random_range(10..6_000u32), rng.random_range(0..12u32));
        let learned = rates.learned(slot, None);
        let predicted_ms = learned.ttft_ms(uncached, 0, running, 0);
        let y = offsets[slot] + ms_per_token * f64::from(uncached) + 6.0 * f64::from(running);
        let noisy = y * rng.random_range(0.9..1.1);
        let at = Time::from_ms(1e4 * i as f64);
        let booked = Booked { at, network_ms: 50.0, uncached, running, predicted_ms, ..Booked::default() };
        rates.first_token(slot, Time::from_ms(at.ms() + 50.0 + noisy), running, Some(&booked), uncached);
        if i >= count / 2 {
            error += (predicted_ms - y) / y;
            counted += 1;
        }
    }
    error / f64::from(counted)
}

pub(super) fn two() -> Rates {
    let mut rates = Rates::default();
    (0..2).for_each(|slot| rates.joined(slot, None));
    rates
}

#[test]
fn rates_and_offsets_are_found_whatever_the_prior() {
    for ms_per_token in [0.015, 0.06, 0.2] {
        let mut rates = two();
        let bias = teach(&mut rates, 800, ms_per_token, [20.0, 90.0]);
        let learned = [rates.learned(0, None), rates.learned(1, None)];
        assert!((learned[0].ms_per_token / ms_per_token - 1.0).abs() < 0.08, "{learned:?}");
        assert!((learned[1].offset_ms - learned[0].offset_ms - 70.0).abs() < 20.0, "{learned:?}");
        assert!(bias.abs() < 0.1, "{ms_per_token}: mean relative error {bias}");
        assert!((learned[0].quantiles[0] - 1.0).abs() < 0.1 && learned[0].quantiles[2] > learned[0].quantiles[0]);
        let (sd, _) = rates.uncertainty(0).unwrap();
        assert!(sd < 0.01, "{sd}");
    }
}

#[test]
fn decode_steps_are_found_from_ends_alone() {
    let mut rates = two();
    let mut rng = stream(7, "rates", 1);
    let mut now = 0.0;
    for _ in 0..400 {
        let (running, outputs) = (rng.random_range(1..16u32), rng.random_range(20..300u32));
        let started = rates.first_token(0, Time::from_ms(now), 0, None, 0);
        let decoded = f64::from(outputs - 1) * (6.0 + 0.9 * f64::from(running - 1));
        now += decoded;
        rates.ended(0, Time::from_ms(now), running, started, Some((started.at, outputs)));
    }
    let learned = rates.learned(0, None);
    assert!((learned.step_ms - 6.0).abs() < 0.5, "{learned:?}");
    assert!((learned.step_ms_per_running - 0.9).abs() < 0.1, "{learned:?}");
    assert!((100.0..220.0).contains(&learned.output_tokens));
}

#[test]
fn kappa_follows_the_run_within_its_bounds() {
    let mut rates = two();
    let first = rates.learned(0, None).kappa;
    assert!((first - 0.1).abs() < 1e-9);
    for i in 0..2_000 {
        let arrived = Time::from_ms(f64::from(i) * 1e4);
        let started = rates.first_token(0, Time::from_ms(arrived.ms() + 200.0), 0, None, 0);
        rates.ended(0, Time::from_ms(arrived.ms() + 2_000.0), 1, started, Some((arrived, 50)));
    }
    assert!((rates.learned(0, None).kappa - 0.125).abs() < 1e-6, "{}", rates.learned(0, None).kappa);
}

#[test]
fn a_new_replica_in_a_slot_keeps_the_kinds_rates_and_not_the_offset() {
    let mut rates = two();
    teach(&mut rates, 400, 0.2, [20.0, 300.0]);
    let before = rates.learned(1, None);
    rates.joined(1, None);
    let after = rates.learned(1, None);
    assert_eq!((after.ms_per_token, after.offset_ms), (before.ms_per_token, OFFSET.mean));
    rates.joined(1, Some(0.02));
    assert_eq!(rates.learned(1, Some(0.02)).ms_per_token, 0.02, "another kind of GPU has its own prior");
}
