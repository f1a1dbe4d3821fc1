//! Maps models to the replicas that serve them, by the replicas' `/v1/models` and the names in the configuration.
//!
//! A replica whose list is not known yet, or that has none, may serve any model.

use crate::upstream::replica::Upstream;
use gorgo_core::fleet::Kind;
use gorgo_core::{ReplicaId, ReplicaSet};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Most models of one replica; one with a longer list may serve any model.
const MAX_MODELS: usize = 4_096;

/// Longest name of a model, bytes; requests for longer ones are refused.
pub(crate) const LONGEST_NAME: usize = 512;

/// Most models of which is kept which replicas lack them.
const MAX_LACKING: usize = 1_024;

/// No replica serves the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unserved;

/// The models of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Models(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// By slot.
    replicas: BTreeMap<u16, Served>,
    /// The replicas that name a model.
    named: FxHashMap<String, ReplicaSet>,
    /// Replicas without a list.
    unlisted: ReplicaSet,
    /// Replicas whose engine has refused a model as unknown, since the table last changed.
    lacking: FxHashMap<String, ReplicaSet>,
    /// Peer routers, which have engines of their own.
    peers: ReplicaSet,
    /// All replicas.
    all: ReplicaSet,
}

/// What one replica serves.
#[derive(Debug, Default)]
struct Served {
    /// Which replica had the slot when the list came.
    serial: u64,
    is_peer: bool,
    /// Names in the configuration.
    aliases: Vec<String>,
    /// Entries of its list by their ids; `None` without a list.
    listed: Option<Vec<(String, Value)>>,
    /// Whether the list was longer.
    is_cut: bool,
    /// Digest of the page, which mostly does not change.
    page: u64,
}

impl Models {
    /// A replica joined the fleet. `aliases` are names it serves besides those it lists.
    pub(crate) fn joined(&self, upstream: &Upstream, aliases: &[String]) {
        let is_peer = upstream.kind == Kind::Peer;
        let served = Served { serial: upstream.serial, is_peer, aliases: aliases.to_vec(), ..Served::default() };
        let mut table = self.0.write();
        table.replicas.insert(upstream.id.0, served);
        table.rebuild();
    }

    /// A replica has other names of models besides those it lists.
    pub(crate) fn renamed(&self, upstream: &Upstream, aliases: &[String]) {
        let mut table = self.0.write();
        let served = table.replicas.get_mut(&upstream.id.0).filter(|served| served.serial == upstream.serial);
        if let Some(served) = served.filter(|served| served.aliases != aliases) {
            served.aliases = aliases.to_vec();
            table.rebuild();
        }
    }

    /// A replica left the fleet.
    pub(crate) fn left(&self, upstream: &Upstream) {
        let mut table = self.0.write();
        if table.replicas.get(&upstream.id.0).is_some_and(|served| served.serial == upstream.serial) {
            table.replicas.remove(&upstream.id.0);
            table.rebuild();
        }
    }

    /// A replica answered `/v1/models` with this page.
    pub(crate) fn listed(&self, upstream: &Upstream, page: &[u8]) {
        let digest = xxh3_64(page);
        let is_same = |served: &Served| served.serial != upstream.serial || served.page == digest;
        if self.0.read().replicas.get(&upstream.id.0).is_none_or(is_same) {
            return;
        }
        let Some((entries, is_cut)) = entries(page) else { return };
        let mut table = self.0.write();
        if let Some(served) = table.replicas.get_mut(&upstream.id.0).filter(|served| served.serial == upstream.serial) {
            (served.listed, served.is_cut, served.page) = (Some(entries), is_cut, digest);
            table.rebuild();
        }
    }

    /// The replicas that may serve a model; `None` for all. With `here` peers are left out: a request that was forwarded
    /// cannot go on to them.
    ///
    /// # Errors
    /// When every replica has a list and none has the model.
    pub(crate) fn replicas_of(&self, model: &str, here: bool) -> Result<Option<ReplicaSet>, Unserved> {
        let table = self.0.read();
        let lacking = table.lacking.get(model).copied().unwrap_or_default();
        if table.unlisted == table.all && lacking.is_empty() {
            return Ok(None);
        }
        let named = table.named.get(model).copied().or_else(|| table.with_base(model)).unwrap_or_default();
        let may = named.or(&table.unlisted);
        let may = if here { may.minus(&table.peers) } else { may };
        let has = may.minus(&lacking);
        match if has.is_empty() { may } else { has } {
            may if may.is_empty() => Err(Unserved),
            may if may == table.all => Ok(None),
            may => Ok(Some(may)),
        }
    }

    /// The replicas that may have an adapter which a request names beside its model; `None` when no replica lists it.
    pub(crate) fn replicas_with_adapter(&self, adapter: &str, here: bool) -> Option<ReplicaSet> {
        let table = self.0.read();
        let may = table.named.get(adapter)?.or(&table.unlisted);
        let may = if here { may.minus(&table.peers) } else { may };
        (!may.is_empty()).then_some(may)
    }

