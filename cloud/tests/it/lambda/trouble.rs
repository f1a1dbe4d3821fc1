//! Machines that do not end, end by themselves or are listed late: what the fleet does and what the ledger says then.

use super::tests::spec;
use crate::disk::Small;
use crate::fake_lambda::{Fake, world::World};
use gorgo_cloud::fleet::Watch;
use gorgo_cloud::lambda::Lambda;
use gorgo_cloud::ledger::State;
use gorgo_cloud::provider::Spec;
use gorgo_cloud::{Error, Fleet, Kind, Ledger, Time};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct Site {
    fake: Fake,
    time: Time,
    world: Arc<Mutex<World>>,
    lambda: Lambda,
    ledger: Ledger,
    folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        Self::at(folder, &place).await
    }

    async fn at(folder: tempfile::TempDir, place: &Path) -> Self {
        let (fake, time, ledger) = (Fake::start().await, Time::stepped(), Ledger::open(place).unwrap());
        let world = fake.account("k", 1, false, &time, None);
        let lambda = fake.client("k", &time, place);
        Self { fake, time, world, lambda, ledger, folder }
    }

    fn fleet(&self) -> Fleet<'_> {
        Fleet::new(&self.lambda, &self.ledger, self.time.clone())
    }

    async fn launched(&self, name: &str) -> String {
        self.fleet().launch(&spec(name, "us-east-1"), 129).await.unwrap()
    }

    fn running(&self) -> Vec<String> {
        self.world.lock().unwrap().running().map(|machine| machine.name.clone()).collect()
    }

    fn states(&self) -> Vec<State> {
        self.ledger.entries().unwrap().into_iter().map(|entry| entry.state).collect()
    }
}

#[tokio::test]
async fn a_full_disk_keeps_no_machine_running() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    let Some(small) = Small::mount(&place) else { return };
    let site = Site::at(folder, &place).await;
    site.launched("a").await;
    site.launched("b").await;
    let length = std::fs::metadata(site.ledger.path()).unwrap().len();
    // The ledger's last page is filled up too.
    let mut file = std::fs::OpenOptions::new().append(true).open(site.ledger.path()).unwrap();
    std::io::Write::write_all(&mut file, "\n".repeat(4096 - length as usize % 4096).as_bytes()).unwrap();
    let fill = small.0.join("fill");
    let filled = std::fs::write(&fill, vec![0; 2 << 20]);
    assert!(filled.is_err(), "the disk is not full");
    let open = site.fleet().open().unwrap();
    let failures = site.fleet().kill_all(&open[..1]).await.unwrap_err();
    assert!(failures[0].to_string().contains("the ledger cannot note it"), "{failures:?}");
    assert_eq!(site.running(), ["b"]);
    site.time.sleep(Duration::from_secs(1)).await;
    std::fs::remove_file(fill).unwrap();
    site.fleet().kill_all(&site.fleet().open().unwrap()).await.unwrap();
    assert_eq!((site.running(), site.fleet().open().unwrap()), (vec![], vec![]));
}

#[tokio::test]
async fn an_end_that_is_accepted_and_has_no_effect_is_asked_for_again() {
    let site = Site::new().await;
    site.launched("a").await;
    site.world.lock().unwrap().deaf.insert("a".to_owned(), 3);
    site.fleet().kill_all(&site.fleet().open().unwrap()).await.unwrap();
    assert_eq!((site.running(), site.states()), (vec![], vec![State::Gone]));
}

