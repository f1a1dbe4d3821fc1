//! The provider against the fake, one behaviour a test.

use crate::fake_lambda::Fake;
use gorgo_cloud::provider::{Ports, Sending, Spec};
use gorgo_cloud::{Fleet, Kind, Ledger, Provider, Time};
use std::time::Duration;

pub(super) fn spec(name: &str, region: &str) -> Spec {
    Spec {
        run: "r1".to_owned(),
        name: name.to_owned(),
        machine: "gpu_1x_a100".to_owned(),
        region: region.to_owned(),
        filesystem: None,
        image: None,
        ports: Ports::default(),
        expires_ms: u64::MAX,
    }
}

#[tokio::test]
async fn a_machine_that_boots_for_25_minutes_is_waited_for() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let world = fake.account("k", 1, false, &time, Some(ledger.clone()));
    world.lock().unwrap().boot_ms = 25 * 60_000;
    let lambda = fake.client("k", &time, folder.path());
    let fleet = Fleet::new(&lambda, &ledger, time.clone());
    let id = fleet.launch(&spec("slow", "us-east-1"), 129).await.unwrap();
    let node = fleet.ready(&id, |_| {}).await.unwrap();
    assert_eq!((node.name.as_str(), node.address.as_deref()), ("slow", Some("198.51.100.1")));
    assert_eq!(node.run.as_deref(), Some("r1"));
}

#[tokio::test]
async fn router_ports_open_to_peers_alone_and_nothing_is_set_in_us_south_1() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let world = fake.account("k", 2, false, &time, Some(ledger.clone()));
    let lambda = fake.client("k", &time, folder.path());
    let fleet = Fleet::new(&lambda, &ledger, time.clone());
    let mut nodes = Vec::new();
    for (name, region) in [("a", "us-east-1"), ("b", "us-south-1")] {
        let id = fleet.launch(&spec(name, region), 129).await.unwrap();
        nodes.push(fleet.ready(&id, |_| {}).await.unwrap());
    }
    for _ in 0..2 {
        let urls = lambda.open(&nodes[0], 8000, &nodes[1..]).await.unwrap();
        assert_eq!(urls, ["http://198.51.100.1:8000"]);
        lambda.open(&nodes[1], 8000, &nodes[..1]).await.unwrap();
    }
    let sets: Vec<_> = world.lock().unwrap().rulesets.values().cloned().collect();
    assert_eq!(sets.len(), 1);
    let rules = sets[0]["rules"].as_array().unwrap();
    let shown = |i: usize| (rules[i]["port_range"][0].as_u64(), rules[i]["source_network"].as_str());
    assert_eq!(rules.len(), 2);
    assert_eq!(shown(0), (Some(22), Some("0.0.0.0/0")));
    assert_eq!(shown(1), (Some(8000), Some("198.51.100.2/32")));
    fleet.kill_all(&fleet.open().unwrap()).await.unwrap();
    let world = world.lock().unwrap();
    assert!(world.rulesets.is_empty() && world.ssh_keys.is_empty());
    assert_eq!(world.violations, Vec::<String>::new());
}

#[tokio::test]
async fn a_wrong_key_is_named_and_never_shown() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let lambda = fake.client("secret-key-1", &time, folder.path());
    let error = lambda.offers().await.unwrap_err();
    assert_eq!(error.kind, Kind::Credentials);
    assert!(error.to_string().contains("LAMBDA_API_KEY"));
    assert!(!format!("{error} {lambda:?}").contains("secret-key-1"));
}

