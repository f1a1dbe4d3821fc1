use super::*;

mod places;
mod words;
mod workload;

const FLEET: &str = r#"
[workload]
trace = "wildchat-located"
rate = 5.0
duration_s = 10.0
[fleet]
max_running = 10
replicas = [{ name = "a", region = "aws:eu-central-1" }, { name = "b", region = "aws:us-east-1" }]
"#;

fn parse(text: &str, sets: &[&str], vary: &[&str]) -> Result<Vec<PlannedArm>, SpecError> {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Experiment::parse("x.toml", PathBuf::new(), &format!("{text}\n{FLEET}"), &owned(sets), &owned(vary))?.plan()
}

fn labels(text: &str, sets: &[&str], vary: &[&str]) -> Vec<String> {
    parse(text, sets, vary).unwrap().into_iter().map(|arm| arm.label).collect()
}

fn error(text: &str, sets: &[&str], vary: &[&str]) -> String {
    parse(text, sets, vary).map(|_| ()).unwrap_err().to_string()
}

// Tables before [workload] in the concatenated text must come as dotted keys or inline.
const ARMS: &str =
    r#"arms = [{ policy = "least-load" }, { policy = "gorgo" }, { policy = "gorgo", topology = "proxy" }]"#;

#[test]
fn arms_are_named_after_what_sets_them_apart() {
    assert_eq!(labels(ARMS, &[], &[]), ["least-load", "gorgo", "gorgo-proxy"]);
    assert_eq!(labels("", &[], &[]), ["gorgo"]);
}

#[test]
fn a_policys_knob_is_varied_only_where_it_exists_and_rates_everywhere() {
    let vary = ["workload.rate=1,2", "policy.ms_per_token=0.1..0.2:0.1"];
    let arms = parse(ARMS, &[], &vary).unwrap();
    let names: Vec<_> = arms.iter().map(|a| (a.label.as_str(), a.baseline.as_str())).collect();
    assert_eq!(names[0], ("least-load rate=1", "least-load rate=1"));
    assert_eq!(names[1], ("gorgo ms_per_token=0.1 rate=1", "least-load rate=1"));
    assert_eq!((names.len(), names[5]), (10, ("least-load rate=2", "least-load rate=2")));
}

#[test]
fn a_baseline_that_varies_in_its_policy_is_compared_under_the_same_load() {
    let arms = parse("policy = \"gorgo\"", &[], &["workload.rate=1,2", "policy.ms_per_token=0.1,0.2"]).unwrap();
    let names: Vec<_> = arms.iter().map(|a| (a.label.as_str(), a.baseline.as_str())).collect();
    assert_eq!(
        names,
        [
            ("gorgo ms_per_token=0.1 rate=1", "gorgo ms_per_token=0.1 rate=1"),
            ("gorgo ms_per_token=0.2 rate=1", "gorgo ms_per_token=0.1 rate=1"),
            ("gorgo ms_per_token=0.1 rate=2", "gorgo ms_per_token=0.1 rate=2"),
            ("gorgo ms_per_token=0.2 rate=2", "gorgo ms_per_token=0.1 rate=2"),
        ]
    );
}

#[test]
fn durations_have_units_wherever_they_are_written() {
    let read = |text: &str, sets: &[&str], vary: &[&str]| -> Vec<f64> {
        parse(text, sets, vary).unwrap().iter().map(|arm| arm.spec.signals.scrape_ms).collect()
    };
    assert_eq!(read("signals = { scrape_ms = \"1.5s\" }", &[], &[]), [1_500.0]);
    assert_eq!(read("", &["signals.scrape_ms=1.5s"], &[]), [1_500.0]);
    assert_eq!(read("", &["signals={ scrape_ms = \"2s\" }"], &[]), [2_000.0]);
    assert_eq!(read("", &[], &["signals.scrape_ms=500ms,1min"]), [500.0, 60_000.0]);
    assert_eq!(read("vary = { \"signals.scrape_ms\" = \"1s,2s\" }", &[], &[]), [1_000.0, 2_000.0]);
    let message = error("", &["signals.scrape_ms=5x"], &[]);
    assert!(message.contains("signals.scrape_ms is \"5x\"; ") && message.contains("\"5s\""), "{message}");
}

