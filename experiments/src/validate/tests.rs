use super::*;
use crate::records::{Records, Row};
use gorgo_core::rng;
use rand::RngExt;
use std::collections::BTreeMap;

/// 900 s of requests, two a second, to three replicas; every tenth failed.
fn record(arm: &str, slower: f64) -> Vec<Row> {
    let mut draw = rng::stream(9, "rows", 0);
    (0..1800)
        .map(|i| {
            let tokens = [18.0, 900.0, 9000.0][i % 3];
            let replica = draw.random_range(0..3u32);
            let ttft = slower * (60.0 + 0.03 * tokens + 80.0 * f64::from(replica) + 100.0 * draw.random::<f64>());
            Row {
                arm: arm.into(),
                run: "".into(),
                id: i.to_string().into(),
                at: Some(i as f64 * 500.0),
                scheduled: Some(i as f64 * 500.0 - 10.0),
                replica: Some(replica.to_string().into()),
                prompt_tokens: Some(tokens),
                router_tokens: None,
                cached_tokens: Some(tokens / 2.0),
                believed_tokens: None,
                output_tokens: Some(100.0),
                ttft: Some(ttft),
                e2e: Some(1.2 * ttft + 900.0),
                ok: i % 10 != 0,
                stages: vec![("prefill".into(), ttft / 2.0)],
            }
        })
        .collect()
}

fn records(rows: impl IntoIterator<Item = Vec<Row>>) -> Records {
    Records { source: "test".to_owned(), rows: rows.into_iter().flatten().collect(), ..Records::default() }
}

fn figure<'a>(arm: &'a ArmRows, name: &str) -> &'a RowFigure {
    arm.figures.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name}: {:?}", arm.figures))
}

#[test]
fn a_recording_agrees_with_itself_in_every_figure() {
    let a = records([record("x", 1.0)]);
    let comparison = compare_rows(&a, &a, &RowSettings::default());
    assert!(comparison.gaps().is_empty() && comparison.beyond().is_empty(), "{comparison:?}");
    let arm = &comparison.arms[0];
    assert_eq!((arm.compared, arm.answered, arm.classes.len()), (1620, 1620, 9));
    for f in arm.figures.iter().filter(|f| !f.name.ends_with("correlation")) {
        assert_eq!((f.error, f.agreement), (Some(0.0), Some(Agreement::InsideNoise)), "{f:?}");
        let (low, high) = f.noise.unwrap();
        assert!(low <= 0.0 && high >= 0.0, "{f:?}");
    }
    assert_eq!(figure(arm, "TTFT rank correlation").simulated, 1.0);
    let tpot = figure(arm, "TPOT p50, ms");
    assert!(!tpot.judged && (9.0..11.0).contains(&tpot.measured.unwrap()), "99 steps after the first: {tpot:?}");
    assert_eq!(figure(arm, "hit rate, %").measured, Some(50.0));
    assert!(figure(arm, "prefill mean, ms").measured > Some(10.0));
}

#[test]
fn an_error_beyond_the_noise_fails_and_a_limit_lets_it_pass() {
    let (a, b) = (records([record("x", 1.0)]), records([record("x", 1.2)]));
    let comparison = compare_rows(&a, &b, &RowSettings::default());
    let ttft = figure(&comparison.arms[0], "TTFT p50, ms");
    assert!((ttft.error.unwrap() - 20.0).abs() < 1e-9 && ttft.agreement == Some(Agreement::Beyond), "{ttft:?}");
    let distance = figure(&comparison.arms[0], "TTFT distance (W1), ms");
    assert!((distance.error.unwrap() - 20.0).abs() < 1e-9, "{distance:?}");
    assert!(comparison.beyond().iter().any(|(arm, f)| *arm == "x" && f.name == "TTFT p50, ms"));
    let limit = RowSettings { max_error: Some(25.0), ..RowSettings::default() };
    let comparison = compare_rows(&a, &b, &limit);
    assert!(comparison.beyond().is_empty() && comparison.gaps().is_empty());
    assert_eq!(figure(&comparison.arms[0], "TTFT p50, ms").agreement, Some(Agreement::WithinLimit));
}

