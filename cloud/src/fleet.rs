//! Launching and ending machines so that none runs unknown and none is launched twice.

use crate::error::{Error, Kind, Result};
use crate::ledger::{Entry, Intent, Ledger, State};
use crate::provider::{LaunchError, Life, Node, Provider, Spec, Status, nonce};
use crate::time::Time;
use std::time::Duration;

/// A launch waits this long at most for its turn at the provider.
const SENT: Duration = Duration::from_secs(10 * 60);
/// A machine is listed within this time after its launch was sent; later it counts as never launched.
const APPEARS: Duration = Duration::from_secs(15 * 60);
/// A machine boots within this time.
const BOOTS: Duration = Duration::from_secs(30 * 60);
/// A machine's end is listed within this time.
const ENDS: Duration = Duration::from_secs(40 * 60);

/// Pause after look number `looks`: 10 s, then twice as long each time up to `longest`.
fn pause(looks: u32, longest: Duration) -> Duration {
    (Duration::from_secs(10) * 2_u32.pow(looks.min(8))).min(longest)
}

/// A provider together with the ledger.
#[derive(Clone)]
pub struct Fleet<'a> {
    /// The provider.
    pub provider: &'a dyn Provider,
    /// The ledger.
    pub ledger: &'a Ledger,
    /// Time.
    pub time: Time,
}

impl std::fmt::Debug for Fleet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("provider", &self.provider.name()).finish_non_exhaustive()
    }
}

/// A row of `gorgo list`: a machine, its launch, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The launch; absent for a machine that bears our tag and is not in the ledger.
    pub entry: Option<Entry>,
    /// The machine; absent while the provider does not list it.
    pub node: Option<Node>,
}

