//! Every machine that may cost money, written down and synced before the paid call.
//!
//! One JSON line an event, appended under a file lock and synced to disk. What runs is the fold of all lines: a launch
//! without an answer stays open until the provider's listing shows its machine, or has not shown it for long enough.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is written before a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Nonce of this launch, repeated by the machine's name and tag.
    pub key: String,
    /// Provider.
    pub cloud: String,
    /// Digest of the credentials, so that another account's entries are left alone.
    pub account: String,
    /// Launch command this machine belongs to.
    pub run: String,
    /// The user's name of the machine.
    pub name: String,
    /// Region.
    pub region: String,
    /// Instance type.
    pub machine: String,
    /// Price, US cents an hour.
    pub cents_per_hour: u64,
    /// End of the lease, milliseconds since 1970, UTC.
    pub expires_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Intended(Intent),
    Launched { key: String, id: String },
    Refused { key: String, why: String },
    Ending { key: String },
    Gone { key: String },
    Absent { key: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    at_ms: u64,
    #[serde(flatten)]
    event: Event,
}

/// What is known of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No answer yet: the machine may run.
    Unanswered,
    /// The machine runs.
    Running,
    /// Its end was asked for and has not been seen.
    Ending,
    /// The provider refused the launch.
    Refused(String),
    /// The provider listed the machine as gone.
    Gone,
    /// The launch was not answered, and its machine was not listed for so long that it never was.
    Absent,
}

/// One launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was written before the launch.
    pub intent: Intent,
    /// When that was, milliseconds since 1970.
    pub intended_ms: u64,
    /// The provider's id, once known.
    pub id: Option<String>,
    /// What is known.
    pub state: State,
    /// When the state was written, milliseconds since 1970.
    pub since_ms: u64,
}

impl Entry {
    /// Whether the machine may still cost money.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Unanswered | State::Running | State::Ending)
    }

    /// Cost from the launch until `now_ms` or its end, US cents, rounded up.
    pub fn cents(&self, now_ms: u64) -> u64 {
        let until = match self.state {
            State::Refused(_) | State::Absent => self.intended_ms,
            State::Gone => self.since_ms,
            _ => now_ms,
        };
        (until.saturating_sub(self.intended_ms) * self.intent.cents_per_hour).div_ceil(3_600_000)
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// The ledger in this folder, which is created if absent.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|why| Error::file(folder, &why))?;
        Ok(Self { path: folder.join("ledger.jsonl") })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down that a machine is about to be launched. Only then may the launch be sent.
    ///
    /// # Errors
    /// When the line cannot be written and synced: then nothing may be launched.
    pub fn intend(&self, at_ms: u64, intent: Intent) -> Result<()> {
        self.append(at_ms, Event::Intended(intent))
    }

    /// The provider answered with an id.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn launched(&self, at_ms: u64, key: &str, id: &str) -> Result<()> {
        self.append(at_ms, Event::Launched { key: key.to_owned(), id: id.to_owned() })
    }

    /// The provider refused the launch.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn refused(&self, at_ms: u64, key: &str, why: &str) -> Result<()> {
        self.append(at_ms, Event::Refused { key: key.to_owned(), why: why.to_owned() })
    }

    /// The machine's end is about to be asked for.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn ending(&self, at_ms: u64, key: &str) -> Result<()> {
        self.append(at_ms, Event::Ending { key: key.to_owned() })
    }

    /// The provider listed the machine as gone.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn gone(&self, at_ms: u64, key: &str) -> Result<()> {
        self.append(at_ms, Event::Gone { key: key.to_owned() })
    }

    /// The launch was never answered and its machine never listed.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn absent(&self, at_ms: u64, key: &str) -> Result<()> {
        self.append(at_ms, Event::Absent { key: key.to_owned() })
    }

    /// All launches in the order of their intents.
    ///
    /// # Errors
    /// When the file cannot be read, or a line but the last is damaged.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(mut file) => file.read_to_string(&mut text).map_err(|why| Error::file(&self.path, &why))?,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(Error::file(&self.path, &why)),
        };
        let mut order = Vec::new();
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let whole = line.ends_with('\n');
            match serde_json::from_str::<Line>(line) {
                Ok(line) => fold(&mut entries, &mut order, line),
                // A line cut by a crash: its call was never sent, for calls wait for the sync.
                Err(_) if !whole || line.trim().is_empty() => {}
                Err(why) => {
                    let sign = format!("`{}` line {}", self.path.display(), number + 1);
                    let remedy = "compare with the provider's own list, then remove that line";
                    return Err(Error::usage(sign, format!("damaged ({why})"), remedy));
                }
            }
        }
        Ok(order.into_iter().filter_map(|key| entries.remove(&key)).collect())
    }

    /// Launches that may still cost money.
    ///
    /// # Errors
    /// See [`Ledger::entries`].
    pub fn open_entries(&self) -> Result<Vec<Entry>> {
        Ok(self.entries()?.into_iter().filter(Entry::is_open).collect())
    }

    fn append(&self, at_ms: u64, event: Event) -> Result<()> {
        let mut line = serde_json::to_string(&Line { at_ms, event }).unwrap_or_default();
        line.push('\n');
        self.write(&line).map_err(|why| Error::file(&self.path, &why))
    }

    fn write(&self, line: &str) -> std::io::Result<()> {
        let new = !self.path.exists();
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        file.lock()?;
        // A line cut by a crash ends here, so that this one stays whole.
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            file.set_len(cut(&self.path)?)?;
        }
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        if let (true, Some(folder)) = (new, self.path.parent()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// Length of the file up to its last whole line.
fn cut(path: &Path) -> std::io::Result<u64> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1) as u64)
}

