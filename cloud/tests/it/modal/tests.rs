//! The provider against the fake, one behaviour a test.

use crate::fake_modal::{Fake, SECRET, world::World};
use gorgo_cloud::modal::Modal;
use gorgo_cloud::provider::{Life, Node, Ports, Provider, Spec};
use gorgo_cloud::shell::Command;
use gorgo_cloud::{Fleet, Kind, Ledger, Time};
use std::sync::{Arc, Mutex};

struct Field {
    _folder: tempfile::TempDir,
    fake: Fake,
    time: Time,
    ledger: Ledger,
    world: Arc<Mutex<World>>,
    modal: Modal,
}

impl Field {
    async fn new(seed: u64, faults: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (fake, time) = (Fake::start().await, Time::stepped());
        let ledger = Ledger::open(folder.path()).unwrap();
        let world = fake.account("ak-1", seed, faults, &time, Some(ledger.clone()), folder.path().join("sandboxes"));
        let modal = fake.client("ak-1", &time);
        Self { _folder: folder, fake, time, ledger, world, modal }
    }

    fn fleet(&self) -> Fleet<'_> {
        Fleet::new(&self.modal, &self.ledger, self.time.clone())
    }

    fn spec(&self, name: &str) -> Spec {
        Spec {
            run: "r1".to_owned(),
            name: name.to_owned(),
            machine: "gpu_1x_a100".to_owned(),
            region: "us-west".to_owned(),
            filesystem: None,
            image: None,
            ports: Ports { engine: 18_080, router: 18_000, proxy: 19_000 },
            expires_ms: self.time.now_ms() + 3_600_000,
        }
    }

    /// A sandbox that runs.
    async fn node(&self, name: &str) -> Node {
        let id = self.fleet().launch(&self.spec(name), 129).await.unwrap();
        self.fleet().ready(&id, |_| {}).await.unwrap()
    }

    fn violations(&self) -> Vec<String> {
        self.world.lock().unwrap().violations.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_launched_reached_by_tunnels_and_ended() {
    let field = Field::new(1, false).await;
    let spec = field.spec("a");
    field.modal.prepare(&[&spec], &|_| {}).await.unwrap();
    let node = field.node("a").await;
    assert_eq!((node.name.as_str(), node.region.as_str(), node.gpus), ("a", "us-west", 1));
    assert_eq!(node.cents_per_hour, Some(368), "2.10 dollars, and three quarters more for a narrow region");
    assert_eq!(field.modal.url(&node, 18_000).await.unwrap(), "http://127.0.0.1:18000");
    assert!(field.modal.url(&node, 18_080).await.unwrap_err().meaning.contains("no tunnel"));
    field.node("b").await;
    field.node("c").await;
    assert_eq!(field.modal.list().await.unwrap().len(), 3, "of several pages");
    field.fleet().kill_all(&field.fleet().open().unwrap()).await.unwrap();
    assert_eq!(field.world.lock().unwrap().running().count(), 0);
    assert!(matches!(field.modal.life(&node.id).await, Life::Ended(why) if why.contains("terminated")));
    assert_eq!(field.violations(), Vec::<String>::new());
    let image = field.world.lock().unwrap().images.values().map(Vec::len).max();
    assert_eq!(image, Some(5), "a tag, and two layers on it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_dies_after_its_creation_is_named_with_its_reason() {
    let field = Field::new(2, false).await;
    field.world.lock().unwrap().next_dies = true;
    let id = field.fleet().launch(&field.spec("a"), 129).await.unwrap();
    let error = field.fleet().ready(&id, |_| {}).await.unwrap_err();
    assert!(error.meaning.contains("it died"), "{error}");
    field.fleet().kill_all(&field.fleet().open().unwrap()).await.unwrap();
    assert!(field.fleet().open().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_beyond_a_day_and_a_wrong_type_are_refused_and_cost_nothing() {
    let field = Field::new(3, false).await;
    let day = 24 * 3_600_000;
    let long = Spec { expires_ms: field.time.now_ms() + day + 60_000, ..field.spec("a") };
    assert!(field.fleet().launch(&long, 129).await.unwrap_err().meaning.contains("24 hours"));
    let wrong = Spec { machine: "gpu_9x_h100".to_owned(), ..field.spec("b") };
    assert!(field.fleet().launch(&wrong, 129).await.unwrap_err().sign.contains("gpu_9x_h100"));
    assert!(field.world.lock().unwrap().machines.is_empty() && field.fleet().open().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn modal_itself_ends_a_sandbox_with_its_lease() {
    let field = Field::new(4, false).await;
    let node = field.node("a").await;
    field.time.sleep(std::time::Duration::from_secs(3_600)).await;
    assert!(matches!(field.modal.life(&node.id).await, Life::Ended(why) if why.contains("lease")));
    assert_eq!(field.fleet().watch_once().await.unwrap(), 0, "the ledger learns it");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_take_input_and_give_output_whole_however_streams_break() {
    let field = Field::new(5, true).await;
    let id = loop {
        // Some die at once, as the faults are drawn.
        let id = field.fleet().launch(&field.spec("a"), 129).await;
        let Ok(id) = id else { continue };
        if field.fleet().ready(&id, |_| {}).await.is_ok() {
            break id;
        }
        field.world.lock().unwrap().machines.clear();
    };
    let nodes = field.modal.list().await.unwrap();
    let node = nodes.into_iter().find(|node| node.id == id).unwrap();
    let shell = field.modal.reach(&node).await.unwrap();
    let bytes: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).take(900_000).collect();
    for _ in 0..8 {
        shell.put("deep/file", 0o600, &bytes).await.unwrap();
        assert_eq!(shell.get("deep/file").await.unwrap(), bytes);
    }
    let count = shell.must(&Command::script("seq 1 20000 | tail -n 1; echo said >&2; exit 0", &[""])).await.unwrap();
    assert_eq!((count.text().as_str(), count.last_line().as_str()), ("20000", "said"));
    assert_eq!(shell.run(&Command::new(&["sh", "-c", "exit 7"])).await.unwrap().code, 7);
    assert_eq!(shell.run(&Command::new(&["sh", "-c", "kill -9 $$"])).await.unwrap().code, 137);
    // A command that reads nothing ends all the same.
    assert_eq!(shell.run(&Command::new(&["true"]).stdin(bytes.clone())).await.unwrap().code, 0);
    assert!(shell.run(&Command::new(&["no-such-program"])).await.is_err());
    let silent = Command::new(&["sleep", "60"]).silence(std::time::Duration::from_millis(50));
    assert!(shell.run(&silent).await.unwrap_err().meaning.contains("wrote nothing"));
    let long = Command::new(&["echo", &"x".repeat(70_000)]);
    assert!(shell.run(&long).await.unwrap_err().meaning.contains("65536"));
    let world = field.world.lock().unwrap();
    assert!(world.streams_broken > 5, "{}", world.streams_broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_inside_is_reached_from_here() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let field = Field::new(6, false).await;
    let node = field.node("a").await;
    let shell = field.modal.reach(&node).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&vec![b'y'; 300_000]).await.unwrap();
        word
    });
    let mut stream = tokio::net::TcpStream::connect(shell.address(port).await.unwrap()).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!((answer.len(), &served.await.unwrap()), (300_000, b"ping"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_named_and_never_shown() {
    let field = Field::new(7, false).await;
    let mut config = field.fake.config("ak-2", &field.time);
    config.token_secret = "as-wrong".to_owned().into();
    let modal = Modal::new(&config).unwrap();
    let error = modal.offers().await.unwrap_err();
    assert_eq!(error.kind, Kind::Credentials);
    assert!(error.remedy.contains("MODAL_TOKEN_ID"));
    assert!(!format!("{error} {modal:?} {config:?}").contains("as-wrong"));
    field.node("a").await;
    let rows = format!("{:?}", field.fleet().rows().await.unwrap());
    let text = std::fs::read_to_string(field.ledger.path()).unwrap();
    assert!(!rows.contains(SECRET) && !text.contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_the_list_is_renewed_before_it_ends() {
    let field = Field::new(8, false).await;
    field.node("a").await;
    let issued = |field: &Field| field.world.lock().unwrap().tokens.len();
    let before = issued(&field);
    for _ in 0..12 {
        field.modal.list().await.unwrap();
        field.time.sleep(std::time::Duration::from_secs(5 * 60)).await;
    }
    assert!((before + 3..=before + 7).contains(&issued(&field)), "{}", issued(&field));
    assert_eq!(field.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_built_stops_a_launch_before_it_is_written_down() {
    let field = Field::new(9, false).await;
    let spec = Spec { image: Some("example/broken:1".to_owned()), ..field.spec("a") };
    let said = Mutex::new(Vec::new());
    let failed = field.modal.prepare(&[&spec], &|line| said.lock().unwrap().push(line.to_owned())).await.unwrap_err();
    assert!(failed.to_string().contains("could not build"), "{failed}");
    assert!(said.lock().unwrap().iter().any(|line| line.contains("step 2")), "{said:?}");
}
