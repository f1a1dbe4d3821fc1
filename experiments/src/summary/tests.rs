use super::loads::short_names;
use super::*;
use crate::results::test_data::{points, run};
use crate::stats::Verdict;

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} is not {b}");
}

/// A point whose requests have exactly these times to first token, ms.
fn with_ttft(arm: &str, position: u32, seed: u64, ttft_ms: &[f64]) -> Point {
    let mut run = run(arm, seed, ttft_ms.len() as u64);
    for (r, &ms) in run.records.iter_mut().zip(ttft_ms) {
        r.first_token = (r.sent + gorgo_core::Span::from_ms(ms)).into();
    }
    run.baseline = "base".to_owned();
    Point::of(position, &run)
}

// Three seeds with means 20, 22, 27. numpy 1.24.2 and scipy 1.10.1: mean 23, `stats.t.ppf(.975, 2) * stats.sem` below.
#[test]
fn a_row_is_the_mean_over_seeds_with_students_interval() {
    let seeds = [[10.0, 20.0, 30.0], [12.0, 22.0, 32.0], [17.0, 27.0, 37.0]];
    let points: Vec<Point> = (1..).zip(&seeds).map(|(seed, v)| with_ttft("a", 0, seed, v)).collect();
    let row = &summarize(&points)[0];
    let ttft = row.ttft_ms.unwrap();
    close(ttft.mean.value, 23.0);
    close(ttft.mean.ci95.unwrap(), 4.302_652_729_911_275 * (13.0f64 / 3.0).sqrt());
    close(ttft.p90.value, 31.0);
    assert_eq!((ttft.max, ttft.samples, row.seeds.as_slice()), (37.0, 9, [1, 2, 3].as_slice()));
}

#[test]
fn arms_are_paired_by_seed_with_their_baseline() {
    let points = [
        with_ttft("base", 0, 1, &[10.0]),
        with_ttft("base", 0, 2, &[30.0]),
        with_ttft("base", 0, 3, &[50.0]),
        with_ttft("fast", 1, 2, &[28.0]),
        with_ttft("fast", 1, 3, &[47.9]),
        with_ttft("single", 2, 3, &[20.0]),
        with_ttft("strange", 3, 9, &[20.0]),
    ];
    let rows = summarize(&points);
    assert!(rows[0].against_baseline.is_none());
    let fast = rows[1].against_baseline.as_ref().unwrap();
    let mean = fast.ttft.mean.unwrap();
    close(mean.value, -2.05);
    close(mean.percent.unwrap(), -2.05 / 40.0 * 100.0);
    assert_eq!((mean.seeds, mean.verdict, fast.baseline.as_str()), (2, Some(Verdict::Better), "base"));
    let single = rows[2].against_baseline.as_ref().unwrap().ttft.mean.unwrap();
    assert_eq!((single.value, single.verdict), (-30.0, None));
    assert!(rows[3].against_baseline.is_none(), "no seed in common");

    // Two groups of arms: each is compared inside its own.
    let mut points = Vec::new();
    for (position, (arm, baseline, ms)) in
        [("a 1", "a 1", 10.0), ("b 1", "a 1", 9.0), ("a 2", "a 2", 100.0), ("b 2", "a 2", 120.0)].iter().enumerate()
    {
        let mut point = with_ttft(arm, position as u32, 1, &[*ms]);
        (*baseline).clone_into(&mut point.baseline);
        points.push(point);
    }
    let of =
        |i: usize| summarize(&points)[i].against_baseline.clone().map(|a| (a.baseline, a.ttft.mean.unwrap().value));
    assert_eq!([of(0), of(2)], [None, None]);
    assert_eq!([of(1), of(3)], [Some(("a 1".to_owned(), -1.0)), Some(("a 2".to_owned(), 20.0))]);
}

