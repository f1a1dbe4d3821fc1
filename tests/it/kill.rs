//! Engines die and return under load: no request is lost before its first token, and streams that had begun end with
//! an error event.

use crate::client::{Answer, metric, send};
use crate::processes::{Process, ports};
use gorgo_benchmark::text::Answer as Expected;
use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ENGINES: usize = 4;
const TOKENS: u32 = 30;
/// Far longer than any request takes.
const HUNG: Duration = Duration::from_secs(30);

/// How requests ended.
#[derive(Debug, Default)]
struct Tally {
    sent: usize,
    /// With the whole, correct answer.
    ok: usize,
    /// Begun, then ended by an error event.
    told: usize,
    /// Begun, then ended without an error event.
    cut: usize,
    /// Ended before they began.
    lost: usize,
    hung: usize,
}

/// One death: which engine, when, and when its `/health` answered again.
#[derive(Debug, Clone, Copy)]
struct Death {
    addr: SocketAddr,
    at: Instant,
    healthy: Instant,
}

/// Long enough that waiting requests weigh more than small differences in round trips.
fn prompt(n: usize) -> String {
    format!("question {n}, of many, asked once only. ").repeat(25)
}

async fn ask(router: SocketAddr, n: usize, stream: bool) -> Answer {
    let body = serde_json::json!({"prompt": prompt(n), "stream": stream, "max_tokens": TOKENS, "ignore_eos": true});
    send(router, "POST", "/v1/completions", &body.to_string(), HUNG).await
}

impl Tally {
    fn count(&mut self, n: usize, stream: bool, answer: &Answer) {
        let right = answer.text() == Expected::to(prompt(n).as_bytes()).text(0, TOKENS);
        let done = !stream || answer.events().last() == Some("[DONE]");
        self.sent += 1;
        if answer.hung {
            self.hung += 1;
        } else if answer.status != 200 {
            self.lost += 1;
        } else if answer.whole && right && done && !answer.tells_error() {
            self.ok += 1;
            return;
        } else if stream && answer.whole && answer.tells_error() && !answer.text().is_empty() {
            self.told += 1;
            return;
        } else {
            self.cut += 1;
        }
        eprintln!("request {n}: {answer:?}");
    }
}

fn is_healthy(addr: SocketAddr) -> bool {
    let mut answer = [0; 12];
    let asked = TcpStream::connect(addr).and_then(|mut io| {
        io.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        io.read_exact(&mut answer)
    });
    asked.is_ok() && &answer == b"HTTP/1.1 200"
}

/// An engine so far away that some requests are on their way or waiting when it dies, not only running.
fn start(addr: SocketAddr) -> Process {
    Process::engine(addr, &["--rtt-ms", "50"])
}

/// When each engine last sent the first byte of an answer.
type Served = Mutex<HashMap<String, Instant>>;

/// Numbers of the requests without an answer.
type Open = Mutex<BTreeSet<usize>>;

