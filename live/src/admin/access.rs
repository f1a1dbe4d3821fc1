//! Access control of the admin API: keys, and protection against cross-site requests and DNS rebinding.
//!
//! A router on loopback without keys trusts every program on the machine, but not web pages open in a browser there. A
//! page can reach this address in two ways. Cross-site: the browser sends the page's `Origin`, and sends JSON only
//! after a preflight, which this API does not answer. DNS rebinding: the page's own host name resolves to this address,
//! and `Host` carries that name. Both fail when a key is set, because the browser does not have the key.

use super::Refusal;
use crate::config::Config;
use crate::request::headers;
use crate::server::keys::Keys;
use crate::signals::digest;
use crate::snapshot::peer;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode};
use std::net::IpAddr;

/// Paths that need no key.
const OPEN: [&str; 5] = ["/health", "/ready", "/lb/health", "/proxy/health", "/dashboard"];

/// Refuses a request that must not reach the admin API. `has_body`: the request's head announces a body.
///
/// # Errors
/// The refusal: 401, 403 or 415.
pub(super) fn check(config: &Config, keys: &Keys, parts: &Parts) -> Result<(), Refusal> {
    let (path, reads) = (parts.uri.path(), matches!(parts.method, Method::GET | Method::HEAD));
    if reads && OPEN.contains(&path) {
        return Ok(());
    }
    let has_keys = keys.admin.is_some() || keys.api.is_some();
    check_origin(parts, reads)?;
    if !has_keys {
        check_host(config, parts)?;
    }
    let key = headers::shown_key(&parts.headers);
    let may = match path {
        "/metrics" if reads => keys.may_read(key) || keys.is_api_key(key),
        super::SHARE | peer::PATH => keys.may_share(key),
        "/lb/report" | digest::PATH if reads => keys.may_read(key) || keys.may_read_report(key),
        _ if reads => keys.may_read(key),
        _ => keys.may_administrate(key),
    };
    if !may {
        let is_of_routers = matches!(path, super::SHARE | peer::PATH | digest::PATH | "/lb/report");
        let message = if is_of_routers && keys.peer.is_some() {
            "the key that this router shows is not the key of peers here; give all routers one GORGO_PEER_KEY, or one \
             security.peer_key_file"
                .to_owned()
        } else {
            let what = if reads { "the admin key, or the key to read," } else { "the admin key" };
            format!("send {what} as `Authorization: Bearer KEY`; `gorgo` takes it from GORGO_ADMIN_KEY")
        };
        return Err(Refusal(StatusCode::UNAUTHORIZED, message));
    }
    if reads { Ok(()) } else { check_content_type(parts, has_keys) }
}

fn authority(parts: &Parts) -> &str {
    headers::authority(&parts.uri, &parts.headers)
}

/// The host of `host[:port]`; an IPv6 address without its brackets.
fn host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(inside) => inside.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

fn check_host(config: &Config, parts: &Parts) -> Result<(), Refusal> {
    let host = host(authority(parts));
    // The public DNS has no name without a dot, so a page cannot make such a name resolve to this address.
    let known = !host.contains('.')
        || host.parse::<IpAddr>().is_ok()
        || host.to_ascii_lowercase().ends_with(".localhost")
        || config.security.hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
    if known {
        return Ok(());
    }
    let shown: String = host.chars().take(80).collect();
    let message = format!(
        "`{shown}` is not known as a name of this router; list it in security.hosts, set an admin key, or use the IP address"
    );
    Err(Refusal(StatusCode::FORBIDDEN, message))
}

fn check_origin(parts: &Parts, reads: bool) -> Result<(), Refusal> {
    let refuse = |what: &str| {
        let message = format!("this is a request of a page of another site ({what}); the admin API is not for pages");
        Err(Refusal(StatusCode::FORBIDDEN, message))
    };
    if parts.headers.get(ORIGIN).is_some_and(|origin| !headers::is_own_origin(origin, authority(parts))) {
        return refuse("Origin");
    }
    let site = parts.headers.get("sec-fetch-site").filter(|_| !reads);
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return refuse("Sec-Fetch-Site");
    }
    Ok(())
}

