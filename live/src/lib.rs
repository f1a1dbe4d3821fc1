//! The live router: turns sockets and timers into the events of `gorgo_core::router`, and carries out its actions.
//!
//! Every choice is made in the core. [`run`] runs a router as a process; [`start`] and [`serve`] run one inside another
//! program. Reading order of the modules:
//!
//! - `server` accepts connections, starts, stops and reloads; `state` is what its tasks share.
//! - `request` handles one request: admits it, passes it to the core, sends it to a replica, streams the answer back.
//! - `driver` holds the core behind one lock: events in, commands to the requests' tasks out.
//! - `upstream` connects to replicas, `wire` reads what requests and answers carry, `tokens` counts prompts.
//! - `kv_events` reads the KV events that engines publish.
//! - `signals` measures replicas and peers: round trips, loads, reports.
//! - `discovery` finds replicas by file, DNS, registry and Kubernetes; `models` holds which replica serves which model,
//!   `kept_ids` which engine issued which id; `tuner` searches for better weights.
//! - `sharing` exchanges learned prefixes with other routers of the same replicas.
//! - `snapshot` saves the learned state for the next start, for other routers and for an `upgrade` of the program.
//! - `observe` records decisions and requests for operators; `admin` is their API, [`AdminClient`] its client.
//! - [`config`] is the configuration; `idle_timer`, `supervise` and `worker_index` are utilities.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
// What `testkit` exports is public in builds without it, too.
#![cfg_attr(not(feature = "testkit"), allow(unreachable_pub))]

pub mod config;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

mod admin;
mod client;
pub mod discovery;
mod driver;
mod idle_timer;
mod kept_ids;
mod kv_events;
mod models;
mod observe;
mod request;
mod run;
mod server;
mod sharing;
mod signals;
mod snapshot;
mod state;
mod supervise;
mod tokens;
mod tuner;
mod upgrade;
mod upstream;
mod wire;
mod worker_index;

pub use client::{AdminClient, CallError};
pub use observe::capture::{Captured, CapturedCandidate};
pub use observe::dashboard::Dashboard;
pub use observe::merge::{Merged, merge};
pub use run::{Signals, keys_from_environment, run};
pub use server::serve::serve;
pub use server::start::{StartError, check_files, start};
pub use server::tls::client_config as tls_client_config;
pub use state::{AppState, ConfigSource};
pub use upgrade::{Hidden, Presence, UpgradeError, ask as ask_for_upgrade, failed as upgrade_failed, is_successor};
pub use upstream::connect::{Dial, tcp};
