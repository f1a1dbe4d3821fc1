//! The commands of `docs/clouds.md` in their order: on this machine, at stand-ins of Lambda Cloud and Modal, and on three
//! hosts over ssh.

use super::accounts::{Account, three_ports};
use super::ssh::Field;
use super::{Ran, command, must, processes, ran};
use crate::fake_modal::processes_in;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clouds.md");
/// Lines of a command's output that the page shows of the walks that are written anew; of a run's, which ends with a
/// table, more.
const SHOWN: [usize; 2] = [5, 11];
/// The beginning of a table's rule.
const RULE: &str = "───";

/// Runs the commands of the page's block with this number, and fails unless they print what the page shows: the first
/// word of each line. With `GORGO_WRITE_DOCS=1` what they print becomes what the page shows. Returns their number.
fn walk(block: usize, run: &mut dyn FnMut(&[&str]) -> Ran) -> usize {
    static WRITING: Mutex<()> = Mutex::new(());
    let nth = |page: &str| page.split("```console\n").nth(block).unwrap().split("```").next().unwrap().to_owned();
    let shown = nth(&std::fs::read_to_string(PAGE).unwrap());
    let writes = std::env::var_os("GORGO_WRITE_DOCS").is_some() && block > 1;
    let (mut commands, mut written) = (0, String::new());
    for part in shown.split("$ gorgo ").skip(1) {
        let (line, wanted) = part.split_once('\n').unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = run(&words);
        assert!(done.ok, "{line}: {}\n{}", done.out, done.err);
        let printed = format!("{}{}", done.out, done.err);
        commands += 1;
        if writes {
            // Lines of a log begin with their times.
            let most = if words.contains(&"logs") { 0 } else { SHOWN[usize::from(words[0] == "run")] };
            // The first line of a router's status has the port of a tunnel.
            let is_shown = |line: &&str| !line.is_empty() && !line.starts_with("127.0.0.1:");
            let lines: Vec<&str> = done.out.lines().map(str::trim_end).filter(is_shown).collect();
            let more = if lines.len() > most { "...\n" } else { "" };
            let lines: String = lines.iter().take(most).map(|line| format!("{line}\n")).collect();
            written += &format!("$ gorgo {line}\n{lines}{more}");
            continue;
        }
        let words = wanted.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "...");
        // A table is as wide as its numbers, so its rule is as long as it may be.
        for word in words.map(|word| if word.starts_with(RULE) { RULE } else { word }) {
            assert!(printed.contains(word), "{line}: the page shows `{word}`; printed was:\n{printed}");
        }
    }
    if writes {
        let _one = WRITING.lock().unwrap();
        let page = std::fs::read_to_string(PAGE).unwrap();
        std::fs::write(PAGE, page.replace(&nth(&page), &written)).unwrap();
    }
    commands
}

/// The experiment of the page below a folder in which its commands run.
fn with_experiment(folder: &Path) {
    std::fs::create_dir(folder.join("docs")).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/machines.toml");
    std::fs::copy(file, folder.join("docs/machines.toml")).unwrap();
}

#[test]
fn the_walk_of_the_page_runs_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    with_experiment(folder.path());
    let commands = walk(1, &mut |words| {
        let mut command = command(&state, "local", words);
        command.current_dir(folder.path());
        ran(command)
    });
    assert!(commands >= 15, "{commands}");
    assert_eq!(processes(&state), Vec::<String>::new());
}

impl Account {
    /// The page's walk at a stand-in, whose machines share the ports of this one: each gets three that are free.
    fn walks_the_page(&self, block: usize) {
        with_experiment(self.folder.path());
        std::fs::copy(&self.program, self.folder.path().join("gorgo-for-nodes")).unwrap();
        let mut given = vec![(self.state.display().to_string(), "~/.local/state/gorgo".to_owned())];
        let commands = walk(block, &mut |words| {
            let ports = three_ports();
            let mut words = words.to_vec();
            if let Some(at) = words.iter().position(|word| *word == "--ports") {
                let pairs = ports.split(',').zip(words[at + 1].split(','));
                given.extend(pairs.map(|(real, shown)| (real.to_owned(), shown.to_owned())));
                words[at + 1] = &ports;
            }
            let mut done = self.ran(&words);
            for (real, shown) in &given {
                done.out = done.out.replace(real, shown);
            }
            done
        });
        assert!(commands >= 15, "{commands}");
        self.is_left_as_it_was(3);
    }
}

#[test]
fn the_walk_of_the_page_runs_on_machines_of_lambda_cloud() {
    let Some(account) = Account::lambda() else { return };
    account.walks_the_page(2);
}

#[test]
fn the_walk_of_the_page_runs_on_three_hosts_over_ssh() {
    let Some(field) = Field::free(&["east", "west", "eu"]) else { return };
    with_experiment(field.folder.path());
    std::fs::copy(&field.program, field.folder.path().join("gorgo-for-nodes")).unwrap();
    let commands = walk(4, &mut |words| {
        let mut command = command(field.state(), "ssh", words);
        command.current_dir(field.folder.path());
        let mut done = ran(command);
        done.out = done.out.replace(&field.state().display().to_string(), "~/.local/state/gorgo");
        done
    });
    assert!(commands >= 15, "{commands}");
    assert_eq!(must(field.state(), "ssh", &["list"]).trim(), "no machines");
    let left = || -> Vec<u32> {
        ["east", "west", "eu"].iter().flat_map(|name| processes_in(&field.folder.path().join(name))).collect()
    };
    // What watches a connection on its host looks once a second.
    let until = Instant::now() + Duration::from_secs(10);
    while !left().is_empty() {
        assert!(Instant::now() < until, "{:?}", left());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_walk_of_the_page_runs_in_sandboxes_of_modal() {
    Account::modal().walks_the_page(3);
}