#[test]
fn only_requests_that_both_answered_after_the_warm_up_count() {
    let a = records([record("x", 1.0)]);
    let mut b = a.clone();
    b.rows.retain(|row| !row.id.ends_with('1'));
    // What happened in the warm-up does not matter.
    for row in b.rows.iter_mut().filter(|row| row.at < Some(20_000.0)) {
        row.ttft = row.ttft.map(|ms| ms * 50.0);
    }
    let settings = RowSettings { warm_up_s: 20.0, ..RowSettings::default() };
    let arm = compare_rows(&a, &b, &settings).arms.remove(0);
    assert_eq!((arm.answered, arm.compared), (1584, 1408));
    assert_eq!(figure(&arm, "TTFT mean, ms").error, Some(0.0));
}

#[test]
fn equal_ids_of_other_requests_are_no_comparison() {
    let a = records([record("x", 1.0)]);
    let mut b = a.clone();
    let tokens: Vec<_> = b.rows.iter().map(|row| row.prompt_tokens).collect();
    b.rows.iter_mut().enumerate().for_each(|(i, row)| row.prompt_tokens = tokens[(i + 1) % tokens.len()]);
    let gaps = compare_rows(&a, &b, &RowSettings::default()).gaps();
    assert!(gaps.len() == 1 && gaps[0].contains("joined requests have other lengths"), "{gaps:?}");
    let unpaired = RowSettings { unpaired: true, ..RowSettings::default() };
    assert!(compare_rows(&a, &b, &unpaired).gaps().is_empty());
}

#[test]
fn arms_and_replicas_are_mapped_and_their_order_is_compared() {
    let a = records([record("slow", 1.3), record("fast", 1.0), record("same", 1.0)]);
    let mut b = records([record("fast", 1.3), record("quick", 1.0), record("same", 1.0), record("more", 1.0)]);
    for row in &mut b.rows {
        row.replica = row.replica.as_ref().map(|name| format!("r{name}").into());
    }
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<BTreeMap<_, _>>();
    let settings = RowSettings {
        arms: map(&[("slow", "fast"), ("fast", "quick")]),
        replicas: map(&[("0", "r0"), ("1", "r1"), ("2", "r2")]),
        ..RowSettings::default()
    };
    let comparison = compare_rows(&a, &b, &settings);
    assert!(comparison.beyond().is_empty(), "{:?}", comparison.beyond());
    assert_eq!(comparison.gaps(), ["arm `more` is in the simulated source only"]);
    assert_eq!(figure(&comparison.arms[0], "share of 1, %").error, Some(0.0));
    let mean: Vec<_> = comparison.order.iter().filter(|o| o.figure == "TTFT mean").collect();
    let told: Vec<_> = mean.iter().map(|o| (o.better.as_str(), o.worse.as_str(), o.agrees)).collect();
    assert_eq!(told, [("fast", "slow", true), ("same", "slow", true)]);
    // Without the map the arms of one name are opposite.
    let wrong = compare_rows(&a, &b, &RowSettings { replicas: settings.replicas.clone(), ..RowSettings::default() });
    assert!(wrong.gaps()[0].contains("no arm `slow`"), "{:?}", wrong.gaps());
    assert!(rows_table(&comparison, true, usize::MAX).contains("long 2"));
    assert!(curves(&comparison).unwrap().svg().unwrap().contains("simulated"));
}

