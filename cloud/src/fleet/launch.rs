//! One launch: recorded, sent once, searched for if its answer is lost, and awaited until ready.

use super::{Fleet, SENT, pause};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Entry, Event, Intent, Ledger, State};
use crate::provider::{LaunchError, Life, Node, Sending, Spec, Status, nonce};
use crate::time::{Time, utc};
use std::time::Duration;

/// A machine boots within this time.
const BOOTS: Duration = Duration::from_secs(30 * 60);

/// A launch that stands in the ledger and is not sent yet. Dropped before that, it is noted as not sent.
#[derive(Debug)]
pub struct Reserved<'a> {
    spec: Spec,
    key: String,
    sending: Sending,
    ledger: &'a Ledger,
    time: Time,
    settled: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.settled && !self.sending.is_sent() {
            // Where this line cannot be written, the machine is looked for and found absent.
            let _ = self.ledger.refused(self.time.now_ms(), &self.key, "not sent");
        }
    }
}

impl<'a> Fleet<'a> {
    /// Writes down launches if `check` agrees, which gets the open launches of this account. No other command checks and
    /// writes in between.
    ///
    /// # Errors
    /// When `check` refuses, or the ledger cannot be written: then nothing may be launched.
    pub fn reserve(
        &self,
        wanted: &[(Spec, Option<u64>)],
        check: impl FnOnce(&[Entry]) -> Result<()>,
    ) -> Result<Vec<Reserved<'a>>> {
        let _one = self.ledger.exclusive()?;
        check(&self.open()?)?;
        let mut reserved = Vec::new();
        for (spec, cents) in wanted {
            let (key, now_ms) = (nonce()[..16].to_owned(), self.time.now_ms());
            let intent = Intent {
                key: key.clone(),
                cloud: self.provider.name().to_owned(),
                account: self.provider.account(),
                run: spec.run.clone(),
                name: spec.name.clone(),
                region: spec.region.clone(),
                machine: spec.machine.clone(),
                cents_per_hour: *cents,
                expires_ms: spec.expires_ms,
            };
            self.ledger.intend(now_ms, intent)?;
            let sending = Sending::before(now_ms + SENT.as_millis() as u64);
            let (ledger, time) = (self.ledger, self.time.clone());
            reserved.push(Reserved { spec: spec.clone(), key, sending, ledger, time, settled: false });
        }
        Ok(reserved)
    }

    /// Launches one machine and returns its id.
    ///
    /// # Errors
    /// As [`Fleet::reserve`] and [`Fleet::send`].
    pub async fn launch(&self, spec: &Spec, cents_per_hour: impl Into<Option<u64>>) -> Result<String> {
        let reserved = self.reserve(&[(spec.clone(), cents_per_hour.into())], |_| Ok(()))?;
        self.send(reserved.into_iter().next().expect("one was asked for")).await
    }

    /// Sends a launch, once, and returns the machine's id. Without an answer the machine is looked for.
    ///
    /// # Errors
    /// When the machine was refused, was not found for so long that the launch had no effect, or another command ended
    /// it meanwhile.
    pub async fn send(&self, mut reserved: Reserved<'_>) -> Result<String> {
        let (spec, key) = (reserved.spec.clone(), reserved.key.clone());
        match self.provider.launch(&spec, &key, &reserved.sending).await {
            Ok(id) => {
                reserved.settled = true;
                self.ledger.launched(self.time.now_ms(), &key, &id)?;
                self.still_wanted(&id, &spec.name)?;
                Ok(id)
            }
            Err(LaunchError::Refused(error)) => {
                reserved.settled = true;
                self.ledger.refused(self.time.now_ms(), &key, &error.sign)?;
                Err(error)
            }
            Err(LaunchError::Unknown(error)) => {
                (self.show)(&format!("{}: {error}; looking for the machine", spec.name));
                self.find(&key).await?.ok_or(error)
            }
        }
    }

    /// Fails when another command has ended the machine.
    fn still_wanted(&self, id: &str, name: &str) -> Result<()> {
        let entry = self.ledger.entries()?.into_iter().rfind(|entry| entry.id.as_deref() == Some(id));
        match entry.map(|entry| entry.state) {
            Some(State::Ending | State::Gone) => Err(ended(name, "another command ended the machine")),
            _ => Ok(()),
        }
    }

    /// The id of an unanswered launch, looked for until it is listed or has been absent for long enough.
    async fn find(&self, key: &str) -> Result<Option<String>> {
        let (mut failures, mut looks) = (0, 0);
        let longest = Duration::from_secs(if self.provider.capabilities().paid { 180 } else { 1 });
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
                Some(entry) if entry.is_open() => {
                    if looks == 0 {
                        let until = utc(self.appears_until_ms(&entry));
                        (self.show)(&format!(
                            "{}: not listed yet; it is looked for until {until} UTC",
                            entry.intent.name
                        ));
                    }
                }
                _ => return Ok(None),
            }
            self.time.sleep(pause(looks, longest)).await;
            looks += 1;
        }
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
                    if node.is_some() {
                        self.note(id, |entry| !entry.listed, |key| Event::Listed { key })?;
                    }
                    match node {
                        Some(node) if node.status == Status::Ready && node.address.is_some() => {
                            match self.provider.life(id).await {
                                Life::Works => return Ok(node),
                                Life::NotYet(why) => last = why,
                                Life::Ended(why) => {
                                    self.note_gone(id)?;
                                    return Err(ended(&node.name, &why));
                                }
                            }
                        }
                        Some(Node { status: status @ (Status::Gone | Status::Ending), name, .. }) => {
                            if status == Status::Gone {
                                self.note_gone(id)?;
                            }
                            return Err(ended(&name, &format!("the provider lists the machine as {status}")));
                        }
                        Some(node) => {
                            seen(&node.status);
                            last = node.status.to_string();
                        }
                        // A new machine may be listed late.
                        None => {
                            self.still_wanted(id, id)?;
                            if let Life::Ended(why) = self.provider.life(id).await {
                                self.note_gone(id)?;
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

    fn note_gone(&self, id: &str) -> Result<()> {
        self.note(id, Entry::is_open, |key| Event::Gone { key })
    }

    /// Notes an event of the machine `id`, if `is_new` for its launch.
    fn note(&self, id: &str, is_new: impl Fn(&Entry) -> bool, event: impl FnOnce(String) -> Event) -> Result<()> {
        let mut entries = self.ledger.entries()?;
        match entries.iter_mut().rfind(|entry| entry.id.as_deref() == Some(id) && is_new(entry)) {
            Some(entry) => {
                let event = event(entry.intent.key.clone());
                self.ledger.note(self.time.now_ms(), entry, event)
            }
            None => Ok(()),
        }
    }
}

fn ended(name: &str, why: &str) -> Error {
    Error::new(Kind::Unreachable, name, why, "launch another")
}
