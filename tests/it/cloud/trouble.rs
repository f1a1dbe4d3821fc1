//! What the commands on machines say and how they end where something is wrong.

use super::{command, must, ran};
use crate::fake_lambda::Fake;
use gorgo_cloud::Time;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// A ledger with one launch of this API key, whose lease ended long ago.
fn ledger(state: &Path, key: &str) {
    std::fs::create_dir_all(state).unwrap();
    let account = &gorgo_cloud::digest::of(key.as_bytes())[..12];
    let intended = format!(
        r#"{{"at_ms":1,"event":"intended","key":"00112233445566aa","cloud":"lambda","account":"{account}","run":"r","name":"old","region":"us-east-1","machine":"gpu_1x_a100","cents_per_hour":129,"expires_ms":2}}"#
    );
    let launched = r#"{"at_ms":1,"event":"launched","key":"00112233445566aa","id":"i-1"}"#;
    std::fs::write(state.join("ledger.jsonl"), format!("{intended}\n{launched}\n")).unwrap();
}

fn on_lambda(state: &Path, fake: &Fake, key: &str, args: &[&str]) -> Command {
    let mut command = command(state, "lambda", args);
    command.env("LAMBDA_API_KEY", key).env("LAMBDA_API_URL", &fake.url);
    command
}

#[test]
fn list_shows_the_ledger_where_the_provider_does_not_answer_and_fails_where_a_lease_is_over() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fake = runtime.block_on(Fake::start());
    fake.account("fine", 1, false, &Time::real(), None);
    let refused = folder.path().join("refused");
    ledger(&refused, "wrong");
    let list = ran(on_lambda(&refused, &fake, "wrong", &["list"]));
    assert!(!list.ok && list.out.contains("old") && list.out.contains("unknown"), "{}{}", list.out, list.err);
    assert!(
        list.err.contains("what runs is not known") && list.err.contains("the API key was refused"),
        "{}",
        list.err
    );
    let over = folder.path().join("over");
    ledger(&over, "fine");
    let list = ran(on_lambda(&over, &fake, "fine", &["list"]));
    assert!(!list.ok && list.out.contains("lease is over"), "{}{}", list.out, list.err);
    assert!(list.err.contains("no watch runs") && list.err.contains("gorgo watch --cloud lambda"), "{}", list.err);
}

#[test]
fn what_the_account_does_not_have_cannot_be_deleted_and_names_and_options_are_taken() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fake = runtime.block_on(Fake::start());
    let world = fake.account("k", 1, false, &Time::real(), None);
    let go = |args: &[&str]| ran(on_lambda(folder.path(), &fake, "k", args));
    assert!(go(&["filesystems", "create", "models", "--region", "us-east-1"]).ok);
    for (args, words) in [
        (&["filesystems", "delete", "nothing"][..], "no such file system: `nothing`; the account has models"),
        (&["ssh-keys", "delete", "nothing"], "no such SSH key: `nothing`"),
    ] {
        let deleted = go(args);
        assert!(!deleted.ok && deleted.err.contains(words), "{}{}", deleted.out, deleted.err);
    }
    assert!(go(&["filesystems", "list", "--json"]).out.starts_with('['));
    assert!(go(&["filesystems", "delete", "models"]).ok);
    assert!(world.lock().unwrap().filesystems.is_empty());
    let mut returned = on_lambda(folder.path(), &fake, "k\r", &["ssh-keys", "list", "--cloud", "lambda"]);
    returned.env("GORGO_CLOUD", "local");
    assert!(ran(returned).ok, "a key ends where its line does");
    let mut tricked = on_lambda(folder.path(), &fake, "k", &["list"]);
    tricked.env("LAMBDA_API_URL", "http://127.0.0.1:1@127.0.0.2:9/api/v1");
    assert!(ran(tricked).err.contains("no address to which a key may be sent"));
}

#[test]
fn keys_of_routers_pass_no_proxy_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let go = |args: &[&str]| must(state, "local", args);
    go(&["launch", "--type", "gpu_1x_a100", "--region", "aws:us-east-1", "--name", "a"]);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let setup = |mut command: Command| {
        command.envs([("HTTP_PROXY", &url), ("http_proxy", &url), ("ALL_PROXY", &url)]);
        ran(command)
    };
    let ended = setup(command(state, "local", &["cluster", "setup"]));
    assert!(ended.ok, "{}{}", ended.out, ended.err);
    assert!(setup(command(state, "local", &["status"])).ok);
    go(&["kill", "--all"]);
    assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "the proxy was called");
}

#[test]
fn a_command_on_a_machine_passes_its_output_and_status_and_ends_at_an_interrupt() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    must(state, "local", &["launch", "--type", "gpu_1x_a100", "--region", "aws:us-east-1", "--name", "a"]);
    let failed = command(state, "local", &["run-on", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    let output = { failed }.output().unwrap();
    assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(7), b"out\n".to_vec(), b"err\n".to_vec()));
    // The first line comes while the command still runs; then gorgo is interrupted.
    let script = "echo $$; sleep 600; true";
    let mut long = command(state, "local", &["run-on", "a", "--", "sh", "-c", script]);
    let mut child = long.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stdout, mut line) = (child.stdout.take().unwrap(), Vec::new());
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    let pid = String::from_utf8(line).unwrap().trim().to_owned();
    let running = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(running());
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    while running() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    must(state, "local", &["kill", "--all"]);
}

#[test]
fn options_that_have_no_effect_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    std::fs::write(state.join("hosts.toml"), "[[hosts]]\nname = \"a\"\nhost = \"h\"\nregion = \"eu\"\n").unwrap();
    let local = ["launch", "--type", "gpu_1x_a100", "--region", "aws:us-east-1", "--name", "z"];
    for (cloud, args, words) in [
        ("ssh", &["launch", "--name", "a", "--type", "x"][..], "--type is not for hosts"),
        ("ssh", &["launch", "--name", "a", "--region", "x"], "--region is not for hosts"),
        ("ssh", &["launch", "--name", "a", "--filesystem", "x"], "--filesystem is for clouds"),
        ("local", &[&local[..], &["--filesystem", "x"]].concat(), "--filesystem is for clouds"),
        ("local", &[&local[..], &["--max-dollars-per-hour", "nan"]].concat(), "write dollars"),
    ] {
        let failed = ran(command(state, cloud, args));
        assert!(!failed.ok && failed.err.contains(words), "{args:?}: {}", failed.err);
    }
}

#[test]
fn a_host_that_cannot_be_reached_is_released_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let hosts = "[[hosts]]\nname = \"a\"\nhost = \"127.0.0.1\"\nport = 1\nregion = \"eu\"\n";
    std::fs::write(state.join("hosts.toml"), hosts).unwrap();
    must(state, "ssh", &["launch", "--name", "a"]);
    let failed = ran(command(state, "ssh", &["kill", "a"]));
    assert!(
        !failed.ok && failed.err.contains("gorgo kill --force") && !failed.err.contains("cost money"),
        "{}",
        failed.err
    );
    must(state, "ssh", &["kill", "--force", "a"]);
    assert_eq!(must(state, "ssh", &["list"]).trim(), "no machines");
    assert!(must(state, "ssh", &["available"]).contains("eu"));
}
