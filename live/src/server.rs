//! The HTTP server: starts the router, accepts connections, and stops without losing open requests.
//!
//! Reading order: [`start`] (state and background tasks) and [`fleet`] (replicas that join) → [`serve`] (the accept
//! loop), fed by a [`listener`] (that of systemd: [`activation`]), with [`tls`], [`keys`], [`descriptors`] (how many
//! connections fit) and [`reserve`] (those beyond) → [`connection`] (one client's HTTP/1 or HTTP/2 connection) over
//! [`client_io`] (timeouts; [`read_ahead`]: a client that has left), with its [`activity`] and
//! [`stalled_stream`], driven by one of the [`workers`] → [`drain`] (shutdown) and [`reload`] (a new
//! configuration while running), [`saved`] (changes that survive a restart, in a [`private_file`], one of the
//! [`kept_files`]).

pub(crate) mod kept_files;
pub(crate) mod keys;
pub(crate) mod listener;
pub(crate) mod private_file;
pub(crate) mod reload;
pub(crate) mod saved;
pub(crate) mod serve;
pub(crate) mod start;
pub(crate) mod tls;
pub(crate) mod workers;

pub(crate) mod activation;
pub(crate) mod activity;
pub(crate) mod fleet;

pub(crate) mod drain;

mod client_io;
mod connection;
mod descriptors;
mod read_ahead;
mod reserve;
mod stalled_stream;
