//! Finds loops of routers: a router as its own replica, two proxies as each other's.
//!
//! Every router has a random id. Probes, forwards, and requests to replicas that are or may be routers carry the ids of
//! the routers they have passed (`X-Gorgo-Router`); a router that finds its own id there refuses the request. Answers
//! to such requests name the answering router and those it dispatches to, so that a probe shows a loop before any
//! request runs into it, also when the answer is the router's own. Peers dispatch to each other on purpose, with the
//! hop limit against loops, and are left out.

use crate::request::headers::ROUTER;
use crate::state::AppState;
use gorgo_core::fleet::Kind;
use http::HeaderValue;
use http::header::HeaderMap;

/// Most routers of a chain, and of an answer.
const MOST: usize = 16;
/// Longest id that is read.
const LENGTH: usize = 32;

/// The routers that an answer names; none for an engine's.
pub(crate) fn routers(headers: &HeaderMap) -> Vec<String> {
    ids(headers).take(MOST).map(str::to_owned).collect()
}

fn ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(ROUTER).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|id| !id.is_empty() && id.len() <= LENGTH)
}

/// Why a request from a router must not go on, if so.
pub(crate) fn refusal(own: &HeaderValue, headers: &HeaderMap) -> Option<&'static str> {
    let own = own.to_str().unwrap_or_default();
    if ids(headers).any(|id| id == own) {
        return Some(
            "this request has passed this router before: a replica of this router, or a replica of that, leads back to it",
        );
    }
    (ids(headers).count() >= MOST).then_some("this request has passed too many routers")
}

/// The line that names this router and all that it dispatches to.
pub(crate) fn announcement(state: &AppState) -> HeaderValue {
    let mut all = vec![state.router_id.to_str().unwrap_or_default().to_owned()];
    state.driver.read(|router, upstreams, _| {
        let here = upstreams.iter().zip(router.replicas()).filter(|(u, r)| !r.removed && u.kind != Kind::Peer);
        for id in here.flat_map(|(u, _)| u.routers()) {
            if all.len() < MOST && !all.contains(&id) {
                all.push(id);
            }
        }
    });
    HeaderValue::try_from(all.join(",")).unwrap_or_else(|_| state.router_id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (ROUTER, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn a_router_finds_itself_in_a_chain_and_long_chains_end() {
        let own = HeaderValue::from_static("b");
        assert!(refusal(&own, &map(&["a"])).is_none());
        for chain in [&["b"][..], &["a", "b"], &["a, b ,c"]] {
            assert!(refusal(&own, &map(chain)).unwrap().contains("leads back"), "{chain:?}");
        }
        let many: Vec<String> = (0..MOST).map(|n| format!("r{n}")).collect();
        assert!(refusal(&own, &map(&[&many.join(",")])).unwrap().contains("too many"));
    }

    #[test]
    fn what_an_answer_names_is_bounded() {
        let long = "x".repeat(LENGTH + 1);
        let many = vec!["y"; 100].join(",");
        assert_eq!(routers(&map(&["a,b", &long, ""])), ["a", "b"]);
        assert_eq!(routers(&map(&[&many])).len(), MOST);
        assert!(routers(&HeaderMap::new()).is_empty());
    }
}
