//! Replicas that operators have drained or removed over the admin API.
//!
//! An entry is keyed by the replica's name. It stays in force through other settings of the replica, a reload, a source
//! of discovery that lists the replica again, a restart with `state`, and an upgrade. Only an operator can revoke it.

use parking_lot::Mutex;

/// Most names of each kind; the oldest is forgotten first. Names of pods are never used again.
const MOST: usize = 1_024;

/// What operators said of replicas.
#[derive(Debug, Default)]
pub(crate) struct ByOperator(Mutex<Names>);

/// Names of replicas, the oldest first.
#[derive(Debug, Default)]
struct Names {
    drained: Vec<String>,
    removed: Vec<String>,
}

impl ByOperator {
    /// What was said before this process began.
    pub(crate) fn restore(&self, drained: &[String], removed: &[String]) {
        let mut names = self.0.lock();
        drained.iter().for_each(|name| set(&mut names.drained, name, true));
        removed.iter().for_each(|name| set(&mut names.removed, name, true));
    }

    /// A replica is to be drained, or to take requests again.
    pub(crate) fn drain(&self, name: &str, on: bool) {
        set(&mut self.0.lock().drained, name, on);
    }

    /// A replica is to stay out of the fleet.
    pub(crate) fn remove(&self, name: &str) {
        let mut names = self.0.lock();
        set(&mut names.drained, name, false);
        set(&mut names.removed, name, true);
    }

    /// A replica is welcome again; returns whether it was not.
    pub(crate) fn admit(&self, name: &str) -> bool {
        let was_removed = self.removes(name);
        set(&mut self.0.lock().removed, name, false);
        was_removed
    }

    pub(crate) fn drains(&self, name: &str) -> bool {
        self.0.lock().drained.iter().any(|one| one == name)
    }

    pub(crate) fn removes(&self, name: &str) -> bool {
        self.0.lock().removed.iter().any(|one| one == name)
    }

    /// Names of drained replicas.
    pub(crate) fn drained(&self) -> Vec<String> {
        self.0.lock().drained.clone()
    }

    /// Names of removed replicas.
    pub(crate) fn removed(&self) -> Vec<String> {
        self.0.lock().removed.clone()
    }
}

fn set(names: &mut Vec<String>, name: &str, on: bool) {
    names.retain(|one| one != name);
    if on {
        if names.len() >= MOST {
            names.remove(0);
        }
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_name_is_forgotten_and_a_removed_replica_is_not_drained() {
        let said = ByOperator::default();
        for n in 0..=MOST {
            said.drain(&n.to_string(), true);
        }
        assert!(!said.drains("0") && said.drains("1") && said.drained().len() == MOST);
        said.remove("1");
        assert!(said.removes("1") && !said.drains("1"));
        said.admit("1");
        assert!(said.removed().is_empty());
    }
}
