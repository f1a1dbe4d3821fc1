//! Rewrites URLs in headers of answers, such as `Location`: clients must not see an engine's address, which they cannot
//! reach.

use crate::upstream::connect::Endpoint;
use http::header::{CONTENT_LOCATION, HeaderMap, HeaderName, LINK, LOCATION, REFRESH};
use http::{HeaderValue, Uri};
use std::net::IpAddr;

/// Whether a host is one of the router's replicas.
pub(crate) type IsReplica<'a> = &'a dyn Fn(&str) -> bool;

/// Replaces addresses of engines in the headers that hold URLs by their paths, which lead to this router. `engine` has
/// answered; a load balancer inside of the fleet may name another.
pub(crate) fn hide_engines(headers: &mut HeaderMap, engine: &Endpoint, is_replica: IsReplica<'_>, asked: &str) {
    // Nearly no answer has one.
    let holds_urls = |name: &HeaderName| [LOCATION, CONTENT_LOCATION, LINK, REFRESH].contains(name);
    if !headers.keys().any(holds_urls) {
        return;
    }
    let of = Answered { engine, is_replica, asked };
    for name in [LOCATION, CONTENT_LOCATION, LINK, REFRESH] {
        let values: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        for value in values {
            let shown = value.to_str().ok().and_then(|text| match name {
                LINK => Some(of.in_links(text)),
                REFRESH => of.in_refresh(text),
                _ => of.shown(text),
            });
            headers.append(&name, shown.and_then(|shown| HeaderValue::try_from(shown).ok()).unwrap_or(value));
        }
    }
}

/// What URLs in an answer are judged by.
struct Answered<'a> {
    engine: &'a Endpoint,
    is_replica: IsReplica<'a>,
    /// The path that was asked for.
    asked: &'a str,
}

impl Answered<'_> {
    /// The URLs of a `Link` header stand in angle brackets.
    fn in_links(&self, text: &str) -> String {
        let hidden = |part: &str| match part.split_once('>') {
            Some((url, rest)) => format!("<{}>{rest}", self.shown(url).unwrap_or_else(|| url.to_owned())),
            None => format!("<{part}"),
        };
        let mut parts = text.split('<');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| all + &hidden(part))
    }

    /// `Refresh: SECONDS; url=URL`.
    fn in_refresh(&self, text: &str) -> Option<String> {
        let at = text.to_ascii_lowercase().find("url=")? + 4;
        let url = text[at..].trim().trim_matches(['"', '\'']);
        Some(format!("{}{}", &text[..at], self.shown(url)?))
    }

    /// What a client is shown in place of a URL; `None` if it is no address of the engine.
    fn shown(&self, text: &str) -> Option<String> {
        let absolute = if text.starts_with("//") { format!("http:{text}") } else { text.to_owned() };
        let uri = absolute.parse::<Uri>().ok()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let Self { engine, asked, .. } = *self;
        let base = &engine.base;
        let shown = path.strip_prefix(base.as_str()).filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let is_engines = match uri.host() {
            None => uri.scheme().is_none() && shown != path,
            Some(host) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let is_same_path = uri.path().trim_end_matches('/') == format!("{base}{}", asked.trim_end_matches('/'));
                bare.eq_ignore_ascii_case(engine.host()) || (self.is_replica)(bare) || is_inner(bare) || is_same_path
            }
        };
        is_engines.then(|| shown.to_owned())
    }
}

/// Whether a host is an address or a name that is not reached from elsewhere.
fn is_inner(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
        Err(_) => {
            let name = host.trim_end_matches('.').to_ascii_lowercase();
            !name.contains('.') || [".local", ".internal", ".svc"].iter().any(|zone| name.ends_with(zone))
        }
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
            hide_engines(&mut headers, &engine, &|host| host == "gpu-2.example", "/v1/models/");
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
            ("https://pod-17.example/v1/models", "/v1/models"),
            ("https://pod-17.internal/x", "/x"),
            ("http://vllm-1.fleet.svc.cluster.local:8000/x", "/x"),
            ("http://vllm-1:8000/x", "/x"),
            ("https://gpu-2.example/x", "/x"),
            ("https://bucket.example/file?sig=1", "https://bucket.example/file?sig=1"),
            ("/v1/models", "/v1/models"),
        ] {
            assert_eq!(shown("http://engine:8000", location), expected, "{location}");
        }
        assert_eq!(shown("http://engine/base", "http://engine/base/v1/x"), "/v1/x");
        assert_eq!(shown("http://engine/base", "/base/v1/x"), "/v1/x");
        let engine = Endpoint::parse("http://engine:8000").unwrap();
        for (name, value, expected) in [
            (
                LINK,
                "<http://engine:8000/x>; rel=next, <https://other.example/y>; rel=up",
                "</x>; rel=next, <https://other.example/y>; rel=up",
            ),
            (LINK, "</x>; rel=next", "</x>; rel=next"),
            (REFRESH, "5; URL=http://engine:8000/x", "5; URL=/x"),
            (REFRESH, "5", "5"),
            (CONTENT_LOCATION, "http://engine:8000/x", "/x"),
        ] {
            let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
            hide_engines(&mut headers, &engine, &|host| host == "gpu-2.example", "/v1/models/");
            assert_eq!(headers[&name], expected);
        }
    }
}
