use super::*;
use crate::records::{ReadOptions, open};
use crate::results::write_requests;
use crate::runner::simulate;
use crate::spec::Experiment;

const WORLD: &str = r#"
seeds = 1
topology = "proxy"
policy = "random"
[workload]
generate = "wildchat-like"
requests = 2500
rate = 5.0
[fleet]
replicas = [
  { name = "near", region = "aws:eu-central-1" },
  { name = "mid", region = "aws:us-east-1" },
  { name = "far", region = "aws:ap-southeast-1" },
]
[network]
sigma = 0.0
# Scrapes use the connections of requests and would keep one open.
[signals]
scrape_ms = 60000.0
"#;

/// Records of a simulated run, as its `requests.csv` has them, and the round trips of its links.
fn run(sets: &[&str]) -> (Records, Vec<f64>, EngineConfig) {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let experiment = Experiment::parse("world.toml", std::path::PathBuf::new(), WORLD, &sets, &[]).unwrap();
    let arm = experiment.plan().unwrap().remove(0);
    let requests = arm.spec.workload.load(&experiment.dir, 1).unwrap();
    let built = crate::build::build("world.toml", &arm.spec, 1, &requests).unwrap();
    let engine = built.world.replicas[0].engine.clone();
    let places: Vec<_> = built.world.sites.iter().map(|site| site.place).collect();
    let measured = built.world.measured.clone();
    let known = move |a, b| measured.iter().find(|m| (m.from, m.to) == (a, b)).map(|m| m.ms);
    let network = gorgo_sim::network::Network::new(built.world.network.clone(), 1, &places, known);
    let rtt = built.world.replicas.iter().map(|r| network.base_ms(0, r.site)).collect();
    let (run, _) = simulate("world.toml", &arm, 1, &requests).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("requests.csv");
    let mut text = Vec::new();
    write_requests(&mut text, &run, true).unwrap();
    std::fs::write(&path, text).unwrap();
    (open(&path, &ReadOptions::default()).unwrap(), rtt, engine)
}

fn options(engine: EngineConfig) -> CalibrateOptions {
    let network = NetworkConfig { keep_alive_ms: 90_000.0, opening_rounds: 1.0, ..NetworkConfig::default() };
    CalibrateOptions { arm: None, engine, network, warm_up_s: 20.0, part: 0.7, block_s: 30.0 }
}

fn value<'a>(parameters: &'a [Parameter], key: &str) -> &'a Parameter {
    parameters.iter().find(|p| p.key == key).unwrap_or_else(|| panic!("{key}: {parameters:?}"))
}

/// Simulated with known settings, fitted from wrong ones: the truth comes back, and it lies within the interval, widened by
/// 4 % for what the regression simplifies.
#[test]
fn known_settings_come_back_from_simulated_records() {
    let (records, rtt, truth) = run(&[
        "fleet.settings.prefill.ms_per_token=0.09",
        "fleet.settings.prefill.floor_ms=40",
        "fleet.settings.decode.weights_ms=12",
        "fleet.settings.decode.ms_per_row=0.8",
        "network.keep_alive_ms=5000",
        "network.opening_rounds=2",
    ]);
    let c = calibrate(&records, &options(EngineConfig::default())).unwrap();
    let shown = table(&c, &[], usize::MAX);
    let back = |p: &Parameter, truth: f64| {
        let (low, high) = p.interval.unwrap();
        let within = (low - 0.04 * truth..=high + 0.04 * truth).contains(&truth);
        assert!(within && (p.value / truth - 1.0).abs() < 0.12 && p.identified, "{truth}: {p:?}\n{shown}");
    };
    back(value(&c.engine, "prefill.ms_per_token"), truth.prefill.ms_per_token);
    back(value(&c.engine, "prefill.floor_ms"), 40.0);
    back(value(&c.engine, "decode.weights_ms"), 12.0);
    back(value(&c.engine, "decode.ms_per_row"), 0.8);
    assert!((value(&c.engine, "(prefill rate that stalls show)").value / 0.09 - 1.0).abs() < 0.25, "{shown}");
    let order = ["far", "mid", "near"].map(|name| c.replicas.iter().position(|r| r == name).unwrap());
    for (place, truth) in order.into_iter().zip([rtt[2], rtt[1]]) {
        assert!((c.rtt[place].value / truth - 1.0).abs() < 0.08, "{truth}: {:?}\n{shown}", c.rtt[place]);
    }
    let keep = value(&c.network, "keep_alive_ms");
    assert!(keep.identified && keep.value == 5000.0, "{shown}");
    back(value(&c.network, "opening_rounds"), 2.0);
    assert!(c.explained > 0.9 && c.explained_apart.unwrap() > 0.7, "{shown}");
    assert!(c.figure().unwrap().svg().unwrap().contains("long far"));
}

/// An engine of the prior: the slopes that its run does not show stay at the prior, and so the intercept must not take their
/// part.
#[test]
fn an_intercept_belongs_to_the_slopes_that_are_in_force() {
    let (mut within, mut held) = (0, 0);
    for seed in 0..4 {
        let seed = format!("network.sigma=0.{seed}");
        let (records, _, truth) = run(&["workload.requests=900", "workload.rate=3", &seed]);
        let c = calibrate(&records, &options(truth.clone())).unwrap();
        let weights = value(&c.engine, "decode.weights_ms");
        if value(&c.engine, "decode.ms_per_row").identified {
            continue;
        }
        held += 1;
        let (low, high) = weights.interval.unwrap();
        within += u32::from((low..=high).contains(&truth.decode.weights_ms));
        assert!((weights.value / truth.decode.weights_ms - 1.0).abs() < 0.03, "{}", table(&c, &[], usize::MAX));
        assert!(c.notes.iter().any(|note| note.contains("not identified: decode.ms_per_row")), "{:?}", c.notes);
    }
    assert!(held > 0, "no run leaves the slope open: {within}");
}

