//! `gorgo proxy stop` on real processes.

use crate::client::{metric, send};
use crate::processes::{Process, ports};
use crate::{gorgo, text};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn stop(pid_file: &Path, more: &[&str]) -> Output {
    gorgo(&[&["proxy", "stop", "--pid-file", pid_file.to_str().unwrap()], more].concat(), "")
}

/// A refusal of one sentence.
fn refused(out: &Output, says: &str) {
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: ") && message.contains(says), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

/// An engine that needs seconds for an answer, and a proxy with a pid file.
fn slow_world(pid_file: &Path) -> (Process, Process, SocketAddr) {
    let addrs = ports(1);
    let engine = Process::engine(addrs[0], &["--set", "decode.fixed_ms=150"]);
    let more = ["--pid-file", pid_file.to_str().unwrap(), "--set", "timeouts.settle_ms=100"];
    let (proxy, router) = Process::proxy(&addrs, &more);
    (engine, proxy, router)
}

const ASK: &str = r#"{"prompt": "tell me more", "stream": true, "max_tokens": 40, "ignore_eos": true}"#;

/// Waits until a stream is under way.
async fn begun(router: SocketAddr) {
    for _ in 0..600 {
        if metric(router, "gorgo_replica_running_requests").await == 1.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no stream has begun");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn stop_waits_until_open_streams_are_finished() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let (_engine, mut proxy, router) = slow_world(&pid_file);
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap().trim(), proxy.id().to_string());
    let second = gorgo(&["proxy", "start", "--listen", "127.0.0.1:0", "--pid-file", pid_file.to_str().unwrap()], "");
    refused(&second, "is the pid file of a running router");
    let runtime = runtime();
    let stream =
        runtime.spawn(async move { send(router, "POST", "/v1/completions", ASK, Duration::from_secs(60)).await });
    runtime.block_on(begun(router));
    refused(&stop(&pid_file, &["--wait", "0"]), "still finishes requests");
    assert!(proxy.is_running());
    let out = stop(&pid_file, &[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout).trim(), format!("stopped {}", proxy.id()));
    let answer = runtime.block_on(stream).unwrap();
    assert!(answer.whole && answer.events().last() == Some("[DONE]"), "{answer:?}");
    assert!(proxy.ended().success() && !pid_file.exists());
}

#[test]
fn stop_by_force_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let (_engine, mut proxy, router) = slow_world(&pid_file);
    let runtime = runtime();
    let stream =
        runtime.spawn(async move { send(router, "POST", "/v1/completions", ASK, Duration::from_secs(60)).await });
    runtime.block_on(begun(router));
    let out = stop(&pid_file, &["--force"]);
    assert!(out.status.success() && !pid_file.exists(), "{}", text(&out.stderr));
    assert!(!proxy.ended().success());
    assert!(!runtime.block_on(stream).unwrap().whole);
}

#[test]
fn stop_never_touches_a_process_that_is_no_router() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    refused(&stop(&pid_file, &[]), "no router to stop");
    for nothing in ["", "abc", "0", "1", "-5", "99999999999999"] {
        std::fs::write(&pid_file, nothing).unwrap();
        refused(&stop(&pid_file, &[]), "holds no process id");
    }
    // Some other process has the number by now.
    let mut other = Process::engine(ports(1)[0], &[]);
    std::fs::write(&pid_file, other.id().to_string()).unwrap();
    refused(&stop(&pid_file, &["--force"]), "or is another program now");
    assert!(other.is_running() && !pid_file.exists(), "the stale file is gone, the process is not");
    refused(&gorgo(&["lb", "stop", "--port", "1"], ""), "gorgo-lb-1.pid");
}

#[test]
fn a_router_ends_in_order_when_it_is_stopped_as_soon_as_its_pid_file_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let more = ["--pid-file", pid_file.to_str().unwrap(), "--set", "timeouts.settle_ms=0"];
    let servers = format!("http://{}", ports(1)[0]);
    let args = [&["proxy", "start", "--listen", "127.0.0.1:0", "--servers", &servers], &more[..]].concat();
    let mut proxy = Process::spawn(&args);
    while std::fs::read_to_string(&pid_file).ok().is_none_or(|text| !text.ends_with('\n')) {
        assert!(proxy.is_running(), "it wrote no pid file");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_raw(proxy.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(proxy.ended().success() && !pid_file.exists());
}

#[test]
fn a_router_that_was_killed_leaves_a_stale_file_that_the_next_one_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let more = ["--pid-file", pid_file.to_str().unwrap(), "--set", "timeouts.settle_ms=0"];
    let (mut first, _) = Process::proxy(&ports(1), &more);
    first.kill();
    assert!(pid_file.exists());
    let (mut second, _) = Process::proxy(&ports(1), &more);
    assert!(stop(&pid_file, &[]).status.success());
    assert!(second.ended().success());
}

#[tokio::test]
async fn a_router_whose_log_nobody_reads_answers_and_stops() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut other = writer.try_clone().unwrap();
    // Another process of the same service fills the pipe.
    let fills = std::thread::spawn(move || while other.write_all(&[b'.'; 512]).is_ok() {});
    let engines = ports(1);
    let _engine = Process::engine(engines[0], &[]);
    let url = format!("http://{}", engines[0]);
    let args = ["proxy", "start", "--listen", "127.0.0.1:0", "--servers", &url, "--set", "timeouts.settle_ms=0"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_gorgo"));
    let (mut proxy, router) = Process::of(command.args(args).stderr(writer)).serving();
    drop(command); // the end of the pipe that it holds
    for _ in 0..3 {
        let answer = send(router, "POST", "/proxy/policy", r#"{"policy": "random"}"#, Duration::from_secs(10)).await;
        assert_eq!(answer.status, 200, "a change that is logged");
    }
    let pid = rustix::process::Pid::from_raw(proxy.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    for _ in 0..300 {
        if !proxy.is_running() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!proxy.is_running(), "SIGTERM does not end it");
    drop(reader);
    fills.join().unwrap();
}
