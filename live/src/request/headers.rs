//! Request headers: which are passed to a replica, and which the router reads.

use crate::server::keys::Keys;
use gorgo_core::RequestId;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Uri};
use std::net::IpAddr;

/// The request's id, in requests and answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The number of routers that have forwarded the request.
pub(crate) const HOP: HeaderName = HeaderName::from_static("x-lb-hop");
/// The replica that answered.
pub(crate) const REPLICA: HeaderName = HeaderName::from_static("x-gorgo-replica");
/// The decision for that replica, in one line.
pub(crate) const DECISION: HeaderName = HeaderName::from_static("x-gorgo-decision");
/// The client's own deadline for the first token, ms.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// The conversation's key.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("x-session-id");
/// The routers that a request has passed, one line each; in answers to routers, the answering one and those that it
/// dispatches to.
pub(crate) const ROUTER: HeaderName = HeaderName::from_static("x-gorgo-router");
/// Where the request may go, from the router that forwarded it.
pub(crate) const FENCE: HeaderName = HeaderName::from_static("x-gorgo-fence");
/// In requests from routers, the most dispatches that are allowed; in refusals to them, the dispatches that were made.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-gorgo-attempts");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Headers of keys that this router does not read. A client may send its key in several of them.
const AZURE_KEY: HeaderName = HeaderName::from_static("api-key");
const GOOGLE_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes hop-by-hop headers and those that `Connection` names. Mostly there are none, and comparing every name once
/// is cheaper than nine lookups.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
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

/// Turns a client's headers into those of a request to a replica with a body of `length` bytes. A key of this router's is
/// left out: only a key that the router asked for was meant for it. `Host` is replaced when the request is sent.
pub(crate) fn to_upstream(
    headers: &mut HeaderMap,
    length: usize,
    request_id: &HeaderValue,
    from: &ClientAddress,
    ours: &Keys,
) {
    // Mostly none of these is there, and one pass over the names is cheaper than a lookup for each.
    let (mut is_ours_alone, mut has_key, mut was_forwarded, mut has_cookies) = (false, false, false, false);
    for name in headers.keys() {
        match name.as_str() {
            "expect" | "x-lb-hop" | "x-request-timeout-ms" | "x-gorgo-fence" | "x-gorgo-attempts" => {
                is_ours_alone = true;
            }
            "authorization" | "x-api-key" | "api-key" | "x-goog-api-key" | "x-auth-token" => has_key = true,
            "x-forwarded-for" => was_forwarded = true,
            "cookie" => has_cookies = true,
            _ => {}
        }
    }
    strip_hop_by_hop(headers);
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(first), second) = (lengths.next(), lengths.next())
        && (second.is_some() || !is_number(first.as_bytes(), length))
    {
        headers.remove(CONTENT_LENGTH);
    }
    if is_ours_alone {
        for name in [EXPECT, HOP, TIMEOUT, FENCE, ATTEMPTS] {
            headers.remove(name);
        }
    }
    if has_key {
        for name in [AUTHORIZATION, API_KEY, AZURE_KEY, GOOGLE_KEY, AUTH_TOKEN] {
            drop_ours(headers, &name, ours);
        }
    }
    if has_cookies {
        join_cookies(headers);
    }
    headers.insert(REQUEST_ID, request_id.clone());
    let chain = if was_forwarded { forwarded_for(headers, from) } else { from.shown.clone() };
    headers.insert(FORWARDED_FOR, chain);
}

/// Removes the lines of this name that hold a key of this router.
fn drop_ours(headers: &mut HeaderMap, name: &HeaderName, ours: &Keys) {
    // Clients name other schemes than Bearer, too.
    let has_ours = |value: &HeaderValue| value.as_bytes().split(u8::is_ascii_whitespace).any(|word| ours.is_ours(word));
    let is_ours = |value: &&HeaderValue| ours.is_ours(key_of(value)) || has_ours(value);
    if headers.get_all(name).iter().any(|value| is_ours(&value)) {
        let others: Vec<HeaderValue> = headers.get_all(name).iter().filter(|value| !is_ours(value)).cloned().collect();
        headers.remove(name);
        for value in others {
            headers.append(name, value);
        }
    }
}