#[test]
fn a_later_table_of_varied_settings_is_not_lost_to_an_earlier_value() {
    let message = error("", &["workload.rate=3", "vary={ workload = { rate = [1, 2] } }"], &[]);
    assert!(message.contains("--set vary=...") && message.contains("--set workload.rate=..."), "{message}");
    assert_eq!(labels("", &["vary={ workload = { rate = [1, 2] } }", "workload.rate=3"], &[]), ["gorgo"]);
}

#[test]
fn keys_of_the_file_in_another_place_are_sent_to_the_top() {
    for message in [error("arms = [{ seeds = 3 }]", &[], &[]), error("", &["arms.gorgo.title=x"], &[])] {
        assert!(message.contains(" belongs at the top of the file, above [[arms]]"), "{message}");
    }
    let sets = ["cloud.type=a100".to_owned()];
    let text = format!("cloud = {{ provider = \"local\" }}\n{FLEET}");
    let experiment = Experiment::parse("x.toml", PathBuf::new(), &text, &sets, &[]).unwrap();
    assert_eq!(experiment.cloud.unwrap()["type"].as_str(), Some("a100"));
}

#[test]
fn times_beyond_the_clock_are_refused_by_key() {
    for set in [
        "workload.rate=1e-300",
        "workload.rate=1e300",
        "workload.session_rate=1e-300",
        "workload.time_scale=1e300",
        "workload.time_scale=nan",
        "workload.duration_s=1e300",
        "workload.duration_s=inf",
    ] {
        let (key, value) = set["workload.".len()..].split_once('=').unwrap();
        // One key at a time: a drawn rate excludes another one and a factor on times.
        let alone = ["session_rate", "time_scale"].contains(&key);
        let sets = if alone { vec![set, "workload={ trace = \"wildchat-located\" }"] } else { vec![set] };
        let sets: Vec<&str> = sets.into_iter().rev().collect();
        let message = error("", &sets, &[]);
        let value: f64 = value.parse().unwrap();
        assert!(message.contains(&format!("[workload] {key} = {value} must lie between ")), "{message}");
    }
    let sets = ["workload={ trace = \"wildchat-located\" }", "workload.time_scale=1e6"];
    let workload = parse("", &sets, &[]).unwrap().remove(0).spec.workload;
    let message = workload.load(Path::new(""), 1).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("the last request arrives after "), "{message}");
}

#[test]
fn a_value_that_is_none_of_its_names_has_its_own_list() {
    let message = error("", &["workload.prompts=wohle"], &[]);
    assert!(message.contains("`whole`") && !message.contains("`session_rate`"), "{message}");
    let message = error("", &["workload.ratte=3"], &[]);
    assert!(message.contains("`session_rate`") || message.contains("did you mean `rate`"), "{message}");
}

#[test]
fn set_reaches_everything_and_the_file_says_what_was_resolved() {
    let sets =
        ["policy.running_cost_factor=0.25", "fleet.replicas.1.name=zwei", "seeds=[4, 9]", "router.max_attempts=2"];
    let owned: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let text = format!("policy = \"gorgo\"\n{FLEET}");
    let experiment = Experiment::parse("x.toml", PathBuf::new(), &text, &owned, &[]).unwrap();
    assert_eq!(experiment.seeds, [4, 9]);
    let again = Experiment::parse("y.toml", PathBuf::new(), &experiment.resolved(), &[], &[]).unwrap();
    let (a, b) = (experiment.plan().unwrap(), again.plan().unwrap());
    assert_eq!(a[0].spec, b[0].spec);
    assert_eq!(a[0].spec.fleet.replicas[1].name, "zwei");
    assert_eq!(a[0].spec.router.max_attempts, 2);
    assert_eq!(a[0].spec.router.gates.max_running, Some(10), "the fleet's limit is the router's gate");
    assert_eq!(serde_json::to_value(&a[0].spec.policy).unwrap()["running_cost_factor"], 0.25);
}