fn fold(entries: &mut BTreeMap<String, Entry>, order: &mut Vec<String>, line: Line) {
    let at_ms = line.at_ms;
    let mut set = |key: &str, state: State| {
        if let Some(entry) = entries.get_mut(key) {
            entry.state = state;
            entry.since_ms = at_ms;
        }
    };
    match line.event {
        Event::Intended(intent) => {
            order.push(intent.key.clone());
            let entry = Entry { intended_ms: at_ms, id: None, state: State::Unanswered, since_ms: at_ms, intent };
            entries.insert(entry.intent.key.clone(), entry);
        }
        Event::Launched { key, id } => {
            set(&key, State::Running);
            if let Some(entry) = entries.get_mut(&key) {
                entry.id = Some(id);
            }
        }
        Event::Refused { key, why } => set(&key, State::Refused(why)),
        Event::Ending { key } => set(&key, State::Ending),
        Event::Gone { key } => set(&key, State::Gone),
        Event::Absent { key } => set(&key, State::Absent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(key: &str) -> Intent {
        Intent {
            key: key.to_owned(),
            cloud: "lambda".to_owned(),
            account: "a".to_owned(),
            run: "r".to_owned(),
            name: "n".to_owned(),
            region: "us-east-1".to_owned(),
            machine: "gpu_1x_a100".to_owned(),
            cents_per_hour: 129,
            expires_ms: 9,
        }
    }

    #[test]
    fn an_unanswered_launch_stays_open_until_its_end_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        for key in ["a", "b", "c", "d"] {
            ledger.intend(1_000, intent(key)).unwrap();
        }
        ledger.launched(2_000, "b", "i-b").unwrap();
        ledger.refused(2_000, "c", "no capacity").unwrap();
        ledger.launched(2_000, "d", "i-d").unwrap();
        ledger.ending(3_000, "d").unwrap();
        let open = ledger.open_entries().unwrap();
        assert_eq!(open.iter().map(|e| e.intent.key.as_str()).collect::<Vec<_>>(), ["a", "b", "d"]);
        assert_eq!(open[2].id.as_deref(), Some("i-d"));
        ledger.gone(3_601_000, "d").unwrap();
        let entries = ledger.entries().unwrap();
        assert_eq!(entries[3].cents(9_999_999_999), 129);
        assert_eq!(entries[2].cents(9_999_999_999), 0);
        assert_eq!(entries[1].cents(1_000 + 1_800_000), 65);
    }

    #[test]
    fn a_line_cut_by_a_crash_loses_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        ledger.intend(1, intent("a")).unwrap();
        let mut file = OpenOptions::new().append(true).open(ledger.path()).unwrap();
        file.write_all(br#"{"at_ms": 2, "event": "laun"#).unwrap();
        assert_eq!(ledger.entries().unwrap().len(), 1);
        ledger.launched(3, "a", "i").unwrap();
        assert_eq!(ledger.entries().unwrap()[0].id.as_deref(), Some("i"));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        std::fs::write(ledger.path(), "{\"at_ms\": 1}\n").unwrap();
        assert!(ledger.entries().unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn processes_that_write_at_once_keep_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let ledger = &ledger;
                scope.spawn(move || (0..25).for_each(|i| ledger.intend(1, intent(&format!("{thread}-{i}"))).unwrap()));
            }
        });
        assert_eq!(ledger.entries().unwrap().len(), 100);
    }
}
