//! A client's request: admitted by its head, read, and announced to the core.

use crate::config::Config;
use crate::kept_ids;
use crate::models::Unserved;
use crate::observe::request_log::RequestEntry;
use crate::request::absent;
use crate::request::asked::{Asked, DEFAULT_MODEL};
use crate::request::body::Body;
use crate::request::context::ConnectionContext;
use crate::request::cors;
use crate::request::elsewhere::Sought;
use crate::request::endpoints::{self, Endpoint};
use crate::request::errors::{model_not_found, refusal, wrong_key};
use crate::request::guard::RequestGuard;
use crate::request::headers::{self, HeaderFlags};
use crate::request::learning::Learning;
use crate::request::location;
use crate::request::pack::{self, Packed};
use crate::request::page_key;
use crate::request::read_body;
use crate::request::residency::{Named, UnknownResidency};
use crate::request::unpack::unpack;
use crate::server::keys::Keys;
use crate::state::AppState;
use crate::tokens::count_tokens;
use crate::upstream::replica::Upstream;
use crate::wire::request_fields::{RequestFields, extract, session_hash};
use bytes::Bytes;
use gorgo_core::network::HEAD_BYTES;
use gorgo_core::policy::RequestInfo;
use gorgo_core::residency::Fence;
use gorgo_core::router::{Dispatch, Failure, Handling, Request as CoreRequest};
use gorgo_core::{ReplicaSet, Span, Time};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use memchr::memmem;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};

/// An admitted request, kept until its answer begins: any replica the core names gets it. Boxed, since it is large.
pub(super) struct ClientRequest {
    pub(super) context: Arc<ConnectionContext>,
    pub(super) config: Arc<Config>,
    pub(super) parts: http::request::Parts,
    /// Whether its body holds a prompt.
    pub(super) has_prompt: bool,
    /// Whether it asks for a stream.
    pub(super) streams: bool,
    /// Whether it makes something that the engine keeps by an id.
    pub(super) makes_kept: bool,
    /// What it names of which is not known which engine has it.
    pub(super) sought: Option<Sought>,
    flags: HeaderFlags,
    permit: Option<OwnedSemaphorePermit>,
    incoming: Incoming,
    /// The whole of `incoming`.
    body: Bytes,
    hops: u8,
    /// Its prompt and tokens as the core knows them.
    prompt: (Arc<[u64]>, u32),
    /// Where it may go, for routers behind this one.
    fence: Option<Fence>,
    /// Holds the body's bytes of `limits.bodies_bytes`.
    _body_permit: Option<OwnedSemaphorePermit>,
    /// The body as peers that read zstd get it, once one was asked; `None` if packing saves nothing.
    packed: OnceCell<Option<Packed>>,
}