#[test]
fn nothing_to_compare_is_a_gap() {
    let a = records([record("x", 1.0)]);
    let gaps = |b: &Records, settings: &RowSettings| compare_rows(&a, b, settings).gaps().join("\n");
    let mut others = a.clone();
    others.rows.iter_mut().for_each(|row| row.id = format!("other {}", row.id).into());
    assert!(gaps(&others, &RowSettings::default()).contains("--columns id="));
    assert_eq!(gaps(&others, &RowSettings { unpaired: true, ..RowSettings::default() }), "");
    let mut silent = a.clone();
    silent.rows.iter_mut().for_each(|row| row.ttft = None);
    assert!(gaps(&silent, &RowSettings::default()).contains("x: TTFT p50, ms cannot be compared"));
    let mut lost = a.clone();
    lost.rows.iter_mut().for_each(|row| row.ttft = Some(f64::NAN));
    assert!(gaps(&lost, &RowSettings::default()).contains("x: TTFT p50, ms cannot be compared"));
    let short = Records { rows: a.rows[..40].to_vec(), ..Records::default() };
    let few = compare_rows(&short, &short, &RowSettings::default());
    assert!(few.gaps().join("").contains("give --max-error"), "{few:?}");
    let limit = RowSettings { max_error: Some(5.0), ..RowSettings::default() };
    assert!(compare_rows(&short, &short, &limit).gaps().is_empty());
}

#[test]
fn seeds_are_pooled_and_ranks_are_taken_on_the_same_replica() {
    let a = records([record("x", 1.0)]);
    let seed = |run: &str, other: bool| {
        let mut rows = record("x", 1.0);
        for row in &mut rows {
            row.run = run.into();
            if other {
                // Sent elsewhere, with a latency that says nothing of the measured one.
                row.replica = Some("elsewhere".into());
                row.ttft = Some(200.0);
            }
        }
        rows
    };
    let b = records([seed("1", false), seed("2", true)]);
    let arm = compare_rows(&a, &b, &RowSettings::default()).arms.remove(0);
    assert_eq!(figure(&arm, "TTFT rank correlation").simulated, 1.0);
    assert_eq!(arm.compared, 1620);
    let half = figure(&arm, "share of 0, %");
    assert!((half.simulated - half.measured.unwrap() / 2.0).abs() < 1e-9);
}

#[test]
fn a_belief_that_no_request_recorded_is_not_compared() {
    let believed = |tokens: f64| {
        let mut rows = record("x", 1.0);
        rows.iter_mut().for_each(|row| row.believed_tokens = Some(tokens));
        records([rows])
    };
    let has = |measured: &Records, simulated: &Records| {
        let comparison = compare_rows(measured, simulated, &RowSettings::default());
        comparison.arms[0].figures.iter().any(|f| f.name == "believed hit rate, %")
    };
    assert!(has(&believed(9.0), &believed(5.0)) && has(&believed(9.0), &believed(0.0)));
    assert!(!has(&believed(0.0), &believed(5.0)), "as live runs have it");
}

/// Runs by seed: each has prompts and latencies of its own.
fn seeded(seeds: &[usize]) -> Records {
    records(seeds.iter().map(|&seed| {
        let mut rows = record("x", 1.0 + 0.1 * seed as f64);
        for (i, row) in rows.iter_mut().enumerate() {
            row.run = seed.to_string().into();
            row.prompt_tokens = Some([18.0, 900.0, 9000.0][(i + seed) % 3]);
        }
        rows
    }))
}

fn without_runs(mut records: Records) -> Records {
    records.rows.iter_mut().for_each(|row| row.run = "".into());
    records
}

#[test]
fn sources_with_other_seeds_are_joined_by_those_that_are_common() {
    let comparison = compare_rows(&seeded(&[0, 1, 2]), &seeded(&[1, 2, 3, 4]), &RowSettings::default());
    let arm = &comparison.arms[0];
    assert_eq!((arm.compared, arm.answered), (3240, 3240));
    assert_eq!(figure(arm, "TTFT mean, ms").error, Some(0.0));
    assert_eq!(
        arm.notes,
        [
            "run 0 of the measured source has no partner and is left out",
            "runs 3, 4 of the simulated source are left out, each of which has no partner"
        ]
    );
    assert!(comparison.gaps().is_empty(), "{:?}", comparison.gaps());
    assert!(rows_table(&comparison, false, usize::MAX).contains("note: run 0"));
    let none = compare_rows(&seeded(&[0]), &seeded(&[1, 2]), &RowSettings::default()).gaps();
    assert!(none[0].contains("no run in common (measured: 0; simulated: 1, 2)"), "{none:?}");
}

