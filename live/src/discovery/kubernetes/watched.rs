//! The slices of one Service, kept up to date: listed in pages, then watched from the version of the list.
//!
//! A watch that ends or breaks off goes on from the last version that was seen. `410 Gone` (that version is no longer
//! kept) lists anew. Every other fault drops all that is known of the API server, its connection and its token: the
//! next try begins with a list, after a pause that doubles up to a minute.

use super::slices::{Slices, endpoints};
use crate::config::KubernetesService;
use crate::discovery::{DiscoveredEndpoint, cause};
use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt};
use http::Response;
use http_body_util::Limited;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Error};
use rand::RngExt;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::util::MapResponseLayer;

/// The API server ends a watch after so long, seconds; it sends a bookmark about every minute.
const WATCH_S: u32 = 60;
/// Without a word for so long the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(WATCH_S as u64 + 10);
/// A whole list must be there by then, and the head of a watch.
const WHOLE_ANSWER: Duration = Duration::from_secs(10);
/// Longest answer, bytes: of one page, and of one watch.
const MOST_BYTES: usize = 16 << 20;
/// Slices of a page, and of the Service.
const PAGE: u32 = 200;
const MOST_SLICES: usize = 2_000;
/// Events read before the fleet is changed.
const MOST_EVENTS: usize = 10_000;
/// Changes of a Service come in showers: those of this time are one answer.
const SHOWER: Duration = Duration::from_millis(100);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

type Events = BoxStream<'static, Result<WatchEvent<EndpointSlice>, Error>>;

/// One Service.
pub(crate) struct Watched {
    service: KubernetesService,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    api: Option<Api<EndpointSlice>>,
    slices: Slices,
    /// The version that the next watch begins at; a list is due without one.
    version: Option<String>,
    events: Option<Events>,
    /// An event that ended a pause.
    next: Option<Result<WatchEvent<EndpointSlice>, Error>>,
    /// When the API server was heard last.
    heard: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    were_ready: BTreeSet<String>,
}

/// Why a watch cannot go on.
enum Broken {
    /// Its version is no longer kept.
    Gone,
    Failed(String),
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Watched {
    /// A Service that was not asked for yet.
    pub(crate) fn new(service: KubernetesService) -> Self {
        Self { service, state: Mutex::default() }
    }

    /// Its name in the log, in `status` and in metrics.
    pub(crate) fn name(&self) -> String {
        self.service.to_string()
    }

    /// The endpoints by all that the API server has said so far. `region` is that of endpoints of which nothing tells
    /// one.
    ///
    /// # Errors
    /// The API server cannot be reached, refuses, is silent for 70 s, or lists what no replica can be made from.
    pub(crate) async fn ask(&self, region: Option<&str>) -> Result<Vec<DiscoveredEndpoint>, String> {
        let mut state = self.state.lock().await;
        match state.advance(&self.service).await {
            Ok(()) => {
                state.failures = 0;
                let State { slices, were_ready, .. } = &mut *state;
                endpoints(&self.service, region, slices, were_ready)
            }
            Err(why) => {
                let were_ready = std::mem::take(&mut state.were_ready);
                *state = State { failures: state.failures.saturating_add(1), were_ready, ..State::default() };
                Err(why)
            }
        }
    }

    /// Waits for news of the watch, at most for `poll`; longer after failures.
    pub(crate) async fn pause(&self, poll: Duration) {
        let mut state = self.state.lock().await;
        let State { events, next, failures, .. } = &mut *state;
        if let (Some(events), None) = (events, &next) {
            match tokio::time::timeout(poll, events.next()).await {
                Ok(Some(event)) => {
                    *next = Some(event);
                    return tokio::time::sleep(SHOWER.min(poll)).await;
                }
                Err(_) => return,
                // The stream has ended; a server that ends every watch at once is asked no more often than `poll`.
                Ok(None) => {}
            }
        }
        let pause = poll.saturating_mul(1 << (*failures).min(10)).min(LONGEST_PAUSE.max(poll));
        // Routers that lost the same server shall not return together.
        let spread = if *failures > 1 { rand::rng().random_range(0.5..1.0) } else { 1.0 };
        tokio::time::sleep(pause.mul_f64(spread)).await;
    }
}

impl State {
    /// Takes in what the API server has said, and lists or watches where that is due.
    async fn advance(&mut self, service: &KubernetesService) -> Result<(), String> {
        if self.api.is_none() {
            self.api = Some(connect(service).await?);
        }
        // A version that is gone at once is listed anew at the next question.
        for _ in 0..2 {
            if self.version.is_none() {
                self.list(service).await?;
            }
            match self.follow(service).await {
                Ok(()) => return Ok(()),
                Err(Broken::Failed(why)) => return Err(why),
                Err(Broken::Gone) => (self.version, self.events, self.next) = (None, None, None),
            }
        }
        Ok(())
    }

    async fn list(&mut self, service: &KubernetesService) -> Result<(), String> {
        let Some(api) = &self.api else { return Ok(()) };
        let pages = async {
            let mut all = Slices::new();
            let mut page = selected(service).limit(PAGE);
            loop {
                let list = api.list(&page).await.map_err(|wrong| told(&wrong))?;
                for slice in list.items {
                    keep(&mut all, slice)?;
                }
                match list.metadata.continue_.filter(|next| !next.is_empty()) {
                    Some(next) => page = page.continue_token(&next),
                    None => {
                        let version = list.metadata.resource_version.filter(|version| !version.is_empty());
                        return version
                            .map(|version| (all, version))
                            .ok_or_else(|| "its list has no version".to_owned());
                    }
                }
            }
        };
        let (slices, version) = within(pages).await?;
        (self.slices, self.version, self.heard) = (slices, Some(version), Some(Instant::now()));
        Ok(())
    }