#[test]
fn mistakes_are_one_sentence_that_names_the_key_and_the_nearest() {
    let all = [
        error("pollcy = \"gorgo\"", &[], &[]),
        error("policy = \"gorga\"", &[], &[]),
        error("policy = { name = \"gorgo\", ms_per_tokn = 1 }", &[], &[]),
        error("router = { max_atempts = 1 }", &[], &[]),
        error("router = { gates = { max_running = \"ten\" } }", &[], &[]),
        error("", &["workload.rates=3"], &[]),
        error("", &["workload.rate=-3"], &[]),
        error("", &["fleet.replicas.7.name=x"], &[]),
        error("", &["nonsense"], &[]),
        error("", &[], &["policy.ms_per_tokn=1,2"]),
        error("", &[], &["workload.rate=1..9"]),
        error("", &[], &["workload.rate=1..1e9:0.001"]),
        error("seeds = 0", &[], &[]),
        error("seeds = [1, 1]", &[], &[]),
        error("baseline = \"gorgi\"", &[], &[]),
        error("arms = [{ policy = \"gorgo\" }, { policy = \"gorgo\" }]", &[], &[]),
        error("faults = [{ at_s = 1, replica = \"c\", kind = \"crash\" }]", &[], &[]),
        error("arms = [", &[], &[]),
        error("topology = \"ring\"", &[], &[]),
        error("live = { nodes = [{ name = \"c\", engine = \"http://h:1\" }] }", &[], &[]),
        error("live = { nodes = [{ name = \"a\", engine = \"http://h:1\" }] }", &[], &[]),
        error("live = { nodes = [{ name = \"a\" }, { name = \"b\" }] }", &[], &[]),
        error(ARMS, &["policy.ms_per_tokn=1"], &[]),
        error(ARMS, &["policy.ms_per_token=fast"], &[]),
        error(ARMS, &["arms.gorga.policy.tie_band=1"], &[]),
        error(ARMS, &["arms.least-load.policy.ms_per_token=1"], &[]),
        error(ARMS, &["workload.rate=3"], &["workload.rate=1,2"]),
        error(ARMS, &[], &["workload.rate=1,2", "workload.rate=3"]),
        error("vary = { workload = { rate = [1, 2] } }", &["arms.gorgo.workload.rate=3"], &[]),
        error(&format!("policy = {{ ms_per_tokn = 1 }}\n{ARMS}"), &[], &[]),
        error(&format!("policy = {{ name = \"random\", ms_per_token = 1 }}\n{ARMS}"), &[], &[]),
        error("proxy_region = \"aws:us-east-1\"", &[], &[]),
        error("", &["fleet.engine=h100", "fleet.replicas.0.engine=x", "fleet.replicas.1.engine=x"], &[]),
        error("", &["fleet.replicas.0.ms_per_token=nan"], &[]),
    ];
    // The lists of known keys grow with every setting; what counts is the sentence before them.
    let short = |message: &String| match message.split_once(" (expected one of ") {
        Some((sentence, _)) => format!("{sentence} (expected ...)"),
        None => message.clone(),
    };
    insta::assert_snapshot!(all.iter().map(short).collect::<Vec<_>>().join("\n"));
}