impl ClientRequest {
    /// Checks what the head alone shows: key, path, and whether there is room for one more request.
    pub(super) fn admit(
        context: Arc<ConnectionContext>,
        config: Arc<Config>,
        request: Request<Incoming>,
        flags: HeaderFlags,
        endpoint: Endpoint,
    ) -> Result<Box<Self>, Box<Response<Body>>> {
        let state = &context.state;
        // Browsers send no key with a preflight.
        let is_preflight = flags.origin && cors::is_preflight(request.method(), request.headers());
        let is_page_let_in =
            |keys: &Keys| flags.upgrade && page_key::shown(request.headers()).any(|key| keys.may_ask(Some(key)));
        let is_let_in =
            |keys: &Keys| headers::opens(request.headers(), flags, |key| keys.may_ask(key)) || is_page_let_in(keys);
        if !is_preflight && !state.with_keys(is_let_in) {
            context.tell_client_refused();
            return Err(Box::new(wrong_key()));
        }
        let is_post = request.method() == Method::POST;
        let has_prompt = endpoint == Endpoint::Prompt && is_post;
        let path = endpoints::plain(request.uri().path());
        let makes_kept = is_post && endpoints::makes_kept(&path) || endpoints::names_files(&path);
        let Ok(permit) = Arc::clone(&state.request_permits).try_acquire_owned() else {
            let message = "the router holds as many requests as it may (limits.requests); try again soon";
            return Err(Box::new(refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)));
        };
        let (parts, incoming) = request.into_parts();
        let (permit, body, hops, fence, _body_permit) = (Some(permit), Bytes::new(), 0, None, None);
        let prompt = (Arc::from([]), 0);
        Ok(Box::new(Self {
            context,
            config,
            parts,
            has_prompt,
            streams: false,
            makes_kept,
            sought: None,
            flags,
            permit,
            incoming,
            body,
            hops,
            prompt,
            fence,
            _body_permit,
            packed: OnceCell::new(),
        }))
    }

    /// Reads the body and announces the request to the core.
    pub(super) async fn announce(&mut self) -> Result<Box<RequestGuard>, Box<Response<Body>>> {
        let Self { context, config, parts, flags, .. } = self;
        let state = &context.state;
        (self.body, self._body_permit) = read_body::read(state, config, &parts.headers, &mut self.incoming).await?;
        if self.has_prompt {
            endpoints::check_content_type(&parts.headers)?;
            // The answer is read for tokens, usage and errors, which a packed one hides.
            parts.headers.remove(ACCEPT_ENCODING);
        }
        if flags.encoding
            && let Some(plain) =
                unpack(config.limits.body_bytes, state, &parts.headers, &self.body, &mut self._body_permit).await?
        {
            self.body = plain;
            parts.headers.remove(CONTENT_ENCODING);
        }
        let invalid = |message: String| Box::new(refusal(StatusCode::BAD_REQUEST, "invalid_body", &message));
        let found = if self.has_prompt { Some(extract(&self.body, state.hash_seed).map_err(invalid)?) } else { None };
        let switches = flags.upgrade && headers::asks_for_websocket(&parts.method, &parts.headers);
        let named = Asked::new(&parts.uri, &self.body, found.as_ref(), switches).map_err(invalid)?;
        let counting = count_tokens(
            state.counter.as_ref(),
            &state.bytes_per_token,
            config,
            state.hash_seed,
            &self.body,
            found.as_ref(),
        );
        let tokens = counting.await;
        let header = |is_there: bool, name| if is_there { parts.headers.get(name) } else { None };
        let hops = header(flags.hop, headers::HOP);
        let hops = hops.map_or(0, |v| v.to_str().ok().and_then(|v| v.parse().ok()).unwrap_or(u8::MAX));
        let attempts = if flags.attempts { headers::attempts(&parts.headers) } else { None };
        let wait = match header(flags.timeout, headers::TIMEOUT) {
            None => u64::MAX,
            Some(value) => value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()).ok_or_else(|| {
                let shown: String = String::from_utf8_lossy(value.as_bytes()).chars().take(40).collect();
                let message = format!("`{}` is \"{shown}\"; give milliseconds, for example 30000", headers::TIMEOUT);
                Box::new(refusal(StatusCode::BAD_REQUEST, "invalid_timeout", &message))
            })?,
        };
        let wait = wait.min(config.timeouts.first_token_ms);
        let session = match header(flags.session, headers::SESSION) {
            Some(key) if !key.is_empty() => session_hash(key.as_bytes()),
            _ => found.as_ref().map_or(0, |f| f.session),
        };
        let info = RequestInfo {
            prompt_tokens: tokens.all,
            bytes: HEAD_BYTES + self.body.len() as u64,
            counted: tokens.exact,
            session,
            head: found.as_ref().map_or(0, |f| f.prompt.head),
        };
        let symbols = found.as_ref().map_or_else(|| Arc::from([]), |f| Arc::clone(&f.prompt.symbols));
        self.prompt = (Arc::clone(&symbols), tokens.all);
        let model = named.model.as_deref();
        let fence = state.residency().fence(
            &parts.headers,
            Named { model: model.filter(|_| !named.may_be_any), may_be_any: named.may_be_any },
            flags.fence,
        );
        self.fence = fence.map_err(|UnknownResidency(message)| {
            Box::new(refusal(StatusCode::BAD_REQUEST, "unknown_residency", &message))
        })?;
        let fence = self.fence.clone();
        let Aim { only, pinned, sought } = replicas_for(state, (&parts.method, &parts.uri), &named, hops > 0)?;
        self.sought = sought;
        let path = endpoints::plain(parts.uri.path());
        let handling = Handling {
            once: !self.has_prompt && endpoints::makes_something(&parts.method, &path),
            light: !self.has_prompt && !switches && endpoints::is_light(&parts.method, &path),
            pinned,
        };
        let mut arrived = Time::ZERO;
        let (id, mailbox) = state.driver.arrive(|id, now| {
            arrived = now;
            let deadline = Some(now + Span::from_ms(wait as f64));
            CoreRequest { hops, deadline, only, fence, handling, attempts, ..CoreRequest::new(id, symbols, info) }
        });
        let request_id = if flags.request_id {
            headers::request_id(&parts.headers, state.seed, id)
        } else {
            headers::new_id(state.seed, id)
        };
        let row = new_row(&request_id, &info, found.as_ref(), arrived, hops);
        self.hops = hops;
        self.streams = found.as_ref().is_some_and(|found| found.streams);
        let length = self.body.len();
        state.with_keys(|keys| {
            headers::to_upstream(&mut parts.headers, length, &request_id, &context.client, keys);
            if flags.upgrade {
                page_key::drop_ours(&mut parts.headers, keys);
            }
        });
        let permit = self.permit.take();
        let mut guard = RequestGuard::new(Arc::clone(context), (id, mailbox), request_id, row, permit);
        guard.tells_dispatches = attempts.is_some();
        if let Some(found) = found {
            guard.engine_id = found.rid;
            guard.learning = Some(Learning {
                prompt: found.prompt,
                model: found.model,
                text_tokens: tokens.text,
                is_chat: endpoints::is_chat(parts.uri.path()),
            });
        }
        #[cfg(feature = "otel")]
        {
            guard.trace = state.otel.begin(&mut parts.headers, state.seed, id);
        }
        Ok(guard)
    }

    /// Replaces addresses of replicas in the headers of an answer of `upstream`.
    pub(super) fn hide_engines(&self, headers: &mut HeaderMap, upstream: &Upstream) {
        let is_replica = |host: &str| {
            let is = |upstream: &Arc<Upstream>| upstream.endpoint.host().eq_ignore_ascii_case(host);
            self.context.state.driver.read(|_, upstreams, _| upstreams.iter().any(is))
        };
        location::hide_engines(headers, &upstream.endpoint, &is_replica, self.parts.uri.path());
    }

    /// Whether this replica gets a key of the client's, and not one of this router's.
    pub(super) fn passes_key(&self, upstream: &Upstream) -> bool {
        upstream.is_keyless() && headers::has_key(&self.parts.headers)
    }

    /// What a 401 or 403 is about: the client's key if that was passed on, and this path at this engine if no key was sent
    /// and the path has no prompt, which says nothing of the engine's other paths. Else the router's key.
    pub(super) fn refusal_of(&self, upstream: &Upstream) -> Failure {
        if self.passes_key(upstream) {
            Failure::Client
        } else if !self.has_prompt && upstream.is_keyless() {
            Failure::NoEndpoint
        } else {
            Failure::KeyRefused
        }
    }

    /// Whether a replica's 404 may be about what another one has, and that one may be asked now.
    pub(super) fn is_sought_elsewhere(&self, upstream: &Upstream, status: StatusCode) -> bool {
        let state = &self.context.state;
        let Some(sought) = self.sought.as_ref().filter(|_| status == StatusCode::NOT_FOUND) else { return false };
        // What a 404 without a prompt is about is not known.
        if *sought == Sought::Listed && !self.has_prompt {
            return false;
        }
        if let Sought::Model(name) = sought {
            state.models.lacks(upstream, name);
        }
        state.look_ups.take()
    }

    /// Keeps that this replica has answered what was sought.
    pub(super) fn found_at(&self, upstream: &Arc<Upstream>, status: StatusCode) {
        if let Some(Sought::Kept(key)) = self.sought
            && status.is_success()
            && self.parts.method != Method::DELETE
        {
            self.context.state.kept_ids.restore(key, upstream);
        }
    }

    /// The body as this replica gets it, if that is not the plain one.
    pub(super) async fn packed_for(&self, upstream: &Upstream) -> Option<&Packed> {
        if !self.config.upstream.compress_to_peers || !upstream.reads_zstd() || !pack::is_long(self.body.len()) {
            return None;
        }
        let state = &self.context.state;
        // Boxed, since it is rare and large.
        let packing = || Box::pin(Packed::new(state, &self.body));
        let packed = self.packed.get_or_init(packing).await.as_ref()?;
        state.metrics.packed(&upstream.name, self.body.len(), packed.body.len());
        Some(packed)
    }

    /// The request as this replica gets it, with the `packed` body or the plain one.
    pub(super) fn to_replica(
        &self,
        upstream: &Upstream,
        dispatch: &Dispatch,
        packed: Option<&Packed>,
    ) -> Request<Full<Bytes>> {
        let (parts, body) = (&self.parts, Full::new(packed.map_or(&self.body, |packed| &packed.body).clone()));
        let root = PathAndQuery::from_static("/");
        let path = parts.uri.path_and_query().unwrap_or(&root);
        let mut request = upstream.request(parts.method.clone(), path, parts.headers.clone(), body);
        if packed.is_some() {
            Packed::describe(request.headers_mut());
        }
        if upstream.may_be_router() {
            request.headers_mut().append(headers::ROUTER, self.context.state.router_id.clone());
        }
        if dispatch.forward || upstream.may_be_router() {
            // A fence is written in characters that every header can hold.
            let fence = self.fence.as_ref().and_then(|fence| HeaderValue::try_from(fence.to_string()).ok());
            fence.map(|fence| request.headers_mut().insert(headers::FENCE, fence));
            request.headers_mut().insert(headers::ATTEMPTS, HeaderValue::from(u16::from(dispatch.allowed)));
        }
        if dispatch.forward {
            request.headers_mut().insert(headers::HOP, HeaderValue::from(u16::from(self.hops.saturating_add(1))));
        }
        if let Some(streams) = upstream.kv().filter(|streams| streams.tags() && self.may_be_tagged(upstream)) {
            let (symbols, tokens) = &self.prompt;
            let tag = streams.dispatched(self.context.state.seed, dispatch, symbols, *tokens);
            request.headers_mut().insert(headers::SESSION, tag);
        }
        request
    }

    /// Whether the engine names blocks by the session of their request, and the client named none.
    fn may_be_tagged(&self, upstream: &Upstream) -> bool {
        let is_vllm = upstream.vllm.load(Ordering::Relaxed);
        is_vllm && self.has_prompt && !self.flags.session && memmem::find(&self.body, b"\"session_id\"").is_none()
    }
}