/// A page can POST text and forms to any site without a preflight, but neither JSON nor TOML, and cannot use other
/// methods.
fn check_content_type(parts: &Parts, has_keys: bool) -> Result<(), Refusal> {
    let kind = parts.headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let length = parts.headers.get(CONTENT_LENGTH);
    let has_body = parts.headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0");
    let fits = match kind.as_deref() {
        Some("application/json" | "application/toml") => true,
        Some(other) => other.ends_with("+json"),
        None => has_keys || !has_body || parts.method != Method::POST,
    };
    if fits {
        return Ok(());
    }
    let message = "send the body with `Content-Type: application/json`, or `application/toml` for a configuration";
    Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn status(keys: &Keys, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let config = Config {
            security: crate::config::Security { hosts: vec!["gorgo.corp".into()], ..Default::default() },
            ..Config::default()
        };
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&config, keys, &parts).map_or_else(|refused| refused.0.as_u16(), |()| 200)
    }

    const JSON: (&str, &str) = ("content-type", "application/json");
    const BODY: (&str, &str) = ("content-length", "5");

    #[test]
    fn a_page_of_another_site_changes_nothing_and_reads_nothing() {
        let open = Keys::default();
        let post = |headers: &[(&str, &str)]| status(&open, "POST", "/proxy/servers", headers);
        let own = ("host", "127.0.0.1:8000");
        assert_eq!(post(&[own, JSON, BODY]), 200);
        assert_eq!(post(&[own, JSON, BODY, ("origin", "http://evil.example")]), 403);
        assert_eq!(post(&[own, JSON, BODY, ("origin", "null")]), 403);
        assert_eq!(post(&[own, JSON, BODY, ("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(
            post(&[own, JSON, BODY, ("origin", "http://127.0.0.1:8000"), ("sec-fetch-site", "same-origin")]),
            200
        );
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
        {
            assert_eq!(post(&[own, ("content-type", kind), BODY]), 415, "{kind}");
        }
        assert_eq!(post(&[own, BODY]), 415, "a page can leave the type out");
        assert_eq!(post(&[own, ("content-type", "Application/JSON; charset=utf-8"), BODY]), 200);
        assert_eq!(status(&open, "GET", "/proxy/config", &[own, ("origin", "http://evil.example")]), 403);
        assert_eq!(status(&open, "GET", "/overview/stream", &[own, ("origin", "http://evil.example")]), 403);
        assert_eq!(status(&open, "GET", "/health", &[own, ("origin", "http://evil.example")]), 200);
        assert_eq!(status(&open, "GET", "/dashboard", &[own]), 200, "the page holds no data");
    }

    #[test]
    fn a_name_that_a_page_can_rebind_reaches_nothing_without_a_key() {
        let open = Keys::default();
        let get = |keys: &Keys, host: &str| status(keys, "GET", "/proxy/config", &[("host", host)]);
        for host in
            ["127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "localhost:1", "gorgo:8000", "a.localhost", "GORGO.corp:1"]
        {
            assert_eq!(get(&open, host), 200, "{host}");
        }
        for host in
            ["evil.example:8000", "evil.example", "127.0.0.1.evil.example", "gorgo.corp.", "x.gorgo.corp", "1.2.3"]
        {
            assert_eq!(get(&open, host), 403, "{host}");
        }
        let keyed = Keys { admin: Some("k".to_owned()), ..Keys::default() };
        assert_eq!(get(&keyed, "evil.example"), 401);
        assert_eq!(
            status(&keyed, "GET", "/proxy/config", &[("host", "router.corp"), ("authorization", "Bearer k")]),
            200,
            "a key proves more than a name"
        );
    }

    #[test]
    fn each_key_opens_what_it_is_for() {
        let key = |text: &str| Some(text.to_owned());
        let keys = Keys { api: key("a"), admin: key("b"), peer: key("p"), read: key("r") };
        let with = |method: &str, path: &str, key: &str| {
            status(&keys, method, path, &[("host", "x"), ("authorization", &format!("Bearer {key}")), JSON])
        };
        let allowed = |key: &str| {
            let asks = [
                ("GET", "/metrics"),
                ("GET", "/proxy/status"),
                ("GET", "/explain/1"),
                ("GET", "/overview"),
                ("GET", "/overview/stream"),
                ("GET", "/lb/report"),
                ("GET", "/lb/digest"),
                ("POST", "/proxy/tune"),
                ("DELETE", "/proxy/servers"),
                ("PUT", "/metrics"),
            ];
            asks.map(|(method, path)| u8::from(with(method, path, key) == 200))
        };
        assert_eq!(allowed("b"), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(allowed("r"), [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(allowed("a"), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(allowed("p"), [0, 0, 0, 0, 0, 1, 1, 0, 0, 0], "peers read reports and digests");
        assert_eq!(allowed("x"), [0; 10]);
        let (parts, ()) = Request::get("/lb/report").header("host", "x").body(()).unwrap().into_parts();
        let told = |keys: &Keys| check(&Config::default(), keys, &parts).unwrap_err().1;
        assert!(told(&keys).contains("GORGO_PEER_KEY"), "a router is told which key of its own is wrong");
        assert!(told(&Keys { peer: None, ..keys }).contains("GORGO_ADMIN_KEY"));
    }
}