#[test]
fn ranges_are_counted_not_summed() {
    let values = |text: &str| -> Vec<String> { vary::parse(text).unwrap().1.iter().map(vary::show).collect() };
    assert_eq!(values("k=0..0.3:0.1"), ["0.0", "0.1", "0.2", "0.3"]);
    assert_eq!(values("k=1..4:1"), ["1", "2", "3", "4"]);
    assert_eq!(
        values("k=4e-10..1.7e-9:*2"),
        ["4e-10", "8e-10", "1.6e-9"].map(|text| text.parse::<f64>().unwrap().to_string())
    );
    assert_eq!(values("k=1e-12..3e-12:1e-12").len(), 3);
    assert_eq!(values("k=-2..-1:1"), ["-2", "-1"]);
    assert_eq!(values("k=0.01..0.1:*2"), ["0.01", "0.02", "0.04", "0.08"]);
    assert_eq!(values("k=2..64:*2"), ["2", "4", "8", "16", "32", "64"]);
    assert_eq!(values("k=2..5:*1.5"), ["2.0", "3.0", "4.5"]);
    assert_eq!(values("k=edge,proxy"), ["edge", "proxy"]);
}

#[test]
fn a_short_trace_goes_on_as_other_people_when_arrivals_are_drawn() {
    let mut workload = parse("", &["workload.rate=20", "workload.duration_s=60"], &[]).unwrap().remove(0).spec.workload;
    let requests = workload.load(Path::new(""), 1).unwrap();
    assert!((1_000..1_400).contains(&requests.len()), "{}", requests.len());
    assert!(requests.is_sorted_by_key(|r| r.at));
    let (first, copy) = (&requests[0], &requests[663]);
    assert_eq!(first.input_tokens, copy.input_tokens);
    assert!(first.blocks != copy.blocks && first.user != copy.user && first.session != copy.session);
    let other = workload.load(Path::new(""), 2).unwrap();
    assert_ne!(requests[5].at, other[5].at, "another seed, other arrivals");
    workload.requests = Some(10);
    assert_eq!(workload.load(Path::new(""), 1).unwrap().len(), 10.min(requests.len()));
}

#[test]
fn periods_and_durations_that_no_clock_can_keep_are_refused_by_key() {
    let fault = |what: &str| format!("faults = [{{ at_s = 1.0, replica = \"a\", kind = \"crash\", {what} }}]");
    for key in ["scrape_ms", "probe_ms", "peer_ms", "digest_ms", "sample_ms"].map(|key| format!("signals.{key}")) {
        for value in ["1e-9", "-1.0", "nan", "inf", "1e300"] {
            let message = error("", &[&format!("{key}={value}")], &[]);
            assert!(message.contains(&format!("{key} is ")), "{key}={value}: {message}");
        }
    }
    for key in [
        "signals.router_ms",
        "client.patience_ms",
        "client.deadline_ms",
        "drain_limit_s",
        "network.access_ms",
        "network.scale",
        "network.keep_alive_ms",
        "router.queue_timeout_ms",
        "router.gates.slow_start_ms",
        "router.breaker.open_ms",
        "measure.warm_up_s",
        "measure.cool_down_s",
        "measure.slo.ttft_ms",
    ] {
        for value in ["-1.0", "nan", "inf", "1e300"] {
            let message = error("", &[&format!("{key}={value}")], &[]);
            assert!(message.contains(&format!("{key} is ")), "{key}={value}: {message}");
        }
    }
    for value in ["-1.0", "nan", "inf", "1e300"] {
        let message = error(&fault(&format!("down_s = {value}")), &[], &[]);
        assert!(message.contains("faults.down_s is "), "{value}: {message}");
    }
    assert!(parse("", &["signals.sample_ms=0"], &[]).is_ok(), "0 turns sampling off");
    assert!(parse(&fault("down_s = 0.0"), &[], &[]).is_ok());
}

/// Each arm's label with its rate and its policy's settings.
fn what(arms: &[PlannedArm]) -> Vec<String> {
    let show = |arm: &PlannedArm| {
        let settings: Vec<String> = arm.spec.policy.settings().iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{}: {:?} {}", arm.label, arm.spec.workload.rate.unwrap_or_default(), settings.join(" "))
    };
    arms.iter().map(show).collect()
}