#[tokio::test]
async fn secrets_stay_out_of_the_ledger_and_out_of_what_is_listed() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    fake.account("secret-key-2", 3, false, &time, Some(ledger.clone()));
    let lambda = fake.client("secret-key-2", &time, folder.path());
    let fleet = Fleet::new(&lambda, &ledger, time.clone());
    fleet.launch(&spec("a", "us-east-1"), 129).await.unwrap();
    let rows = format!("{:?}", fleet.rows().await.unwrap());
    let text = std::fs::read_to_string(ledger.path()).unwrap();
    for secret in ["secret-key-2", "PRIVATE KEY", "the-jupyter-token"] {
        assert!(!rows.contains(secret) && !text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn the_host_key_is_made_here_handed_over_and_known_before_the_first_login() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let world = fake.account("k", 7, false, &time, None);
    let lambda = fake.client("k", &time, folder.path());
    lambda.launch(&spec("a", "us-east-1"), "0123456789abcdef", &Sending::before(u64::MAX)).await.unwrap();
    let user_data = world.lock().unwrap().machines.values().next().unwrap().user_data();
    let known = std::fs::read_to_string(folder.path().join("runs/r1/known_hosts")).unwrap();
    let public = known.trim().strip_prefix("0123456789abcdef ").unwrap();
    assert!(public.starts_with("ssh-ed25519 "));
    assert!(user_data.starts_with("#cloud-config\n") && user_data.contains(&format!("ed25519_public: {public}\n")));
    let private: String =
        user_data.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
    let path = folder.path().join("private");
    std::fs::write(&path, private).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let derived = std::process::Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output().unwrap();
    assert_eq!(String::from_utf8(derived.stdout).unwrap().trim(), public);
    assert!(!folder.path().join("runs/r1/host-0123456789abcdef").exists());
}

#[tokio::test]
async fn a_lease_that_is_over_ends_its_machine_and_no_other() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let world = fake.account("k", 4, false, &time, Some(ledger.clone()));
    let lambda = fake.client("k", &time, folder.path());
    let fleet = Fleet::new(&lambda, &ledger, time.clone());
    let short = Spec { expires_ms: time.now_ms() + 3_600_000, ..spec("short", "us-east-1") };
    fleet.launch(&short, 129).await.unwrap();
    fleet.launch(&spec("long", "us-east-1"), 129).await.unwrap();
    assert_eq!(fleet.watch_once().await.unwrap(), 2);
    time.sleep(Duration::from_secs(3_600)).await; // as if asleep: nothing ran meanwhile
    assert_eq!(fleet.watch_once().await.unwrap(), 1);
    let world = world.lock().unwrap();
    assert_eq!(world.running().map(|machine| machine.name.as_str()).collect::<Vec<_>>(), ["long"]);
}

#[tokio::test]
async fn kill_touches_only_what_the_ledger_names() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let (ledger, other) = (Ledger::open(&here).unwrap(), Ledger::open(&there).unwrap());
    fake.account("k", 5, false, &time, None);
    let lambda = fake.client("k", &time, &here);
    let mine = Fleet::new(&lambda, &ledger, time.clone());
    let theirs = Fleet::new(&lambda, &other, time.clone());
    mine.launch(&spec("mine", "us-east-1"), 129).await.unwrap();
    theirs.launch(&Spec { run: "r2".to_owned(), ..spec("theirs", "us-east-1") }, 129).await.unwrap();
    let rows = mine.rows().await.unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().any(|row| row.entry.is_none() && row.node.as_ref().unwrap().name == "theirs"));
    mine.kill_all(&mine.open().unwrap()).await.unwrap();
    let rows = theirs.rows().await.unwrap();
    assert_eq!(rows.iter().filter_map(|row| row.entry.as_ref()).count(), 1);
}

#[tokio::test]
async fn file_systems_and_keys_are_made_once_and_deleted_twice_without_harm() {
    let fake = Fake::start().await;
    let time = Time::stepped();
    let folder = tempfile::tempdir().unwrap();
    let world = fake.account("k", 6, true, &time, None);
    let lambda = fake.client("k", &time, folder.path());
    for _ in 0..2 {
        lambda.create_filesystem("models", "us-east-1").await.unwrap();
        lambda.add_ssh_key("laptop", "ssh-ed25519 AAAA x").await.unwrap();
    }
    let (filesystems, keys) = (lambda.filesystems().await.unwrap(), lambda.ssh_keys().await.unwrap());
    assert_eq!((filesystems.len(), keys.len()), (1, 1));
    for _ in 0..2 {
        lambda.delete_filesystem(&filesystems[0].id).await.unwrap();
        lambda.delete_ssh_key(&keys[0].id).await.unwrap();
    }
    assert_eq!(world.lock().unwrap().violations, Vec::<String>::new());
}
