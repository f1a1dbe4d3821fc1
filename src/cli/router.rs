//! Routers from the command line: what `gorgo proxy`, `gorgo lb` and `gorgo trace` share.
//!
//! Reading order: `start` (configuration and the running process) → `log` (where it logs) → `pid_file` (its lock) →
//! `stop` → `upgrade` → `admin` (calls to the admin API of routers that run) → `status` and `show` (JSON answers as
//! text, in `columns`); `dashboard` is the page that a router serves.

mod admin;
mod columns;
mod dashboard;
mod log;
mod pid_file;
mod show;
mod start;
mod status;
mod stop;
mod upgrade;

pub(super) use admin::{AdminCommand, RouterAddress, block_on, run_admin_command};
pub(super) use show::{array, fields, replicas_table};
pub(super) use start::StartArgs;
pub(super) use status::telling_error;
