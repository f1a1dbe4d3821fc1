use super::*;
use crate::results::test_data::{points, run};
use crate::stats::paired;

fn difference(arm: [f64; 3], base: [f64; 3]) -> Difference {
    paired(&arm.into_iter().zip(base).collect::<Vec<_>>()).unwrap()
}

/// Findings of arms under two loads: each load is twice as slow as the one before.
fn under_loads(arms: &[&str], seeds: u64) -> Vec<Point> {
    let mut all = Vec::new();
    for (l, rate) in ["3.8", "5.0"].iter().enumerate() {
        for (a, arm) in arms.iter().enumerate() {
            for seed in 1..=seeds {
                let mut run = run(arm, seed, 200 * (l as u64 + 1));
                run.arm = format!("{arm} rate={rate}");
                run.baseline = format!("{} rate={rate}", arms[0]);
                run.settings = [("workload.rate".to_owned(), (*rate).to_owned())].into();
                all.push(Point::of((l * arms.len() + a) as u32, &run));
            }
        }
    }
    all
}

#[test]
fn the_verdict_names_the_best_arm_of_each_load_and_objective() {
    insta::assert_snapshot!(lines(&verdicts(&under_loads(&["least-load", "gorgo"], 4))));
}

#[test]
fn arms_that_do_the_same_show_no_difference() {
    let found = verdicts(&points(&["least-load", "another", "a third"], 3, 200));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].load, "");
    for finding in &found[0].findings {
        // Equal runs: the baseline leads as the first of the file, and every other arm is level with it.
        assert_eq!((finding.best.as_str(), finding.tied.len()), ("least-load", 2));
        assert!(finding.text().starts_with("no difference shown: lowest is least-load"), "{}", finding.text());
    }
}

#[test]
fn one_seed_and_one_arm_claim_nothing() {
    let one_seed = verdicts(&points(&["least-load", "gorgo"], 1, 200));
    assert!(one_seed[0].findings.iter().all(|f| f.text().contains("one seed shows no difference from chance")));
    let one_arm = verdicts(&points(&["gorgo"], 3, 200));
    assert!(one_arm[0].findings.iter().all(|f| f.text().ends_with("no other arm to compare with")));
    assert!(verdicts(&[]).is_empty());
    assert_eq!(lines(&verdicts(&points(&["gorgo"], 2, 0))), "");
}

#[test]
fn an_arm_that_answers_fewer_requests_is_not_ranked() {
    let mut all = points(&["least-load", "gorgo"], 3, 200);
    for point in all.iter_mut().filter(|p| p.arm == "gorgo") {
        point.counts.finished /= 2;
        point.loaded.good /= 4;
    }
    let found = &verdicts(&all)[0];
    let (goodput, latencies) = found.findings.split_first().unwrap();
    assert!(goodput.objective == "goodput" && goodput.higher && goodput.best == "least-load", "{goodput:?}");
    assert!(goodput.text().contains(" higher than gorgo"), "{}", goodput.text());
    assert!(latencies.len() == 4 && latencies.iter().all(|f| f.best == "least-load"), "{found:?}");
    let said = found.shares_text().unwrap();
    assert!(said.contains("gorgo (49.") && said.contains("answered requests only"), "{said}");
    assert!(lines(&verdicts(&all)).contains(&said));
}

#[test]
fn sentences_of_every_outcome() {
    let (low, high) =
        (difference([90.0, 91.0, 92.0], [100.0, 102.0, 101.0]), difference([90.0, 91.0, 92.0], [95.0, 94.0, 98.0]));
    let finding = |is_baseline: bool, baseline: bool, tied: &[&str]| Finding {
        objective: "TTFT p50",
        higher: false,
        best: "gorgo".to_owned(),
        value: Estimate { value: 91.0, ci95: Some(2.0) },
        baseline: baseline.then(|| ("least-load".to_owned(), low)),
        is_baseline,
        next: Some(("prefix-tree".to_owned(), high)),
        tied: tied.iter().map(|&name| name.to_owned()).collect(),
    };
    let many: Vec<String> = (0..9).map(|i| format!("arm {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let texts = [
        finding(false, true, &[]),
        finding(false, true, &["prefix-tree"]),
        finding(false, true, &["prefix-tree", "least-load"]),
        finding(true, false, &[]),
        finding(true, false, &many),
    ];
    insta::assert_snapshot!(texts.map(|f| f.text()).join("\n"));
}

#[test]
fn equal_arms_are_called_equal_and_an_objective_that_no_request_met_is_said() {
    for finding in &verdicts(&points(&["least-load", "another"], 1, 200))[0].findings {
        let text = finding.text();
        assert!(text.contains(", equal to another; one seed") && !text.contains("0.0 %"), "{text}");
    }
    let mut all = points(&["least-load", "another"], 3, 200);
    all.iter_mut().for_each(|p| (p.loaded.slo, p.loaded.good) = (Some("TTFT <= 1 ms".to_owned()), 0));
    let goodput = &verdicts(&all)[0].findings[0];
    assert_eq!(
        (goodput.objective, goodput.text().as_str()),
        ("goodput", "no arm answered a request within the objective")
    );
}
