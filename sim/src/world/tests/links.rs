//! Links with numbers of their own.

use super::*;
use crate::network::LinkConfig;

#[test]
fn a_link_has_numbers_of_its_own() {
    let ttft = |change: &dyn Fn(&mut LinkConfig, &mut WorldConfig), input: u32| {
        let mut config = world(&TWO, Topology::Proxy { site: 0 });
        config.replicas[0].site = 1;
        config.replicas.truncate(1);
        config.scrape_ms = 60_000.0;
        let mut link = LinkConfig { from: "s1".to_owned(), to: "s0".to_owned(), ..LinkConfig::default() };
        change(&mut link, &mut config);
        config.links.push(link);
        let trace = [request(0.0, 0, input, 3, FRANKFURT), request(9_000.0, 1, input, 3, FRANKFURT)];
        let out = go(&config, "nearest", &trace);
        [0, 1].map(|i| out.records[i].ttft().unwrap().ms())
    };
    let extra = |change: &dyn Fn(&mut LinkConfig, &mut WorldConfig), input: u32| {
        let (with, without) = (ttft(change, input), ttft(&|_, _| {}, input));
        [0, 1].map(|i| (with[i] - without[i]).round())
    };
    // A small request pays an opening and one round trip of 150 ms, and the second one as well: 4 s keep-alive.
    assert_eq!(extra(&|link, _| link.rtt_ms = Some(250.0), 512), [200.0, 200.0]);
    assert_eq!(extra(&|link, _| link.opening_rounds = Some(2.0), 512), [150.0, 150.0]);
    assert_eq!(extra(&|link, _| link.keep_alive_ms = Some(60_000.0), 512), [0.0, -150.0]);
    assert_eq!(extra(&|_, config| config.replicas[0].keep_alive_ms = Some(100.0), 512), [0.0, 0.0]);
    // 12,000 tokens are 54 kB: 3 round trips with 14.6 kB in flight, 1 with 100 kB; 54.4 ms more at 8 Mbit/s.
    assert_eq!(extra(&|link, _| link.initial_window = Some(100_000), 12_000), [-300.0, -300.0]);
    assert_eq!(extra(&|link, _| link.mbps = Some(8.0), 12_000), [54.0, 54.0]);
    let kept = |link: &mut LinkConfig, _: &mut WorldConfig| {
        (link.keep_alive_ms, link.congestion) = (Some(60_000.0), Some(Congestion::CubicKept));
    };
    assert_eq!(extra(&kept, 12_000), [0.0, -450.0], "no opening and a window that stayed");
}

#[test]
fn a_link_has_swings_and_probes_of_its_own_and_a_wrong_end_is_named() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.replicas[0].site = 1;
    config.replicas.truncate(1);
    let run_with = |config: &mut WorldConfig, link: LinkConfig| {
        config.links = vec![LinkConfig { from: "s0".to_owned(), to: "s1".to_owned(), ..link }];
        let out = go(config, "gorgo", &[request(20_000.0, 0, 64, 3, FRANKFURT)]);
        (out.records[0].ttft().unwrap().ms(), out.records[0].predicted_ttft_ms.unwrap())
    };
    let (ttft, predicted) = run_with(&mut config, LinkConfig::default());
    let swinging = run_with(&mut config, LinkConfig { sigma: Some(0.3), ..LinkConfig::default() });
    assert_ne!(swinging.0, ttft);
    let misled = run_with(&mut config, LinkConfig { probe_scale: Some(4.0), ..LinkConfig::default() });
    assert_eq!(misled.0, ttft, "requests pay as before");
    assert!(misled.1 > predicted + 100.0, "probes show more: {} and {predicted} ms", misled.1);
    config.links[0].to = "s7".to_owned();
    let error = run(&config, &|| PolicyConfig::default().build(), std::iter::empty()).unwrap_err();
    assert!(error.to_string().contains("no site is called `s7`"), "{error}");
}

#[test]
fn only_what_an_edge_forwards_is_packed() {
    let ttft = |topology: Topology, all: f64, link: Option<f64>| {
        let mut config = world(&TWO, topology);
        config.network.compression = all;
        let ends = LinkConfig { from: "s0".to_owned(), to: "s1".to_owned(), ..LinkConfig::default() };
        config.links = vec![LinkConfig { compression: link, ..ends }];
        let trace = [request(0.0, 0, 12_000, 3, FRANKFURT), request(9_000.0, 1, 12_000, 3, FRANKFURT)];
        let mut ms =
            go(&config, "round-robin", &trace).records.iter().map(|r| r.ttft().unwrap().ms()).collect::<Vec<_>>();
        ms.sort_by(f64::total_cmp);
        ms
    };
    let saved = |topology: Topology, all: f64, link: Option<f64>| {
        let (with, without) = (ttft(topology, all, link), ttft(topology, 1.0, None));
        [0, 1].map(|i| (without[i] - with[i]).round())
    };
    // 54 kB take 3 round trips of 150 ms, 22 kB take 2.
    assert_eq!(saved(Topology::Edge, 0.4, None), [0.0, 150.0]);
    assert_eq!(saved(Topology::Edge, 1.0, Some(0.4)), [0.0, 150.0]);
    assert_eq!(saved(Topology::Edge, 0.4, Some(1.0)), [0.0, 0.0]);
    assert_eq!(saved(Topology::Proxy { site: 0 }, 0.4, Some(0.4)), [0.0, 0.0], "engines get plain requests");
}
