//! 1,000 random fleets a provider: launched, interrupted, killed, with faults drawn by seeds.

use crate::{fake_lambda, fake_modal};
use futures_util::StreamExt;
use gorgo_cloud::provider::{Ports, Spec};
use gorgo_cloud::{Fleet, Ledger, Provider, Time, ledger::State};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Counts {
    launched: usize,
    refused: usize,
    absent: usize,
    interrupted: usize,
    unanswered: usize,
    requests: u64,
    faults: u64,
}

/// A fake provider.
trait Service: Send + Sync + 'static {
    /// A new account with faults drawn by `seed`, and the ledger in which every launch must stand.
    fn account(&self, id: &str, seed: u64, time: &Time, ledger: &Ledger, folder: &Path) -> Arc<Mutex<dyn Account>>;

    fn provider(&self, id: &str, time: &Time, folder: &Path) -> Box<dyn Provider>;
}

/// What a fake provider knows of an account.
trait Account: Send {
    /// Interrupts the client at this request; the client waits for what is returned.
    fn interrupt(&mut self, at: Option<u64>) -> Arc<Notify>;
    fn requests(&self) -> u64;
    fn violations(&self) -> Vec<String>;
    /// Nonces of the machines that run.
    fn running(&self) -> Vec<String>;
    fn machines(&self) -> usize;
    fn unanswered(&self) -> usize;
    fn faults(&self) -> u64;
}

macro_rules! account {
    ($world:ty) => {
        impl Account for $world {
            fn interrupt(&mut self, at: Option<u64>) -> Arc<Notify> {
                self.interrupt = Arc::default();
                self.interrupt_at = at;
                self.interrupt.clone()
            }

            fn requests(&self) -> u64 {
                self.requests
            }

            fn violations(&self) -> Vec<String> {
                self.violations.clone()
            }

            fn running(&self) -> Vec<String> {
                <$world>::running(self).map(|machine| machine.key.clone()).collect()
            }

            fn machines(&self) -> usize {
                self.machines.len()
            }

            fn unanswered(&self) -> usize {
                self.unanswered
            }

            fn faults(&self) -> u64 {
                self.faults_drawn
            }
        }
    };
}

account!(fake_lambda::world::World);
account!(fake_modal::world::World);

impl Service for fake_lambda::Fake {
    fn account(&self, id: &str, seed: u64, time: &Time, ledger: &Ledger, _: &Path) -> Arc<Mutex<dyn Account>> {
        fake_lambda::Fake::account(self, id, seed, true, time, Some(ledger.clone()))
    }

    fn provider(&self, id: &str, time: &Time, folder: &Path) -> Box<dyn Provider> {
        Box::new(self.client(id, time, folder))
    }
}

impl Service for fake_modal::Fake {
    fn account(&self, id: &str, seed: u64, time: &Time, ledger: &Ledger, folder: &Path) -> Arc<Mutex<dyn Account>> {
        fake_modal::Fake::account(self, id, seed, true, time, Some(ledger.clone()), folder.join("sandboxes"))
    }

