//! The log of a day in a router's life: one line for each change of state, in order, with the replica and the cause; and
//! no line without a change.

use crate::client::send;
use crate::processes::{Process, ports};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The log file of a router, read step by step.
struct Log {
    path: PathBuf,
    read: usize,
}

impl Log {
    /// Its whole lines so far as `LEVEL message`.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let shown = |line: &str| {
            let (head, message) = line.split_once(": ").unwrap_or_else(|| panic!("no line of log: {line}"));
            format!("{} {message}", head.split_whitespace().nth(1).unwrap())
        };
        whole.lines().map(shown).collect()
    }

    /// Waits for as many new lines as there are here; in whatever order, each begins with one of these.
    fn tells(&mut self, expected: &[&str]) {
        let until = Instant::now() + Duration::from_secs(60);
        let mut lines = self.lines();
        while lines.len() < self.read + expected.len() {
            assert!(Instant::now() < until, "{expected:?} is not told: {lines:#?}");
            std::thread::sleep(Duration::from_millis(20));
            lines = self.lines();
        }
        let told = &lines[self.read..];
        let is_told = |text: &&str| told.iter().filter(|line| line.starts_with(*text)).count() == 1;
        assert!(told.len() == expected.len() && expected.iter().all(is_told), "{expected:#?} and not {told:#?}");
        self.read = lines.len();
    }
}

/// A router as an operator has it: a configuration file, names, an admin key, a log file.
struct Router {
    process: Process,
    at: SocketAddr,
    config: PathBuf,
    pid_file: PathBuf,
    log: Log,
}

impl Router {
    fn start(dir: &Path, config: &str) -> Self {
        let path = |name: &str| dir.join(name);
        let (config_file, pid_file, log) = (path("router.toml"), path("router.pid"), path("router.log"));
        std::fs::write(&config_file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gorgo"));
        command.args(["proxy", "start", "--listen", "127.0.0.1:0", "--config"]).arg(&config_file);
        command.arg("--pid-file").arg(&pid_file).stderr(File::create(&log).unwrap());
        let (process, at) = Process::of(&mut command).serving();
        Self { process, at, config: config_file, pid_file, log: Log { path: log, read: 0 } }
    }

    /// Runs `gorgo proxy ...` with this admin key; returns whether it succeeded.
    fn operate(&self, key: &str, args: &[&str]) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gorgo"));
        command.args(["proxy", "--port", &self.at.port().to_string()]).args(args).env("GORGO_ADMIN_KEY", key);
        command.output().unwrap().status.success()
    }

    fn ask(&self) -> String {
        let body = r#"{"prompt": "good morning", "max_tokens": 3}"#;
        let answer = send(self.at, "POST", "/v1/completions", body, Duration::from_secs(30));
        let answer = tokio::runtime::Runtime::new().unwrap().block_on(answer);
        assert!(answer.whole && answer.status == 200, "{answer:?}");
        answer.header("x-gorgo-replica").unwrap().to_owned()
    }
}

