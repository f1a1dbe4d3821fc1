//! A discovered endpoint, and the changes from one answer of a source to the next.

use crate::config::{ReplicaConfig, Secret};
use std::collections::BTreeMap;

/// A replica as a source describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscoveredEndpoint {
    /// Its identity: the name in the file, or `host:port` of a DNS record.
    pub name: String,
    /// `http://host:port` or `https://host`.
    pub url: String,
    /// What its source knows it by besides the name, such as the uid of a pod: another one is another engine.
    pub uid: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Labels, `KEY=VALUE`.
    pub labels: Vec<String>,
    /// Names of models that it serves besides those of its own `/v1/models`.
    pub models: Vec<String>,
    /// Prefill time per token, ms.
    pub ms_per_token: Option<f64>,
    /// KV capacity in tokens.
    pub kv_tokens: Option<u64>,
    /// Whether it finishes its requests and gets no new ones.
    pub draining: bool,
}

impl DiscoveredEndpoint {
    /// An endpoint that takes requests, of which nothing else is known.
    pub(crate) fn new(name: &str, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            uid: None,
            region: None,
            labels: Vec::new(),
            models: Vec::new(),
            ms_per_token: None,
            kv_tokens: None,
            draining: false,
        }
    }

    /// The same as an entry of the configuration.
    pub(crate) fn replica(&self, key: Option<&Secret>) -> ReplicaConfig {
        ReplicaConfig {
            url: self.url.clone(),
            name: Some(self.name.clone()),
            region: self.region.clone(),
            labels: self.labels.clone(),
            ms_per_token: self.ms_per_token,
            kv_tokens: self.kv_tokens,
            models: self.models.clone(),
            api_key: key.cloned(),
            api_key_file: None,
        }
    }

    /// Whether it is the same engine with the same settings; it may be draining in one of the two.
    fn is_same_engine(&self, other: &Self) -> bool {
        let other = Self { draining: self.draining, ..other.clone() };
        *self == other
    }
}

/// Endpoints by name.
pub(crate) type Known = BTreeMap<String, DiscoveredEndpoint>;

/// A step from the known endpoints to those of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// It is new, or its name stands for another engine now: an engine of that name leaves first.
    Join(DiscoveredEndpoint),
    /// It is no longer listed: requests that run there finish.
    Leave(String),
    /// Its state has changed.
    Drain { name: String, draining: bool },
}

/// The steps from `known` to `answer`: those that leave first, so that a full fleet has room for those that join.
pub(crate) fn steps(known: &Known, answer: &[DiscoveredEndpoint]) -> Vec<Step> {
    let listed: Known = answer.iter().map(|endpoint| (endpoint.name.clone(), endpoint.clone())).collect();
    let is_replaced = |name: &String, old: &DiscoveredEndpoint| !listed[name].is_same_engine(old);
    let gone = known.iter().filter(|(name, old)| !listed.contains_key(*name) || is_replaced(name, old));
    let mut steps: Vec<Step> = gone.map(|(name, _)| Step::Leave(name.clone())).collect();
    for (name, endpoint) in &listed {
        match known.get(name).filter(|old| endpoint.is_same_engine(old)) {
            None => steps.push(Step::Join(endpoint.clone())),
            Some(old) if old.draining != endpoint.draining => {
                steps.push(Step::Drain { name: name.clone(), draining: endpoint.draining });
            }
            Some(_) => {}
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(name: &str, url: &str) -> DiscoveredEndpoint {
        DiscoveredEndpoint::new(name, url)
    }

    fn known(endpoints: &[DiscoveredEndpoint]) -> Known {
        endpoints.iter().map(|e| (e.name.clone(), e.clone())).collect()
    }

    #[test]
    fn a_name_with_another_address_is_another_engine() {
        let before = known(&[endpoint("a", "http://h:1"), endpoint("b", "http://h:2")]);
        let again = DiscoveredEndpoint { uid: Some("2".to_owned()), ..endpoint("a", "http://h:1") };
        let after = [again.clone(), endpoint("b", "http://h:2")];
        assert_eq!(steps(&before, &after), [Step::Leave("a".to_owned()), Step::Join(again)]);
        let moved = endpoint("a", "http://h:9");
        let after = [moved.clone(), endpoint("b", "http://h:2")];
        assert_eq!(steps(&before, &after), [Step::Leave("a".to_owned()), Step::Join(moved)]);
        assert_eq!(steps(&before, &[endpoint("b", "http://h:2")]), [Step::Leave("a".to_owned())]);
    }

    #[test]
    fn terminating_is_draining_and_serving_again_ends_it() {
        let before = known(&[endpoint("a", "http://h:1")]);
        let draining = DiscoveredEndpoint { draining: true, ..endpoint("a", "http://h:1") };
        let step = |draining| Step::Drain { name: "a".to_owned(), draining };
        assert_eq!(steps(&before, std::slice::from_ref(&draining)), [step(true)]);
        assert_eq!(steps(&known(&[draining]), &[endpoint("a", "http://h:1")]), [step(false)]);
    }

    fn answers() -> impl Strategy<Value = Vec<DiscoveredEndpoint>> {
        let one = (0..6u8, 0..3u8, any::<bool>()).prop_map(|(name, port, draining)| DiscoveredEndpoint {
            draining,
            ..endpoint(&format!("e{name}"), &format!("http://h:{}", port + 1))
        });
        prop::collection::vec(one, 0..6).prop_map(|all| known(&all).into_values().collect())
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_any_answer_to_the_next(before in answers(), after in answers()) {
            let mut fleet = known(&before);
            for step in steps(&known(&before), &after) {
                match step {
                    Step::Leave(name) => prop_assert!(fleet.remove(&name).is_some()),
                    Step::Join(endpoint) => prop_assert!(fleet.insert(endpoint.name.clone(), endpoint).is_none()),
                    Step::Drain { name, draining } => fleet.get_mut(&name).unwrap().draining = draining,
                }
            }
            prop_assert_eq!(&fleet, &known(&after));
            prop_assert!(steps(&fleet, &after).is_empty(), "the same answer again changes nothing");
        }
    }
}
