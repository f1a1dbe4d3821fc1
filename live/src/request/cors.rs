//! CORS: which answers pages of other origins may read, and the preflight requests of browsers.
//!
//! Without `cors.origins` the engines decide: preflights pass, without a key, since browsers send none. With it the
//! router answers preflights and names the allowed origin in every answer. Its own refusals and lists of models can be
//! read by any page that may send requests: engines' own can, too, and people see why a request failed.
//!
//! Browsers send no preflight before they open a WebSocket or send a body without a type. So with `cors.origins`
//! requests of other origins are refused, and without it WebSockets of other sites are, where no key shows that the
//! page may.

use crate::config::Config;
use crate::request::body::Body;
use crate::request::errors::{Own, refusal};
use crate::request::headers;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, ORIGIN, VARY,
};
use http::{HeaderValue, Method, Response, StatusCode};

const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// Whether a browser asks with this request if it may send another.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight; `None` if the engines are to answer.
pub(crate) fn preflight(config: &Config, headers: &HeaderMap) -> Option<Response<Body>> {
    if config.cors.origins.is_empty() {
        return None;
    }
    let origin = headers.get(ORIGIN)?;
    if allowed(config, origin).is_none() {
        let message = "this origin may not send requests here; add it to cors.origins";
        return Some(refusal(StatusCode::FORBIDDEN, "origin_not_allowed", message));
    }
    let mut response = Response::new(Body::Full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS"));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    Some(response)
}

/// Refuses a request of a page of `origin` that may send none here. `is_open`: no key is needed.
pub(crate) fn foreign(
    config: &Config,
    origin: &HeaderValue,
    authority: &str,
    is_websocket: bool,
    is_open: impl FnOnce() -> bool,
) -> Option<Response<Body>> {
    let decides = !config.cors.origins.is_empty();
    if headers::is_own_origin(origin, authority)
        || allowed(config, origin).is_some()
        || !(decides || is_websocket && is_open())
    {
        return None;
    }
    let message = "pages of this origin may not send requests here; add it to cors.origins";
    Some(refusal(StatusCode::FORBIDDEN, "origin_not_allowed", message))
}

/// Names in an answer to a page of `origin`, if one asked, whether the page may read it. Caches keep the answers to
/// several origins, and to none, apart (Fetch, "CORS protocol and HTTP caches").
pub(crate) fn tell(config: &Config, origin: Option<&HeaderValue>, response: &mut Response<Body>) {
    let origins = &config.cors.origins;
    let differs = origins.iter().all(|known| known != "*") && !origins.is_empty();
    if differs || origin.is_some() && (!origins.is_empty() || is_own(response)) {
        response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(origin) = origin {
        allow(config, origin, response);
    }
}

fn is_own(response: &Response<Body>) -> bool {
    response.extensions().get::<Own>().is_some()
}

fn allow(config: &Config, origin: &HeaderValue, response: &mut Response<Body>) {
    let is_ours = is_own(response);
    let value = match allowed(config, origin) {
        Some(value) => value,
        None if config.cors.origins.is_empty() && is_ours => HeaderValue::from_static("*"),
        None => return,
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
    let exposed = HeaderValue::from_static("x-request-id, x-gorgo-replica, x-gorgo-decision, retry-after");
    headers.entry(ACCESS_CONTROL_EXPOSE_HEADERS).or_insert(exposed);
}

/// Removes what an engine says of other origins, if the router decides: an engine that allows every origin would undo
/// `cors.origins`.
pub(crate) fn drop_engines(config: &Config, response: &mut Response<Body>) {
    if config.cors.origins.is_empty() {
        return;
    }
    let headers = response.headers_mut();
    let of_cors = |name: &&HeaderName| name.as_str().starts_with("access-control-") || *name == TIMING_ALLOW_ORIGIN;
    let named: Vec<HeaderName> = headers.keys().filter(of_cors).cloned().collect();
    named.into_iter().for_each(|name| drop(headers.remove(name)));
}

/// The value that allows an origin, by `cors.origins`.
fn allowed(config: &Config, origin: &HeaderValue) -> Option<HeaderValue> {
    let origins = &config.cors.origins;
    if origins.iter().any(|known| known == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_origins_send_nothing_that_they_may_not() {
        let refused = |origins: &[&str], origin: &'static str, is_websocket, is_open: bool| {
            let mut config = Config::default();
            config.cors.origins = origins.iter().map(|&origin| origin.to_owned()).collect();
            let origin = HeaderValue::from_static(origin);
            foreign(&config, &origin, "router:8000", is_websocket, || is_open).map(|r| r.status().as_u16())
        };
        let (page, evil) = ("https://page.example", "https://evil.example");
        for is_websocket in [false, true] {
            assert_eq!(refused(&[page], evil, is_websocket, false), Some(403));
            assert_eq!(refused(&[page], "null", is_websocket, false), Some(403));
            assert_eq!(refused(&[page], page, is_websocket, true), None);
            assert_eq!(refused(&["*"], evil, is_websocket, true), None);
            assert_eq!(refused(&[page], "http://router:8000", is_websocket, true), None, "the router's own page");
        }
        assert_eq!((refused(&[], evil, false, true), refused(&[], evil, true, true)), (None, Some(403)));
        assert_eq!(refused(&[], evil, true, false), None, "the key that it shows is what lets it in");
    }

    #[test]
    fn with_origins_of_its_own_the_router_decides_alone() {
        let answer = |config: &Config| {
            let mut response = Response::new(Body::Full(bytes::Bytes::new()));
            for name in
                ["access-control-allow-origin", "access-control-allow-credentials", "timing-allow-origin", "x-other"]
            {
                response.headers_mut().insert(name, HeaderValue::from_static("*"));
            }
            drop_engines(config, &mut response);
            tell(config, Some(&HeaderValue::from_static("https://evil.example")), &mut response);
            let mut names: Vec<_> = response.headers().keys().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        let mut config = Config::default();
        assert_eq!(answer(&config).len(), 4, "the engines decide");
        config.cors.origins = vec!["https://page.example".to_owned()];
        assert_eq!(answer(&config), ["vary", "x-other"]);
    }

    #[test]
    fn caches_keep_the_answers_to_origins_apart() {
        let varies = |origins: &[&str], origin: Option<&'static str>| {
            let mut config = Config::default();
            config.cors.origins = origins.iter().map(|&origin| origin.to_owned()).collect();
            let mut response = Response::new(Body::Full(bytes::Bytes::new()));
            tell(&config, origin.map(HeaderValue::from_static).as_ref(), &mut response);
            response.headers().get_all(VARY).iter().count()
        };
        let page = Some("https://page.example");
        for origin in [None, page, Some("https://other.example")] {
            assert_eq!(varies(&["https://page.example"], origin), 1, "{origin:?}");
        }
        assert_eq!((varies(&[], None), varies(&[], page), varies(&["*"], None)), (0, 0, 0), "nothing depends on it");
    }
}