#[test]
fn the_log_of_a_day_tells_of_each_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let addrs = ports(2);
    let _first = Process::engine(addrs[0], &[]);
    let mut second = Process::engine(addrs[1], &[]);
    let config = format!(
        "replicas = [{{url = \"http://{}\", name = \"west\"}}, {{url = \"http://{}\", name = \"east\"}}]\n\
         probes = {{period_ms = 50, scrape_ms = 50}}\nlimits.connections = 50\ntimeouts.settle_ms = 0\n\
         security.admin_key = \"rule\"\n",
        addrs[0], addrs[1]
    );
    let mut router = Router::start(dir.path(), &config);
    let banner = format!(
        "INFO gorgo {} proxy: policy predictive, 2 replicas (west, east), 0 peers; requests to http://{at}/v1, metrics at \
         http://{at}/metrics",
        env!("CARGO_PKG_VERSION"),
        at = router.at
    );
    let added = [0, 1].map(|i| format!("INFO replica {} added (http://{})", ["west", "east"][i], addrs[i]));
    let up = "INFO replica west is up";
    router.log.tells(&[&banner, &added[0], &added[1], up, "INFO replica east is up"]);

    // Drained twice, told once.
    assert!(
        router.operate("rule", &["servers", "drain", "east"]) && router.operate("rule", &["servers", "drain", "east"])
    );
    router.log.tells(&["INFO replica east is draining: no new requests"]);
    assert_eq!(router.ask(), "west");
    assert!(router.operate("rule", &["servers", "undrain", "east"]));
    router.log.tells(&["INFO replica east takes requests again"]);

    second.kill();
    router.log.tells(&["WARN replica east is down: "]);
    let down = router.log.lines().pop().unwrap();
    assert!(down.contains("cannot connect: Connection refused"), "the cause: {down}");
    // It stays down through many probes that fail in another way, without another word.
    let mute = TcpListener::bind(addrs[1]).unwrap();
    mute.incoming().take(20).for_each(|connection| drop(connection.unwrap()));
    drop(mute);
    let _second = Process::engine(addrs[1], &[]);
    router.log.tells(&["INFO replica east is up"]);

    assert!(router.operate("rule", &["policy", "least-load"]) && router.operate("rule", &["policy", "least-load"]));
    router.log.tells(&["INFO policy changed from predictive to least-load ("]);
    std::fs::write(&router.config, format!("{config}timeouts.idle_ms = \"5s\"\n")).unwrap();
    assert!(router.operate("rule", &["reload"]));
    router.log.tells(&["INFO settings changed: timeouts.idle_ms = 5000 (was 75000)"]);
    assert!(!router.operate("guess", &["policy", "random"]));
    let refused =
        "WARN an administrator's request from 127.0.0.1 for `/proxy/policy` is refused: its key is wrong or missing";
    router.log.tells(&[refused]);
    assert!(router.operate("rule", &["clear-cache"]));
    router.log.tells(&["INFO prefix index emptied ("]);
    assert!(router.operate("rule", &["stop", "--pid-file", router.pid_file.to_str().unwrap()]));
    router.log.tells(&["INFO stopping: not ready from now on"]);
    assert!(router.process.ended().success());
    assert_eq!(router.log.lines().len(), router.log.read, "{:#?}", router.log.lines());
}

/// SGLang without --enable-metrics, the commonest mistake: the router runs blind, and says so once.
#[test]
fn an_engine_without_metrics_is_told_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut head) {
                    let found = head[..n].starts_with(b"GET /v1/models ") || head[..n].starts_with(b"GET /health ");
                    let answer: &[u8] = if found {
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 19\r\n\r\n{\"data\":[{\"id\":1}]}"
                    } else {
                        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
                    };
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let config = format!("listen = \"127.0.0.1:0\"\nreplicas = [{{ name = \"mute\", url = \"http://{engine}\" }}]\n");
    let mut router = Router::start(dir.path(), &config);
    let what = "WARN metrics of replica mute are not read, so its queue, KV cache and restarts are not known: /metrics is \
                answered with 404 Not Found (SGLang needs --enable-metrics)";
    let until = Instant::now() + Duration::from_secs(60);
    while !router.log.lines().iter().any(|line| line == what) {
        assert!(Instant::now() < until, "{:#?}", router.log.lines());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(3)); // it is read each second
    router.log.read = 0;
    assert_eq!(router.log.lines().iter().filter(|line| line.contains("metrics of replica")).count(), 1);
}

#[test]
fn a_low_limit_of_files_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let gorgo = env!("CARGO_BIN_EXE_gorgo");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 200; exec \"$0\" \"$@\"", gorgo, "proxy", "start", "--listen", "127.0.0.1:0"]);
    let (_router, at) = Process::of(command.stderr(File::create(&log).unwrap())).serving();
    // Served: all that is said at the start is said.
    assert_eq!(
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(send(at, "GET", "/health", "", Duration::from_secs(30)))
            .status,
        200
    );
    let lines = Log { path: log, read: 0 }.lines();
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("files")).collect();
    assert!(
        told.len() == 1
            && told[0].starts_with("WARN this process may open 200 files: ")
            && told[0].contains("ulimit -n"),
        "{lines:#?}"
    );
}
