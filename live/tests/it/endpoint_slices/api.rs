//! An API server that knows EndpointSlices of one Service, checks every request and fails as it is told.

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{StreamExt, unfold};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/ml/endpointslices";
const TOKEN: &str = "token-of-the-router";
/// Slices of a page, whatever the client allows.
const PAGE: usize = 2;

/// What the server does wrong from now on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Refuses every request.
    Refuses(u16),
    /// Refuses watches.
    RefusesWatch(u16),
    /// Knows no version but the newest: a watch begins with the event `410`.
    GoneInEvent,
    /// Answers lists with this.
    Lists(&'static str),
    /// Never answers.
    Silent,
}

type Line = Result<Bytes, std::io::Error>;

struct World {
    slices: BTreeMap<String, Value>,
    version: u64,
    /// Events by version, for watches that go on.
    events: Vec<(u64, String)>,
    watches: Vec<mpsc::UnboundedSender<Line>>,
    fault: Fault,
    token: &'static str,
    lists: usize,
    opened: usize,
    /// Versions that a client can know.
    given: BTreeSet<u64>,
    wrong: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Api(Arc<Mutex<World>>);

impl Api {
    /// Starts the server, and writes a kubeconfig for it with the router's token in a file.
    pub(crate) async fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        std::fs::write(dir.join("token"), TOKEN).unwrap();
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ml"}}],
            "clusters": [{"name": "k", "cluster": {"server": format!("http://{at}")}}],
            "users": [{"name": "u", "user": {"tokenFile": dir.join("token")}}]});
        std::fs::write(dir.join("kubeconfig"), config.to_string()).unwrap();
        let world = World {
            slices: BTreeMap::new(),
            version: 100,
            events: Vec::new(),
            watches: Vec::new(),
            fault: Fault::None,
            token: TOKEN,
            lists: 0,
            opened: 0,
            given: BTreeSet::new(),
            wrong: Vec::new(),
        };
        let api = Self(Arc::new(Mutex::new(world)));
        let service = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        api
    }

    /// Creates or changes a slice: its endpoints as (pod, uid, address, conditions).
    pub(crate) fn put(&self, name: &str, endpoints: &[(&str, &str, &str, Value)]) {
        let endpoint = |(pod, uid, address, conditions): &(&str, &str, &str, Value)| {
            json!({"addresses": [address], "conditions": conditions, "zone": "us-east-1a",
                "targetRef": {"kind": "Pod", "namespace": "ml", "name": pod, "uid": uid}})
        };
        let mut world = self.0.lock().unwrap();
        world.version += 1;
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "ml", "resourceVersion": world.version.to_string(),
                "labels": {"kubernetes.io/service-name": "sglang"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()});
        let known = world.slices.insert(name.to_owned(), slice.clone()).is_some();
        world.tell(if known { "MODIFIED" } else { "ADDED" }, &slice);
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut world = self.0.lock().unwrap();
        world.version += 1;
        let mut slice = world.slices.remove(name).unwrap();
        slice["metadata"]["resourceVersion"] = json!(world.version.to_string());
        world.tell("DELETED", &slice);
    }

    /// Tells the version to open watches, and forgets the events before it.
    pub(crate) fn bookmark(&self) {
        let mut world = self.0.lock().unwrap();
        world.version += 1;
        let mark = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"resourceVersion": world.version.to_string()}});
        world.tell("BOOKMARK", &mark);
        world.events.clear();
    }

    /// The events before now are no longer kept.
    pub(crate) fn compact(&self) {
        let mut world = self.0.lock().unwrap();
        world.version += 1;
        world.events.clear();
        let version = world.version;
        world.given.retain(|&given| given >= version);
    }

    /// Writes a line to open watches.
    pub(crate) fn write(&self, line: &str) {
        self.0.lock().unwrap().send(line);
    }

    /// Ends open watches: at the end of a line, or within one and with a reset of the connection.
    pub(crate) fn cut(&self, reset: bool) {
        let mut world = self.0.lock().unwrap();
        if reset {
            world.send("{\"type\": \"MODIFIED\", \"obj");
            for watch in &world.watches {
                let _ = watch.send(Err(std::io::Error::other("cut")));
            }
        }
        world.watches.clear();
    }

    pub(crate) fn fails(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    /// Takes another token from now on.
    pub(crate) fn rotates(&self, token: &'static str) {
        self.0.lock().unwrap().token = token;
    }

    /// Lists begun and watches opened so far.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let world = self.0.lock().unwrap();
        (world.lists, world.opened)
    }

    /// Watches that are open.
    pub(crate) fn open(&self) -> usize {
        let mut world = self.0.lock().unwrap();
        world.watches.retain(|watch| !watch.is_closed());
        world.watches.len()
    }

    /// What the router asked that no client of Kubernetes may.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.0.lock().unwrap().wrong.clone()
    }
}

