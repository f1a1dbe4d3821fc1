//! A path-compressed radix tree over any symbols, for example 64-bit ids of token blocks.
//!
//! The tree holds structure only; users store their data in the value `V` of a node. The router's index stores owners
//! ([`crate::prefix`]), the engine model stores locks and last-use stamps. Nodes are allocated in an arena and named by
//! [`NodeId`]. One hash table maps (parent, first symbol) to a child, so a walk costs one probe per edge at any
//! fan-out; siblings are linked so that a subtree can be visited. The table stores ids only and reads the keys from the
//! nodes, and short edges are stored inside their nodes: the cost of a new prompt is dominated by cache misses.
//!
//! Every edge has a weight in tokens. With `per_symbol = Some(w)` a symbol weighs `w`, but the last symbol of an
//! inserted sequence may weigh less (a partial block). With `None` the weight of an edge is spread evenly over its
//! symbols (text whose tokens were counted only as a whole).

use arena::Arena;
use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};

mod arena;

/// Types that can be symbols of a tree.
pub trait Symbol: Copy + Eq + Hash + Debug {}
impl<T: Copy + Eq + Hash + Debug> Symbol for T {}

/// A node of one tree. Ids of removed nodes are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// The root: the empty prefix. It is never split or removed.
pub const ROOT: NodeId = NodeId(0);
const NONE: NodeId = NodeId(u32::MAX);

type Edge<S> = SmallVec<[S; 4]>;

#[derive(Debug, Clone)]
struct Node<S, V> {
    edge: Edge<S>,
    tokens: u32,
    parent: NodeId,
    first_child: NodeId,
    prev_sibling: NodeId,
    next_sibling: NodeId,
    children: u32,
    value: V,
}

impl<S: Symbol, V> Node<S, V> {
    /// The key of the hash table: the parent and the first symbol of the edge.
    fn key(&self) -> (NodeId, S) {
        (self.parent, self.edge[0])
    }
}

fn hash<S: Symbol>(key: (NodeId, S)) -> u64 {
    FxBuildHasher.hash_one(key)
}

/// A radix tree over symbols `S` with a value `V` per node; see the module documentation.
#[derive(Debug, Clone)]
pub struct Radix<S, V> {
    nodes: Arena<Node<S, V>>,
    free: Vec<NodeId>,
    /// All nodes but the root, by [`Node::key`].
    children: HashTable<NodeId>,
    per_symbol: Option<u32>,
    symbols: usize,
}

/// One edge reached by [`Radix::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The node at the far end of the edge.
    pub node: NodeId,
    /// Symbols of the edge that match, at least 1.
    pub symbols: usize,
    /// Tokens those symbols weigh.
    pub tokens: u32,
    /// Whether the whole edge matched.
    pub whole: bool,
}

impl<S: Symbol, V> Radix<S, V> {
    /// Creates an empty tree; `root` is the value of the root, `per_symbol` the weight of a whole symbol in tokens.
    pub fn new(per_symbol: Option<u32>, root: V) -> Self {
        let root = Node {
            edge: Edge::new(),
            tokens: 0,
            parent: NONE,
            first_child: NONE,
            prev_sibling: NONE,
            next_sibling: NONE,
            children: 0,
            value: root,
        };
        Self { nodes: Arena::new(root), free: Vec::new(), children: HashTable::new(), per_symbol, symbols: 0 }
    }

    /// Number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Whether only the root is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// Symbols on all edges together.
    pub fn symbols(&self) -> usize {
        self.symbols
    }

    /// The value of a node.
    pub fn value(&self, id: NodeId) -> &V {
        &self.nodes[id.0 as usize].value
    }

    /// The value of a node that may have been removed since; `None` if its slot is free now.
    pub fn get(&self, id: NodeId) -> Option<&V> {
        self.nodes.get(id.0 as usize).filter(|node| id == ROOT || !node.edge.is_empty()).map(|node| &node.value)
    }

    /// Mutable access to the value of a node.
    pub fn value_mut(&mut self, id: NodeId) -> &mut V {
        &mut self.nodes[id.0 as usize].value
    }

    /// Symbols on the edge into `id`.
    pub fn edge(&self, id: NodeId) -> &[S] {
        &self.nodes[id.0 as usize].edge
    }

    /// Tokens on the edge into `id`.
    pub fn tokens(&self, id: NodeId) -> u32 {
        self.nodes[id.0 as usize].tokens
    }

    /// Tokens of the first `symbols` symbols of the edge into `id`.
    pub fn weight(&self, id: NodeId, symbols: usize) -> u32 {
        self.weigh(&self.nodes[id.0 as usize], symbols)
    }