#[test]
fn the_command_line_is_stronger_than_variations_arms_and_the_file() {
    let arms = r#"vary = { "workload.rate" = [3.0, 5.0] }
        arms = [{ policy = "random" }, { policy = "gorgo" }, { name = "own", policy = { name = "gorgo", preset = "physical" }, workload = { rate = 9.0 } }]"#;
    let plan = |sets: &[&str], vary: &[&str]| what(&parse(arms, sets, vary).unwrap());
    assert_eq!(
        plan(&[], &[])[..2],
        ["random rate=3.0: 3.0 ", "gorgo rate=3.0: 3.0 preset=\"gotoni\""],
        "a variation is stronger than the file"
    );
    assert_eq!(plan(&[], &[])[2], "own rate=3.0: 3.0 preset=\"physical\"", "and than an arm");
    let tuned = "preset=\"gotoni\" tie_band=2.0";
    assert_eq!(
        plan(&["workload.rate=4.5", "policy.tie_band=2"], &[]),
        ["random: 4.5 ", &format!("gorgo: 4.5 {tuned}"), "own: 4.5 preset=\"physical\" tie_band=2.0"]
    );
    assert_eq!(plan(&["workload.rate=4.5", "arms.own.policy.tie_band=2"], &[])[1], "gorgo: 4.5 preset=\"gotoni\"");
    assert_eq!(plan(&["workload.rate=4.5", "arms.1.policy.tie_band=2"], &[])[1], format!("gorgo: 4.5 {tuned}"));
    assert_eq!(plan(&["vary.workload.rate=[1.5]"], &[])[0], "random rate=1.5: 1.5 ");
    assert_eq!(plan(&[], &["workload.rate=7,8"])[0], "random rate=7: 7.0 ");
    let varied = plan(&["vary={policy=[\"random\", \"gorgo\"]}", "arms=[{name=\"x\"}]", "policy.tie_band=2"], &[]);
    assert_eq!(
        varied,
        ["x policy=random: 5.0 ", &format!("x policy={{ name = \"gorgo\", tie_band = 2 }}: 5.0 {tuned}")]
    );
}

#[test]
fn lists_of_arms_and_of_the_file_are_both_reached() {
    let text =
        r#"arms = [{ name = "a" }, { name = "b", fleet = { replicas = [{ name = "x", region = "aws:us-east-1" }] } }]"#;
    let arms = parse(text, &["fleet.replicas.0.ms_per_token=0.5"], &[]).unwrap();
    assert!(arms.iter().all(|arm| arm.spec.fleet.replicas[0].ms_per_token == Some(0.5)));
}

#[test]
fn the_kept_experiment_plans_the_same_arms_again() {
    let text = format!("{ARMS}\nvary = {{ \"workload.rate\" = [3.0, 5.0] }}\n{FLEET}");
    for sets in [
        &["policy.ms_per_token=1.0", "workload.rate=4.5"][..],
        &[
            "seeds=[\"18446744073709551615\", 3]",
            "fleet.max_running=3",
            "arms.gorgo-proxy.name=a.b",
            "arms.a.b.topology=edge",
        ],
        &["vary={policy=[\"random\", {name=\"gorgo\"}]}", "arms=[{name=\"x\"}]", "policy.tie_band=2"],
        &["vary={workload={router_token_factor=[1.0, 2.0]}, fleet={max_running=[4, 8]}}"],
        &["vary.workload.router_token_factor=[1.0, 2.0]", "vary.fleet.max_running=[4, 8]"],
    ] {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let vary = ["workload.requests=5,4".to_owned(), "client.patience_ms=1s,2s".to_owned()];
        let first = Experiment::parse("x.toml", PathBuf::new(), &text, &sets, &vary).unwrap();
        let again = Experiment::parse("y.toml", PathBuf::new(), &first.resolved(), &[], &[]).unwrap();
        assert_eq!(again.resolved(), first.resolved());
        assert_eq!(again.seeds, first.seeds);
        let specs =
            |e: &Experiment| e.plan().unwrap().into_iter().map(|a| (a.label, a.baseline, a.spec)).collect::<Vec<_>>();
        assert_eq!(specs(&again), specs(&first), "{sets:?}");
    }
}

