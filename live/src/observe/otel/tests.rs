use super::*;
use crate::observe::request_log::tests::row;

#[test]
fn traceparents_are_read_as_w3c_says() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(parse(good.as_bytes()), Some((0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331, 1)));
    assert!(parse(format!("01{}-later", &good[2..]).as_bytes()).is_some(), "a later version may say more");
    let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
    for bad in [
        "",
        "00",
        &good[..54],
        &format!("{good}-more"),
        &format!("ff{}", &good[2..]),
        &good.to_uppercase(),
        &good.replace('-', "_"),
        &zero_trace,
        &good.replace("b7ad6b7169203331", "0000000000000000"),
        "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
    ] {
        assert_eq!(parse(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn a_request_continues_its_clients_trace_or_begins_one() {
    let mut headers = HeaderMap::new();
    let alone = Context::of(&headers, 7, RequestId(1));
    assert!(alone.parent.is_none() && alone.sampled && alone.trace != 0 && alone.span != 0);
    assert_ne!(alone.trace, Context::of(&headers, 7, RequestId(2)).trace);
    let told = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    headers.insert(TRACEPARENT, HeaderValue::from_static(told));
    let below = Context::of(&headers, 7, RequestId(1));
    assert_eq!((below.parent, below.sampled), (Some(0xb7ad_6b71_6920_3331), false));
    let header = below.header().unwrap();
    let (trace, span, flags) = parse(header.as_bytes()).unwrap();
    assert_eq!((trace, span, flags), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, below.span, 0));
}

#[test]
fn stages_follow_each_other_and_end_with_the_request() {
    let whole = stages(&row("a", 5.0));
    let names: Vec<_> = whole.iter().map(|s| s.0).collect();
    assert!(names.ends_with(&["first-token", "stream"]), "{whole:?}");
    assert!(whole.windows(2).all(|w| w[0].2 == w[1].1), "{whole:?}");
    let mut waiting = row("b", 5.0);
    (waiting.dispatched, waiting.first_token) = (None, None);
    assert_eq!(stages(&waiting), [("queue", waiting.arrived, waiting.done)]);
}

#[test]
fn the_environment_says_where_spans_go() {
    let read = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(String, String)> = pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        Settings::from_environment(move |name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    };
    assert!(read(&[]).unwrap().is_none());
    assert!(
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none()
    );
    let base = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=abc, x=y%20z"),
    ]);
    let base = base.unwrap().unwrap();
    assert_eq!((base.endpoint.to_string().as_str(), base.service.as_str()), ("http://c:4318/v1/traces", "edge"));
    assert_eq!((&base.headers["api-key"], &base.headers["x"]), (&"abc".parse().unwrap(), &"y z".parse().unwrap()));
    let own = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/path")]).unwrap().unwrap();
    assert_eq!((own.endpoint.to_string().as_str(), own.service.as_str()), ("https://c/path", "gorgo"));
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "novalue"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ] {
        let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), (name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
