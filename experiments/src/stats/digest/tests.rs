use super::*;
use proptest::prelude::*;

fn ms(values: &[f64]) -> Digest {
    Digest::of(values.iter().map(|&v| Span::from_ms(v)))
}

// numpy 1.24.2: `np.percentile(v, p)` with its default method, "linear".
#[test]
fn percentiles_agree_with_numpy() {
    let digest = ms(&[90.0, 15.0, 35.0, 20.0, 55.5, 40.0, 50.0]);
    let expected = [15.0, 40.0, 69.3, 79.65, 87.93, 90.0];
    for (got, expected) in digest.quantiles(&[0.0, 0.5, 0.9, 0.95, 0.99, 1.0]).into_iter().zip(expected) {
        assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
    }
    assert!((digest.mean_ms().unwrap() - 305.5 / 7.0).abs() < 1e-12);
    assert_eq!(digest.max_ms(), Some(90.0));
}

#[test]
fn no_samples_have_no_figures_and_one_sample_is_every_percentile() {
    let none = Digest::default();
    assert_eq!((none.mean_ms(), none.max_ms(), none.quantile(0.5)), (None, None, None));
    assert_eq!(ms(&[7.0]).quantiles(&[0.0, 0.5, 0.99, 1.0]), [7.0; 4]);
}

#[test]
fn a_histogram_counts_each_sample_at_its_upper_edge() {
    let digest =
        Digest::of_histogram(&[(20.0, 1), (5.0, 0), (10.0, 3)].map(|(upper_ms, count)| GapBucket { upper_ms, count }));
    assert_eq!(digest.samples(), 4);
    assert_eq!(digest.mean_ms(), Some(12.5));
    assert_eq!(digest.quantile(1.0 / 3.0), Some(10.0));
    assert_eq!(digest.quantile(5.0 / 6.0), Some(15.0));
}

fn sorted_quantile(values: &[u64], p: f64) -> f64 {
    let rank = (values.len() - 1) as f64 * p;
    let low = values[rank.floor() as usize] as f64;
    let high = values[rank.ceil() as usize] as f64;
    (low + (high - low) * rank.fract()) / 1e6
}

#[test]
fn many_samples_stay_small_and_within_a_thousandth() {
    let mut values: Vec<u64> = (1..=200_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40)).collect();
    let digest = Digest::of(values.iter().map(|&v| Span(v)));
    values.sort_unstable();
    assert!(digest.values.len() < 16_000, "{}", digest.values.len());
    for p in [0.001, 0.5, 0.9, 0.99, 0.9999, 1.0] {
        let (got, exact) = (digest.quantile(p).unwrap(), sorted_quantile(&values, p));
        assert!((got / exact - 1.0).abs() <= 1.0 / 1024.0, "p={p}: {got} for {exact}");
    }
    assert_eq!(digest.max_ms(), Some(values[values.len() - 1] as f64 / 1e6));
}

proptest! {
    #[test]
    fn quantiles_are_those_of_the_sorted_samples(mut values in prop::collection::vec(0u64..1 << 50, 1..200), p in 0.0f64..=1.0) {
        let digest = Digest::of(values.iter().map(|&v| Span(v)));
        values.sort_unstable();
        let (got, exact) = (digest.quantile(p).unwrap(), sorted_quantile(&values, p));
        prop_assert!((got - exact).abs() <= 1e-9 * exact.max(1.0), "{} for {}", got, exact);
    }
}

proptest! {
    // Thousands of samples a case: a few cases reach every path.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn merging_in_any_grouping_gives_the_digest_of_all(sizes in prop::array::uniform3(0usize..3000), spread in 1u64..1 << 40) {
        let mut next = 1u64;
        let parts = sizes.map(|size| {
            Digest::of((0..size).map(|_| {
                next = next.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
                Span(next % spread)
            }))
        });
        let left = parts[0].merge(&parts[1]).merge(&parts[2]);
        let right = parts[2].merge(&parts[1]).merge(&parts[0]);
        prop_assert_eq!(&left, &right);
        prop_assert_eq!(left.samples(), sizes.iter().sum::<usize>() as u64);
    }

    #[test]
    fn files_give_the_digest_back(values in prop::collection::vec(0u64..1 << 44, 0..6000)) {
        let digest = Digest::of(values.iter().map(|&v| Span(v)));
        let text = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
    }
}
