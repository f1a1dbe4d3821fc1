//! The router's state of each replica: RTT, load, engine report, peer report, health, breaker.

mod breaker;
mod engine_report;
mod gates;
mod health;
mod load;
mod others;
mod peer;
mod peer_rates;
mod rates;
mod replica;
mod rls;
mod rtt;
mod spec;
pub use breaker::{Breaker, BreakerConfig, SavedBreaker};
pub use engine_report::{EngineReading, EngineReport};
pub use gates::Gates;
pub use health::Health;
pub use load::Load;
pub(crate) use others::{Others, Typical};
pub use peer::{Peer, PeerReport};
pub(crate) use peer_rates::{Ageing, Sending};
pub use peer_rates::{Arrivals, PeerRates};
pub(crate) use rates::{Booked, Started};
pub use rates::{Learned, Number, QUANTILES, Rates, SavedKind, SavedOffset, SavedRates};
pub use replica::Replica;
pub use rtt::Rtt;
pub use spec::{Kind, ReplicaSpec};

#[cfg(test)]
mod tests;