impl World {
    fn tell(&mut self, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string();
        self.events.push((self.version, line.clone()));
        self.given.insert(self.version);
        self.send(&(line + "\n"));
    }

    fn send(&mut self, text: &str) {
        self.watches.retain(|watch| watch.send(Ok(Bytes::from(text.to_owned()))).is_ok());
    }

    fn refused(&mut self, why: &str) -> Response {
        self.wrong.push(why.to_owned());
        status(400, why)
    }

    fn list(&mut self, query: &BTreeMap<String, String>) -> Response {
        let known = ["labelSelector", "limit", "continue"];
        if query.keys().any(|key| !known.contains(&key.as_str()))
            || query.get("limit").is_none_or(|limit| limit != "200")
        {
            return self.refused(&format!("list: {query:?}"));
        }
        let from = match query.get("continue") {
            None => 0,
            Some(next) => next.strip_prefix("from-").unwrap().parse().unwrap(),
        };
        self.lists += usize::from(from == 0);
        let mut items: Vec<Value> = self.slices.values().skip(from).take(PAGE).cloned().collect();
        // In lists, objects have no kind.
        for item in &mut items {
            item.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
        }
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if from + PAGE < self.slices.len() {
            metadata["continue"] = json!(format!("from-{}", from + PAGE));
        } else {
            self.given.insert(self.version);
        }
        let list = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": metadata,
            "items": items});
        axum::Json(list).into_response()
    }

    fn watch(&mut self, query: &BTreeMap<String, String>) -> Response {
        let fixed = [("watch", "true"), ("timeoutSeconds", "60"), ("allowWatchBookmarks", "true")];
        let version = query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok());
        let (Some(version), 5) = (version, query.len()) else { return self.refused(&format!("watch: {query:?}")) };
        if fixed.iter().any(|(key, value)| query.get(*key).is_none_or(|sent| sent != value)) {
            return self.refused(&format!("watch: {query:?}"));
        }
        self.watches.retain(|watch| !watch.is_closed());
        if !self.watches.is_empty() {
            return self.refused("a second watch of the same Service");
        }
        self.opened += 1;
        let (sender, receiver) = mpsc::unbounded_channel::<Line>();
        if self.fault == Fault::GoneInEvent || !self.given.contains(&version) {
            let gone = json!({"type": "ERROR", "object": body(410, "too old resource version")});
            let _ = sender.send(Ok(Bytes::from(format!("{gone}\n"))));
        } else {
            for (_, line) in self.events.iter().filter(|(at, _)| *at > version) {
                let _ = sender.send(Ok(Bytes::from(format!("{line}\n"))));
            }
            self.watches.push(sender);
        }
        let lines = unfold(receiver, |mut receiver| async { receiver.recv().await.map(|line| (line, receiver)) });
        Body::from_stream(lines.boxed()).into_response()
    }
}

fn body(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": "Because", "code": code})
}

fn status(code: u16, message: &str) -> Response {
    (StatusCode::from_u16(code).unwrap(), axum::Json(body(code, message))).into_response()
}

async fn answer(State(api): State<Api>, Query(query): Query<BTreeMap<String, String>>, request: Request) -> Response {
    let fault = api.0.lock().unwrap().fault.clone();
    if fault == Fault::Silent {
        return std::future::pending().await;
    }
    let mut world = api.0.lock().unwrap();
    let sent = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if sent != Some(&format!("Bearer {}", world.token)) {
        return status(401, "Unauthorized");
    }
    let selector = query.get("labelSelector").map(String::as_str);
    if request.method() != Method::GET
        || request.uri().path() != PATH
        || selector != Some("kubernetes.io/service-name=sglang")
    {
        return world.refused(&format!("{} {}", request.method(), request.uri()));
    }
    let watches = query.contains_key("watch");
    match fault {
        Fault::Refuses(code) => status(code, "no, not\nthis one"),
        Fault::RefusesWatch(code) if watches => status(code, "no watch"),
        Fault::Lists(text) if !watches => text.into_response(),
        _ if watches => world.watch(&query),
        _ => world.list(&query),
    }
}
