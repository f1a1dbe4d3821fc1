//! Engines and routers as separate processes on loopback. Dropping one kills it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// A `gorgo` process. Dropping it kills it (SIGKILL).
pub(crate) struct Process {
    child: Child,
    /// Its first line of output; empty if it ended before it served.
    line: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Starts a process. Its log goes to the terminal if `GORGO_TEST_LOG` is set.
    pub(crate) fn spawn(args: &[&str]) -> Self {
        let log = if std::env::var_os("GORGO_TEST_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        Self::of(Command::new(env!("CARGO_BIN_EXE_gorgo")).args(args).stderr(log))
    }

    /// Starts this command.
    pub(crate) fn of(command: &mut Command) -> Self {
        let child = command
            .env_remove("GORGO_LOG")
            .env_remove("GORGO_API_KEY")
            .env_remove("GORGO_ADMIN_KEY")
            .env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR")) // pid files of killed routers
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, line: String::new() }
    }

    /// Waits for its first line.
    fn up(mut self) -> Self {
        let process = &mut self;
        BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut process.line).unwrap();
        self
    }

    /// An engine at `addr`.
    pub(crate) fn engine(addr: SocketAddr, more: &[&str]) -> Self {
        let addr = addr.to_string();
        let engine = Self::spawn(&[&["engine", "--listen", &addr, "--health-ms", "0"], more].concat()).up();
        assert!(engine.line.contains(&addr), "no engine at {addr}: {:?}", engine.line);
        engine
    }

    /// A proxy for the engines at these addresses, and the proxy's address.
    pub(crate) fn proxy(engines: &[SocketAddr], more: &[&str]) -> (Self, SocketAddr) {
        let servers: Vec<String> = engines.iter().map(|addr| format!("http://{addr}")).collect();
        let args = ["proxy", "start", "--listen", "127.0.0.1:0", "--servers", &servers.join(",")];
        Self::spawn(&[&args, more].concat()).serving()
    }

    /// The address of a proxy that was started, once it listens.
    pub(crate) fn serving(self) -> (Self, SocketAddr) {
        let proxy = self.up();
        let addr = proxy.line.trim().strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("the proxy does not listen: {:?}", proxy.line));
        (proxy, addr)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in MB and CPU time in s so far, where `/proc` exists.
    pub(crate) fn usage(&self) -> Option<(f64, f64)> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.id())).ok();
        let status = read("status")?;
        let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let stat = read("stat")?;
        // After the name in parentheses: utime and stime are fields 14 and 15, in 1/100 s on Linux.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some((kb.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / 1e3, ticks / 100.0))
    }
}

/// Addresses on which a process can be started again: below the range of outgoing connections, one of which could
/// otherwise take the port while no process listens on it.
pub(crate) fn ports(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 120) as u16 * 100;
    let free = std::iter::repeat_with(|| {
        let port = 15_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 15_000;
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    free.filter(|addr| TcpListener::bind(addr).is_ok()).take(count).collect()
}
