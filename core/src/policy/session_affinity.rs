//! Rendezvous hashing of the session: the eligible candidate with the greatest `xxh3(replica id, seed = session)`.
//!
//! ```text
//! total = 1 - hash / 2^64
//! ```
//!
//! When a replica leaves, only its sessions move, each to the next replica in the order of that session; a new replica
//! takes an equal share from each. Without a session one is chosen at random (reason "no-session"). Source: Thaler and
//! Ravishankar, "Using name-based mappings to increase hit rates", 1998.

use super::select::{reason, totals, uniform};
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection, least};
use crate::ReplicaId;
use crate::rng::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The rendezvous-hashing policy; stateless, scores are in 0..=1.
#[derive(Debug, Clone)]
pub struct SessionAffinity;

impl SessionAffinity {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

/// Less is better; in 0..=1.
fn score(session: u64, id: ReplicaId) -> f64 {
    1.0 - xxh3_64_with_seed(&id.0.to_le_bytes(), session) as f64 / 2f64.powi(64)
}

impl Policy for SessionAffinity {
    fn name(&self) -> &'static str {
        "session-affinity"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        if request.session == 0 {
            return Selection::fallback(uniform(candidates, rng), reason::NO_SESSION);
        }
        totals(candidates, terms, |candidate| score(request.session, candidate.id));
        Selection::own(least(candidates, rng, |i, _| terms[i].total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn owner(session: u64, fleet: &[Candidate]) -> u16 {
        let (mut rng, mut terms) = (stream(1, "policy", 0), vec![CostTerms::default(); fleet.len()]);
        let request = RequestInfo { session, ..RequestInfo::default() };
        fleet[SessionAffinity.choose(&request, fleet, &mut terms, &mut rng).chosen.unwrap()].id.0
    }

    #[test]
    fn a_replica_that_leaves_moves_only_its_own_sessions() {
        let all = fleet(4);
        let mut fewer = all.clone();
        fewer.remove(1);
        let mut counts = [0u32; 4];
        for session in 1..=4000 {
            let before = owner(session, &all);
            let after = owner(session, &fewer);
            counts[usize::from(before)] += 1;
            assert!(before == 1 || before == after, "session {session} moved from {before} to {after}");
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let fleet = fleet(7);
        let reversed: Vec<_> = fleet.iter().rev().cloned().collect();
        assert!((1..200).all(|session| owner(session, &fleet) == owner(session, &reversed)));
    }

    #[test]
    fn no_session_is_random() {
        let (fleet, mut terms) = (fleet(3), [CostTerms::default(); 3]);
        let choice = SessionAffinity.choose(&RequestInfo::default(), &fleet, &mut terms, &mut stream(1, "policy", 0));
        assert_eq!(choice.reason, Some("no-session"));
    }
}