#[test]
fn a_replica_has_engine_settings_of_its_own_on_top_of_the_fleets() {
    let sets = [
        "fleet.settings.kv_tokens=50000",
        "fleet.replicas.1.engine=l40s-2-qwen3.5-recorded",
        "fleet.replicas.1.max_running=3",
        "fleet.replicas.1.settings.prefill.floor_ms=70",
        "fleet.replicas.1.settings.cold_at_start=true",
    ];
    let built = |sets: &[&str]| {
        let arm = parse("", sets, &[])?.remove(0);
        crate::build::build("x.toml", &arm.spec, 1, &[])
    };
    let world = built(&sets).unwrap().world;
    let [a, b] = [0, 1].map(|i| &world.replicas[i].engine);
    assert_eq!((a.kv_tokens, a.prefill.floor_ms, a.max_running_requests, a.cold_at_start), (50_000, 0.0, 10, false));
    assert_eq!((b.kv_tokens, b.prefill.floor_ms, b.max_running_requests, b.cold_at_start), (50_000, 70.0, 3, true));
    assert_eq!((b.prefill.ms_per_token, b.warm_up_s), (0.057, 15.0), "the rest is its preset's");
    let wrong = |set: &str| built(&[set]).unwrap_err().to_string();
    let message = wrong("fleet.replicas.1.settings.resume_token=4");
    assert!(message.contains("replica `b`") && message.contains("did you mean `resume_tokens`"), "{message}");
    let message = wrong("fleet.replicas.0.settings.resume_tokens=0");
    assert!(message.contains("replica `a`: engine setting `resume_tokens` is 0"), "{message}");
    let message =
        built(&["fleet.engine=vllm-llama-3.1-8b-rtx4090", "fleet.settings.chunked_prefill_size=9"]).unwrap_err();
    assert!(message.to_string().ends_with("has no effect with kind = \"vllm\"; drop it"), "{message}");
    let message = wrong("fleet.replicas.0.settings.max_num_batched_tokens=4096");
    assert!(message.contains("`max_num_batched_tokens` has no effect with kind = \"sglang\""), "{message}");
    let message = wrong("fleet.replicas.1.max_running=0");
    assert!(message.contains("replica `b` has max_running = 0"), "{message}");
}

#[test]
fn a_factor_gives_rows_the_routers_count_of_their_tokens() {
    let load = |sets: &[&str]| parse("", sets, &[]).unwrap().remove(0).spec.workload.load(Path::new(""), 1).unwrap();
    assert!(load(&[]).iter().all(|r| r.router_tokens.is_none()));
    let counted = load(&["workload.router_token_factor=0.55"]);
    assert!(
        counted.iter().all(|r| r.router_tokens == Some(((f64::from(r.input_tokens) * 0.55).round() as u32).max(1)))
    );
    let message = error("", &["workload.router_token_factor=0"], &[]);
    assert!(message.contains("router_token_factor = 0 must lie between 0.01 and 100"), "{message}");
}