#[test]
fn gorgo_finds_more_in_the_cache_and_is_judged_better() {
    let rows = summarize(&points(&["least-load", "gorgo"], 5, 300));
    let (base, gorgo) = (&rows[0], &rows[1]);
    assert!(gorgo.hit_rate.unwrap().value > 1.5 * base.hit_rate.unwrap().value);
    assert_eq!(gorgo.against_baseline.as_ref().unwrap().ttft.mean.unwrap().verdict, Some(Verdict::Better));
    close(gorgo.share.iter().map(|s| s.share).sum(), 1.0);
    assert!(base.prediction.ttft_mean_abs_ms.is_none(), "a policy without an estimate has no error");
    assert!(gorgo.prediction.cache_bias_tokens.unwrap() < 0.0);
}

#[test]
fn csv_and_json_hold_the_same_figures() {
    let rows = summarize(&points(&["least,load", "gorgo \"x\""], 2, 50));
    let mut text = Vec::new();
    write_csv(&mut text, &rows).unwrap();
    let mut csv = csv::Reader::from_reader(text.as_slice());
    let header = csv.headers().unwrap().clone();
    let cells: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    let cell = |row: usize, name: &str| cells[row].get(header.iter().position(|h| h == name).unwrap()).unwrap();
    assert_eq!((cells.len(), cell(0, "arm"), cell(1, "arm")), (2, "least,load", "gorgo \"x\""));
    let p95 = rows[1].ttft_ms.unwrap().p95;
    assert!((cell(1, "ttft_p95_ms").parse::<f64>().unwrap() - p95.value).abs() < 1e-6);
    assert_eq!((cell(0, "ttft_mean_vs_baseline"), cell(1, "baseline")), ("", "least,load"));
    let json = serde_json::to_string(&rows).unwrap();
    assert!(serde_json::from_str::<Vec<ArmSummary>>(&json).unwrap() == rows);
}

#[test]
fn no_points_make_no_rows_and_empty_arms_make_empty_cells() {
    assert!(summarize(&[]).is_empty());
    let rows = summarize(&points(&["least-load", "gorgo"], 2, 0));
    assert!(rows[1].ttft_ms.is_none() && rows[1].hit_rate.is_none());
    let mut text = Vec::new();
    write_csv(&mut text, &rows).unwrap();
    assert_eq!(String::from_utf8(text).unwrap().lines().count(), 3);
}

#[test]
fn short_names_keep_what_tells_arms_apart() {
    let names = ["least-load", "gorgo a=1 b=2 c=3", "gorgo a=2 b=2 c=3", "gorgo-v2 a=1 b=2 c=3"];
    assert_eq!(short_names(&names), ["least-load", "gorgo a=1", "gorgo a=2", "gorgo-v2 a=1"]);
    assert_eq!(short_names(&["gorgo a=1", "x"]), ["gorgo a=1", "x"], "one long name shares nothing");
    assert!(short_names(&[]).is_empty());
}

#[test]
fn an_arm_that_drops_requests_is_never_called_better() {
    let mut points = crate::results::test_data::points(&["patient", "gorgo"], 3, 200);
    for point in points.iter_mut().filter(|p| p.arm == "gorgo") {
        point.counts.finished /= 2;
        point.loaded.good /= 2;
        point.reasons.insert("deadline".to_owned(), 90);
    }
    let arms = summarize(&points);
    let sentence = unequal(&arms).unwrap();
    assert!(sentence.contains("gorgo leaves") && sentence.contains("270 deadline"), "{sentence}");
    assert_eq!(by_goodput(&arms)[0].arm, "patient");
    let table = crate::table::comparison(&arms, crate::table::WIDTH);
    assert!(table.contains("unequal shares") && !table.contains("better"), "{table}");
    let page = crate::report::html(&crate::results::test_data::results(points)).unwrap();
    assert!(page.contains("unequal shares") && page.contains("not ranked by latency: gorgo ("));
    assert!(!page.contains("Lowest mean time to first token"));
    let fair = summarize(&crate::results::test_data::points(&["least-load", "gorgo"], 3, 200));
    assert_eq!(unequal(&fair), None);
}
