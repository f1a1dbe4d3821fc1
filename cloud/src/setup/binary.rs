//! This program on a node, known by its digest.

use super::{Done, Site};
use crate::error::{Error, Kind, Result};
use crate::shell::Command;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Bytes and digest of a program.
type Read = (Arc<Vec<u8>>, String);

/// Programs read from disk, each once for all nodes.
#[derive(Debug, Default)]
pub(super) struct Programs(Mutex<BTreeMap<PathBuf, Read>>);

impl Programs {
    fn read(&self, path: &Path) -> Result<Read> {
        let mut known = self.0.lock();
        if let Some(read) = known.get(path) {
            return Ok(read.clone());
        }
        let bytes = std::fs::read(path).map_err(|why| Error::file(path, &why))?;
        let digest = crate::digest::of(&bytes);
        let read = (Arc::new(bytes), digest);
        known.insert(path.to_owned(), read.clone());
        Ok(read)
    }
}

pub(super) async fn step(site: &mut Site<'_>) -> Done {
    let arch = site.facts().arch.clone();
    let path = match arch.as_str() {
        "x86_64" => &site.plan.binary,
        "aarch64" | "arm64" => site.plan.binary_arm64.as_ref().ok_or_else(|| {
            let remedy = "build it (`cargo zigbuild --release --target aarch64-unknown-linux-gnu.2.28`) and name it with --binary-arm64";
            Error::new(Kind::SetUp, format!("uname -m: {arch}"), "the node needs this program for arm64", remedy)
        })?,
        _ => {
            let remedy = "use x86-64 or arm64 nodes";
            return Err(Error::new(Kind::SetUp, format!("uname -m: {arch}"), "an unknown architecture", remedy));
        }
    };
    if site.provider.capabilities().loopback {
        site.binary = path.display().to_string();
        return Ok(("runs from where it is".to_owned(), false));
    }
    let (bytes, digest) = site.programs.read(path)?;
    let place = format!(".gorgo/bin/gorgo-{}", &digest[..16]);
    let absolute = format!("{}/{place}", site.facts().directory);
    let shell = site.shell()?;
    let sum = shell.run(&Command::new(&["sha256sum", "--", &place])).await?;
    let there = sum.code == 0 && sum.text().starts_with(&digest);
    let began = Instant::now();
    if !there {
        shell.put(&place, 0o755, &bytes).await?;
    }
    let version = shell.run(&Command::new(&[&absolute, "--version"])).await?;
    if version.code != 0 {
        let meaning = "the program does not run on the node";
        let remedy = "build it for an older glibc: `cargo zigbuild --release --target x86_64-unknown-linux-gnu.2.28`";
        return Err(Error::new(Kind::SetUp, version.last_line(), meaning, remedy));
    }
    site.binary = absolute;
    if there {
        return Ok((version.text(), false));
    }
    let rate = bytes.len() as f64 / 1e6 / began.elapsed().as_secs_f64().max(1e-3);
    Ok((format!("{}, uploaded at {rate:.1} MB/s", version.text()), true))
}
