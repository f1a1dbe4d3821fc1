//! The media type in `Content-Type`, without its parameters; case does not matter.

use http::header::{CONTENT_TYPE, HeaderMap};

/// The header's value; empty without one.
pub(crate) fn of(headers: &HeaderMap) -> &[u8] {
    headers.get(CONTENT_TYPE).map_or(b"", |value| value.as_bytes())
}

/// Whether the type begins with `word`, in lower case.
pub(crate) fn starts_with(headers: &HeaderMap, word: &[u8]) -> bool {
    of(headers).get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Whether the body is a stream of events.
pub(crate) fn is_events(headers: &HeaderMap) -> bool {
    starts_with(headers, b"text/event-stream")
}

/// Whether the body is a page for people.
pub(crate) fn is_html(headers: &HeaderMap) -> bool {
    starts_with(headers, b"text/html") || starts_with(headers, b"application/xhtml")
}

/// Whether the body is JSON: `application/json`, `text/json`, `application/problem+json` ...
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let bare = of(headers).split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    let ends = |word: &[u8]| bare.len() >= word.len() && bare[bare.len() - word.len()..].eq_ignore_ascii_case(word);
    ends(b"/json") || ends(b"+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn types_are_told_apart_in_any_spelling() {
        for (value, [events, html, json]) in [
            ("text/event-stream; charset=utf-8", [true, false, false]),
            ("Text/Event-Stream", [true, false, false]),
            ("text/html", [false, true, false]),
            ("application/XHTML+xml", [false, true, false]),
            ("application/json ; charset=utf-8", [false, false, true]),
            ("application/problem+JSON", [false, false, true]),
            ("application/jsonl", [false, false, false]),
            ("text/plain", [false, false, false]),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!([is_events(&headers), is_html(&headers), is_json(&headers)], [events, html, json], "{value}");
        }
        let none = HeaderMap::new();
        assert!(of(&none).is_empty() && !is_json(&none) && !is_html(&none) && !is_events(&none));
    }
}
