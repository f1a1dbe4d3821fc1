use super::*;

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|&(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
}

#[test]
fn hop_by_hop_headers_are_removed_and_others_pass() {
    let mut headers = map(&[
        ("connection", "close, x-secret"),
        ("x-secret", "1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("host", "a"),
        ("content-length", "5"),
        ("x-lb-hop", "0"),
        ("x-gorgo-fence", "eu"),
        ("x-custom", "kept"),
        ("authorization", "Bearer k"),
        ("x-forwarded-for", "1.2.3.4"),
    ]);
    to_upstream(
        &mut headers,
        7,
        &HeaderValue::from_static("r"),
        &ClientAddress::new([10, 0, 0, 1].into()),
        &Keys::default(),
    );
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "x-custom", "x-forwarded-for", "x-request-id"]);
    assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
}

#[test]
fn every_line_of_forwarded_addresses_is_passed_on_in_order() {
    let mut headers = HeaderMap::new();
    for line in ["6.6.6.6", "203.0.113.9, 10.1.1.1"] {
        headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
    }
    to_upstream(
        &mut headers,
        0,
        &HeaderValue::from_static("r"),
        &ClientAddress::new([10, 0, 0, 1].into()),
        &Keys::default(),
    );
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    assert_eq!(lines, ["6.6.6.6, 203.0.113.9, 10.1.1.1, 10.0.0.1"]);
}

#[test]
fn cookies_of_http_2_become_one_line() {
    let from = ClientAddress::new([10, 0, 0, 1].into());
    for (lines, joined) in [(&["a=1"][..], "a=1"), (&["a=1", "b=2; c=3", "d=4"], "a=1; b=2; c=3; d=4")] {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_static(line));
        }
        to_upstream(&mut headers, 0, &HeaderValue::from_static("r"), &from, &Keys::default());
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), [joined]);
    }
}

#[test]
fn only_the_true_length_of_the_body_passes() {
    let from = ClientAddress::new([10, 0, 0, 1].into());
    for (told, passes) in
        [(&["5"][..], true), (&["05"], false), (&["+5"], false), (&["6"], false), (&["5", "5"], false)]
    {
        let mut headers = HeaderMap::new();
        for value in told {
            headers.append(CONTENT_LENGTH, HeaderValue::from_static(value));
        }
        to_upstream(&mut headers, 5, &HeaderValue::from_static("r"), &from, &Keys::default());
        assert_eq!(headers.contains_key(CONTENT_LENGTH), passes, "{told:?}");
    }
}

#[test]
fn only_keys_of_this_router_are_kept_from_engines() {
    let keys = Keys { api: Some("k".into()), admin: Some("a".into()), ..Keys::default() };
    for (authorization, api_key, keys, passed) in [
        ("Bearer k", "k", &keys, &[][..]),
        ("bearer  k", "engine", &keys, &["x-api-key"]),
        ("Bearer engine", "k", &keys, &["authorization"]),
        ("Bearer a", "a", &keys, &[]),
        ("k", "x", &keys, &["x-api-key"]),
        (
            "Bearer engine",
            "other",
            &Keys { admin: Some("a".into()), ..Keys::default() },
            &["authorization", "x-api-key"],
        ),
        ("Bearer a", "other", &Keys { admin: Some("a".into()), ..Keys::default() }, &["x-api-key"]),
    ] {
        let mut headers = map(&[("authorization", authorization), ("x-api-key", api_key)]);
        to_upstream(&mut headers, 0, &HeaderValue::from_static("r"), &ClientAddress::new([10, 0, 0, 1].into()), keys);
        let left: Vec<_> =
            ["authorization", "x-api-key"].into_iter().filter(|name| headers.contains_key(*name)).collect();
        assert_eq!(left, passed, "{authorization}, {api_key}");
    }
}

#[test]
fn a_key_of_this_router_in_a_second_line_reaches_no_engine() {
    let keys = Keys { admin: Some("a".into()), ..Keys::default() };
    let mut headers = HeaderMap::new();
    for key in ["Bearer engine", "Bearer a"] {
        headers.append(AUTHORIZATION, HeaderValue::from_static(key));
    }
    let client = ClientAddress::new([10, 0, 0, 1].into());
    to_upstream(&mut headers, 0, &HeaderValue::from_static("r"), &client, &keys);
    assert_eq!(headers.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer engine"]);
}

#[test]
fn a_key_of_this_router_reaches_no_engine_in_whatever_header_and_scheme() {
    let keys = Keys { api: Some("k".into()), ..Keys::default() };
    let client = ClientAddress::new([10, 0, 0, 1].into());
    for (name, value) in [
        ("authorization", "Token k"),
        ("authorization", "ApiKey  k"),
        ("x-api-key", "Bearer k"),
        ("api-key", "k"),
        ("x-goog-api-key", "k"),
        ("x-auth-token", "k"),
    ] {
        let mut headers = map(&[(name, value)]);
        to_upstream(&mut headers, 0, &HeaderValue::from_static("r"), &client, &keys);
        assert!(!headers.contains_key(name), "{name}: {value}");
        let mut headers = map(&[(name, "of-the-engine")]);
        to_upstream(&mut headers, 0, &HeaderValue::from_static("r"), &client, &keys);
        assert!(headers.contains_key(name), "{name}");
    }
}

#[test]
fn odd_request_ids_are_replaced() {
    let id = |value: &'static str| request_id(&map(&[("x-request-id", value)]), 1, RequestId(2));
    assert_eq!(id("abc"), "abc");
    assert_eq!(id("a b"), "0000000000000001-2");
    assert_eq!(id(""), "0000000000000001-2");
    for number in [0, 9, 15, 16, 255, 256, u64::MAX] {
        let expected = format!("{:016x}-{number:x}", 0x1234_5678_9abc_def0u64);
        assert_eq!(new_id(0x1234_5678_9abc_def0, RequestId(number)), expected.as_str());
    }
}