impl Fleet<'_> {
    fn is_ours(&self, entry: &Entry) -> bool {
        entry.intent.cloud == self.provider.name() && entry.intent.account == self.provider.account()
    }

    /// Launches of this account that may still cost money.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(&self) -> Result<Vec<Entry>> {
        Ok(self.ledger.open_entries()?.into_iter().filter(|entry| self.is_ours(entry)).collect())
    }

    /// Launches one machine and returns its id. The launch is sent once; without an answer the machine is looked for.
    ///
    /// # Errors
    /// When the machine was refused, or was not found for so long that the launch had no effect.
    pub async fn launch(&self, spec: &Spec, cents_per_hour: u64) -> Result<String> {
        let key = nonce()[..16].to_owned();
        let intent = Intent {
            key: key.clone(),
            cloud: self.provider.name().to_owned(),
            account: self.provider.account(),
            run: spec.run.clone(),
            name: spec.name.clone(),
            region: spec.region.clone(),
            machine: spec.machine.clone(),
            cents_per_hour,
            expires_ms: spec.expires_ms,
        };
        let now_ms = self.time.now_ms();
        self.ledger.intend(now_ms, intent)?;
        match self.provider.launch(spec, &key, now_ms + SENT.as_millis() as u64).await {
            Ok(id) => {
                self.ledger.launched(self.time.now_ms(), &key, &id)?;
                Ok(id)
            }
            Err(LaunchError::Refused(error)) => {
                self.ledger.refused(self.time.now_ms(), &key, &error.sign)?;
                Err(error)
            }
            Err(LaunchError::Unknown(error)) => {
                tracing::warn!("{}: {error}; looking for the machine", spec.name);
                self.find(&key).await?.ok_or(error)
            }
        }
    }

    /// The id of an unanswered launch, looked for until it is listed or has been absent for long enough.
    async fn find(&self, key: &str) -> Result<Option<String>> {
        let (mut failures, mut looks) = (0, 0);
        loop {
            match self.adopt().await {
                Ok(()) => failures = 0,
                Err(error) if failures < 5 => {
                    tracing::debug!("{error}");
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
            let entry = self.ledger.entries()?.into_iter().find(|entry| entry.intent.key == key);
            match entry {
                Some(Entry { id: Some(id), .. }) => return Ok(Some(id)),
                Some(entry) if entry.is_open() => {}
                _ => return Ok(None),
            }
            self.time.sleep(pause(looks, Duration::from_secs(180))).await;
            looks += 1;
        }
    }

    /// Takes the ids of unanswered launches from the provider's listing; closes those that were absent for too long.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn adopt(&self) -> Result<()> {
        let open: Vec<Entry> = self.open()?.into_iter().filter(|entry| entry.id.is_none()).collect();
        if open.is_empty() {
            return Ok(());
        }
        let asked_ms = self.time.now_ms();
        let nodes = self.provider.list().await?;
        for entry in open {
            let key = &entry.intent.key;
            let now_ms = self.time.now_ms();
            if let Some(node) = nodes.iter().find(|node| node.key.as_ref() == Some(key)) {
                self.ledger.launched(now_ms, key, &node.id)?;
            } else if is_past_appearing(&entry, asked_ms) {
                match self.provider.find(&entry.intent.name, key).await? {
                    Some(id) => self.ledger.launched(now_ms, key, &id)?,
                    None => self.ledger.absent(now_ms, key)?,
                }
            }
        }
        Ok(())
    }

    /// Waits until a machine is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in half an hour.
    pub async fn ready(&self, id: &str, mut seen: impl FnMut(&Status)) -> Result<Node> {
        let until = self.time.now_ms() + BOOTS.as_millis() as u64;
        let (mut last, mut looks) = ("not listed".to_owned(), 0);
        loop {
            match self.provider.list().await {
                Ok(nodes) => {
                    let node = nodes.into_iter().find(|node| node.id == id);
                    match node {
                        Some(node) if node.status == Status::Ready && node.address.is_some() => {
                            match self.provider.life(id).await {
                                Life::Works => return Ok(node),
                                Life::NotYet(why) => last = why,
                                Life::Ended(why) => return Err(ended(&node.name, &why)),
                            }
                        }
                        Some(Node { status: status @ (Status::Gone | Status::Ending), name, .. }) => {
                            return Err(ended(&name, &format!("the provider lists the machine as {status}")));
                        }
                        Some(node) => {
                            seen(&node.status);
                            last = node.status.to_string();
                        }
                        // A new machine may be listed late.
                        None => {
                            if let Life::Ended(why) = self.provider.life(id).await {
                                return Err(ended(id, &why));
                            }
                        }
                    }
                }
                Err(error) => last = error.to_string(),
            }
            if self.time.now_ms() > until {
                let meaning = format!("not ready after {} minutes ({last})", BOOTS.as_secs() / 60);
                return Err(Error::new(Kind::Unreachable, id, meaning, "end it with `gorgo kill` and launch another"));
            }
            self.time.sleep(pause(looks, Duration::from_secs(30))).await;
            looks += 1;
        }
    }

    /// Ends a launch's machine and returns once the provider lists it as gone.
    ///
    /// # Errors
    /// When it still runs after 40 minutes: it stays open in the ledger.
    pub async fn kill(&self, entry: &Entry) -> Result<()> {
        let key = &entry.intent.key;
        let id = match &entry.id {
            Some(id) => id.clone(),
            None => match self.find(key).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        if entry.state != State::Ending {
            self.ledger.ending(self.time.now_ms(), key)?;
        }
        self.end(&id, &entry.intent.name, || is_past_appearing(entry, self.time.now_ms())).await?;
        self.ledger.gone(self.time.now_ms(), key)
    }

    /// Ends a machine that is not in the ledger, by the id that the user named.
    ///
    /// # Errors
    /// When it still runs after 40 minutes.
    pub async fn kill_unlisted(&self, id: &str) -> Result<()> {
        self.end(id, id, || true).await
    }

    /// Asks for a machine's end until the provider lists it as gone. `appeared`: it would be listed if it existed.
    async fn end(&self, id: &str, name: &str, appeared: impl Fn() -> bool) -> Result<()> {
        let until = self.time.now_ms() + ENDS.as_millis() as u64;
        let (mut accepted, mut looks) = (false, 0);
        loop {
            let mut failure = None;
            if !accepted {
                match self.provider.terminate(id).await {
                    Ok(()) => accepted = true,
                    // Young machines may be unknown for a while; an old one that is unknown has ended.
                    Err(error) if error.kind == Kind::NotFound => accepted = appeared(),
                    Err(error) => failure = Some(error),
                }
            }
            match self.provider.list().await {
                Ok(nodes) => {
                    let status = nodes.iter().find(|node| node.id == id).map(|node| &node.status);
                    if status == Some(&Status::Gone) || (accepted && status.is_none()) {
                        return Ok(());
                    }
                }
                Err(error) => failure = Some(error),
            }
            // What costs nothing is not worth a long wait: the host is down, or refuses us.
            let hopeless = failure.is_some() && !self.provider.capabilities().paid;
            if hopeless || self.time.now_ms() > until {
                let meaning =
                    failure.map_or_else(|| "the provider still lists it".to_owned(), |error| error.to_string());
                let remedy = "it may still cost money: run `gorgo kill` again, or end it in the provider's console";
                return Err(Error::new(Kind::Unknown, format!("{name} ({id})"), meaning, remedy));
            }
            self.time.sleep(pause(looks, Duration::from_secs(60))).await;
            looks += 1;
        }
    }

    /// Ends these launches at the same time, then removes what belonged to runs that have no machine left.
    ///
    /// # Errors
    /// The failures, one a launch or run.
    pub async fn kill_all(&self, entries: &[Entry]) -> std::result::Result<(), Vec<Error>> {
        let ends = futures_util::future::join_all(entries.iter().map(|entry| self.kill(entry))).await;
        let mut failures: Vec<Error> = ends.into_iter().filter_map(Result::err).collect();
        let open = self.open().map_err(|error| vec![error])?;
        let mut runs: Vec<&str> = entries.iter().map(|entry| entry.intent.run.as_str()).collect();
        runs.sort_unstable();
        runs.dedup();
        for run in runs.into_iter().filter(|run| open.iter().all(|entry| entry.intent.run != *run)) {
            failures.extend(self.provider.tidy(run).await.err());
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Ends launches whose lease is over, and returns how many are open after that.
    ///
    /// # Errors
    /// When the ledger cannot be read, the provider does not answer or a machine does not end.
    pub async fn watch_once(&self) -> Result<usize> {
        self.adopt().await?;
        let now_ms = self.time.now_ms();
        // An end that was asked for and not seen is asked for again.
        let due = |entry: &Entry| entry.intent.expires_ms <= now_ms || entry.state == State::Ending;
        let due: Vec<Entry> = self.open()?.into_iter().filter(due).collect();
        if let Err(mut failures) = self.kill_all(&due).await {
            return Err(failures.swap_remove(0));
        }
        Ok(self.open()?.len())
    }

    /// All that bears our tag or stands open in the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read or the provider does not answer.
    pub async fn rows(&self) -> Result<Vec<Row>> {
        self.adopt().await?;
        let mut nodes = self.provider.list().await?;
        nodes.retain(|node| node.status != Status::Gone);
        let all: Vec<Entry> = self.ledger.entries()?.into_iter().filter(|entry| self.is_ours(entry)).collect();
        let mut rows = Vec::new();
        for entry in all {
            let at = nodes
                .iter()
                .position(|node| node.key.as_ref() == Some(&entry.intent.key) || entry.id.as_ref() == Some(&node.id));
            // A closed launch whose machine is listed runs nevertheless.
            if entry.is_open() || at.is_some() {
                rows.push(Row { node: at.map(|at| nodes.swap_remove(at)), entry: Some(entry) });
            }
        }
        rows.extend(
            nodes.into_iter().filter(|node| node.key.is_some()).map(|node| Row { entry: None, node: Some(node) }),
        );
        Ok(rows)
    }
}

fn ended(name: &str, why: &str) -> Error {
    Error::new(Kind::Unreachable, name, why, "launch another")
}

/// Whether a machine of this launch would have been listed by `now_ms`.
fn is_past_appearing(entry: &Entry, now_ms: u64) -> bool {
    now_ms.saturating_sub(entry.intended_ms) > (SENT + APPEARS).as_millis() as u64
}
