//! A router's counters since its start.

/// Counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterStats {
    /// Requests that arrived.
    pub arrived: u64,
    /// Dispatches to engines, retries included.
    pub dispatched: u64,
    /// Forwards to peers.
    pub forwarded: u64,
    /// Times a request entered the queue.
    pub queued: u64,
    /// Dispatches after the first.
    pub retried: u64,
    /// Requests ended, indexed by [`Status`](crate::record::Status) in its order.
    pub ended: [u64; 5],
    /// Requests dispatched at least once.
    pub placed: u64,
    /// Their prompt tokens.
    pub placed_prompt_tokens: u64,
    /// Those of them that the index expected to be cached, at the first dispatch.
    pub placed_cached_tokens: u64,
    /// First dispatches whose time to first token the policy predicted.
    pub predicted: u64,
    /// Sum of those predictions, ns.
    pub predicted_ns: u64,
    /// Requests whose engine reported its cached tokens.
    pub cache_reports: u64,
    /// Prompt tokens predicted cached, over these requests.
    pub predicted_cached_tokens: u64,
    /// Prompt tokens reported cached, over the same.
    pub actual_cached_tokens: u64,
}