    /// The parent, `None` for the root.
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        some(self.nodes[id.0 as usize].parent)
    }

    /// Number of children of `id`.
    pub fn child_count(&self, id: NodeId) -> usize {
        self.nodes[id.0 as usize].children as usize
    }

    /// The children of `id`, the latest inserted first.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let mut next = self.nodes[id.0 as usize].first_child;
        std::iter::from_fn(move || {
            let here = some(next)?;
            next = self.nodes[here.0 as usize].next_sibling;
            Some(here)
        })
    }

    /// Every node below and including `top`, parents before children.
    pub fn subtree(&self, top: NodeId) -> Vec<NodeId> {
        let mut found = vec![top];
        let mut at = 0;
        while at < found.len() {
            let here = found[at];
            found.extend(self.children(here));
            at += 1;
        }
        found
    }

    /// Follows the edge of `at` that starts with the first symbol of `key`; `None` without such an edge or with an empty key.
    pub fn step(&self, at: NodeId, key: &[S]) -> Option<Step> {
        let wanted = (at, *key.first()?);
        let node = *self.children.find(hash(wanted), |id| self.nodes[id.0 as usize].key() == wanted)?;
        let inner = &self.nodes[node.0 as usize];
        let symbols = common_prefix(&inner.edge, key);
        let whole = symbols == inner.edge.len();
        Some(Step { node, symbols, tokens: if whole { inner.tokens } else { self.weigh(inner, symbols) }, whole })
    }

    /// Splits the edge into `id` after `symbols` symbols. A new node gets the upper part and a copy of the value; `id`
    /// keeps the lower part, so ids stored elsewhere stay valid. Returns the upper node.
    pub fn split(&mut self, id: NodeId, symbols: usize) -> NodeId
    where
        V: Clone,
    {
        let node = &self.nodes[id.0 as usize];
        debug_assert!(symbols > 0 && symbols < node.edge.len(), "a split falls inside the edge");
        let (parent, tokens, value) = (node.parent, self.weigh(node, symbols), node.value.clone());
        self.unlink(id);
        let node = &mut self.nodes[id.0 as usize];
        let lower = Edge::from_slice(&node.edge[symbols..]);
        let mut upper = std::mem::replace(&mut node.edge, lower);
        upper.truncate(symbols);
        upper.shrink_to_fit(); // otherwise it keeps the capacity of both parts
        node.tokens -= tokens;
        self.symbols -= upper.len(); // counted again by `attach`
        let top = self.attach(parent, upper, tokens, value);
        self.link(top, id);
        top
    }

    /// Adds a leaf under `parent`. `edge` must not be empty and `parent` must have no child that begins with
    /// its first symbol.
    pub fn add(&mut self, parent: NodeId, edge: &[S], tokens: u32, value: V) -> NodeId {
        self.attach(parent, Edge::from_slice(edge), tokens, value)
    }

    /// Removes a leaf and returns its value.
    pub fn remove(&mut self, id: NodeId) -> V
    where
        V: Default,
    {
        debug_assert!(id != ROOT && self.child_count(id) == 0, "only leaves are removed");
        self.unlink(id);
        let node = &mut self.nodes[id.0 as usize];
        self.symbols -= node.edge.len();
        node.edge = Edge::new();
        node.tokens = 0;
        self.free.push(id);
        std::mem::take(&mut node.value)
    }

    fn attach(&mut self, parent: NodeId, edge: Edge<S>, tokens: u32, value: V) -> NodeId {
        self.symbols += edge.len();
        let node = Node {
            edge,
            tokens,
            parent: NONE,
            first_child: NONE,
            prev_sibling: NONE,
            next_sibling: NONE,
            children: 0,
            value,
        };
        let id = if let Some(id) = self.free.pop() {
            self.nodes[id.0 as usize] = node;
            id
        } else {
            NodeId(u32::try_from(self.nodes.push(node)).expect("fewer than 2^32 nodes"))
        };
        self.link(parent, id);
        id
    }

    fn link(&mut self, parent: NodeId, id: NodeId) {
        let head = std::mem::replace(&mut self.nodes[parent.0 as usize].first_child, id);
        self.nodes[parent.0 as usize].children += 1;
        let node = &mut self.nodes[id.0 as usize];
        (node.parent, node.prev_sibling, node.next_sibling) = (parent, NONE, head);
        let (key, nodes) = (node.key(), &self.nodes);
        debug_assert!(
            self.children.find(hash(key), |other| nodes[other.0 as usize].key() == key).is_none(),
            "two children with one first symbol"
        );
        self.children.insert_unique(hash(key), id, |other| hash(nodes[other.0 as usize].key()));
        if let Some(head) = some(head) {
            self.nodes[head.0 as usize].prev_sibling = id;
        }
    }

    fn unlink(&mut self, id: NodeId) {
        let node = &self.nodes[id.0 as usize];
        let (key, parent, prev, next) = (node.key(), node.parent, node.prev_sibling, node.next_sibling);
        if let Ok(entry) = self.children.find_entry(hash(key), |&other| other == id) {
            entry.remove();
        }
        self.nodes[parent.0 as usize].children -= 1;
        match some(prev) {
            Some(prev) => self.nodes[prev.0 as usize].next_sibling = next,
            None => self.nodes[parent.0 as usize].first_child = next,
        }
        if let Some(next) = some(next) {
            self.nodes[next.0 as usize].prev_sibling = prev;
        }
    }

    /// Tokens of the first `symbols` symbols of a node's edge.
    fn weigh(&self, node: &Node<S, V>, symbols: usize) -> u32 {
        match self.per_symbol {
            Some(w) => w.saturating_mul(symbols as u32).min(node.tokens),
            None => (u64::from(node.tokens) * symbols as u64 / node.edge.len() as u64) as u32,
        }
    }
}

fn some(id: NodeId) -> Option<NodeId> {
    (id != NONE).then_some(id)
}

/// Length of the common prefix in symbols. Compares whole chunks first, which compiles to one `memcmp` per chunk for
/// bytes and integers: an 80 kB prompt costs a few microseconds. Then smaller ones.
fn common_prefix<S: Symbol>(a: &[S], b: &[S]) -> usize {
    const CHUNK: usize = 64;
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut at = 0;
    for chunk in [CHUNK, CHUNK / 8] {
        while at + chunk <= n && a[at..at + chunk] == b[at..at + chunk] {
            at += chunk;
        }
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests;
