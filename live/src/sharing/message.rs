//! The messages between routers of the same replicas: JSON, with symbols as base64 of their bytes.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gorgo_core::ReplicaId;
use gorgo_core::fleet::Load;
use gorgo_core::sharing::{Missing, News};
use serde::{Deserialize, Serialize};

/// The meaning of the rows below; another one is refused.
pub(crate) const VERSION: u32 = 1;

/// A path: the position of its replica in the names, its parent, the symbols below that, tokens of the whole path.
type PathRow = (u16, Option<u64>, String, u32);

/// The body of `POST /proxy/share`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Message {
    pub version: u32,
    /// Names the hash seed without telling it.
    pub key_id: String,
    /// The sender's id, random per process.
    pub router: String,
    /// The sender's name, for the log.
    pub name: String,
    /// Names of the sender's replicas, to whose positions the rows refer; empty where there is none.
    pub replicas: Vec<String>,
    pub paths: Vec<PathRow>,
    /// The sender's own requests at each replica that has some.
    pub loads: Vec<(u16, Load)>,
}

/// The answer to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The receiver's id.
    pub router: String,
    /// Paths whose parent the receiver does not know: position of the replica, last symbol, tokens.
    pub missing: Vec<(u16, u64, u32)>,
}

impl Message {
    /// Names of replicas by position, as many as a fleet may have.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.replicas.iter().take(gorgo_core::MAX_REPLICAS).map(String::as_str)
    }

    pub(crate) fn path_rows(news: &[News]) -> Vec<PathRow> {
        news.iter().map(|n| (n.replica.0, n.parent, to_text(&n.tail), n.tokens)).collect()
    }

    /// The paths, with replicas by `slots`: the slot here of each name. Rows that name no replica of this router, or
    /// cannot be read, are left out; their number is the second value.
    pub(crate) fn news(&self, slots: &[Option<ReplicaId>]) -> (Vec<News>, usize) {
        let news: Vec<News> = self
            .paths
            .iter()
            .filter_map(|&(replica, parent, ref tail, tokens)| {
                let replica = (*slots.get(usize::from(replica))?)?;
                Some(News { replica, parent, tail: from_text(tail)?, tokens })
            })
            .collect();
        let left_out = self.paths.len() - news.len();
        (news, left_out)
    }
}

impl Answer {
    /// The rows for `missing`, whose replicas are slots here; `slots` as in [`Message::news`].
    pub(crate) fn rows(missing: &[Missing], slots: &[Option<ReplicaId>]) -> Vec<(u16, u64, u32)> {
        let position = |replica| slots.iter().position(|slot| *slot == Some(replica)).map(|at| at as u16);
        missing.iter().filter_map(|m| Some((position(m.replica)?, m.end, m.tokens))).collect()
    }
}

/// Symbols as text.
pub(crate) fn to_text(symbols: &[u64]) -> String {
    let bytes: Vec<u8> = symbols.iter().flat_map(|symbol| symbol.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

/// The symbols in such a text.
pub(crate) fn from_text(text: &str) -> Option<Vec<u64>> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    let (whole, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| whole.iter().map(|symbol| u64::from_le_bytes(*symbol)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_way_and_bad_rows_are_left_out() {
        let tail: Vec<u64> = (0..40).map(|i| u64::MAX - i).collect();
        let news = [News { replica: ReplicaId(1), parent: Some(u64::MAX), tail, tokens: 9 }];
        let names = vec!["a".to_owned(), "b".to_owned()];
        let mut message = Message { replicas: names, paths: Message::path_rows(&news), ..Message::default() };
        let text = serde_json::to_string(&message.paths[0]).unwrap();
        assert!(
            text.len().abs_diff(news[0].bytes() as usize) < 16,
            "{} bytes, estimated {}",
            text.len(),
            news[0].bytes()
        );
        message.paths.push((1, None, "AAAA".to_owned(), 1));
        message.paths.push((0, None, String::new(), 1));
        message.paths.push((7, None, String::new(), 1));
        let read: Message = serde_json::from_slice(&serde_json::to_vec(&message).unwrap()).unwrap();
        let slots = [None, Some(ReplicaId(5))];
        let (paths, left_out) = read.news(&slots);
        assert_eq!((left_out, paths.len(), paths[0].replica), (3, 1, ReplicaId(5)));
        assert_eq!((paths[0].parent, &paths[0].tail), (news[0].parent, &news[0].tail));
        let missing = [Missing { replica: ReplicaId(5), end: 3, tokens: 2 }];
        assert_eq!(Answer::rows(&missing, &slots), [(1, 3, 2)]);
    }
}
