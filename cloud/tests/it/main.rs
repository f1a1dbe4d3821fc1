//! Tests of the crate; they talk to loopback only and end what they start.
#![allow(clippy::print_stderr)] // a skipped test says why

mod disk;
#[path = "../fake_lambda/mod.rs"]
mod fake_lambda;
#[path = "../fake_modal/mod.rs"]
mod fake_modal;
mod fleets;
mod lambda;
mod loopback_sshd;
mod modal;
mod sshd;
mod user_systemd;
