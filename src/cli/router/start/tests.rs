use super::*;

#[test]
fn the_command_line_overrides_the_file() {
    let dir = std::env::temp_dir().join(format!("gorgo-live-args-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("router.toml");
    std::fs::write(&path, "policy = \"random\"\nlisten = \"127.0.0.1:9\"\n").unwrap();
    let args = StartArgs {
        config: Some(path),
        listen: Some("127.0.0.1:10".parse().unwrap()),
        policy: None,
        sets: vec!["router.gates.max_running=3".to_owned()],
        tls_insecure: false,
        log_json: false,
        pid_file: None,
        state: None,
        check: false,
    };
    let config = args.read_config(Role::Proxy, &["http://a:1@eu".to_owned()], &[]).unwrap();
    assert_eq!((config.policy.name(), config.listen.port()), ("random", 10));
    assert_eq!(config.router.gates.max_running, Some(3));
    assert_eq!((config.replicas[0].url.as_str(), config.replicas[0].region.as_deref()), ("http://a:1", Some("eu")));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_weight_of_the_default_policy_needs_no_policy_named() {
    let with = |policy: Option<&str>, set: &str| {
        let args = StartArgs {
            config: None,
            listen: None,
            policy: policy.map(str::to_owned),
            sets: vec![set.to_owned()],
            pid_file: None,
            tls_insecure: false,
            log_json: false,
            state: None,
            check: false,
        };
        args.read_config(Role::Proxy, &["http://a:1".to_owned()], &[])
    };
    let set = with(None, "policy.ms_per_token=0.058").unwrap();
    assert_eq!(set.policy, with(Some("predictive"), "policy.ms_per_token=0.058").unwrap().policy);
    assert_ne!(set.policy, with(None, "router.max_hops=1").unwrap().policy);
    let published = with(None, "policy.running_cost_factor=0.3").unwrap();
    assert_eq!(published.policy, with(Some("gorgo"), "policy.running_cost_factor=0.3").unwrap().policy);
    assert_eq!(with(None, "policy.name=random").unwrap().policy.name(), "random");
}

#[test]
fn a_start_listens_on_the_port_it_is_given_and_on_no_other_machine() {
    let start = |listen: Option<&str>| StartArgs {
        config: None,
        listen: listen.map(|addr| addr.parse().unwrap()),
        policy: None,
        sets: Vec::new(),
        tls_insecure: false,
        log_json: false,
        pid_file: None,
        state: None,
        check: false,
    };
    let address = |host: &str, port| RouterAddress {
        host: vec![host.to_owned()],
        port,
        tls: false,
        ca: None,
        json: false,
        key: None,
    };
    let on =
        |start: StartArgs, address: &RouterAddress| start.listen_at(address).map(|s| s.listen.map(|l| l.to_string()));
    assert_eq!(on(start(None), &address("localhost", Some(9001))).unwrap().as_deref(), Some("127.0.0.1:9001"));
    assert_eq!(
        on(start(Some("127.0.0.1:7")), &address("localhost", Some(9001))).unwrap().as_deref(),
        Some("127.0.0.1:7")
    );
    assert_eq!(on(start(None), &address("localhost", None)).unwrap(), None);
    let error = on(start(None), &address("10.0.0.1", None)).unwrap_err().to_string();
    assert!(error.contains("--host 10.0.0.1") && error.contains("--listen"), "{error}");
}