#[test]
fn links_have_numbers_by_region_replica_or_proxy() {
    let link = "links=[{ from = \"b\", to = \"aws:eu-central-1\", rtt_ms = 110.0, opening_rounds = 2, mbps = 100 }]";
    let world = |sets: &[&str]| {
        let arm = parse("", sets, &[]).unwrap().remove(0);
        crate::build::build("x.toml", &arm.spec, 1, &[]).unwrap().world
    };
    let edges = world(&[link, "network.initial_window=30000", "fleet.replicas.1.keep_alive_ms=900"]);
    let rule = edges.link_rule(0, 1);
    assert_eq!((rule.transport.opening_rounds, rule.transport.initial_window, rule.mbps), (2.0, 30_000, Some(100.0)));
    assert_eq!((edges.links[0].from.as_str(), edges.links[0].rtt_ms), ("aws:us-east-1", Some(110.0)));
    assert_eq!(edges.replicas.iter().map(|r| r.keep_alive_ms).collect::<Vec<_>>(), [None, Some(900.0)]);
    // Arms with and without a proxy share the file's links.
    let proxy = "links=[{ from = \"proxy\", to = \"b\", rtt_ms = 7.0 }]";
    let place = "proxy_region=\"aws:us-west-1\"";
    let sites = |topology: &str| {
        let text = format!("topology = \"{topology}\"\narms = [{{}}, {{ topology = \"proxy\" }}]");
        let arm = parse(&text, &[proxy, place], &[]).unwrap().remove(0);
        crate::build::build("x.toml", &arm.spec, 1, &[]).unwrap().world.links.len()
    };
    assert_eq!((sites("proxy"), sites("edge")), (1, 0));
    for (set, problem) in [
        ("links=[{ from = \"c\", to = \"a\" }]", "end `c` is no region or replica of the fleet"),
        ("links=[{ from = \"a\", to = \"aws:eu-central-1\" }]", "has both ends in `aws:eu-central-1`"),
        ("links=[{ from = \"a\", to = \"b\" }, { from = \"b\", to = \"a\" }]", "has two entries"),
        ("links=[{ from = \"a\", to = \"b\", mbps = 0 }]", "links.mbps is 0"),
        ("links=[{ from = \"a\", to = \"b\" }]", "from `a` to `b` has no number; give rtt_ms"),
        ("links=[{ from = \"a\", to = \"b\", rtt = 5 }]", "did you mean `rtt_ms`"),
    ] {
        let message = error("", &[set], &[]);
        assert!(message.contains(problem), "{set}: {message}");
    }
}

#[test]
fn a_setting_that_acts_in_no_arm_is_refused_and_one_that_acts_in_some_is_not() {
    let proxies = "topology = \"proxy\"\nproxies = { count = 2, share_ms = 10.0 }";
    let edges = "router.digest_half_life_ms = 5.0";
    for (text, set, told) in [
        ("", "router.admission=\"predicted\"", "router.admission has no effect without a deadline"),
        ("", "router.egress={ ms_per_unit = 5.0 }", "ms_per_unit has no effect without prices"),
        (edges, "signals.router_ms=1", "digest_half_life_ms has no effect"),
        (proxies, "signals.router_ms=1", "proxies.share_ms, share_loss and share_late_ms have no effect"),
    ] {
        let message = error(text, &[set], &[]);
        assert!(message.contains(told), "{set}: {message}");
    }
    // What one arm switches off, another one uses.
    assert_eq!(labels(proxies, &[], &["proxies.prefixes=private,shared"]).len(), 2);
    assert_eq!(labels(edges, &[], &["signals.digest_ms=0,1000"]).len(), 2);
    assert_eq!(labels("", &["router.admission=\"predicted\"", "client.deadline_ms=500"], &[]).len(), 1);
}

#[test]
fn faults_prices_and_arrivals_without_sense_are_refused() {
    for (set, told) in [
        ("faults=[{ kind = \"drain\", replica = \"a\", at_s = 3, down_s = 4 }]", "down_s is a setting of a crash"),
        (
            "faults=[{ kind = \"undrain\", replica = \"a\", at_s = 3 }]",
            "`a` is undrained, and no fault drains it before",
        ),
        (
            "router.egress={ ms_per_unit = 1, prices = [{ from = \"aws:us-east-2\", to = \"aws:us-east-1\", per_gb = 9 }] }",
            "router.egress.prices names `aws:us-east-2`, which is no region of the fleet; did you mean `aws:us-east-1`",
        ),
        ("workload.arrivals={ poisson = 3.0 }", "has both `rate` and `arrivals`; keep one"),
    ] {
        let message = error("", &[set], &[]);
        assert!(message.contains(told), "{set}: {message}");
    }
    let drained =
        "faults=[{ kind = \"drain\", replica = \"a\", at_s = 3 }, { kind = \"undrain\", replica = \"a\", at_s = 5 }]";
    assert_eq!(labels("", &[drained], &[]).len(), 1);
}
