//! One function for each parser of bytes that others send, besides those of the fuzzers; for `benches/parsers.rs`.
//! None of them may panic, whatever comes.

use crate::discovery::file;
use crate::kv_events::{decode, server_info};
use crate::models;
use crate::request::headers::{self, ClientAddress, HeaderFlags};
use crate::request::{endpoints, json_end::JsonEnd, location};
use crate::server::keys::Keys;
use crate::sharing::message::Message;
use crate::signals::digest::message::DigestMessage;
use crate::signals::peer_report::PeerMessage;
use crate::signals::{loops, scrape};
use crate::snapshot::{Kept, SeedMark, codec};
use crate::upstream::connect::Endpoint;
use gorgo_core::digest::ReceivedDigest;
use gorgo_core::fleet::SavedRates;
use gorgo_core::prefix::PrefixIndex;
use gorgo_core::residency::Fence;
use gorgo_core::router::Snapshot;
use gorgo_core::{ReplicaId, RequestId, Time};
use http::HeaderValue;
use http::header::{HeaderMap, HeaderName, LOCATION};
use std::hint::black_box;

/// An engine's page of metrics.
pub fn engine_metrics(data: &[u8]) {
    black_box(scrape::metrics(&String::from_utf8_lossy(data)));
}

/// SGLang's `/v1/loads`.
pub fn engine_loads(data: &[u8]) {
    black_box(scrape::loads(data));
}

/// SGLang's `/server_info`.
pub fn server_info(data: &[u8]) {
    black_box(server_info::read(data));
}

/// A replica's `/v1/models`.
pub fn model_list(data: &[u8]) {
    black_box(models::entries(data));
}

/// A batch of KV events.
pub fn kv_events(data: &[u8]) {
    let _ = black_box(decode::batch(data));
}

/// A peer's report.
pub fn peer_report(data: &[u8]) {
    let _ = black_box(serde_json::from_slice::<PeerMessage>(data));
}

/// A peer's digest of its prefixes.
pub fn digest(data: &[u8]) {
    let update = DigestMessage::read(data, "");
    black_box(update.map(|update| ReceivedDigest::default().take(&update, Time::ZERO)).ok());
}

/// What another router of the same replicas learned.
pub fn share_message(data: &[u8]) {
    let message: Result<Message, _> = serde_json::from_slice(data);
    black_box(message.map(|message| message.news(&[Some(ReplicaId(0))])).ok());
}

/// A snapshot of `size` bytes or so.
pub fn snapshot_of(size: usize) -> Vec<u8> {
    let mut index = PrefixIndex::<u64>::new(None, u64::MAX, usize::MAX);
    for path in 0..(size / 100) as u64 {
        index.insert(&[path % 64, path, path, path], 64, ReplicaId(0));
    }
    codec::encode(&Kept {
        unix_ms: 0,
        router: String::new(),
        seed: SeedMark::Own(1),
        bytes_per_token: Vec::new(),
        ids: vec![(1, 0); size / 100],
        discovered: Default::default(),
        core: Snapshot { replicas: Vec::new(), rates: SavedRates::default(), index: index.save(usize::MAX) },
    })
}

/// A snapshot.
pub fn snapshot(data: &[u8]) {
    let _ = black_box(codec::decode(data));
}

/// A file of endpoints, in each of its three forms.
pub fn endpoint_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for form in ["yaml", "json", "toml"] {
        let _ = black_box(file::parse(&text, form));
    }
}

/// A path.
pub fn path(data: &[u8]) {
    let _ = black_box(endpoints::judge(&http::Method::POST, &String::from_utf8_lossy(data)));
}

/// The fence of a forwarded request.
pub fn fence(data: &[u8]) {
    let _ = black_box(Fence::parse(&String::from_utf8_lossy(data)));
}

/// A request's header lines, `NAME: VALUE`.
pub fn request_headers(data: &[u8]) {
    let mut lines = header_lines(data);
    black_box(HeaderFlags::of(&lines));
    black_box(loops::refusal(&HeaderValue::from_static("own"), &lines));
    let id = headers::request_id(&lines, 1, RequestId(1));
    let client = ClientAddress::new([10, 0, 0, 1].into());
    let keys = Keys { api: Some("key".to_owned()), ..Keys::default() };
    headers::to_upstream(&mut lines, 0, &id, &client, &keys);
    black_box(lines);
}

/// A response's header lines, `NAME: VALUE`; a value alone is a `Location`.
pub fn response_headers(data: &[u8]) {
    let mut lines = header_lines(data);
    if let (true, Ok(whole)) = (lines.is_empty(), HeaderValue::from_bytes(data)) {
        lines.insert(LOCATION, whole);
    }
    headers::strip_hop_by_hop(&mut lines);
    black_box(loops::routers(&lines));
    if let Ok(engine) = Endpoint::parse("http://engine:8080/base") {
        location::hide_engines(&mut lines, &engine, &|_| false, "/v1/models");
    }
    black_box(lines);
}

/// Most header lines that are read; hyper reads 100.
const LINES: usize = 10_000;

fn header_lines(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n').take(LINES) {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line.get(colon + 1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// The end of a JSON text whose length is not known.
pub fn json_end(data: &[u8]) {
    let mut end = JsonEnd::default();
    data.chunks(1_400).for_each(|piece| end.feed(piece));
    black_box(end.is_complete());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_comes_nothing_panics(data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[-a-z{}\\[\\]\":,;%/0-9 \n]{0,300}".prop_map(String::into_bytes),
        ]) {
            let all = [
                engine_metrics, engine_loads, server_info, model_list, kv_events, peer_report, digest, share_message, snapshot,
                endpoint_file, path, fence, request_headers, response_headers, json_end,
            ];
            all.into_iter().for_each(|parse| parse(&data));
        }
    }

    #[test]
    fn the_snapshot_to_measure_is_one() {
        assert!(codec::decode(&snapshot_of(10_000)).is_ok());
    }
}
