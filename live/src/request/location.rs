//! Rewrites the `Location` header of answers: clients must not see an engine's address, which they cannot reach.

use crate::upstream::connect::Endpoint;
use http::header::{CONTENT_LOCATION, HeaderMap, HeaderName, LOCATION};
use http::{HeaderValue, Uri};
use std::net::IpAddr;

/// Replaces addresses of an engine in `Location` and `Content-Location` by their paths, which lead to this router.
pub(crate) fn hide_engine(headers: &mut HeaderMap, engine: &Endpoint, asked: &str) {
    for name in [LOCATION, CONTENT_LOCATION] {
        if headers.contains_key(&name) {
            hide_in(headers, &name, engine, asked);
        }
    }
}

fn hide_in(headers: &mut HeaderMap, name: &HeaderName, engine: &Endpoint, asked: &str) {
    let Some(text) = headers.get(name).and_then(|value| value.to_str().ok()) else { return };
    let absolute = if text.starts_with("//") { format!("http:{text}") } else { text.to_owned() };
    let Ok(uri) = absolute.parse::<Uri>() else { return };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let base = &engine.base;
    let shown = path.strip_prefix(base.as_str()).filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let is_engines = match uri.host() {
        None => uri.scheme().is_none() && shown != path,
        Some(host) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let is_same_path = uri.path().trim_end_matches('/') == format!("{base}{}", asked.trim_end_matches('/'));
            bare.eq_ignore_ascii_case(engine.host()) || is_inner(bare) || is_same_path
        }
    };
    if is_engines && let Ok(value) = HeaderValue::try_from(shown) {
        headers.insert(name, value);
    }
}

/// Whether a host is an address that is not reached from elsewhere.
fn is_inner(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_engines_become_paths_and_others_stay() {
        let shown = |base: &str, location: &str| {
            let engine = Endpoint::parse(base).unwrap();
            let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::try_from(location).unwrap())]);
            hide_engine(&mut headers, &engine, "/v1/models/");
            headers[LOCATION].to_str().unwrap().to_owned()
        };
        for (location, expected) in [
            ("http://engine:8000/v1/models?a=b", "/v1/models?a=b"),
            ("http://ENGINE/v1/models", "/v1/models"),
            ("//engine:8000/v1/models", "/v1/models"),
            ("http://10.0.0.7:8000/x", "/x"),
            ("http://127.0.0.1:8000/x", "/x"),
            ("http://[::1]:8000/x", "/x"),
            ("http://localhost:8000/x", "/x"),
            ("https://pod-17.internal/v1/models", "/v1/models"),
            ("https://bucket.example/file?sig=1", "https://bucket.example/file?sig=1"),
            ("/v1/models", "/v1/models"),
        ] {
            assert_eq!(shown("http://engine:8000", location), expected, "{location}");
        }
        assert_eq!(shown("http://engine/base", "http://engine/base/v1/x"), "/v1/x");
        assert_eq!(shown("http://engine/base", "/base/v1/x"), "/v1/x");
    }
}