#[test]
fn what_a_run_does_not_visit_is_not_identified_and_stays_a_comment() {
    // Connections never close and hardly anything waits.
    let (records, ..) = run(&["network.keep_alive_ms=1000000", "workload.rate=2", "workload.requests=900"]);
    let c = calibrate(&records, &options(EngineConfig::default())).unwrap();
    let keep = value(&c.network, "keep_alive_ms");
    assert!(!keep.identified && keep.value == 90_000.0, "{}", table(&c, &[], usize::MAX));
    assert!(network_toml(&c).contains("# not identified: keep_alive_ms"), "{}", network_toml(&c));
    // What is written is read again.
    let text = engine_toml(&c) + &network_toml(&c);
    let parsed: toml::Table = text.parse().unwrap();
    let settings = parsed["fleet"]["settings"].as_table().unwrap();
    let mut engine = toml::Table::try_from(EngineConfig::default()).unwrap();
    gorgo_core::settings::merge_tables(&mut engine, settings);
    let engine: EngineConfig = toml::Value::Table(engine).try_into().unwrap();
    engine.validate().unwrap();
    let policy: toml::Table = policy_toml(&c).parse().unwrap();
    let policy: gorgo_core::policy::PolicyConfig = policy["policy"].clone().try_into().unwrap();
    assert_eq!(policy.name(), "gorgo");
}

#[test]
fn the_search_finds_a_setting_that_the_regressions_cannot_see() {
    let (records, ..) = run(&["fleet.settings.receive_ms=40", "workload.requests=600"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("world.toml");
    std::fs::write(&path, WORLD).unwrap();
    let options = SearchOptions {
        experiment: &path,
        sets: vec!["workload.requests=600".to_owned()],
        tuned: vec![("fleet.settings.receive_ms".to_owned(), 1.0, 100.0)],
        evaluations: 40,
        seeds: 1,
        arm: "random".to_owned(),
        warm_up_s: 0.0,
        part: 1.0,
        block_s: 10.0,
    };
    let (tuned, before, after) = search(&records, &options).unwrap();
    assert!((tuned[0].value / 40.0 - 1.0).abs() < 0.15 && tuned[0].identified, "{tuned:?}");
    assert!(after < 0.3 * before, "{before} {after}");
    let wrong = SearchOptions { arm: "randon".to_owned(), ..options.clone() };
    assert!(search(&records, &wrong).unwrap_err().to_string().contains("randon"));
    let wrong = SearchOptions { tuned: vec![("network.sigma".to_owned(), 0.0, 1.0)], ..options };
    assert!(search(&records, &wrong).unwrap_err().to_string().contains("above 0"));
}

#[test]
fn records_that_cannot_be_fitted_are_refused_with_the_reason() {
    let (mut records, ..) = run(&["workload.requests=300"]);
    let why = |records: &Records, options: &CalibrateOptions| calibrate(records, options).unwrap_err().to_string();
    let mut named = options(EngineConfig::default());
    named.arm = Some("randm".to_owned());
    assert!(why(&records, &named).contains("did you mean `random`?"), "{}", why(&records, &named));
    records.rows.truncate(60);
    let few = why(&records, &options(EngineConfig::default()));
    assert!(few.contains("a fit needs 100") && few.contains("--columns"), "{few}");
}

#[test]
fn a_short_run_says_why_nothing_is_identified_and_copies_are_left_out() {
    let (mut records, ..) = run(&["workload.requests=900"]);
    let mut settings = options(EngineConfig::default());
    (settings.warm_up_s, settings.part) = (0.0, 1.0);
    let once = calibrate(&records, &settings).unwrap();
    assert!(once.notes.iter().all(|note| !note.contains("repeat")), "{:?}", once.notes);
    records.rows.extend(records.rows.clone());
    settings.block_s = 100_000.0;
    let c = calibrate(&records, &settings).unwrap();
    assert_eq!(c.requests, once.requests);
    let shown = table(&c, &[], usize::MAX);
    assert!(shown.contains("note: 900 rows repeat the id") && shown.contains("give a smaller --block"), "{shown}");
    let narrow = table(&c, &[], 80);
    assert!(narrow.lines().all(|line| line.chars().count() <= 80) && narrow.contains("left out at 80"), "{narrow}");
    settings.block_s = 1e-5;
    let long = calibrate(&records, &settings).unwrap_err().to_string();
    assert!(long.contains("the unit of times may be wrong"), "{long}");
}

#[test]
fn records_of_a_load_generator_name_no_replica_and_are_those_of_one_server() {
    let (mut records, ..) = run(&[
        r#"fleet.replicas=[{name="near",region="aws:eu-central-1"}]"#,
        "workload.rate=2",
        "workload.requests=900",
    ]);
    let named = calibrate(&records, &options(EngineConfig::default())).unwrap();
    records.rows.iter_mut().for_each(|row| row.replica = None);
    let unnamed = calibrate(&records, &options(EngineConfig::default())).unwrap();
    assert_eq!((unnamed.requests, unnamed.engine), (named.requests, named.engine));
    assert_eq!((named.replicas, unnamed.replicas), (vec!["near".to_owned()], vec!["server".to_owned()]));
}
