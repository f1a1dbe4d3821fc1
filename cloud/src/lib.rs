//! Machines of several providers, set up as replicas with routers, with every cost on record.
//!
//! [`Provider`] launches and ends machines; [`Shell`] is a command line on one. [`Fleet`] joins a provider with the
//! [`Ledger`], which is synced before each paid call. Set-up is written once against [`Shell`].
#![forbid(unsafe_code)]

pub mod cluster;
pub mod digest;
mod error;
pub mod fleet;
mod http;
pub mod lambda;
pub mod ledger;
mod limiter;
pub mod local;
pub mod modal;
pub mod money;
pub mod provider;
pub mod setup;
pub mod shell;
pub mod signs;
pub mod ssh;
pub mod time;

pub use error::{Error, Kind, Result};
pub use fleet::Fleet;
pub use ledger::Ledger;
pub use provider::{Node, Provider};
pub use shell::Shell;
pub use time::Time;
