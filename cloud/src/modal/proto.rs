//! Messages and calls of Modal's interface, made from `proto/*.proto` by the test
//! `the_committed_code_is_what_the_protocol_files_make`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, rust_2018_idioms)] // made, not written

pub mod client {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/made/modal.client.rs"));
}

pub mod router {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/made/modal.task_command_router.rs"));
}

pub mod status {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/made/google.rpc.rs"));
}
