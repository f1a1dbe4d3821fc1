//! The snapshot in a file, from which the next start of this router takes it.

use super::{Kept, codec, path};
use crate::config::Config;
use crate::server::private_file;
use crate::state::AppState;
use crate::supervise;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The snapshot of the file that the configuration names; `None`, with a warning in the log, when it cannot be used.
pub(crate) fn read(config: &Config) -> Option<Kept> {
    let path = path(config)?;
    let why = match load(&path) {
        Ok(Ok(kept)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let (age, most) = (kept.age(now), Duration::from_millis(config.snapshot.max_age_ms));
            if age <= most {
                return Some(kept);
            }
            format!("it was written {} s ago, and snapshot.max_age_ms allows {}", age.as_secs(), most.as_secs())
        }
        Ok(Err(why)) => why.to_string(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    tracing::warn!("the snapshot `{}` is not used: {why}; this router starts cold", path.display());
    None
}

fn load(path: &Path) -> io::Result<Result<Kept, codec::Unreadable>> {
    // A pipe would be waited for without end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(codec::LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > codec::LONGEST {
        return Ok(Err(codec::Unreadable::Damaged));
    }
    Ok(codec::decode(&bytes))
}

/// Replaces the file, if there is to be one.
pub(crate) fn save(state: &AppState) {
    let Some(path) = path(&state.config()).filter(|_| !state.is_handed_over()) else { return };
    let bytes = codec::encode(&Kept::of(state));
    let _held = state.saving.lock();
    if state.is_handed_over() {
        return;
    }
    // Readable by its owner only: it may hold the seed of hashes.
    if let Err(error) = private_file::replace(&path, &[&bytes]) {
        tracing::warn!(%error, path = %path.display(), "cannot write the snapshot; the next start may be cold");
    }
}

/// Writes the file every `snapshot.every_ms` when the index or the discovered replicas have changed, until the router is dropped.
pub(crate) fn start(state: &Arc<AppState>) {
    if path(&state.config()).is_some() {
        tokio::spawn(supervise::logged("snapshots", keep(Arc::downgrade(state))));
    }
}

async fn keep(state: Weak<AppState>) {
    let mut written = None;
    loop {
        let Some(every) = state.upgrade().map(|state| state.config().snapshot.every_ms) else { return };
        tokio::time::sleep(Duration::from_millis(every)).await;
        let Some(state) = state.upgrade() else { return };
        let stamp = (state.driver.read(|router, _, _| router.index().stamp()), state.discovered.sets());
        if written.as_ref() != Some(&stamp) {
            written = Some(stamp);
            let _ = tokio::task::spawn_blocking(move || save(&state)).await;
        }
    }
}