/// One line of cookies: HTTP/2 may send each cookie in a line of its own, which HTTP/1.1 does not know (RFC 9113,
/// 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(all) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, all);
    }
}

/// All addresses that the request has passed, `from` at the end. A balancer in front may add a line of its own: the last
/// lines are the ones that no client chose.
fn forwarded_for(headers: &HeaderMap, from: &ClientAddress) -> HeaderValue {
    let mut chain = String::new();
    let lines = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    lines.for_each(|line| chain.extend([line, ", "]));
    chain.push_str(&from.ip.to_string());
    HeaderValue::try_from(chain).unwrap_or(from.shown.clone())
}

/// Whether these are the digits of `number`, and nothing else.
fn is_number(text: &[u8], number: usize) -> bool {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.is_some_and(|text| (text == "0" || !text.starts_with('0')) && text.parse() == Ok(number))
}

/// A client's address, and its text for `X-Forwarded-For`, made once a connection.
#[derive(Debug, Clone)]
pub(crate) struct ClientAddress {
    ip: IpAddr,
    shown: HeaderValue,
}

impl std::fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ip.fmt(f)
    }
}

impl ClientAddress {
    /// The client with this address.
    pub(crate) fn new(ip: IpAddr) -> Self {
        let ip = ip.to_canonical(); // a socket for both families shows IPv4 addresses mapped
        Self { ip, shown: HeaderValue::try_from(ip.to_string()).unwrap_or(HeaderValue::from_static("unknown")) }
    }
}

/// Which of the headers that the router reads are in a request, found in one pass: for most requests none is, and five
/// lookups are saved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeaderFlags {
    pub(crate) key: bool,
    pub(crate) request_id: bool,
    pub(crate) hop: bool,
    pub(crate) timeout: bool,
    pub(crate) session: bool,
    /// Whether the request comes from a router.
    pub(crate) router: bool,
    pub(crate) origin: bool,
    pub(crate) upgrade: bool,
    pub(crate) encoding: bool,
    /// Whether another router has said where it may go.
    pub(crate) fence: bool,
    /// Whether another router has said how often it may be dispatched.
    pub(crate) attempts: bool,
    /// Number of lines that name the host.
    pub(crate) hosts: u8,
    /// Whether the transfer encoding delimits the body.
    pub(crate) transfer: bool,
    /// Bytes of all header lines.
    pub(crate) bytes: usize,
}

/// The number of dispatches in a router's header.
pub(crate) fn attempts(headers: &HeaderMap) -> Option<u8> {
    headers.get(ATTEMPTS)?.to_str().ok()?.trim().parse().ok()
}

/// Sets the number of dispatches in a refusal to a router, and removes an engine's header of that name from all others.
pub(crate) fn tell_attempts(headers: &mut HeaderMap, dispatches: Option<u8>) {
    match dispatches {
        Some(made) => drop(headers.insert(ATTEMPTS, HeaderValue::from(u16::from(made)))),
        None => drop(headers.remove(ATTEMPTS)),
    }
}

impl HeaderFlags {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut flags = Self::default();
        for (name, value) in headers {
            flags.bytes += name.as_str().len() + value.len() + 4;
            match name.as_str() {
                "host" => flags.hosts = flags.hosts.saturating_add(1),
                "transfer-encoding" => flags.transfer = true,
                "authorization" | "x-api-key" => flags.key = true,
                "x-request-id" => flags.request_id = true,
                "x-lb-hop" => flags.hop = true,
                "x-request-timeout-ms" => flags.timeout = true,
                "x-session-id" => flags.session = true,
                "x-gorgo-router" => flags.router = true,
                "origin" => flags.origin = true,
                "upgrade" => flags.upgrade = true,
                "content-encoding" => flags.encoding = true,
                "x-gorgo-fence" => flags.fence = true,
                "x-gorgo-attempts" => flags.attempts = true,
                _ => {}
            }
        }
        flags
    }
}