/// Waits until none of the requests that were open at the last death is. On a busy machine a request lasts seconds, and one
/// whose replicas all die is refused: it might be the cause.
fn wait_for(open: &Open, at_last_death: &BTreeSet<usize>) {
    let until = Instant::now() + HUNG;
    while !open.lock().unwrap().is_disjoint(at_last_death) {
        assert!(Instant::now() < until, "requests hang: {open:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills one engine a second and starts it again; at the end waits until the router has used every one of them again.
fn kill_in_turn(
    engines: &mut [Process],
    addrs: &[SocketAddr],
    began: Instant,
    seconds: u32,
    served: &Served,
    open: &Open,
) -> Vec<Death> {
    let mut deaths = Vec::new();
    let mut at_last_death = BTreeSet::new();
    for second in 1..seconds {
        std::thread::sleep((began + Duration::from_secs(second.into())).saturating_duration_since(Instant::now()));
        let which = second as usize % ENGINES;
        wait_for(open, &at_last_death);
        at_last_death.clone_from(&open.lock().unwrap());
        let at = Instant::now();
        engines[which].kill();
        engines[which] = start(addrs[which]);
        while !is_healthy(addrs[which]) {
            std::thread::sleep(Duration::from_millis(5));
        }
        deaths.push(Death { addr: addrs[which], at, healthy: Instant::now() });
    }
    let returned: HashMap<SocketAddr, Instant> = deaths.iter().map(|death| (death.addr, death.healthy)).collect();
    let used_again = || {
        let served = served.lock().unwrap();
        returned.iter().all(|(addr, healthy)| served.get(&addr.to_string()).is_some_and(|at| at > healthy))
    };
    let until = Instant::now() + HUNG;
    while !used_again() {
        assert!(Instant::now() < until, "engines that return are used again: {returned:?} {served:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    deaths
}

/// `rate` requests a second, every other one streamed, while an engine dies every second.
async fn run(rate: u32, seconds: u32) {
    let addrs = ports(ENGINES);
    let mut engines: Vec<Process> = addrs.iter().map(|&addr| start(addr)).collect();
    let (_router, router) = Process::proxy(&addrs, &["--policy", "gorgo"]);
    let began = Instant::now();
    let served = Arc::new(Served::default());
    let open = Arc::new(Open::default());
    let (dying, seen, answering) = (addrs.clone(), Arc::clone(&served), Arc::clone(&open));
    let killer = tokio::task::spawn_blocking(move || {
        let deaths = kill_in_turn(&mut engines, &dying, began, seconds, &seen, &answering);
        (deaths, engines)
    });
    let mut asked = JoinSet::new();
    let mut n = 0;
    while !killer.is_finished() {
        tokio::time::sleep_until((began + Duration::from_secs(1).mul_f64(n as f64 / f64::from(rate))).into()).await;
        let (served, open) = (Arc::clone(&served), Arc::clone(&open));
        open.lock().unwrap().insert(n);
        asked.spawn(async move {
            let answer = ask(router, n, n % 2 == 0).await;
            open.lock().unwrap().remove(&n);
            if let (Some(replica), Some(at)) = (answer.header("x-gorgo-replica"), answer.first_byte) {
                let mut served = served.lock().unwrap();
                let last = served.entry(replica.to_owned()).or_insert(at);
                *last = at.max(*last);
            }
            (n, answer)
        });
        n += 1;
    }
    let (deaths, _alive) = killer.await.unwrap();
    let answers = asked.join_all().await;

    let mut tallies = [Tally::default(), Tally::default()];
    for (n, answer) in &answers {
        tallies[n % 2].count(*n, n % 2 == 0, answer);
    }
    let back: Vec<Option<f64>> = deaths
        .iter()
        .enumerate()
        .map(|(i, death)| {
            let again = deaths[i + 1..].iter().find(|d| d.addr == death.addr).map(|d| d.at);
            let by_it = answers.iter().filter(|(_, a)| a.header("x-gorgo-replica") == Some(&death.addr.to_string()));
            let first = by_it.filter_map(|(_, a)| a.first_byte).filter(|&at| at > death.healthy).min();
            first.filter(|&at| again.is_none_or(|again| at < again)).map(|at| (at - death.healthy).as_secs_f64())
        })
        .collect();
    let mut used: Vec<f64> = back.iter().flatten().copied().collect();
    used.sort_by(f64::total_cmp);
    let at = |share: f64| used.get(((used.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    let retries = metric(router, "gorgo_retries_total").await;
    eprintln!(
        "streams {:?}\nin one piece {:?}\nretries {retries}\n{} engines returned, {} used again (s after /health: median {:.2}, p90 {:.2}, \
         most {:.2}), {} within 3 s",
        tallies[0],
        tallies[1],
        deaths.len(),
        used.len(),
        at(0.5),
        at(0.9),
        at(1.0),
        used.iter().filter(|&&s| s <= 3.0).count()
    );

    for tally in &tallies {
        assert_eq!((tally.lost, tally.hung, tally.cut), (0, 0, 0), "{tally:?}");
    }
    assert_eq!(tallies[1].ok, tallies[1].sent, "an answer in one piece can always be asked for again");
    assert!(retries > 0.0 && tallies[0].told > 0, "the deaths were felt");
    assert_eq!(metric(router, "gorgo_in_flight_requests").await, 0.0);
    for gauge in ["gorgo_replica_waiting_requests", "gorgo_replica_running_requests"] {
        assert_eq!(metric(router, gauge).await, 0.0, "{gauge}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_killed_every_second_lose_no_request_that_had_not_begun() {
    run(30, 8).await;
}

/// `cargo test --test it -- --ignored --nocapture killed`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn engines_killed_every_second_for_a_minute_lose_no_request_that_had_not_begun() {
    run(30, 60).await;
}
