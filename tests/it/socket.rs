//! A router on a socket that another process holds, as systemd does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Starts a router that gets `socket` as descriptor 3.
fn start(socket: &TcpListener, listen: SocketAddr) -> Child {
    let passed: OwnedFd = socket.try_clone().unwrap().into();
    Command::new("sh")
        .args([
            "-c",
            "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_gorgo"),
        ])
        .args(["proxy", "start", "--listen", &listen.to_string(), "--set", "timeouts.settle_ms=0"])
        .args(["--pid-file", &format!("{}/gorgo-socket-{}.pid", std::env::temp_dir().display(), listen.port())])
        .stdin(Stdio::from(passed))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends a request on a connection of its own.
fn ask(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn stop(mut router: Child) {
    let id = rustix::process::Pid::from_child(&router);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(router.wait().unwrap().success());
}

#[test]
fn connections_wait_while_one_process_follows_another() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    let mut waiting = ask(at);
    for _ in 0..3 {
        let router = start(&socket, at);
        assert!(answer(waiting).starts_with("HTTP/1.1 200"), "a request that came before the process is answered");
        assert!(answer(ask(at)).starts_with("HTTP/1.1 200"));
        stop(router);
        waiting = ask(at);
    }
}

#[test]
fn a_socket_on_another_address_is_refused_in_one_sentence() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let other: SocketAddr = "127.0.0.2:0".parse().unwrap();
    let out = start(&socket, other).wait_with_output().unwrap();
    let message = String::from_utf8(out.stderr).unwrap();
    let error = message.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(!out.status.success() && error.contains("let ListenStream and `listen` name the same"), "{message}");
}
