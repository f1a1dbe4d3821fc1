//! A decision as the line of the `X-Gorgo-Decision` header.

use gorgo_core::router::{DecisionRecord, ScoredCandidate};
use http::HeaderValue;
use std::cell::RefCell;

/// The `X-Gorgo-Decision` header: one line, e.g. `gorgo a total=35.2 network=25.0 prefill=10.2 waiting=0.0
/// running=0.0 cached=4096/5200`. Decimals are not formatted by `std`: that takes 5,300 instructions instead of 1,500,
/// 6 % of a 200 B request.
pub(crate) fn header(record: &DecisionRecord, name: &str) -> Option<HeaderValue> {
    LINE.with_borrow_mut(|line| {
        line.clear();
        write(line, record, name);
        HeaderValue::from_bytes(line).ok()
    })
}

thread_local! {
    /// Buffer of a line, so that only the header value is allocated.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn push(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write(line: &mut Vec<u8>, record: &DecisionRecord, name: &str) {
    line.extend_from_slice(record.policy.as_bytes());
    line.push(b' ');
    line.extend_from_slice(name.as_bytes());
    if let Some(ScoredCandidate { candidate: c, terms: t, .. }) = record.chosen.and_then(|i| record.candidates.get(i)) {
        let terms: [(&[u8], f64); 6] = [
            (b" total=", t.total),
            (b" network=", t.network),
            (b" prefill=", t.prefill),
            (b" waiting=", t.waiting),
            (b" running=", t.running),
            (b" egress=", t.egress),
        ];
        let shown = if t.egress == 0.0 { 5 } else { 6 };
        for (word, value) in terms.into_iter().take(shown) {
            line.extend_from_slice(word);
            let tenths = (value.abs().min(1e15) * 10.0 + 0.5) as u64;
            if value < 0.0 && tenths > 0 {
                line.push(b'-');
            }
            push(line, tenths / 10);
            line.extend_from_slice(&[b'.', b'0' + (tenths % 10) as u8]);
        }
        line.extend_from_slice(b" cached=");
        push(line, c.cached_tokens.into());
        line.push(b'/');
        push(line, record.info.prompt_tokens.into());
    }
    if let Some(fence) = &record.fence {
        line.extend_from_slice(format!(" residency={fence}").as_bytes());
    }
    if let Some(reason) = record.reason {
        line.extend_from_slice(b" reason=");
        line.extend_from_slice(reason.as_bytes());
    }
}
