//! Ending machines: asked for until the provider lists each as gone.

use super::{Fleet, Row, pause};
use crate::error::{Error, Kind};
use crate::ledger::{Entry, Event, State};
use crate::provider::{Node, Status};
use crate::time::utc;
use futures_util::future::join_all;
use std::time::Duration;

/// A machine's end is listed within this time.
const ENDS: Duration = Duration::from_secs(40 * 60);

/// A machine to end, or a launch whose machines to end.
#[derive(Debug)]
pub(super) struct Goal {
    name: String,
    /// The launch; absent for a machine that is not in the ledger.
    entry: Option<Entry>,
    /// Its machines, and whether the provider accepted the end of each.
    machines: Vec<(String, bool)>,
    /// Whether the provider has listed one of them.
    listed: bool,
    /// The provider's last failure.
    failure: Option<Error>,
    /// The ledger's last failure.
    unwritten: Option<Error>,
    said: String,
}

impl Goal {
    pub(super) fn of(row: &Row) -> Self {
        let id = row.id().map(str::to_owned);
        let name = row.entry.as_ref().map(|entry| &entry.intent.name).or(row.node.as_ref().map(|node| &node.name));
        Self {
            name: name.cloned().unwrap_or_default(),
            machines: id.map(|id| (id, false)).into_iter().collect(),
            listed: row.node.is_some() || row.entry.as_ref().is_some_and(|entry| entry.listed),
            entry: row.entry.clone(),
            failure: None,
            unwritten: None,
            said: String::new(),
        }
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.entry.as_ref().map(|entry| entry.intent.key.as_str())
    }

    fn bears(&self, node: &Node) -> bool {
        let key = self.key().is_some_and(|key| node.key.as_deref() == Some(key));
        key || self.machines.iter().any(|(id, _)| *id == node.id)
    }

    fn label(&self) -> String {
        let ids: Vec<&str> = self.machines.iter().map(|(id, _)| id.as_str()).collect();
        if ids.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, ids.join(", ")) }
    }
}

