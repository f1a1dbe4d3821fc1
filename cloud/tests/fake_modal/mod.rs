//! A server that behaves as Modal does, with the faults its users reported. A token's id is an account of its own.
#![allow(dead_code)] // two test programs use different parts

mod commands;
mod router;
mod service;
pub(crate) mod world;

#[allow(unreachable_pub, unused_qualifications, clippy::all, rust_2018_idioms)] // made, not written
mod made {
    include!("made/modal.client.rs");
    include!("made/modal.task_command_router.rs");
}

use gorgo_cloud::modal::{Modal, ModalConfig};
use gorgo_cloud::{Ledger, Time};
use made::modal_client_server::ModalClientServer;
use made::task_command_router_server::TaskCommandRouterServer;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::World;

type Accounts = Arc<Mutex<BTreeMap<String, Arc<Mutex<World>>>>>;

/// The secret of every token.
pub(crate) const SECRET: &str = "as-the-secret";

/// The server. Its sandboxes are folders of this machine; those that still run end with it.
pub(crate) struct Fake {
    pub(crate) url: String,
    accounts: Accounts,
}

impl Drop for Fake {
    fn drop(&mut self) {
        // A failed test may have left a lock poisoned.
        let accounts = self.accounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for world in accounts.values() {
            world.lock().unwrap_or_else(std::sync::PoisonError::into_inner).end_all();
        }
    }
}

impl Fake {
    /// The server, on the runtime that this is called from.
    pub(crate) async fn start() -> Self {
        let accounts = Accounts::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|c| c.0), listener))
        });
        let server = tonic::transport::Server::builder()
            .add_service(ModalClientServer::new(service::Service { accounts: accounts.clone(), url: url.clone() }))
            .add_service(TaskCommandRouterServer::new(router::Router { accounts: accounts.clone() }));
        tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self { url, accounts }
    }

    /// A new account whose faults are drawn by `seed`; every launch must stand in `ledger` first. Sandboxes are folders
    /// below `folder`.
    pub(crate) fn account(
        &self,
        id: &str,
        seed: u64,
        faults: bool,
        time: &Time,
        ledger: Option<Ledger>,
        folder: PathBuf,
    ) -> Arc<Mutex<World>> {
        let world = Arc::new(Mutex::new(World::new(id, seed, faults, time.clone(), ledger, folder)));
        self.accounts.lock().unwrap().insert(id.to_owned(), world.clone());
        world
    }

    pub(crate) fn config(&self, id: &str, time: &Time) -> ModalConfig {
        ModalConfig {
            service: self.url.clone(),
            token_id: id.to_owned().into(),
            token_secret: SECRET.to_owned().into(),
            environment: String::new(),
            throttle_wait: Duration::from_secs(300),
            time: time.clone(),
        }
    }

    pub(crate) fn client(&self, id: &str, time: &Time) -> Modal {
        Modal::new(&self.config(id, time)).unwrap()
    }
}

/// Processes that run in a folder.
pub(crate) fn processes_in(folder: &Path) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
        std::fs::read_link(entry.path().join("cwd")).ok().filter(|place| place.starts_with(folder)).map(|_| pid)
    });
    pids.collect()
}
