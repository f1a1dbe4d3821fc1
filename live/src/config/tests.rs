use super::*;

fn message(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_a_proxy_on_loopback() {
    let config = Config::parse("").unwrap();
    assert_eq!((config.role, config.listen.to_string()), (Role::Proxy, "127.0.0.1:8000".to_owned()));
    assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
}

#[test]
fn misspelt_keys_name_the_line_and_the_nearest() {
    assert_eq!(
        message("seed = 1\n[limits]\nbody_byte = 5\n").split(" (expected").next().unwrap(),
        "line 3: unknown field `body_byte`; did you mean `body_bytes`?"
    );
    assert!(message("policy = \"gorg\"").contains("did you mean `gorgo`?"));
    assert!(message("[policy]\nname = \"gorgo\"\nms_per_tokn = 1").contains("did you mean `ms_per_token`?"));
    assert!(message("listen = 5").starts_with("line 1: "), "{}", message("listen = 5"));
}

#[test]
fn values_out_of_range_name_the_key_the_value_and_what_to_do() {
    for (text, expected) in [
        ("limits.body_bytes = 5", "`limits.body_bytes` is 5; it must lie between 1024 and 1073741824"),
        (
            "policy = \"oracle-ttft\"",
            "`policy` is \"oracle-ttft\"; an oracle knows the future of the engines, which only a simulation has; choose another policy",
        ),
        ("router.explore = 2", "`router.explore` is 2; it must lie between 0 and 1"),
        ("probes.path = \"models\"", "`probes.path` is \"models\"; begin it with `/`"),
        (
            "role = \"edge\"",
            "`replicas` is a list of 0; an edge stands beside exactly one engine; name it, and others under `peers`",
        ),
        (
            "replicas = [{url = \"http://a:1\"}, {url = \"http://a:1\"}]",
            "`replicas[1].name` is \"a:1\"; another has it; names must differ",
        ),
        (
            "replicas = [{url = \"ftp://a\"}]",
            "`replicas[0].url` is \"ftp://a\"; write http://host:port or https://host[:port]",
        ),
        ("router.queue_timeout_ms = -1", "`router.queue_timeout_ms` is -1; it must lie between 0 and 1000000000"),
        ("tls.cert = \"a.pem\"", "`tls` is incomplete; give both `tls.cert` and `tls.key`, or neither"),
    ] {
        assert_eq!(message(text), expected);
    }
}

#[test]
fn beyond_loopback_both_keys_are_needed() {
    assert!(message("listen = \"0.0.0.0:8000\"").starts_with("`listen` is 0.0.0.0:8000; beyond loopback"));
    assert!(Config::parse("listen = \"0.0.0.0:1\"\nsecurity = {api_key = \"a\"}").is_err());
    assert!(Config::parse("listen = \"0.0.0.0:1\"\nsecurity = {api_key = \"a\", admin_key = \"b\"}").is_ok());
}

#[test]
fn durations_may_have_a_unit() {
    let text = "timeouts.idle_ms = \"2min\"\nrouter.down_timeout = \"3s\"\nprobes = {period_ms = \"200ms\"}";
    let config = Config::parse(text).unwrap();
    let (timeouts, router) = (&config.timeouts, &config.router);
    assert_eq!((timeouts.idle_ms, router.down_timeout_ms, config.probes.period_ms), (120_000, 3_000.0, 200));
    let error = message("seed = 1\n[timeouts]\nidle_ms = \"2 fortnights\"");
    assert!(error.starts_with("line 3: timeouts.idle_ms is \"2 fortnights\"; write milliseconds"), "{error}");
    assert!(message("timeouts.idle_ms = \"1ms\"").contains("`timeouts.idle_ms` is 1"));
}

#[test]
fn keys_are_never_shown() {
    let config =
        Config::parse("security = {api_key = \"sesame\"}\nreplicas = [{url = \"http://a\", api_key = \"sesame\"}]");
    assert!(!config.unwrap().to_toml().contains("sesame"));
}

#[test]
fn no_file_panics() {
    for text in ["", "x", "[[replicas]]\nurl = \"http://[::1\"", "replicas = [{url = \"http://é\"}]", "\u{0}"] {
        fuzz(text.as_bytes());
    }
}

#[cfg(not(feature = "tokenizer"))]
#[test]
fn a_tokenizer_is_refused_where_none_is_built_in() {
    let error = Config::parse("tokenizer = \"t.json\"").unwrap_err().to_string();
    assert_eq!(
        error,
        "`tokenizer` is \"t.json\"; this build cannot count tokens; build it with `cargo build --release --features \
         tokenizer`, or take the key out to estimate them"
    );
}

#[cfg(not(feature = "kubernetes"))]
#[test]
fn kubernetes_is_refused_where_no_client_for_it_is_built_in() {
    let error = Config::parse("discovery.kubernetes = [{service = \"sglang\"}]").unwrap_err().to_string();
    assert_eq!(
        error,
        "`discovery.kubernetes` is a list of 1; this build cannot ask Kubernetes; build it with `cargo build --release \
         --features kubernetes`, or use discovery.dns"
    );
}

#[test]
fn services_of_kubernetes_are_read_and_wrong_ones_named() {
    for (text, problem) in [
        ("{}", "`discovery.kubernetes[0].service` is \"\"; write a name of Kubernetes"),
        ("{service = \"a/b\"}", "`discovery.kubernetes[0].service` is \"a/b\""),
        ("{service = \"a\", namespace = \"M\"}", "`discovery.kubernetes[0].namespace` is \"M\""),
        ("{service = \"a\", port = 0}", "`discovery.kubernetes[0].port` is 0"),
        (
            "{service = \"a\", port = 70000}",
            "`discovery.kubernetes[0].port`: invalid value: integer `70000`, expected a number from 1 to 65535, or the name",
        ),
        ("{service = \"a\"}, {service = \"a\"}", "`discovery.kubernetes[1]` is \"kubernetes:a\"; it is listed twice"),
        ("{service = \"a\", selector = \"b\"}", "selector"),
    ] {
        let error = Config::parse(&format!("discovery.kubernetes = [{text}]")).unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn a_pair_of_regions_has_one_price_and_types_are_told_in_words() {
    let price = |per_gb: u32| format!("{{from = \"eu\", to = \"us\", per_gb = {per_gb}}}");
    let prices = |list: &str| format!("region = \"eu\"\nrouter.egress = {{ms_per_unit = 1, prices = [{list}]}}");
    let error = message(&prices(&format!("{}, {}", price(1), price(2))));
    assert!(
        error.contains("`router.egress.prices` is per_gb = 2; the pair from \"eu\" to \"us\" has a price"),
        "{error}"
    );
    let error = message("explain.log = \"x\"");
    assert!(error.contains("`explain.log`") && error.contains("expected a table"), "{error}");
}
