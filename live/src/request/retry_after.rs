//! Reads how long a replica that is busy asks to wait.

use http::header::{HeaderMap, RETRY_AFTER};
use std::time::SystemTime;

/// Seconds of a `Retry-After`, given as seconds or as a date; a date that has passed is 0 s. OpenAI's `retry-after-ms`
/// is more exact, and counts before it.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u32> {
    let ms = headers.get("retry-after-ms").and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    if let Some(ms) = ms {
        return Some(u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX));
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if let Some(seconds) = text.parse::<f64>().ok().filter(|_| is_number) {
        return Some(seconds.ceil() as u32); // the conversion saturates
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let wait = until.duration_since(now).unwrap_or_default();
    Some(u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use std::time::Duration;

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (text, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(u32::MAX)),
            ("1.9", Some(2)),
            ("4294967296", Some(u32::MAX)),
            ("99999999999999999999999", Some(u32::MAX)),
            ("soon", None),
            ("inf", None),
            ("", None),
            ("-3", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds, "{text}");
        }
        let both = |ms: &'static str| {
            let exact = (HeaderName::from_static("retry-after-ms"), HeaderValue::from_static(ms));
            HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("9")), exact])
        };
        for (ms, seconds) in [("1500", 2), ("0", 0), ("99999999999999", u32::MAX), ("soon", 9), ("-1", 9)] {
            assert_eq!(retry_after(&both(ms), now), Some(seconds), "{ms}");
        }
    }
}
