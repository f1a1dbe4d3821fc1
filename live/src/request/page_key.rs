//! The key of a page that opens a WebSocket: browsers let it set no header but the subprotocols, so OpenAI's clients
//! write `Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.KEY`.

use crate::server::keys::Keys;
use http::HeaderValue;
use http::header::{HeaderMap, SEC_WEBSOCKET_PROTOCOL};

const KEY: &[u8] = b"openai-insecure-api-key.";

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// The keys among the subprotocols.
pub(super) fn shown(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    protocols(headers).filter_map(|protocol| protocol.strip_prefix(KEY))
}

/// Removes the subprotocols that hold a key of this router; the others go to the replica.
pub(super) fn drop_ours(headers: &mut HeaderMap, ours: &Keys) {
    if !shown(headers).any(|key| ours.is_ours(key)) {
        return;
    }
    let is_theirs = |protocol: &&[u8]| !protocol.strip_prefix(KEY).is_some_and(|key| ours.is_ours(key));
    let others = protocols(headers).filter(is_theirs).collect::<Vec<_>>().join(&b", "[..]);
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(others) = HeaderValue::from_bytes(&others).ok().filter(|others| !others.is_empty()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_among_the_subprotocols_is_read_and_ours_is_removed() {
        let keys = Keys { api: Some("ours".to_owned()), ..Keys::default() };
        let left = |line: &'static str| {
            let mut headers = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line))]);
            let keys_shown = shown(&headers).map(<[u8]>::to_vec).collect::<Vec<_>>();
            drop_ours(&mut headers, &keys);
            let left = headers.get(SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str().unwrap().to_owned());
            (keys_shown, left)
        };
        let ours = left("realtime, openai-insecure-api-key.ours,openai-beta.realtime-v1");
        assert_eq!(ours, (vec![b"ours".to_vec()], Some("realtime, openai-beta.realtime-v1".to_owned())));
        let theirs = "realtime, openai-insecure-api-key.theirs";
        assert_eq!(left(theirs), (vec![b"theirs".to_vec()], Some(theirs.to_owned())));
        assert_eq!(left("openai-insecure-api-key.ours").1, None);
        assert_eq!(left("realtime"), (Vec::new(), Some("realtime".to_owned())));
    }
}
