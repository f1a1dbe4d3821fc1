//! A request of a workload as the router and the engine model see it: block ids and token counts.

use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A point on Earth in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
}

/// Mean Earth radius (IUGG), km.
const EARTH_RADIUS_KM: f64 = 6_371.0;

impl Place {
    /// Great-circle distance in km (haversine formula).
    pub fn km_to(self, other: Self) -> f64 {
        let (lat_a, lat_b) = (self.lat.to_radians(), other.lat.to_radians());
        let (dlat, dlon) = (lat_b - lat_a, (other.lon - self.lon).to_radians());
        let h = (dlat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (dlon / 2.0).sin().powi(2);
        2.0 * EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin()
    }
}

/// One row of a workload: arrival time, user, place and content of a request. A prompt is the chain of its block ids, not
/// text; equal ids mean equal prefixes up to and including that block.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRequest {
    /// Scheduled instant since the start of the trace.
    pub at: Time,
    /// Conversation.
    pub session: u64,
    /// User (or API key) of the conversation.
    pub user: u64,
    /// 1-based turn of the conversation.
    pub turn: u32,
    /// Where the user is; `None` when unknown.
    pub place: Option<Place>,
    /// ISO 3166 two-letter code of the user's country; `None` when unknown.
    pub country: Option<[u8; 2]>,
    /// Prompt length in tokens, at least 1.
    pub input_tokens: u32,
    /// Tokens the engine will generate, at least 1.
    pub output_tokens: u32,
    /// The client's `max_tokens`, for which the engine reserves KV; `None` means no limit.
    pub max_tokens: Option<u32>,
    /// Tokens per block id.
    pub block_tokens: u32,
    /// Chained block ids of the prompt, `ceil(input_tokens / block_tokens)` of them; the last may be partial.
    pub blocks: Arc<[u64]>,
    /// Ids of the whole blocks that prompt and answer together add after the prompt's whole blocks
    /// (`input_tokens / block_tokens` of them); empty when the trace has none. A later turn can hit them in the cache.
    pub answer_blocks: Arc<[u64]>,
    /// Prompt tokens as the router counts them, where it counts other than the engine (no chat template, another
    /// tokenizer); `None`: as `input_tokens`.
    pub router_tokens: Option<u32>,
    /// Engines answer this request with 400 before any work.
    pub refused: bool,
    /// Time from the end of the session's turn before to the sending of this one, which happens at `at` when absent:
    /// see [`crate::turns`].
    pub delay: Option<Span>,
    /// A later turn of the session waits for the end of this one.
    pub awaited: bool,
}

impl TraceRequest {
    /// A row with time and lengths only: a single turn with its own session and user, without a place.
    pub fn lone(
        id: u64,
        at: Time,
        input_tokens: u32,
        output_tokens: u32,
        block_tokens: u32,
        blocks: Arc<[u64]>,
    ) -> Self {
        Self {
            at,
            session: id,
            user: id,
            turn: 1,
            place: None,
            country: None,
            input_tokens,
            output_tokens,
            max_tokens: None,
            block_tokens,
            blocks,
            answer_blocks: Arc::from([]),
            router_tokens: None,
            refused: false,
            delay: None,
            awaited: false,
        }
    }

    /// Prompt tokens as routers count them.
    pub fn tokens_at_router(&self) -> u32 {
        self.router_tokens.unwrap_or(self.input_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frankfurt_to_tel_aviv_is_2950_km() {
        let (fra, tlv) = (Place { lat: 50.11, lon: 8.68 }, Place { lat: 32.09, lon: 34.78 });
        assert!((fra.km_to(tlv) - 2_950.0).abs() < 30.0, "{}", fra.km_to(tlv));
        assert_eq!(fra.km_to(fra), 0.0);
    }

    #[test]
    fn antipodes_are_half_the_circumference_apart() {
        let d = Place { lat: 10.0, lon: 20.0 }.km_to(Place { lat: -10.0, lon: -160.0 });
        assert!((d - std::f64::consts::PI * EARTH_RADIUS_KM).abs() < 1.0);
    }
}
