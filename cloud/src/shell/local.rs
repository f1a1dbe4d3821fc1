//! Commands as processes of this machine, in a folder that stands for a node's login directory.

use super::{Command, Output, Shell, carry::carry};
use crate::error::{Error, Result};
use async_trait::async_trait;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// A node that is a folder of this machine.
#[derive(Debug, Clone)]
pub struct LocalShell {
    folder: PathBuf,
}

impl LocalShell {
    /// The node whose login directory is `folder`.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn new(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(|why| Error::file(&folder, &why))?;
        Ok(Self { folder })
    }
}

#[async_trait]
impl Shell for LocalShell {
    async fn run(&self, command: &Command) -> Result<Output> {
        let mut process = tokio::process::Command::new(command.argv.first().map_or("true", String::as_str));
        process.args(command.argv.iter().skip(1)).current_dir(&self.folder).env("HOME", &self.folder);
        process.process_group(0); // Ctrl-C in the terminal is for the operator's command alone
        carry(process, command, &self.folder.display().to_string()).await
    }

    async fn address(&self, port: u16) -> Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, port).into())
    }

    fn login(&self) -> (Vec<String>, Option<PathBuf>) {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned());
        (vec![shell], Some(self.folder.clone()))
    }
}