    fn provider(&self, id: &str, time: &Time, _: &Path) -> Box<dyn Provider> {
        Box::new(self.client(id, time))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_fleets_leave_nothing_launched_twice_and_nothing_running_unlisted() {
    thousand(Arc::new(fake_lambda::Fake::start().await), "lambda").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_fleets_of_sandboxes_leave_nothing_launched_twice_and_nothing_running_unlisted() {
    thousand(Arc::new(fake_modal::Fake::start().await), "modal").await;
}

async fn thousand(fake: Arc<impl Service>, cloud: &str) {
    // In memory where there is such a folder: thousands of syncs would wait for the disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let fleets = futures_util::stream::iter(0..1_000_u64).map(|seed| {
        let (fake, folder) = (fake.clone(), folder.path().join(seed.to_string()));
        tokio::spawn(async move { fleet(fake.as_ref(), seed, &folder).await })
    });
    let all: Vec<_> = fleets.buffer_unordered(128).map(|counts| counts.unwrap()).collect().await;
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    let (launched, interrupted, unanswered) = (sum(|c| c.launched), sum(|c| c.interrupted), sum(|c| c.unanswered));
    let requests: u64 = all.iter().map(|c| c.requests).sum();
    let faults: u64 = all.iter().map(|c| c.faults).sum();
    let (refused, absent) = (sum(|c| c.refused), sum(|c| c.absent));
    let text = format!(
        "{} fleets, {launched} machines launched, {refused} refused, {absent} never appeared, {unanswered} of them \
         without an answer, {interrupted} interruptions, {requests} requests, {faults} faults",
        all.len()
    );
    // Each kind of trouble must have been met, or the test shows nothing.
    assert!(launched > 1_000 && refused > 50 && interrupted > 300 && unanswered > 100 && faults > 1_000, "{text}");
    if let Some(file) = std::env::var_os("GORGO_TEST_COUNTS") {
        std::fs::write(Path::new(&file).with_extension(cloud), text).unwrap();
    }
}

async fn fleet(fake: &impl Service, seed: u64, folder: &Path) -> Counts {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let account = format!("account-{seed}");
    let ledger = Ledger::open(folder).unwrap();
    let time = Time::stepped();
    let world = fake.account(&account, seed, &time, &ledger, folder);
    let mut counts = Counts::default();

    let specs: Vec<Spec> = (0..rng.random_range(1..=4)).map(|i| spec(i, &mut rng, time.now_ms())).collect();
    let provider = fake.provider(&account, &time, folder);
    let first = Fleet::new(provider.as_ref(), &ledger, time.clone());
    let launches = futures_util::future::join_all(specs.iter().map(|spec| first.launch(spec, 129)));
    counts.interrupted += usize::from(interrupted(&world, &mut rng, 0.7, async { drop(launches.await) }).await);
    check(&world, &ledger, seed);

    // Another process, with nothing but the folder.
    let provider = fake.provider(&account, &time, folder);
    let second = Fleet::new(provider.as_ref(), &ledger, time.clone());
    loop {
        let kill = async { drop(second.kill_all(&second.open().unwrap()).await) };
        let cut = interrupted(&world, &mut rng, 0.4, kill).await;
        counts.interrupted += usize::from(cut);
        check(&world, &ledger, seed);
        if second.open().unwrap().is_empty() {
            break;
        }
    }

    let world = world.lock().unwrap();
    assert_eq!(world.running().len(), 0, "seed {seed}: machines run that nothing will end");
    let entries = ledger.entries().unwrap();
    let in_state = |state: fn(&State) -> bool| entries.iter().filter(|entry| state(&entry.state)).count();
    counts.launched = in_state(|state| *state == State::Gone);
    counts.refused = in_state(|state| matches!(state, State::Refused(_)));
    counts.absent = in_state(|state| *state == State::Absent);
    assert_eq!(counts.launched, world.machines(), "seed {seed}: the ledger and the account differ");
    counts.unanswered = world.unanswered();
    counts.requests = world.requests();
    counts.faults = world.faults();
    counts
}

fn spec(i: usize, rng: &mut ChaCha8Rng, now_ms: u64) -> Spec {
    let regions = ["us-east-1", "us-south-1", "mars-north-1"];
    Spec {
        run: "r".to_owned(),
        name: format!("n{i}"),
        machine: "gpu_1x_a100".to_owned(),
        region: regions[rng.random_range(0..regions.len())].to_owned(),
        filesystem: None,
        image: None,
        ports: Ports::default(),
        expires_ms: now_ms + 24 * 3_600_000,
    }
}

/// Does `work`, or drops it at a random request with this chance: as a killed process leaves it.
async fn interrupted(
    world: &Arc<Mutex<dyn Account>>,
    rng: &mut ChaCha8Rng,
    chance: f64,
    work: impl Future<Output = ()>,
) -> bool {
    let interrupt = {
        let mut world = world.lock().unwrap();
        let at = rng.random_bool(chance).then(|| world.requests() + rng.random_range(1..=40));
        world.interrupt(at)
    };
    let pause = rng.random_bool(0.5);
    tokio::select! {
        () = work => false,
        () = async {
            interrupt.notified().await;
            if pause {
                // Between the request's effect and its answer, or after it.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        } => true,
    }
}

/// What holds at every moment.
fn check(world: &Arc<Mutex<dyn Account>>, ledger: &Ledger, seed: u64) {
    let world = world.lock().unwrap();
    assert_eq!(world.violations(), Vec::<String>::new(), "seed {seed}");
    let entries: BTreeMap<_, _> = ledger.entries().unwrap().into_iter().map(|e| (e.intent.key.clone(), e)).collect();
    for key in world.running() {
        let entry = entries.get(&key);
        assert!(entry.is_some_and(gorgo_cloud::ledger::Entry::is_open), "seed {seed}: {key} runs unlisted");
    }
}