#[tokio::test]
async fn a_machine_that_does_not_end_holds_up_no_other_lease() {
    let site = Site::new().await;
    let (fleet, now_ms) = (site.fleet(), site.time.now_ms());
    for (name, minutes) in [("deaf", 10), ("later", 20)] {
        let spec = Spec { expires_ms: now_ms + minutes * 60_000, ..spec(name, "us-east-1") };
        fleet.launch(&spec, 129).await.unwrap();
    }
    site.world.lock().unwrap().deaf.insert("deaf".to_owned(), u32::MAX);
    let mut watch = Watch::default();
    while site.time.now_ms() < now_ms + 24 * 60_000 {
        watch.look(&fleet).await.unwrap();
        site.time.sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(site.running(), ["deaf"]);
    site.world.lock().unwrap().deaf.clear();
    for _ in 0..6 {
        watch.look(&fleet).await.unwrap();
        site.time.sleep(Duration::from_secs(20)).await;
    }
    assert_eq!((site.running(), fleet.open().unwrap()), (vec![], vec![]));
    assert!(site.world.lock().unwrap().ssh_keys.is_empty(), "the watch tidies");
}

#[tokio::test]
async fn a_launch_that_conflicts_is_looked_for_and_not_sent_again() {
    let site = Site::new().await;
    site.world.lock().unwrap().after_effect = Some((409, "global/conflict"));
    let id = site.launched("a").await;
    assert_eq!(site.world.lock().unwrap().machines.len(), 1);
    // A second machine of the same launch is listed and ended too.
    let twin = site.world.lock().unwrap().machines[&id].clone();
    site.world.lock().unwrap().machines.insert("twin".to_owned(), twin);
    assert_eq!(site.fleet().rows().await.unwrap().len(), 2);
    site.fleet().kill_all(&site.fleet().open().unwrap()).await.unwrap();
    assert_eq!((site.running(), site.states()), (vec![], vec![State::Gone]));
}

#[tokio::test]
async fn a_machine_that_runs_although_its_launch_was_refused_is_listed_and_ended() {
    let site = Site::new().await;
    site.world.lock().unwrap().after_effect = Some((400, "global/whatever"));
    site.fleet().launch(&spec("a", "us-east-1"), 129).await.unwrap_err();
    assert!(matches!(site.states()[..], [State::Refused(_)]));
    let rows = site.fleet().rows().await.unwrap();
    assert_eq!(rows[0].price(), Some(129));
    site.fleet().kill_rows(&rows).await.unwrap();
    assert_eq!((site.running(), site.states()), (vec![], vec![State::Gone]));
}

#[tokio::test]
async fn another_key_of_the_account_sees_and_ends_what_the_first_one_launched() {
    let site = Site::new().await;
    site.launched("a").await;
    site.fake.another_key("k2", &site.world);
    let other = site.fake.client("k2", &site.time, site.folder.path());
    let fleet = Fleet::new(&other, &site.ledger, site.time.clone());
    assert!(fleet.open().unwrap().is_empty());
    let rows = fleet.rows().await.unwrap();
    assert_eq!(rows[0].entry.as_ref().unwrap().intent.name, "a");
    fleet.kill_rows(&rows).await.unwrap();
    assert_eq!((site.running(), site.states()), (vec![], vec![State::Gone]));
    assert!(site.world.lock().unwrap().ssh_keys.is_empty(), "the keys of the run are removed too");
}

#[tokio::test]
async fn launches_that_were_not_sent_are_closed_at_once() {
    let site = Site::new().await;
    let wanted = [(spec("a", "us-east-1"), Some(129)), (spec("b", "us-east-1"), Some(129))];
    let fleet = site.fleet();
    let reserved = fleet.reserve(&wanted, |_| Ok(())).unwrap();
    assert_eq!(fleet.open().unwrap().len(), 2);
    drop(reserved);
    assert_eq!(fleet.open().unwrap(), []);
    assert!(matches!(&site.states()[0], State::Refused(why) if why == "not sent"));
}

#[tokio::test]
async fn limits_hold_for_commands_that_check_at_the_same_time() {
    let site = Site::new().await;
    let fleet = site.fleet();
    let at_most_one = |open: &[gorgo_cloud::ledger::Entry]| match open.len() {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Guard, "2 nodes", "too many", "end one")),
    };
    let held = Mutex::new(Vec::new());
    let taken = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let (fleet, held) = (&fleet, &held);
                scope.spawn(move || {
                    let wanted = [(spec(&format!("n{i}"), "us-east-1"), Some(129))];
                    fleet.reserve(&wanted, at_most_one).map(|all| held.lock().unwrap().extend(all)).is_ok()
                })
            })
            .collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum::<usize>()
    });
    assert_eq!(taken, 1);
}

#[tokio::test]
async fn a_machine_ended_in_the_console_is_gone_at_once() {
    let site = Site::new().await;
    let id = site.launched("a").await;
    site.fleet().ready(&id, |_| {}).await.unwrap();
    site.world.lock().unwrap().machines.clear();
    let before = site.time.now_ms();
    site.fleet().kill_all(&site.fleet().open().unwrap()).await.unwrap();
    assert!(site.time.now_ms() - before < 60_000);
    assert_eq!(site.states(), [State::Gone]);
}

#[tokio::test]
async fn a_machine_that_ends_while_it_boots_is_closed_in_the_ledger() {
    let site = Site::new().await;
    let id = site.launched("a").await;
    gorgo_cloud::Provider::terminate(&site.lambda, &id).await.unwrap();
    site.time.sleep(Duration::from_secs(100)).await;
    site.fleet().ready(&id, |_| {}).await.unwrap_err();
    assert_eq!(site.states(), [State::Gone]);
}

#[tokio::test]
async fn one_odd_machine_of_others_hides_none_of_ours() {
    let site = Site::new().await;
    site.world.lock().unwrap().foreign = vec![
        json!({"id": "f1", "name": "x", "status": "active", "region": {"name": "r"}, "instance_type": {"name": "t", "price_cents_per_hour": null}}),
        json!({"id": "f2", "name": null, "status": "terminated", "region": null, "instance_type": null}),
        json!({"id": null}),
        json!("?"),
    ];
    site.launched("a").await;
    assert_eq!(site.fleet().rows().await.unwrap().len(), 1);
    site.fleet().kill_all(&site.fleet().open().unwrap()).await.unwrap();
    assert_eq!(site.running(), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_refused_launch_made_is_removed_and_what_could_not_be_removed_is_tried_again() {
    let site = Site::new().await;
    site.world.lock().unwrap().is_full = true;
    site.fleet().launch(&spec("a", "us-east-1"), 129).await.unwrap_err();
    let left = || {
        let world = site.world.lock().unwrap();
        world.ssh_keys.len() + world.rulesets.len()
    };
    assert_eq!(left(), 2);
    site.world.lock().unwrap().in_use = true;
    assert_eq!(site.fleet().tidy(&[]).await.len(), 1);
    site.world.lock().unwrap().in_use = false;
    assert_eq!((site.fleet().tidy(&[]).await, left()), (vec![], 0));
    assert!(!site.folder.path().join("runs/r1").exists());
}
