use super::*;
use crate::fleet::Load;
use crate::policy::EngineView;
use crate::policy::select::tests::{fleet, idle};
use crate::rng::stream;

fn choose(config: &GorgoConfig, request: u32, candidates: &[Candidate]) -> (Selection, Vec<CostTerms>) {
    let mut terms = vec![CostTerms::default(); candidates.len()];
    let request = RequestInfo { prompt_tokens: request, ..RequestInfo::default() };
    let choice = Gorgo::new(config).choose(&request, candidates, &mut terms, &mut stream(1, "policy", 0));
    (choice, terms)
}

fn loaded() -> Candidate {
    Candidate {
        rtt_ms: 25.6,
        cached_tokens: 4096,
        load: Load {
            waiting_requests: 1,
            waiting_tokens: 900,
            waiting_uncached_tokens: 300,
            running_requests: 3,
            running_tokens: 15_000,
        },
        engine: Some(EngineView {
            running: 3,
            queued: 0,
            used_tokens: 48_000,
            age_ms: 12_000.0,
            ..EngineView::default()
        }),
        ..idle(0)
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs().max(1.0)
}

#[test]
fn each_preset_weighs_the_worked_example_as_published() {
    for (preset, expected) in [
        (Preset::Gotoni, [25.6, 103.776, 84.6, 705.0]),
        (Preset::PaperV3, [0.276 * 25.6, 1104.0, 450.0, 7500.0]),
        (Preset::PaperV1, [0.0256, 0.07 * 1104.0, 54.0, 0.06 * 63_000.0]),
        (Preset::Physical, [25.6, 0.058 * 1104.0, 0.058 * 0.31 * 300.0, 27.0]),
    ] {
        let config = GorgoConfig { preset, ..GorgoConfig::default() };
        let (_, terms) = choose(&config, 5200, &[loaded()]);
        let got = [terms[0].network, terms[0].prefill, terms[0].waiting, terms[0].running];
        assert!(got.iter().zip(expected).all(|(a, b)| near(*a, b)), "{preset:?}: {got:?} != {expected:?}");
        assert!(near(terms[0].total, expected.iter().sum()), "{preset:?}");
    }
}

#[test]
fn the_old_name_of_gotonis_preset_is_still_read_and_written_as_the_new_one() {
    let config: GorgoConfig = serde_json::from_str(r#"{"preset": "seed"}"#).unwrap();
    assert_eq!(config, GorgoConfig { preset: Preset::Gotoni, ..GorgoConfig::default() });
    assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"preset":"gotoni"}"#);
}

#[test]
fn a_key_overrides_its_preset_and_a_candidate_overrides_the_rate() {
    let config = GorgoConfig { preset: Preset::Physical, ms_per_token: Some(0.1), ..GorgoConfig::default() };
    assert_eq!(config.weights(), Weights { ms_per_token: 0.1, ..PHYSICAL });
    let mut fast = idle(0);
    fast.ms_per_token = Some(0.05);
    let mut broken = idle(1);
    broken.ms_per_token = Some(f64::NAN);
    let (choice, terms) = choose(&config, 1000, &[fast, broken]);
    assert_eq!(choice, Selection::own(Some(0)));
    assert!(near(terms[0].total, 50.0) && near(terms[1].total, 100.0), "{terms:?}");
}

#[test]
fn a_far_cached_replica_beats_a_near_cold_one_only_for_long_prompts() {
    let mut fleet = fleet(2);
    (fleet[1].rtt_ms, fleet[1].cached_tokens) = (200.0, 100_000);
    assert_eq!(choose(&GorgoConfig::default(), 2000, &fleet).0.chosen, Some(0)); // 188 < 200
    assert_eq!(choose(&GorgoConfig::default(), 2200, &fleet).0.chosen, Some(1)); // 206.8 > 200
}

#[test]
fn a_tie_band_takes_the_less_loaded_of_two_near_ties_and_never_a_far_one() {
    let config = GorgoConfig { tie_band: Some(5.0), running_cost_factor: Some(0.0), ..GorgoConfig::default() };
    let mut fleet = fleet(3);
    (fleet[0].rtt_ms, fleet[0].load.running_tokens) = (10.0, 9000);
    (fleet[1].rtt_ms, fleet[1].load.running_tokens) = (14.0, 100);
    fleet[2].rtt_ms = 16.0;
    assert_eq!(choose(&config, 0, &fleet).0.chosen, Some(1));
    assert_eq!(choose(&GorgoConfig { tie_band: None, ..config }, 0, &fleet).0.chosen, Some(0));
}

#[test]
fn only_totals_in_ms_predict_ttft() {
    for (preset, expected) in
        [(Preset::Gotoni, true), (Preset::Physical, true), (Preset::PaperV3, false), (Preset::PaperV1, false)]
    {
        let policy = Gorgo::new(&GorgoConfig { preset, ..GorgoConfig::default() });
        let predicted = policy.predict_ttft(&RequestInfo::default(), &idle(0), &CostTerms::default());
        assert_eq!(predicted.is_some(), expected);
    }
}
