//! The router against a bare hyper pass-through: CPU a request, added latency, first byte, relayed events, memory.
//!
//! `cargo bench -p gorgo-live --bench passthrough` runs an engine, the pass-through and the router as processes of
//! their own on loopback, drives each in turns, and reads their CPU time from /proc, which is the steadiest figure on
//! a shared machine. `floor` is what anybody writes first: hyper's server and hyper-util's pooled client; it reads the
//! body, hashes it once and sends it on. `--seconds N` sets the length of a run (2), `--rounds N` their number (3),
//! `--only WORD` the parts (`requests`, `relay`, `memory`). `--role load` drives one port with a fixed number of
//! requests, for runs of a role under a profiler.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod load;
mod roles;

use load::{Case, load, memory, relay, tap_rate};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

// As in the `gorgo` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let at = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let number = |name: &str, or: f64| at(name).and_then(|n| n.parse().ok()).unwrap_or(or);
    let port = |name: &str| number(name, 0.0) as u16;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match at("--role").map(String::as_str) {
        Some("engine") => runtime.block_on(roles::engine(port("--port"))),
        Some("floor") => runtime.block_on(roles::floor(port("--port"), port("--engine"))),
        Some("router") => runtime.block_on(roles::router(port("--port"), port("--engine"))),
        Some("load") => runtime.block_on(async {
            let stream = at("--stream").cloned();
            let (bytes, connections) = (number("--bytes", 200.0) as usize, number("--connections", 1.0) as usize);
            let case = Case { name: "load", bytes, connections, stream: stream.map(|s| &*s.leak()) };
            let (count, _) = load(port("--port"), case, Some(number("--requests", 1_000.0) as u64), 3_600.0).await;
            println!("{count} requests");
        }),
        // `cargo test --benches` only wants to know that it starts.
        _ if args.iter().any(|a| a == "--test") => {}
        _ => {
            let only = at("--only").map_or("", String::as_str);
            runtime.block_on(drive(number("--seconds", 2.0), number("--rounds", 3.0) as usize, only));
        }
    }
}

pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(role: &str, port: u16, engine: u16) -> Self {
        let (port_text, engine) = (port.to_string(), engine.to_string());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--role", role, "--port", &port_text, "--engine", &engine])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// CPU time so far, s: user and system of all threads, which the kernel counts in ns.
    pub(crate) fn cpu(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let ns = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        ns.sum::<f64>() / 1e9
    }

    pub(crate) fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn drive(seconds: f64, rounds: usize, only: &str) {
    let engine = Process::start("engine", 18_080, 0);
    let floor = Process::start("floor", 18_001, engine.port);
    let router = Process::start("router", 18_002, engine.port);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let targets = [("direct", &engine), ("floor", &floor), ("router", &router)];
    if "memory".contains(only) {
        memory(&router).await;
    }
    if "requests".contains(only) {
        requests(&targets, seconds, rounds).await;
    }
    if "relay".contains(only) {
        println!("tap: {:.0} events/s on one core", tap_rate());
        println!("{:<22} {:>8} {:>12} {:>14}", "relay", "target", "events/s", "cpu ns/event");
        for (name, shape) in [("16 events a write", "48000x16"), ("1 event a write", "6000x1")] {
            for (target, process) in &targets {
                let mut runs = Vec::new();
                for _ in 0..rounds {
                    let before = process.cpu();
                    let (events, took) = relay(process.port, shape, 2, seconds).await;
                    runs.push((events / took, (process.cpu() - before) * 1e9 / events));
                }
                let (rate, cpu) = runs.into_iter().unzip::<f64, f64, Vec<f64>, Vec<f64>>();
                println!("{name:<22} {target:>8} {:>12.0} {:>14.0}", median(rate), median(cpu));
            }
        }
    }
}

async fn requests(targets: &[(&str, &Process)], seconds: f64, rounds: usize) {
    println!(
        "{:<18} {:>8} {:>8} {:>12} {:>8} {:>8} {:>8}",
        "case", "target", "req/s", "cpu us/req", "x floor", "p50 us", "p99 us"
    );
    let case = |name, bytes, connections, stream| Case { name, bytes, connections, stream };
    for case in [
        case("200 B, c=64", 200, 64, None),
        case("80 kB, c=64", 80_000, 64, None),
        case("200 B, c=1", 200, 1, None),
        case("80 kB, c=1", 80_000, 1, None),
        case("events x16, c=64", 200, 64, Some("16x16")),
        case("events x16, c=1", 200, 1, Some("16x16")),
    ] {
        let mut rows: Vec<Vec<[f64; 4]>> = vec![Vec::new(); targets.len()];
        for _ in 0..rounds {
            for (i, (_, target)) in targets.iter().enumerate() {
                let before = target.cpu();
                let (count, times) = load(target.port, case, None, seconds).await;
                let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
                let cpu = (target.cpu() - before) * 1e6 / count as f64;
                rows[i].push([count as f64 / seconds, cpu, at(0.5), at(0.99)]);
            }
        }
        let of = |i: usize, k: usize| median(rows[i].iter().map(|run| run[k]).collect());
        for (i, (name, _)) in targets.iter().enumerate() {
            println!(
                "{:<18} {name:>8} {:>8.0} {:>12.1} {:>8.2} {:>8.0} {:>8.0}",
                case.name,
                of(i, 0),
                of(i, 1),
                of(i, 1) / of(1, 1),
                of(i, 2),
                of(i, 3)
            );
        }
    }
}
