//! Chooses the replica by the hash of the prompt's first 256 tokens modulo the number of replicas.
//!
//! ```text
//! owner = head mod n of all n candidates in the order of their ids    (head = hash of the first 256 tokens)
//! ```
//!
//! The rule ignores load and caches, and a change of the fleet's size moves nearly all heads. The total is 0 for the
//! owner and 1 for the others. If the owner is excluded, the choice is head modulo the eligible candidates (reason
//! "owner-excluded"), so that heads with a healthy owner do not move. Without a prompt one is chosen at random (reason
//! "no-prompt"). Source: `simple-session-affinity` of the GORGO repository. That version uses Python's tuple hash, so
//! the owner of a given head differs; equal heads share an owner in both.

use super::select::{reason, uniform};
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection};
use crate::ReplicaId;
use crate::rng::ChaCha8Rng;
use smallvec::SmallVec;

/// The prompt-hash policy; stateless, the score is 0 for the owner and 1 for the others.
#[derive(Debug, Clone)]
pub struct SimpleSessionAffinity;

impl SimpleSessionAffinity {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

/// Index of the owner among the candidates that satisfy `keep`.
fn owner(head: u64, candidates: &[Candidate], keep: impl Fn(&Candidate) -> bool) -> Option<usize> {
    let mut ids: SmallVec<[(ReplicaId, usize); 64]> =
        candidates.iter().enumerate().filter(|(_, c)| keep(c)).map(|(i, c)| (c.id, i)).collect();
    ids.sort_unstable();
    let slot = head.checked_rem(ids.len() as u64)?;
    ids.get(slot as usize).map(|&(_, i)| i)
}

impl Policy for SimpleSessionAffinity {
    fn name(&self) -> &'static str {
        "simple-session-affinity"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        if request.head == 0 {
            return Selection::fallback(uniform(candidates, rng), reason::NO_PROMPT);
        }
        let Some(first) = owner(request.head, candidates, |_| true) else { return Selection::own(None) };
        for (i, terms) in terms.iter_mut().enumerate() {
            terms.total = if i == first { 0.0 } else { 1.0 };
        }
        if candidates[first].excluded.is_none() {
            return Selection::own(Some(first));
        }
        Selection::fallback(owner(request.head, candidates, |c| c.excluded.is_none()), reason::OWNER_EXCLUDED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exclusion;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(head: u64, fleet: &[Candidate]) -> Selection {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        SimpleSessionAffinity.choose(
            &RequestInfo { head, ..RequestInfo::default() },
            fleet,
            &mut terms,
            &mut stream(1, "policy", 0),
        )
    }

    #[test]
    fn equal_heads_share_an_owner_whatever_the_load_and_the_order() {
        let mut fleet = fleet(3);
        assert_eq!([3, 4, 5, 7].map(|head| choose(head, &fleet).chosen.unwrap()), [0, 1, 2, 1]);
        fleet[1].load.waiting_tokens = 1_000_000;
        fleet.reverse();
        assert_eq!(fleet[choose(4, &fleet).chosen.unwrap()].id, ReplicaId(1));
    }

    #[test]
    fn an_excluded_owner_moves_only_its_own_heads() {
        let mut fleet = fleet(3);
        fleet[1].excluded = Some(Exclusion::Unhealthy);
        assert_eq!(choose(3, &fleet), Selection::own(Some(0)));
        assert_eq!(choose(5, &fleet), Selection::own(Some(2)));
        assert_eq!(choose(4, &fleet), Selection::fallback(Some(0), "owner-excluded")); // 4 mod 2 of (0, 2)
        assert_eq!(choose(7, &fleet), Selection::fallback(Some(2), "owner-excluded")); // 7 mod 2
        assert_eq!(choose(0, &fleet).reason, Some("no-prompt"));
        fleet.iter_mut().for_each(|c| c.excluded = Some(Exclusion::Full));
        assert_eq!(choose(4, &fleet).chosen, None);
        assert_eq!(choose(4, &[]), Selection::own(None));
    }
}