    /// Opens the watch if there is none, and reads what has arrived.
    async fn follow(&mut self, service: &KubernetesService) -> Result<(), Broken> {
        if let (None, Some(api), Some(version)) = (&self.events, &self.api, &self.version) {
            let what = WatchParams { label_selector: selected(service).label_selector, ..WatchParams::default() };
            let what = what.timeout(WATCH_S);
            let opened = async { Ok(api.watch(&what, version).await) };
            match within(opened).await.map_err(Broken::Failed)? {
                Ok(events) => self.events = Some(events.boxed()),
                Err(wrong) => return Err(broken(&wrong)),
            }
            self.heard = Some(Instant::now());
        }
        for _ in 0..MOST_EVENTS {
            let arrived = match (self.next.take(), &mut self.events) {
                (Some(event), _) => Some(event),
                (None, Some(events)) => match events.next().now_or_never() {
                    Some(event) => event,
                    None => {
                        let silent = self.heard.is_some_and(|heard| heard.elapsed() > SILENCE);
                        let why = || Broken::Failed(format!("no word from the API server for {} s", SILENCE.as_secs()));
                        return if silent { Err(why()) } else { Ok(()) };
                    }
                },
                (None, None) => return Ok(()),
            };
            match arrived {
                // It ended, or the connection broke off: the next watch goes on from the last version.
                None | Some(Err(Error::ReadEvents(_))) => {
                    self.events = None;
                    return Ok(());
                }
                Some(Err(wrong)) => return Err(broken(&wrong)),
                Some(Ok(event)) => self.take(event)?,
            }
            self.heard = Some(Instant::now());
        }
        Ok(())
    }

    fn take(&mut self, event: WatchEvent<EndpointSlice>) -> Result<(), Broken> {
        let version = match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                let version = slice.metadata.resource_version.clone();
                keep(&mut self.slices, slice).map_err(Broken::Failed)?;
                version
            }
            WatchEvent::Deleted(slice) => {
                self.slices.remove(slice.metadata.name.as_deref().unwrap_or_default());
                slice.metadata.resource_version
            }
            WatchEvent::Bookmark(mark) => Some(mark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(broken(&Error::Api(status))),
        };
        match version.filter(|version| !version.is_empty()) {
            Some(version) => self.version = Some(version),
            None => return Err(Broken::Failed("an event of its watch has no version".to_owned())),
        }
        Ok(())
    }
}

/// What is asked for: the slices of the Service.
fn selected(service: &KubernetesService) -> ListParams {
    ListParams::default().labels(&format!("kubernetes.io/service-name={}", service.service))
}

/// Keeps of a slice what endpoints are made from.
fn keep(slices: &mut Slices, mut slice: EndpointSlice) -> Result<(), String> {
    let Some(name) = slice.metadata.name.take() else { return Err("one of its slices has no name".to_owned()) };
    slice.metadata = ObjectMeta { labels: slice.metadata.labels, ..ObjectMeta::default() };
    slices.insert(name, slice);
    if slices.len() > MOST_SLICES { Err(format!("it has more than {MOST_SLICES} slices")) } else { Ok(()) }
}

/// A client for the API server of the kubeconfig, or of the cluster that this process runs in.
async fn connect(service: &KubernetesService) -> Result<Api<EndpointSlice>, String> {
    let mut config = match &service.kubeconfig {
        Some(path) => {
            let named = |wrong: &dyn std::error::Error| format!("{}: {}", path.display(), one_line(&cause(wrong)));
            let file = Kubeconfig::read_from(path).map_err(|wrong| named(&wrong))?;
            let read = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            read.map_err(|wrong| named(&wrong))?
        }
        None => kube::Config::incluster().map_err(|wrong| {
            let why = one_line(&cause(&wrong));
            format!("this is no pod with a service account ({why}); name a kubeconfig by the key `kubeconfig`")
        })?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.default_retry = false;
    let namespace = service.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let builder = ClientBuilder::try_from(config).map_err(|wrong| told(&wrong))?;
    Ok(Api::namespaced(builder.with_layer(&MapResponseLayer::new(limited)).build(), &namespace))
}

fn limited<B>(answer: Response<B>) -> Response<Limited<B>> {
    answer.map(|body| Limited::new(body, MOST_BYTES))
}

async fn within<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("no whole answer of the API server within {} s", WHOLE_ANSWER.as_secs()));
    tokio::time::timeout(WHOLE_ANSWER, answer).await.unwrap_or_else(late)
}

fn broken(wrong: &Error) -> Broken {
    match wrong {
        Error::Api(status) if status.code == 410 => Broken::Gone,
        _ => Broken::Failed(told(wrong)),
    }
}

/// An error of the client as a sentence.
fn told(wrong: &Error) -> String {
    match wrong {
        Error::Api(status) => {
            let advice = match status.code {
                401 => "; its token is not accepted",
                403 => "; allow get, list and watch on endpointslices of discovery.k8s.io",
                _ => "",
            };
            format!("the API server answers {}: {}{advice}", status.code, one_line(&status.message))
        }
        Error::SerdeError(wrong) => format!("its answer is not understood: {}", one_line(&wrong.to_string())),
        _ => format!("no answer of the API server: {}", one_line(&cause(wrong))),
    }
}

/// The beginning of a text from elsewhere, on one line.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|letter| !letter.is_control()).take(300).collect()
}
