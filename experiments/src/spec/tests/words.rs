//! Messages on mistakes, and settings without effect.

use super::*;

#[test]
fn messages_name_the_key_the_value_and_what_to_write() {
    let all = [
        ("seeds = 0", &[][..], &[][..], "seeds: 0 must be a number of seeds from 1 to 1000"),
        ("seeds = 1000000", &[], &[], "seeds: 1000000 must be a number of seeds from 1 to 1000"),
        ("", &["fleet=3"], &[], "fleet: invalid type: integer `3`, expected a table"),
        ("", &["fleet.replicas=3"], &[], "expected a list in `replicas`"),
        ("", &["fleet.max_running=-1"], &[], "expected a whole number from 0 to 4294967295 in `max_running`"),
        (
            "",
            &["workload.trace="],
            &[],
            "[workload] trace = \"\" names nothing; give a path or a built-in name: wildchat",
        ),
        (
            "faults = [{ replica = \"a\", kind = \"crash\" }]",
            &[],
            &[],
            "faults.0 has no `at_s`; give each of [[faults]]",
        ),
        (
            "",
            &[],
            &["fleet.max_running=2..9:*1.5"],
            "`fleet.max_running` varies over 2.0, 3.0, 4.5, 6.75: give a whole step or factor",
        ),
        (ARMS, &[], &["arms.gorgo.policy.tie_band=1,2"], "vary policy.tie_band of all arms, or give each value an arm"),
        ("", &[], &["seeds=1,2"], "`seeds` cannot be varied, which takes settings of runs such as policy.tie_band"),
    ];
    for (text, sets, vary, wanted) in all {
        let message = error(text, sets, vary);
        assert!(message.contains(wanted) && !message.contains('\n'), "{message}");
    }
    let plan = parse("", &["fleet.settings.kv_tokens=many"], &[]).unwrap();
    let message = crate::build::build("x.toml", &plan[0].spec, 1, &[]).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "settings: invalid type: string \"many\", expected a whole number from 0 to 4294967295 in `kv_tokens`"
        ),
        "{message}"
    );
    let sets = ["workload.trace=nope.jsonl".to_owned()];
    let mut experiment = Experiment::parse("x.toml", PathBuf::new(), FLEET, &sets, &[]).unwrap();
    let plan = experiment.plan().unwrap();
    let message = experiment.read_digests(&plan).unwrap_err().to_string();
    assert!(message.starts_with("`x.toml`, [workload] trace: nope.jsonl cannot be opened"), "{message}");
}

#[test]
fn a_file_that_is_no_toml_is_told_its_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Experiment::load(&path, &[], &[]).unwrap_err().to_string()
    };
    let message = load(b"title = \"a\"\n# caf\xe9\n");
    assert!(message.ends_with("x.toml`: line 2: is not UTF-8 text; save the file as UTF-8"), "{message}");
    let message = load(b"title = \"a\"\nseeds = 1\nseeds = 2\n");
    assert!(message.ends_with("line 3: duplicate key `seeds`; keep one"), "{message}");
    for set in ["topology=true", "topology={ a = 1 }"] {
        let message = error("", &[set], &[]);
        assert!(message.ends_with("; write \"edge\" or \"proxy\""), "{message}");
    }
}

#[test]
fn a_value_varies_once() {
    for (sets, vary) in [(&[][..], &["workload.rate=1,2,1.0"][..]), (&["vary={ \"workload.rate\" = [1, 1.0] }"], &[])] {
        let message = error("", sets, vary);
        assert!(message.contains("`workload.rate` takes the value 1.0 twice; keep one"), "{message}");
    }
}

#[test]
fn values_are_split_at_commas_outside_of_brackets_and_paths_are_no_ranges() {
    let two = "policy={ name = \"gorgo\", tie_band = 1 }, \"random\"";
    assert_eq!(labels("", &[], &[two]).len(), 2);
    let message = error("", &[], &["workload.rate=3,4,"]);
    assert!(message.contains("`3,4,` has a comma with no value beside it; remove the comma"), "{message}");
    let message = error("", &[], &["workload.rate=[3,"]);
    assert!(message.contains("`[3,` is no list of values in TOML"), "{message}");
    assert_eq!(labels("", &[], &["workload.trace=../a.jsonl,../b.jsonl"]).len(), 2);
}

#[test]
fn settings_without_effect_are_refused_wherever_no_arm_uses_them() {
    let proxy = "topology = \"proxy\"";
    let alone = "fleet={ replicas = [{ name = \"a\", region = \"aws:us-east-1\" }] }";
    for (set, word) in [
        ("signals.peer_ms=100", "signals.peer_ms"),
        ("signals.digest_ms=100", "signals.digest_ms"),
        ("network.compression=0.5", "compression"),
        ("links=[{ from = \"aws:us-east-1\", to = \"aws:eu-central-1\", compression = 0.5 }]", "compression"),
    ] {
        let message = error(proxy, &[set], &[]);
        assert!(
            message.contains(&format!("{word} ")) && message.contains(" has no effect, because no arm"),
            "{message}"
        );
        assert!(parse("", &[set], &[]).is_ok(), "{set}");
        if !set.starts_with("links") {
            assert!(parse("", &[alone, set], &[]).is_err(), "{set}");
        }
        // Another arm may use it.
        assert!(parse(ARMS, &[set], &[]).is_ok(), "{set}");
    }
    for (set, with, word) in [
        ("proxies={ front = \"hash\" }", "proxies.count=2", "proxies.front and proxies.prefixes have no effect"),
        ("proxies={ prefixes = \"shared\" }", "proxies.count=2", "proxies.front and proxies.prefixes have no effect"),
        ("fleet.settings.warm_up_extra_ms=5", "fleet.settings.warm_up_s=3", "warm_up_extra_ms has no effect without"),
        (
            "residency={ share = 0.5, groups = [] }",
            "residency.groups=[[\"aws:us-east-1\"]]",
            "residency has no effect without groups",
        ),
    ] {
        let message = error(proxy, &[set], &[]);
        assert!(message.contains(word), "{message}");
        parse(proxy, &[set, with], &[]).unwrap();
    }
}
