//! A discovered endpoint, and the changes from one answer of a source to the next.

use crate::config::{ReplicaConfig, Secret, is_same_address};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replica as a source describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    pub fn new(name: &str, url: &str) -> Self {
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

    /// Whether it is the same engine, whatever else is said of it.
    fn is_same_engine(&self, other: &Self) -> bool {
        self.uid == other.uid && is_same_address(&self.url, &other.url)
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
    /// The same engine is described in another way, or its state has changed.
    Change(DiscoveredEndpoint),
}

/// The steps from `known` to `listed`: those that leave first, so that a full fleet has room for those that join.
pub(crate) fn steps(known: &Known, listed: &Known) -> Vec<Step> {
    let is_replaced = |name: &String, old: &DiscoveredEndpoint| !listed[name].is_same_engine(old);
    let gone = known.iter().filter(|(name, old)| !listed.contains_key(*name) || is_replaced(name, old));
    let mut steps: Vec<Step> = gone.map(|(name, _)| Step::Leave(name.clone())).collect();
    for (name, endpoint) in listed {
        match known.get(name).filter(|old| endpoint.is_same_engine(old)) {
            None => steps.push(Step::Join(endpoint.clone())),
            Some(old) if old != endpoint => steps.push(Step::Change(endpoint.clone())),
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
        assert_eq!(steps(&before, &known(&after)), [Step::Leave("a".to_owned()), Step::Join(again)]);
        let moved = endpoint("a", "http://h:9");
        let after = [moved.clone(), endpoint("b", "http://h:2")];
        assert_eq!(steps(&before, &known(&after)), [Step::Leave("a".to_owned()), Step::Join(moved)]);
        assert_eq!(steps(&before, &known(&[endpoint("b", "http://h:2")])), [Step::Leave("a".to_owned())]);
    }

    #[test]
    fn all_but_another_address_changes_the_engine_in_place() {
        let before = known(&[endpoint("a", "http://h:1")]);
        let all = [
            DiscoveredEndpoint { draining: true, ..endpoint("a", "http://h:1") },
            DiscoveredEndpoint { region: Some("eu".to_owned()), ..endpoint("a", "http://h:1") },
            DiscoveredEndpoint { labels: vec!["x=y".to_owned()], ..endpoint("a", "http://h:1") },
            DiscoveredEndpoint { ms_per_token: Some(0.1), ..endpoint("a", "http://H:1/") },
        ];
        for other in all {
            assert_eq!(steps(&before, &known(std::slice::from_ref(&other))), [Step::Change(other.clone())]);
            let back = endpoint("a", "http://h:1");
            assert_eq!(steps(&known(&[other]), &known(std::slice::from_ref(&back))), [Step::Change(back.clone())]);
        }
        assert_eq!(steps(&before, &known(&[endpoint("a", "http://h:1")])), []);
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
            for step in steps(&known(&before), &known(&after)) {
                match step {
                    Step::Leave(name) => prop_assert!(fleet.remove(&name).is_some()),
                    Step::Join(endpoint) => prop_assert!(fleet.insert(endpoint.name.clone(), endpoint).is_none()),
                    Step::Change(endpoint) => prop_assert!(fleet.insert(endpoint.name.clone(), endpoint).is_some()),
                }
            }
            prop_assert_eq!(&fleet, &known(&after));
            prop_assert!(steps(&fleet, &known(&after)).is_empty(), "the same answer again changes nothing");
        }
    }
}