/// The client's request id if it is up to 128 visible ASCII characters, else a new one.
pub(crate) fn request_id(headers: &HeaderMap, process: u64, id: RequestId) -> HeaderValue {
    id_of(headers.get(REQUEST_ID), || new_id(process, id))
}

/// A client's request id if it can be taken over, else another one.
pub(crate) fn id_of(value: Option<&HeaderValue>, other: impl FnOnce() -> HeaderValue) -> HeaderValue {
    let kept = value.filter(|value| {
        let bytes = value.as_bytes();
        !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(u8::is_ascii_graphic)
    });
    // Copied: the client's value keeps the buffer of the whole head alive.
    let kept = kept.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
    kept.unwrap_or_else(other)
}

/// `PROCESS-NUMBER` in hexadecimal, `PROCESS` with 16 digits. Written by hand: `format!` takes 2,050 instructions
/// instead of 460, 2.8 % of a 200 B request.
pub(crate) fn new_id(process: u64, id: RequestId) -> HeaderValue {
    let digit = |value: u64, at: u32| b"0123456789abcdef"[(value >> (4 * at)) as usize & 15];
    let mut text = [b'-'; 33];
    (0..16).for_each(|i| text[i] = digit(process, 15 - i as u32));
    let more = id.0.checked_ilog2().unwrap_or(0) / 4;
    (0..=more).for_each(|i| text[17 + i as usize] = digit(id.0, more - i));
    HeaderValue::from_bytes(&text[..18 + more as usize]).unwrap_or(HeaderValue::from_static("none"))
}

/// The key in a header's value, without the word `Bearer`.
fn key_of(value: &HeaderValue) -> &[u8] {
    let bytes = value.as_bytes();
    if is_bearer(value) { bytes[7..].trim_ascii() } else { bytes.trim_ascii() }
}

fn is_bearer(value: &HeaderValue) -> bool {
    value.as_bytes().get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"bearer "))
}

/// Whether a key is among the headers, of whatever scheme.
pub(crate) fn has_key(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(API_KEY)
}

/// Every key among the headers, of whatever scheme.
pub(crate) fn all_keys(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(key_of);
    bearers.chain(headers.get_all(API_KEY).iter().map(HeaderValue::as_bytes))
}

/// Whether one of the keys that a client shows, or none, opens what `may` guards. Anthropic's clients send a key of their
/// own beside another one.
pub(crate) fn opens(headers: &HeaderMap, flags: HeaderFlags, may: impl Fn(Option<&[u8]>) -> bool) -> bool {
    if !flags.key {
        return may(None);
    }
    let bearers = headers.get_all(AUTHORIZATION).iter().filter(|value| is_bearer(value)).map(key_of);
    let mut shown = bearers.chain(headers.get_all(API_KEY).iter().map(HeaderValue::as_bytes));
    may(None) || shown.any(|key| may(Some(key)))
}

/// The client's key: `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
pub(crate) fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).filter(|value| is_bearer(value)).map(key_of);
    bearer.or_else(|| headers.get(API_KEY).map(HeaderValue::as_bytes))
}

/// `Host`, or `:authority` of HTTP/2.
pub(crate) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let named = uri.authority().map(http::uri::Authority::as_str);
    named.or_else(|| headers.get(HOST)?.to_str().ok()).unwrap_or_default()
}

/// Whether a page of `origin` comes from this address itself.
pub(crate) fn is_own_origin(origin: &HeaderValue, authority: &str) -> bool {
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site);
    site.is_some_and(|site| site.eq_ignore_ascii_case(authority))
}

/// Whether the head asks to switch to WebSocket: RFC 6455, 4.1. `Upgrade` alone, which any proxy may have left behind,
/// asks for nothing.
pub(super) fn asks_for_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &[u8]| {
        let mut words = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        words.any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
    };
    *method == Method::GET && has(UPGRADE, b"websocket") && has(CONNECTION, b"upgrade")
}

#[cfg(test)]
mod tests;
