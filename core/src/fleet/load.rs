//! Load of a replica: requests and prompt tokens before (W) and after (D) their first token.

use serde::{Deserialize, Serialize};

/// Requests of this router at a replica and their prompt tokens, by phase. Each request is subtracted exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Requests dispatched that have no first token yet.
    pub waiting_requests: u32,
    /// Prompt tokens of those: W.
    pub waiting_tokens: u64,
    /// Those of the waiting tokens that were predicted not cached at dispatch.
    pub waiting_uncached_tokens: u64,
    /// Requests past their first token.
    pub running_requests: u32,
    /// Prompt tokens of those: D.
    pub running_tokens: u64,
}

impl Load {
    /// Counts a dispatched request.
    pub fn sent(&mut self, tokens: u32, uncached: u32) {
        self.waiting_requests += 1;
        self.waiting_tokens += u64::from(tokens);
        self.waiting_uncached_tokens += u64::from(uncached);
    }

    /// Subtracts a waiting request.
    pub fn stop_waiting(&mut self, tokens: u32, uncached: u32) {
        self.waiting_requests -= 1;
        self.waiting_tokens -= u64::from(tokens);
        self.waiting_uncached_tokens -= u64::from(uncached);
    }

    /// Adds a running request.
    pub fn start_running(&mut self, tokens: u32) {
        self.running_requests += 1;
        self.running_tokens += u64::from(tokens);
    }

    /// Subtracts a running request.
    pub fn stop_running(&mut self, tokens: u32) {
        self.running_requests -= 1;
        self.running_tokens -= u64::from(tokens);
    }

    /// Requests in either phase.
    pub fn requests(&self) -> u32 {
        self.waiting_requests.saturating_add(self.running_requests)
    }

    /// Prompt tokens in either phase.
    pub fn tokens(&self) -> u64 {
        self.waiting_tokens.saturating_add(self.running_tokens)
    }

    /// The sum of two loads. It saturates: the numbers of a peer's report are not checked, and a sum that wraps would
    /// make a loaded peer look idle.
    #[must_use]
    #[inline]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            waiting_requests: self.waiting_requests.saturating_add(other.waiting_requests),
            waiting_tokens: self.waiting_tokens.saturating_add(other.waiting_tokens),
            waiting_uncached_tokens: self.waiting_uncached_tokens.saturating_add(other.waiting_uncached_tokens),
            running_requests: self.running_requests.saturating_add(other.running_requests),
            running_tokens: self.running_tokens.saturating_add(other.running_tokens),
        }
    }
}
