//! Names of replicas, ends of links, regions and the limits of engines.

use super::*;

fn fleet(replicas: &str) -> String {
    format!("fleet={{ replicas = [{replicas}] }}")
}

#[test]
fn a_link_to_the_proxy_acts_where_a_proxy_is() {
    let link = "links=[{ from = \"proxy\", to = \"b\", rtt_ms = 10 }]";
    let message = error("", &[link], &[]);
    assert!(message.contains("the end `proxy` of [[links]] has no effect, because no arm has topology"), "{message}");
    let arms = "arms = [{ name = \"edge\" }, { name = \"proxy\", topology = \"proxy\" }]";
    let planned = parse(arms, &[link], &[]).unwrap();
    let links: Vec<usize> =
        planned.iter().map(|arm| crate::build::build("x.toml", &arm.spec, 1, &[]).unwrap().world.links.len()).collect();
    assert_eq!(links, [0, 1], "an edge arm has no proxy, and none of its links is changed");
    // In an edge arm these are links of their own, in a proxy arm one and the same.
    let both = "links=[{ from = \"proxy\", to = \"b\", rtt_ms = 10 }, { from = \"a\", to = \"b\", rtt_ms = 20 }]";
    assert!(error(arms, &[both], &[]).contains("two entries from `aws:eu-central-1` to `aws:us-east-1`"));
}

#[test]
fn arms_of_unlike_requests_are_compared_only_with_their_like() {
    let arms = "arms = [{ name = \"a\", policy = \"random\" }, { name = \"b\" }, { name = \"heavy\", workload = { rate = 9.0 } }, \
                { name = \"late\", measure = { warm_up_s = 2.0 } }, { name = \"late too\", measure = { warm_up_s = 2.0 } }]";
    let planned = parse(arms, &[], &[]).unwrap();
    let pairs: Vec<_> = planned.iter().map(|arm| (arm.label.as_str(), arm.baseline.as_str())).collect();
    assert_eq!(pairs, [("a", "a"), ("b", "a"), ("heavy", "heavy"), ("late", "late"), ("late too", "late")]);
    let heavy = &planned[2].settings;
    assert_eq!((heavy["workload.rate"].as_str(), heavy["measure.warm_up_s"].as_str(), heavy.len()), ("9.0", "0.0", 2));
    // Arms that share their own requests, and a rate that varies for all, are pairs as before.
    let shared = "arms = [{ name = \"a\", workload = { rate = 9.0 } }, { name = \"b\", workload = { rate = 9.0 } }]";
    let planned = parse(shared, &[], &["workload.rate=1,2"]).unwrap();
    assert!(planned.iter().all(|arm| arm.settings.len() == 1), "{planned:?}");
    assert_eq!(planned[1].baseline, "a rate=1");
    let planned = parse("", &[], &["workload.max_output_tokens=10,20"]).unwrap();
    assert!(planned.len() == 2 && planned.iter().all(|arm| arm.settings.len() == 1), "an option of the reader");
}

#[test]
fn the_nearest_limit_of_running_requests_holds() {
    let limits = |fleet: &str, own: &str| -> Vec<u32> {
        let replicas = format!(
            "{{ name = \"a\", region = \"aws:us-east-1\"{own} }}, {{ name = \"b\", region = \"aws:us-west-1\" }}"
        );
        let arm = parse("", &[&format!("fleet={{ {fleet} replicas = [{replicas}] }}")], &[]).unwrap().remove(0);
        let world = crate::build::build("x.toml", &arm.spec, 1, &[]).unwrap().world;
        world.replicas.iter().map(|r| r.engine.max_running_requests).collect()
    };
    let settings = ", settings = { max_running_requests = 2 }";
    assert_eq!(limits("max_running = 20,", settings), [2, 20]);
    assert_eq!(limits("max_running = 20,", ", max_running = 3"), [3, 20]);
    assert_eq!(limits("settings = { max_running_requests = 7 },", ", max_running = 3"), [3, 7]);
    assert_eq!(limits("settings = { max_running_requests = 7 },", settings), [2, 7]);
    for (set, place) in [
        (
            "fleet.settings.max_running_requests=2",
            "[fleet] has both max_running = 10 and settings.max_running_requests = 2",
        ),
        (
            "fleet.replicas=[{ name = \"a\", region = \"aws:us-east-1\", max_running = 3, settings = { max_running_requests = 2 } }]",
            "[fleet] replica `a` has both max_running = 3 and",
        ),
    ] {
        let message = error("", &[set], &[]);
        assert!(message.contains(place) && message.ends_with("keep one"), "{message}");
    }
}

