//! 1,000 random fleets: launched, interrupted, killed, with faults drawn by seeds.

use crate::lambda::Fake;
use crate::lambda::world::World;
use futures_util::StreamExt;
use gorgo_cloud::provider::Spec;
use gorgo_cloud::{Fleet, Ledger, Time, ledger::State};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_fleets_leave_nothing_launched_twice_and_nothing_running_unlisted() {
    let fake = Arc::new(Fake::start().await);
    // In memory where there is such a folder: thousands of syncs would wait for the disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let fleets = futures_util::stream::iter(0..1_000_u64).map(|seed| {
        let (fake, folder) = (fake.clone(), folder.path().join(seed.to_string()));
        tokio::spawn(async move { fleet(&fake, seed, &folder).await })
    });
    let all: Vec<_> = fleets.buffer_unordered(64).map(|counts| counts.unwrap()).collect().await;
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
    assert!(launched > 1_000 && refused > 100 && interrupted > 300 && unanswered > 100 && faults > 1_000, "{text}");
    if let Some(file) = std::env::var_os("GORGO_TEST_COUNTS") {
        std::fs::write(file, text).unwrap();
    }
}

async fn fleet(fake: &Fake, seed: u64, folder: &Path) -> Counts {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let account = format!("account-{seed}");
    let ledger = Ledger::open(folder).unwrap();
    let time = Time::stepped();
    let world = fake.account(&account, seed, true, &time, Some(ledger.clone()));
    let mut counts = Counts::default();

    let specs: Vec<Spec> = (0..rng.random_range(1..=4)).map(|i| spec(i, &mut rng)).collect();
    let lambda = fake.client(&account, &time, folder);
    let first = Fleet { provider: &lambda, ledger: &ledger, time: time.clone() };
    let launches = futures_util::future::join_all(specs.iter().map(|spec| first.launch(spec, 129)));
    counts.interrupted += usize::from(interrupted(&world, &mut rng, 0.7, async { drop(launches.await) }).await);
    check(&world, &ledger, seed);

    // Another process, with nothing but the folder.
    let lambda = fake.client(&account, &time, folder);
    let second = Fleet { provider: &lambda, ledger: &ledger, time: time.clone() };
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
    assert_eq!(world.running().count(), 0, "seed {seed}: machines run that nothing will end");
    let entries = ledger.entries().unwrap();
    let in_state = |state: fn(&State) -> bool| entries.iter().filter(|entry| state(&entry.state)).count();
    counts.launched = in_state(|state| *state == State::Gone);
    counts.refused = in_state(|state| matches!(state, State::Refused(_)));
    counts.absent = in_state(|state| *state == State::Absent);
    assert_eq!(counts.launched, world.machines.len(), "seed {seed}: the ledger and the account differ");
    counts.unanswered = world.unanswered;
    counts.requests = world.requests;
    counts.faults = world.faults_drawn;
    counts
}

fn spec(i: usize, rng: &mut ChaCha8Rng) -> Spec {
    let regions = ["us-east-1", "us-south-1", "mars-north-1"];
    Spec {
        run: "r".to_owned(),
        name: format!("n{i}"),
        machine: "gpu_1x_a100".to_owned(),
        region: regions[rng.random_range(0..regions.len())].to_owned(),
        filesystem: None,
        expires_ms: u64::MAX,
    }
}

/// Does `work`, or drops it at a random request with this chance: as a killed process leaves it.
async fn interrupted(
    world: &Arc<Mutex<World>>,
    rng: &mut ChaCha8Rng,
    chance: f64,
    work: impl Future<Output = ()>,
) -> bool {
    let interrupt = {
        let mut world = world.lock().unwrap();
        world.interrupt = Arc::default();
        world.interrupt_at = rng.random_bool(chance).then(|| world.requests + rng.random_range(1..=40));
        world.interrupt.clone()
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
fn check(world: &Arc<Mutex<World>>, ledger: &Ledger, seed: u64) {
    let world = world.lock().unwrap();
    assert_eq!(world.violations, Vec::<String>::new(), "seed {seed}");
    let entries: BTreeMap<_, _> = ledger.entries().unwrap().into_iter().map(|e| (e.intent.key.clone(), e)).collect();
    for machine in world.running() {
        let entry = entries.get(&machine.key);
        assert!(entry.is_some_and(gorgo_cloud::ledger::Entry::is_open), "seed {seed}: {machine:?} runs unlisted");
    }
}