    /// A replica's engine has refused a model as unknown.
    pub(crate) fn lacks(&self, upstream: &Upstream, model: &str) {
        let mut table = self.0.write();
        if table.replicas.get(&upstream.id.0).is_none_or(|served| served.serial != upstream.serial) {
            return;
        }
        if table.lacking.len() >= MAX_LACKING {
            table.lacking.clear();
        }
        table.lacking.entry(model.to_owned()).or_default().insert(upstream.id);
    }

    /// Whether some replica shows no list: then it is not known what it serves.
    pub(crate) fn are_uncertain(&self) -> bool {
        !self.0.read().unlisted.is_empty()
    }

    /// The union of the replicas' lists, as `/v1/models` answers it; `None` when no replica has a list.
    pub(crate) fn list(&self) -> Option<Value> {
        let table = self.0.read();
        let mut all: BTreeMap<&str, Value> = BTreeMap::new();
        for served in table.replicas.values() {
            for (id, entry) in served.listed.iter().flatten() {
                all.entry(id).or_insert_with(|| entry.clone());
            }
        }
        let is_listed = !all.is_empty();
        for alias in table.replicas.values().flat_map(|served| &served.aliases) {
            all.entry(alias).or_insert_with(|| json!({"id": alias, "object": "model", "owned_by": "gorgo"}));
        }
        is_listed.then(|| json!({"object": "list", "data": all.into_values().collect::<Vec<_>>()}))
    }
}

impl Table {
    /// The replicas of an adapter that is named `BASE:ADAPTER`, as SGLang does: those that list the adapter, or else all that
    /// have its base, since not every engine lists adapters.
    fn with_base(&self, model: &str) -> Option<ReplicaSet> {
        let (base, adapter) = model.split_once(':')?;
        match (self.named.get(adapter), self.named.get(base)) {
            (Some(adapter), Some(base)) if !adapter.and(base).is_empty() => Some(adapter.and(base)),
            (adapter, base) => adapter.or(base).copied(),
        }
    }

    fn rebuild(&mut self) {
        (self.named, self.lacking) = (FxHashMap::default(), FxHashMap::default());
        (self.unlisted, self.peers, self.all) = (ReplicaSet::EMPTY, ReplicaSet::EMPTY, ReplicaSet::EMPTY);
        for (&slot, served) in &self.replicas {
            let replica = ReplicaId(slot);
            self.all.insert(replica);
            if served.is_peer {
                self.peers.insert(replica);
            }
            if served.listed.is_none() || served.is_cut {
                self.unlisted.insert(replica);
            }
            if let Some(listed) = &served.listed {
                for name in listed.iter().map(|(id, _)| id).chain(&served.aliases) {
                    self.named.entry(name.clone()).or_default().insert(replica);
                }
            }
        }
    }
}

