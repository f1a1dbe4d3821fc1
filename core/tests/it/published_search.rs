//! The published (1+1)-ES does what it did in the recorded runs. See `tests/data/README.md`.

use gorgo_core::tuner::{Dimension, Published, PublishedConfig};

/// Steps of a recording that differ, and how many there are.
fn replay(recording: &str, (low, high): ([f64; 2], [f64; 2]), config: PublishedConfig) -> (Vec<String>, usize) {
    let rows: Vec<Vec<Option<f64>>> =
        recording.lines().skip(1).map(|line| line.split(',').map(|field| field.parse().ok()).collect()).collect();
    let dimensions = ["rtt_weight", "queue_factor"].iter().enumerate();
    let dimensions = dimensions.map(|(i, key)| Dimension::new(*key, low[i], high[i]).unwrap()).collect();
    let mut search = Published::new(config, dimensions, vec![rows[0][8].unwrap(), rows[0][9].unwrap()]);
    let mut wrong = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        // The first score is the incumbent's.
        let candidate = row[3].zip(row[4]).map_or_else(|| search.best().0.to_vec(), |(rtt, queue)| vec![rtt, queue]);
        if !candidate.iter().zip(low.iter().zip(high)).all(|(value, (&low, high))| (low..=high).contains(value)) {
            wrong.push(format!("row {i}: {candidate:?} is outside the box"));
        }
        let told = search.tell(&candidate, row[5].unwrap());
        let (best, score) = search.best();
        let near = |a: f64, b: Option<f64>| b.is_some_and(|b| (a - b).abs() <= 6e-4 * (1.0 + b.abs()));
        let same = f64::from(u8::from(told.accepted)) == row[6].unwrap()
            && near(score.unwrap(), row[7])
            && near(best[0], row[8])
            && near(best[1], row[9])
            && near(told.sigma, row[10])
            && told.success_rate.map_or(row[11].is_none(), |rate| near(rate, row[11]))
            && f64::from(u8::from(told.converged)) == row[14].unwrap();
        if !same {
            wrong.push(format!("row {i}: {told:?} {best:?} {score:?}, recorded {row:?}"));
        }
    }
    (wrong, rows.len())
}

#[test]
fn every_step_of_the_recorded_searches_is_repeated() {
    let config = PublishedConfig::default();
    let v8 = replay(include_str!("../data/tune_es_v8.csv"), ([0.05, 0.01], [5.0, 2.0]), config);
    assert_eq!(v8, (vec![], 64));
    let v9 = replay(include_str!("../data/tune_es_v9.csv"), ([0.05, 0.05], [2.0, 0.5]), config);
    assert_eq!(v9, (vec![], 52));
}

#[test]
fn a_search_that_differs_in_one_rule_is_found_out() {
    let v8 = (include_str!("../data/tune_es_v8.csv"), ([0.05, 0.01], [5.0, 2.0]));
    let v9 = (include_str!("../data/tune_es_v9.csv"), ([0.05, 0.05], [2.0, 0.5]));
    for ((recording, bounds), config) in [
        // One candidate of v9 was 0.05 % worse than the best, and accepted.
        (v9, PublishedConfig { tolerance: 0.0, ..PublishedConfig::default() }),
        (v8, PublishedConfig { sigma: 0.6, ..PublishedConfig::default() }),
        (v8, PublishedConfig { sigma_min: 0.02, ..PublishedConfig::default() }),
        (v8, PublishedConfig { max_steps: 40, ..PublishedConfig::default() }),
    ] {
        assert!(!replay(recording, bounds, config).0.is_empty(), "{config:?}");
    }
}