impl Fleet<'_> {
    /// Ends these launches at the same time, until the provider lists their machines as gone, then removes what belonged
    /// to runs that have no machine left.
    ///
    /// # Errors
    /// The failures, one a launch or run. A machine that still runs after 40 minutes stays open in the ledger.
    pub async fn kill_all(&self, entries: &[Entry]) -> std::result::Result<(), Vec<Error>> {
        let rows: Vec<Row> = entries.iter().cloned().map(Row::from).collect();
        self.kill_rows(&rows).await
    }

    /// As [`Fleet::kill_all`], for what [`Fleet::rows`] found: launches that are closed in the ledger too.
    ///
    /// # Errors
    /// The failures, one a launch or run.
    pub async fn kill_rows(&self, rows: &[Row]) -> std::result::Result<(), Vec<Error>> {
        let runs: Vec<&str> = rows.iter().filter_map(|row| Some(row.entry.as_ref()?.intent.run.as_str())).collect();
        let mut goals: Vec<Goal> = Vec::new();
        for goal in rows.iter().map(Goal::of) {
            // A goal holds all machines of its launch.
            if goal.key().is_none() || !goals.iter().any(|known| known.key() == goal.key()) {
                goals.push(goal);
            }
        }
        let until = self.time.now_ms() + ENDS.as_millis() as u64;
        let (mut failures, mut looks) = (Vec::new(), 0);
        while !goals.is_empty() {
            self.round(&mut goals, &mut failures).await;
            let late = self.time.now_ms() > until;
            for goal in goals.extract_if(.., |goal| late || self.is_hopeless(goal)) {
                failures.push(self.given_up(goal));
            }
            if goals.is_empty() {
                break;
            }
            self.time.sleep(pause(looks, self.longest_pause())).await;
            looks += 1;
        }
        failures.extend(self.tidy(&runs).await);
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    fn longest_pause(&self) -> Duration {
        Duration::from_secs(if self.provider.capabilities().paid { 60 } else { 1 })
    }

    /// What costs nothing is not worth a long wait: the host is down, or refuses us. Nor are wrong credentials.
    fn is_hopeless(&self, goal: &Goal) -> bool {
        let failed = |error: &Error| !self.provider.capabilities().paid || error.kind == Kind::Credentials;
        goal.failure.as_ref().is_some_and(failed)
    }

    fn given_up(&self, goal: Goal) -> Error {
        let label = goal.label();
        let meaning = goal.failure.map_or_else(|| "the provider still lists it".to_owned(), |error| error.to_string());
        let remedy = match (self.provider.capabilities().paid, self.provider.name()) {
            (true, _) => "it may still cost money: run `gorgo kill` again, or end it in the provider's console",
            (false, "ssh") => {
                "it stays taken: remove the cause and run `gorgo kill` again, or release it as it is with `gorgo kill --force`"
            }
            _ => "remove the cause and run `gorgo kill` again",
        };
        Error::new(Kind::Unknown, label, meaning, remedy)
    }

    /// Asks for the end of every machine whose end is not accepted, then looks once. Goals that are reached leave, with
    /// a failure where the ledger cannot note it.
    pub(super) async fn round(&self, goals: &mut Vec<Goal>, failures: &mut Vec<Error>) {
        join_all(goals.iter_mut().map(|goal| self.ask(goal))).await;
        let asked_ms = self.time.now_ms();
        let nodes = match self.provider.list().await {
            Ok(nodes) => nodes,
            Err(error) => {
                for goal in goals {
                    self.say(goal, format!("its state is not known: {error}"));
                    goal.failure = Some(error.clone());
                }
                return;
            }
        };
        let mut i = 0;
        while i < goals.len() {
            if !self.is_reached(&mut goals[i], &nodes, asked_ms).await {
                i += 1;
                continue;
            }
            let goal = goals.remove(i);
            if let Some(why) = goal.unwritten {
                let meaning = format!("the machine has ended, but the ledger cannot note it ({})", why.meaning);
                failures.push(Error::new(Kind::File, format!("{}: {}", goal.name, why.sign), meaning, why.remedy));
            }
        }
    }

    async fn ask(&self, goal: &mut Goal) {
        // The end is asked for whether it can be written down or not: a full disk must not cost money.
        if let Some(entry) = goal.entry.as_mut().filter(|entry| entry.state != State::Ending) {
            let ending = Event::Ending { key: entry.intent.key.clone() };
            goal.unwritten = self.ledger.note(self.time.now_ms(), entry, ending).err();
        }
        goal.failure = None;
        // The provider may not know a new machine yet. A machine that it has listed before and no longer knows has ended.
        let appeared =
            goal.listed || goal.entry.as_ref().is_none_or(|entry| self.is_past_appearing(entry, self.time.now_ms()));
        for (id, accepted) in goal.machines.iter_mut().filter(|(_, accepted)| !accepted) {
            match self.provider.terminate(id).await {
                Ok(()) => *accepted = true,
                Err(error) if error.kind == Kind::NotFound => *accepted = appeared,
                Err(error) => goal.failure = Some(error),
            }
        }
    }

    /// Whether nothing of the goal runs any more, by a listing asked for at `asked_ms`.
    async fn is_reached(&self, goal: &mut Goal, nodes: &[Node], asked_ms: u64) -> bool {
        let its: Vec<&Node> = nodes.iter().filter(|node| goal.bears(node)).collect();
        let alive: Vec<&Node> = its.iter().copied().filter(|node| node.status != Status::Gone).collect();
        for node in &alive {
            goal.listed = true;
            if !goal.machines.iter().any(|(id, _)| *id == node.id) {
                goal.machines.push((node.id.clone(), false));
            }
            // An end that was accepted and has not begun is asked for again.
            for (_, accepted) in goal.machines.iter_mut().filter(|(id, _)| *id == node.id) {
                *accepted &= node.status == Status::Ending;
            }
        }
        if let Some(node) = alive.first() {
            let failure = goal.failure.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
            self.say(goal, format!("{}{failure}", node.status));
            return false;
        }
        let accepted = goal.machines.iter().all(|(_, accepted)| *accepted);
        let key = goal.key().map(str::to_owned);
        if !its.is_empty() || (accepted && !goal.machines.is_empty()) {
            if let Some(key) = key {
                let written = self.ledger.gone(self.time.now_ms(), &key);
                goal.unwritten = written.err().or(goal.unwritten.take());
            }
            return true;
        }
        let (Some(entry), Some(key)) = (&goal.entry, key) else {
            let failure = goal.failure.as_ref().map_or_else(|| "not listed".to_owned(), ToString::to_string);
            self.say(goal, failure);
            return false;
        };
        if goal.machines.is_empty() && self.is_past_appearing(entry, asked_ms) {
            match self.provider.find(&entry.intent.name, &key).await {
                Ok(Some(id)) => goal.machines.push((id, false)),
                Ok(None) => {
                    goal.unwritten = self.ledger.absent(self.time.now_ms(), &key).err();
                    return true;
                }
                Err(error) => goal.failure = Some(error),
            }
        }
        let until = utc(self.appears_until_ms(entry));
        let waits = match &goal.failure {
            Some(error) => error.to_string(),
            None => format!(
                "its launch was sent and the machine is not listed; waiting until {until} UTC in case it appears"
            ),
        };
        self.say(goal, waits);
        false
    }

    /// Shows what has become of a goal, once.
    fn say(&self, goal: &mut Goal, text: String) {
        if goal.said != text {
            (self.show)(&format!("{}: {text}", goal.name));
            goal.said = text;
        }
    }
}