#[test]
fn a_source_without_runs_is_joined_with_the_run_of_its_requests_or_refused() {
    let (lone, several) = (without_runs(seeded(&[1])), seeded(&[0, 1, 2]));
    for (a, b, side) in [(&lone, &several, "simulated"), (&several, &lone, "measured")] {
        let comparison = compare_rows(a, b, &RowSettings::default());
        let arm = &comparison.arms[0];
        assert_eq!((arm.compared, figure(arm, "TTFT mean, ms").error), (1620, Some(0.0)), "{side}");
        assert_eq!(
            arm.notes,
            [format!("runs 0, 2 of the {side} source are left out, each of which holds other requests")]
        );
    }
    let mut other = lone;
    other.rows.iter_mut().for_each(|row| row.prompt_tokens = Some(50_000.0));
    for (a, b, named) in
        [(&other, &several, "the simulated source (0, 1, 2)"), (&several, &other, "the measured source (0, 1, 2)")]
    {
        let gaps = compare_rows(a, b, &RowSettings::default()).gaps();
        assert!(gaps[0].contains("do not tell which run") && gaps[0].contains(named), "{gaps:?}");
    }
}

#[test]
fn repeated_ids_count_once_and_are_noted() {
    let once = records([record("x", 1.0)]);
    let twice = records([record("x", 1.0), record("x", 3.0)]);
    for (a, b, side) in [(&twice, &once, "measured"), (&once, &twice, "simulated")] {
        let arm = compare_rows(a, b, &RowSettings::default()).arms.remove(0);
        assert_eq!((arm.compared, figure(&arm, "TTFT mean, ms").error), (1620, Some(0.0)));
        let note = format!("1620 answered requests of the {side} source repeat the id");
        assert!(
            arm.notes[0].starts_with(&note) && arm.notes[0].contains("the first is `1`, 2 times"),
            "{:?}",
            arm.notes
        );
        let gaps = compare_rows(a, b, &RowSettings { max_error: Some(5.0), ..RowSettings::default() }).gaps();
        assert!(gaps[0].starts_with("x: 1620 of 3240 answered requests of the") && gaps[0].contains("`1`"), "{gaps:?}");
    }
    let mut odd = once.clone();
    odd.rows.push(odd.rows[1].clone());
    let comparison = compare_rows(&odd, &once, &RowSettings::default());
    assert!(comparison.gaps().is_empty() && comparison.arms[0].notes.len() == 1, "a few repeats are no gap");
}

#[test]
fn a_recording_of_far_too_many_blocks_is_a_gap() {
    let mut a = records([record("x", 1.0)]);
    a.rows[1].at = Some(1e12);
    for max_error in [None, Some(5.0)] {
        let settings = RowSettings { max_error, ..RowSettings::default() };
        let gaps = compare_rows(&a, &a, &settings).gaps().join("\n");
        assert!(gaps.contains("the unit of times may be wrong"), "{gaps}");
    }
}

#[test]
fn the_tables_fit_the_width() {
    let a = records([record("x", 1.0), record("y", 1.4)]);
    let mut b = a.clone();
    b.rows.extend(a.rows.clone());
    let long = |mut records: Records| {
        records
            .rows
            .iter_mut()
            .for_each(|row| row.replica = row.replica.as_ref().map(|n| format!("san-francisco-{n}").into()));
        records
    };
    let comparison = compare_rows(&long(a), &long(b), &RowSettings::default());
    let (narrow, wide) = (rows_table(&comparison, true, 80), rows_table(&comparison, true, usize::MAX));
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    assert!(narrow.contains("E2E left out") && narrow.contains("note: "), "{narrow}");
    assert!(wide.contains("share of san-francisco-0, %") && !wide.contains("left out, it is"), "{wide}");
}
