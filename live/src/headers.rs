//! Which headers pass: all but those that belong to one connection.

use gorgo_core::RequestId;
use http::HeaderValue;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use std::net::IpAddr;

/// Names of our own.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Routers a request has been forwarded by.
pub const HOP: HeaderName = HeaderName::from_static("x-lb-hop");
/// Who answered.
pub const REPLICA: HeaderName = HeaderName::from_static("x-gorgo-replica");
/// Why it did.
pub const DECISION: HeaderName = HeaderName::from_static("x-gorgo-decision");
/// A client's own limit for the first token.
pub const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// A conversation's key.
pub const SESSION: HeaderName = HeaderName::from_static("x-session-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Removes hop-by-hop headers and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        named.into_iter().for_each(|name| drop(headers.remove(name)));
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Makes a client's headers those of a request to a replica. `ours` tells that the client's key was meant for us.
pub fn to_upstream(headers: &mut HeaderMap, request_id: &HeaderValue, from: IpAddr, ours: bool) {
    strip_hop_by_hop(headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT, HOP, TIMEOUT] {
        headers.remove(name);
    }
    if ours {
        headers.remove(AUTHORIZATION);
        headers.remove(API_KEY);
    }
    headers.insert(REQUEST_ID, request_id.clone());
    let chain = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let chain = chain.map_or_else(|| from.to_string(), |before| format!("{before}, {from}"));
    if let Ok(value) = HeaderValue::try_from(chain) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The client's request id if it can be kept (up to 128 visible ASCII characters), else a new one.
pub fn request_id(headers: &HeaderMap, process: u64, id: RequestId) -> HeaderValue {
    let kept = headers.get(REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(u8::is_ascii_graphic)
    });
    kept.cloned().unwrap_or_else(|| {
        HeaderValue::try_from(format!("{process:016x}-{:x}", id.0)).unwrap_or(HeaderValue::from_static("none"))
    })
}

/// The key a client shows: `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
pub fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let bytes = value.as_bytes();
        bytes.get(..7).filter(|word| word.eq_ignore_ascii_case(b"bearer ")).map(|_| &bytes[7..])
    });
    bearer.or_else(|| headers.get(API_KEY).map(HeaderValue::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn headers_of_the_connection_stay_and_the_rest_passes() {
        let mut headers = map(&[
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("host", "a"),
            ("content-length", "5"),
            ("x-lb-hop", "0"),
            ("x-custom", "kept"),
            ("authorization", "Bearer k"),
            ("x-forwarded-for", "1.2.3.4"),
        ]);
        to_upstream(&mut headers, &HeaderValue::from_static("r"), IpAddr::from([10, 0, 0, 1]), false);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "x-custom", "x-forwarded-for", "x-request-id"]);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
    }

    #[test]
    fn our_own_key_is_not_passed_on() {
        let mut headers = map(&[("authorization", "Bearer k"), ("x-api-key", "k")]);
        assert_eq!(shown_key(&headers), Some(&b"k"[..]));
        to_upstream(&mut headers, &HeaderValue::from_static("r"), IpAddr::from([10, 0, 0, 1]), true);
        assert_eq!(shown_key(&headers), None);
    }

    #[test]
    fn odd_request_ids_are_replaced() {
        let id = |value: &'static str| request_id(&map(&[("x-request-id", value)]), 1, RequestId(2));
        assert_eq!(id("abc"), "abc");
        assert_eq!(id("a b"), "0000000000000001-2");
        assert_eq!(id(""), "0000000000000001-2");
    }
}