/// The first [`MAX_MODELS`] entries of a list, and whether there are more; `None` if the page is none, or empty.
pub(crate) fn entries(page: &[u8]) -> Option<(Vec<(String, Value)>, bool)> {
    let page: Value = serde_json::from_slice(page).ok()?;
    let data = page.get("data")?.as_array()?;
    let named = data.iter().filter_map(|entry| Some((entry.get("id")?.as_str()?.to_owned(), entry.clone())));
    let mut named = named.filter(|(id, _)| !id.is_empty() && id.len() <= LONGEST_NAME);
    let first: Vec<_> = named.by_ref().take(MAX_MODELS).collect();
    (!first.is_empty()).then(|| (first, named.next().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::connect::Endpoint;

    fn upstream(slot: u16) -> Upstream {
        let endpoint = Endpoint::parse("http://e:1").unwrap();
        Upstream::new(ReplicaId(slot), format!("e{slot}"), Kind::Remote, endpoint)
    }

    fn page(names: &[&str]) -> Vec<u8> {
        let data: Vec<_> = names.iter().map(|name| json!({"id": name, "object": "model"})).collect();
        json!({"object": "list", "data": data}).to_string().into_bytes()
    }

    fn set(slots: &[u16]) -> ReplicaSet {
        let mut set = ReplicaSet::EMPTY;
        for &slot in slots {
            set.insert(ReplicaId(slot));
        }
        set
    }

    #[test]
    fn lists_and_aliases_decide_and_an_unlisted_replica_may_serve_anything() {
        let models = Models::default();
        let (a, b, c) = (upstream(0), upstream(1), upstream(2));
        models.joined(&a, &[]);
        models.joined(&b, &["nick".to_owned()]);
        assert_eq!((models.replicas_of("x", false), models.list()), (Ok(None), None));
        models.listed(&a, &page(&["x", "lora"]));
        assert_eq!(models.replicas_of("y", false), Ok(Some(set(&[1]))), "the other may serve it");
        models.listed(&b, &page(&["y", "lora"]));
        assert_eq!(models.replicas_of("x", false), Ok(Some(set(&[0]))));
        assert_eq!(models.replicas_of("x:adapter", false), Ok(Some(set(&[0]))));
        assert_eq!(models.replicas_with_adapter("adapter", false), None);
        assert_eq!(models.replicas_of("nick", false), Ok(Some(set(&[1]))));
        assert_eq!(models.replicas_of("lora", false), Ok(None), "all");
        assert_eq!(models.replicas_of("z", false), Err(Unserved));
        let list = models.list().unwrap();
        let names: Vec<_> =
            list["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!(names, ["lora", "nick", "x", "y"]);
        models.joined(&c, &[]);
        assert_eq!(models.replicas_of("z", false), Ok(Some(set(&[2]))));
        models.left(&c);
        models.left(&b);
        assert_eq!((models.replicas_of("y", false), models.replicas_of("x", false)), (Err(Unserved), Ok(None)));
    }

    /// SGLang's two names of an adapter: `BASE:ADAPTER` as the model, or `lora_path` beside it.
    #[test]
    fn an_adapter_goes_to_those_that_list_it() {
        let models = Models::default();
        let (a, b, c) = (upstream(0), upstream(1), upstream(2));
        for (upstream, names) in [(&a, ["base", "fr"]), (&b, ["base", "de"]), (&c, ["other", "de"])] {
            models.joined(upstream, &[]);
            models.listed(upstream, &page(&names));
        }
        assert_eq!(models.replicas_of("base:fr", false), Ok(Some(set(&[0]))));
        assert_eq!(models.replicas_of("base:de", false), Ok(Some(set(&[1]))), "an adapter of that base");
        assert_eq!(models.replicas_of("base:new", false), Ok(Some(set(&[0, 1]))), "no replica lists it");
        assert_eq!(models.replicas_of("none:de", false), Ok(Some(set(&[1, 2]))));
        assert_eq!(models.replicas_with_adapter("de", false), Some(set(&[1, 2])));
        models.joined(&upstream(3), &[]);
        assert_eq!(models.replicas_with_adapter("de", false), Some(set(&[1, 2, 3])), "one without a list may have it");
        assert_eq!(models.replicas_of("base:fr", false), Ok(Some(set(&[0, 3]))));
    }

    #[test]
    fn a_slot_that_another_replica_has_now_keeps_its_list() {
        let models = Models::default();
        let (old, new) = (upstream(0), upstream(0));
        models.joined(&old, &[]);
        models.joined(&new, &[]);
        models.listed(&new, &page(&["new"]));
        models.listed(&old, &page(&["old"]));
        models.left(&old);
        assert_eq!((models.replicas_of("new", false), models.replicas_of("old", false)), (Ok(None), Err(Unserved)));
    }

    #[test]
    fn a_replica_with_more_models_than_are_kept_may_serve_any() {
        let models = Models::default();
        let (many, few) = (upstream(0), upstream(1));
        models.joined(&many, &[]);
        models.joined(&few, &[]);
        models.listed(&few, &page(&["x"]));
        let names: Vec<String> = (0..=MAX_MODELS).map(|i| format!("m{i}")).collect();
        models.listed(&many, &page(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        for name in ["m0", "m4095", "m4096", "y"] {
            assert_eq!(models.replicas_of(name, false), Ok(Some(set(&[0]))), "{name}");
        }
        assert_eq!(models.replicas_of("x", false), Ok(None), "both");
    }

    #[test]
    fn an_engine_that_refused_a_model_is_asked_for_it_only_if_all_did() {
        let models = Models::default();
        let (a, b) = (upstream(0), upstream(1));
        models.joined(&a, &[]);
        models.joined(&b, &[]);
        assert!(models.are_uncertain());
        models.lacks(&a, "x");
        assert_eq!((models.replicas_of("x", false), models.replicas_of("y", false)), (Ok(Some(set(&[1]))), Ok(None)));
        models.lacks(&b, "x");
        assert_eq!(models.replicas_of("x", false), Ok(None), "it may have been loaded since");
        models.lacks(&upstream(1), "y");
        assert_eq!(models.replicas_of("y", false), Ok(None), "another replica had the slot");
        models.listed(&b, &page(&["z"]));
        assert_eq!(models.replicas_of("x", false), Ok(Some(set(&[0]))), "the table is new");
        (0..=MAX_LACKING).for_each(|n| models.lacks(&a, &format!("m{n}")));
        assert_eq!(models.0.read().lacking.len(), 1);
    }

    #[test]
    fn pages_that_are_no_list_change_nothing() {
        for text in [&b""[..], b"{}", b"[]", b"{\"data\":[]}", b"{\"data\":[{\"name\":\"x\"}]}", b"<html>"] {
            assert!(entries(text).is_none());
        }
    }
}