/// Where a request may go.
struct Aim {
    /// The only replicas that can answer it; `None` for all.
    only: Option<ReplicaSet>,
    /// Whether it is the one that made what the request names.
    pinned: bool,
    /// What is not known to be at one of them.
    sought: Option<Sought>,
}

/// Where a request may go: to the replica that made what it names, or to those that serve its model.
fn replicas_for(
    state: &AppState,
    (method, uri): (&Method, &Uri),
    named: &Asked<'_>,
    is_forwarded: bool,
) -> Result<Aim, Box<Response<Body>>> {
    let path = endpoints::plain(uri.path());
    let id = endpoints::kept_id(method, &path).or_else(|| endpoints::listed_after(uri));
    let key = id.map(|id| kept_ids::key(endpoints::plain(id).as_bytes())).or(named.kept);
    if let Some(engine) = key.and_then(|key| state.kept_ids.engine(key)).filter(|engine| state.has(engine)) {
        let mut one = ReplicaSet::EMPTY;
        one.insert(engine.id);
        return Ok(Aim { only: Some(one), pinned: true, sought: None });
    }
    let speaks = absent::replicas_with(state, uri.path());
    let sought = key.map(Sought::Kept);
    let has_adapter = named.adapter.and_then(|adapter| state.models.replicas_with_adapter(adapter, is_forwarded));
    let Some(model) = named.model.as_deref() else {
        return Ok(Aim { only: both(has_adapter, speaks), pinned: false, sought });
    };
    let by_model = || if state.models.are_uncertain() { Sought::Model(model.to_owned()) } else { Sought::Listed };
    let sought = Some(sought.unwrap_or_else(by_model));
    let serve = match state.models.replicas_of(model, is_forwarded) {
        Ok(serve) => serve,
        Err(Unserved) => Some(sglang_for(state, model).ok_or_else(|| Box::new(model_not_found(model)))?),
    };
    // Another model's adapter: the engines of the model say so.
    let with_adapter = both(serve, has_adapter).filter(|both| !both.is_empty()).or(serve);
    Ok(Aim { only: both(with_adapter, speaks), pinned: false, sought })
}

/// The replicas in both sets; `None` is all.
fn both(a: Option<ReplicaSet>, b: Option<ReplicaSet>) -> Option<ReplicaSet> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.and(&b)),
        (a, b) => a.or(b),
    }
}

/// The engines that take the name: SGLang has one model, calls it `default` too, and does not compare names.
fn sglang_for(state: &AppState, model: &str) -> Option<ReplicaSet> {
    if model != DEFAULT_MODEL {
        return None;
    }
    Some(absent::engines_where(state, Upstream::is_sglang)).filter(|takes| !takes.is_empty())
}

fn new_row(
    request_id: &HeaderValue,
    info: &RequestInfo,
    found: Option<&RequestFields>,
    arrived: Time,
    hops: u8,
) -> RequestEntry {
    RequestEntry {
        request_id: SmallVec::from_slice(request_id.as_bytes()),
        session: info.session,
        prompt_bytes: found.map_or(0, |f| f.prompt.bytes),
        prompt_tokens: info.prompt_tokens,
        arrived,
        hops,
        ..RequestEntry::default()
    }
}