#[test]
fn a_name_of_a_replica_names_nothing_else() {
    for (name, told) in [
        ("", "replica 0 has the name \"\", which is empty"),
        (" ", "which is empty"),
        ("proxy", "is called `proxy`, which is the name of the proxy in [[links]]"),
        ("aws:us-west-1", "is called `aws:us-west-1`, which is the region of another one"),
        ("b", "replica 1 is called `b` like one before it"),
    ] {
        let two = format!(
            "{{ name = \"{name}\", region = \"aws:us-east-1\" }}, {{ name = \"b\", region = \"aws:us-west-1\" }}"
        );
        let message = error("", &[&fleet(&two)], &[]);
        assert!(message.contains(told) && message.contains("give it a"), "{message}");
    }
    let own = fleet("{ name = \"aws:us-east-1\", region = \"aws:us-east-1\" }");
    assert_eq!(labels("", &[&own], &[]).len(), 1, "its own region names the same place");
}

#[test]
fn a_link_names_one_replica_only_where_its_region_has_no_other() {
    let three = "{ name = \"a\", region = \"aws:us-east-1\" }, { name = \"b\", region = \"aws:us-west-1\" }, \
                 { name = \"c\", region = \"aws:us-west-1\" }";
    let link = |to: &str| format!("links=[{{ from = \"a\", to = \"{to}\", rtt_ms = 10 }}]");
    let message = error("", &[&fleet(three), &link("b")], &[]);
    assert!(message.contains("end `b` shares its region `aws:us-west-1` with replica `c`"), "{message}");
    assert_eq!(labels("", &[&fleet(three), &link("aws:us-west-1")], &[]).len(), 1);
}

#[test]
fn prices_and_groups_that_nothing_reads_are_refused() {
    let price = |per_gb: u32| format!("{{ from = \"aws:us-east-1\", to = \"aws:eu-central-1\", per_gb = {per_gb} }}");
    let egress = |unit: &str, prices: &str| format!("router.egress={{ {unit} prices = [{prices}] }}");
    for (set, told) in [
        (egress("", &price(5)), "router.egress.prices has no effect without router.egress.ms_per_unit"),
        (
            egress("ms_per_unit = 1,", &format!("{}, {}", price(0), price(100))),
            "two prices from `aws:us-east-1` to `aws:eu-central-1`, the second per_gb = 100; keep one",
        ),
        ("residency={ share = 0.5, groups = [[]] }".to_owned(), "residency.groups.0 is an empty list"),
        (
            "residency={ share = 0.5, groups = [[\"aws:us-east-1\"], [\"aws:us-east-1\"]] }".to_owned(),
            "residency.groups.1 names `aws:us-east-1`, which an entry before it names, too",
        ),
        (
            "router.breaker={ open_ms = 5000 }".to_owned(),
            "router.breaker.max_open_ms is 2000; it must lie between 5000 and",
        ),
    ] {
        let message = error("", &[&set], &[]);
        assert!(message.contains(told), "{message}");
    }
    assert_eq!(labels("", &[&egress("ms_per_unit = 1,", &price(5))], &[]).len(), 1);
    let twice = fleet(
        "{ name = \"a\", region = \"aws:us-east-1\" }, { name = \"b\", region = \"aws:us-east-1\" }, \
         { name = \"c\", region = \"aws:eu-central-1\" }",
    );
    let mars = price(1).replace("aws:eu-central-1", "mars");
    let message = error("", &[&twice, &egress("ms_per_unit = 1,", &mars)], &[]);
    assert!(message.ends_with("it must be one of aws:us-east-1, aws:eu-central-1"), "{message}");
}
