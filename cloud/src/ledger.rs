//! Every machine that may cost money, written down and synced before the paid call.
//!
//! One JSON line an event, appended under a file lock and synced to disk. What runs is the fold of all lines: a launch
//! without an answer stays open until the provider's listing shows its machine, or has not shown it for long enough.

use crate::error::{Error, Result};
use entry::{Fold, Line};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

mod entry;
pub(crate) use entry::Event;
pub use entry::{Entry, Intent, State};

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

    /// The provider lists the machine.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn listed(&self, at_ms: u64, key: &str) -> Result<()> {
        self.append(at_ms, Event::Listed { key: key.to_owned() })
    }

    /// Holds off other commands that check limits and write intents, until the value is dropped.
    ///
    /// # Errors
    /// When the lock's file cannot be used.
    pub fn exclusive(&self) -> Result<File> {
        let path = self.path.with_extension("lock");
        let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        open.and_then(|file| file.lock().map(|()| file)).map_err(|why| Error::file(&path, &why))
    }

    /// All launches in the order of their intents.
    ///
    /// # Errors
    /// When the file cannot be read, or a line but the last is damaged.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map_err(|why| Error::file(&self.path, &why))?,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(Error::file(&self.path, &why)),
        };
        let mut fold = Fold::default();
        for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let whole = line.ends_with(b"\n");
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => fold.take(line),
                // A line cut by a crash, even inside a character: its call was never sent, for calls wait for the sync.
                Err(_) if !whole || line.trim_ascii().is_empty() => {}
                Err(why) => {
                    let sign = format!("`{}` line {}", self.path.display(), number + 1);
                    let remedy = "compare with the provider's own list, then remove that line";
                    return Err(Error::usage(sign, format!("damaged ({why})"), remedy));
                }
            }
        }
        Ok(fold.entries())
    }

    /// Launches that may still cost money.
    ///
    /// # Errors
    /// See [`Ledger::entries`].
    pub fn open_entries(&self) -> Result<Vec<Entry>> {
        Ok(self.entries()?.into_iter().filter(Entry::is_open).collect())
    }

    /// Applies an event to `entry` and writes it down. The entry changes even where the line cannot be written.
    pub(crate) fn note(&self, at_ms: u64, entry: &mut Entry, event: Event) -> Result<()> {
        entry.take(at_ms, event.clone());
        self.append(at_ms, event)
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
            cents_per_hour: Some(129),
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
        assert_eq!(entries[3].cents(9_999_999_999), Some(129));
        assert_eq!(entries[2].cents(9_999_999_999), Some(0));
        assert_eq!(entries[1].cents(1_000 + 1_800_000), Some(65));
    }

    #[test]
    fn an_unknown_price_costs_an_unknown_sum() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        ledger.intend(1, Intent { cents_per_hour: None, ..intent("a") }).unwrap();
        // As earlier versions wrote it.
        let text = std::fs::read_to_string(ledger.path()).unwrap();
        assert!(text.contains(r#""cents_per_hour":0,"price_unknown":true"#), "{text}");
        ledger.launched(2, "a", "i").unwrap();
        let entry = ledger.entries().unwrap().remove(0);
        assert_eq!((entry.intent.cents_per_hour, entry.cents(3_600_000)), (None, None));
        ledger.intend(1, intent("b")).unwrap();
        assert!(!std::fs::read_to_string(ledger.path()).unwrap().lines().last().unwrap().contains("price_unknown"));
        assert_eq!(ledger.entries().unwrap()[1].intent.cents_per_hour, Some(129));
    }

    #[test]
    fn an_entry_in_memory_follows_events_as_the_file_does() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        ledger.intend(1, intent("a")).unwrap();
        let mut entry = ledger.entries().unwrap().remove(0);
        let key = || "a".to_owned();
        for (at_ms, event) in [
            (2, Event::Listed { key: key() }),
            (3, Event::Launched { key: key(), id: "i".to_owned() }),
            (4, Event::Refused { key: key(), why: "late".to_owned() }),
            (5, Event::Ending { key: key() }),
            (6, Event::Launched { key: key(), id: "i".to_owned() }),
            (7, Event::Gone { key: key() }),
        ] {
            ledger.note(at_ms, &mut entry, event).unwrap();
            assert_eq!(ledger.entries().unwrap(), [entry.clone()]);
        }
        assert_eq!((entry.state, entry.since_ms), (State::Gone, 7));
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
    fn a_line_cut_inside_a_character_loses_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        ledger.intend(1, intent("a")).unwrap();
        let mut file = OpenOptions::new().append(true).open(ledger.path()).unwrap();
        file.write_all(b"{\"at_ms\":1,\"event\":\"refused\",\"key\":\"a\",\"why\":\"caf\xc3").unwrap();
        assert!(ledger.entries().unwrap()[0].is_open());
        ledger.launched(3, "a", "i").unwrap();
        assert_eq!(ledger.entries().unwrap()[0].state, State::Running);
    }

    #[test]
    fn a_late_answer_does_not_reopen_what_has_ended_and_a_machine_that_runs_reopens_what_was_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        for key in ["gone", "ending", "refused", "running"] {
            ledger.intend(1, intent(key)).unwrap();
        }
        ledger.gone(2, "gone").unwrap();
        ledger.ending(2, "ending").unwrap();
        ledger.refused(2, "refused", "no").unwrap();
        for key in ["gone", "ending", "refused", "running"] {
            ledger.launched(3, key, "i").unwrap();
        }
        ledger.refused(4, "running", "no").unwrap();
        let states: Vec<State> = ledger.entries().unwrap().into_iter().map(|entry| entry.state).collect();
        assert_eq!(states, [State::Gone, State::Ending, State::Running, State::Running]);
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
