//! Ends machines whose lease is over: one check at a time, so that a machine that fails to end delays no other.

use super::end::Goal;
use super::{Fleet, Row};
use crate::error::{Error, Result};
use crate::ledger::{Entry, State};
use crate::provider::Status;
use std::time::Duration;

/// One look lasts this long at most, whatever the provider does.
const LOOK: Duration = Duration::from_secs(120);
/// What could not be tidied is tried again after this many looks.
const TIDY: u32 = 30;

/// What a watch remembers between two looks.
#[derive(Debug, Default)]
pub struct Watch {
    goals: Vec<Goal>,
    looks: u32,
}

impl Watch {
    /// Asks for the end of machines whose lease is over, and returns how many machines are left and what failed.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn look(&mut self, fleet: &Fleet<'_>) -> Result<(usize, Vec<Error>)> {
        let mut failures = Vec::new();
        let listed = tokio::time::timeout(LOOK, fleet.rows()).await;
        let rows = match listed {
            Ok(Ok(rows)) => rows,
            other => {
                // Without the listing, what the ledger names is ended nevertheless.
                failures.extend(other.ok().and_then(std::result::Result::err));
                fleet.open()?.into_iter().map(Row::from).collect()
            }
        };
        let now_ms = fleet.time.now_ms();
        for row in rows.iter().filter(|row| is_due(row, now_ms)) {
            let goal = Goal::of(row);
            if !self.goals.iter().any(|known| known.key() == goal.key()) {
                self.goals.push(goal);
            }
        }
        let before = self.goals.len();
        if before > 0 {
            // Each goal is kept whole when the time is over, for the next look.
            let round = fleet.round(&mut self.goals, &mut failures);
            let _ = tokio::time::timeout(LOOK, round).await;
        }
        let known = |entry: &Entry| {
            rows.iter().any(|row| row.entry.as_ref().is_some_and(|other| other.intent.key == entry.intent.key))
        };
        let open = fleet.ledger.open_entries()?;
        let left = open.iter().filter(|entry| fleet.is_ours(entry) || known(entry)).count();
        if self.goals.len() < before || left == 0 || self.looks.is_multiple_of(TIDY) {
            let tidied = tokio::time::timeout(LOOK, fleet.tidy(&[])).await;
            failures.extend(tidied.unwrap_or_default());
        }
        self.looks += 1;
        Ok((left.max(self.goals.len()), failures))
    }
}

/// Whether the machine's end is due: its lease is over, its end was asked for and not seen, or it runs although closed.
fn is_due(row: &Row, now_ms: u64) -> bool {
    let Some(entry) = &row.entry else { return false };
    let runs = row.node.as_ref().is_some_and(|node| node.status != Status::Ending);
    match entry.state {
        State::Unanswered | State::Running => entry.intent.expires_ms <= now_ms,
        State::Ending => true,
        State::Refused(_) | State::Gone | State::Absent => runs,
    }
}

impl Fleet<'_> {
    /// Ends launches whose lease is over, waits until they have ended, and returns how many are open after that.
    ///
    /// # Errors
    /// When the ledger cannot be read, the provider does not answer or a machine does not end.
    pub async fn watch_once(&self) -> Result<usize> {
        let now_ms = self.time.now_ms();
        let due: Vec<Row> = self.rows().await?.into_iter().filter(|row| is_due(row, now_ms)).collect();
        if let Err(mut failures) = self.kill_rows(&due).await {
            return Err(failures.swap_remove(0));
        }
        Ok(self.open()?.len())
    }
}
