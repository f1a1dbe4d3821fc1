//! Commands over the system's `ssh`, all on one connection, with the host key checked.
//!
//! One master process holds the connection and ends with the shell; one that was left by a killed process is ended by
//! the next process that connects. A lost master is started again by the next command.
//! Ports are reached by `ssh -W`, one channel a connection.

use super::place::{Place, end_left_over};
use super::{Command, Output, Shell, carry::carry, quote};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command as Process};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

/// Carries a command on the node. ssh ends with 255 when the connection is lost, so a command that does is made to end
/// with 254. The command ends with its connection: the server's process above this script (which takes the place of the login
/// shell) is looked for each second.
const GUARD: &str = r#"s=$PPID; exec 3<&0
if command -v setsid >/dev/null 2>&1; then setsid "$@" <&3 3<&- & else "$@" <&3 3<&- & fi
p=$!; exec 3<&-
there() { [ -d /proc/$1 ] || { [ ! -d /proc/$$ ] && kill -0 $1; }; }
(while kill -0 $p; do there $s || { kill -TERM -$p || kill -TERM $p; sleep 3; kill -KILL -$p; exit; }; sleep 1; done
) >/dev/null 2>&1 </dev/null & g=$!
wait $p; c=$?; kill $g 2>/dev/null; [ $c -eq 255 ] && c=254; exit $c"#;

/// Where and how to log in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SshTarget {
    /// Host name, address, or an alias of the configuration file.
    pub host: String,
    /// User; ssh's own choice when absent.
    pub user: Option<String>,
    /// Port; ssh's own choice when absent.
    pub port: Option<u16>,
    /// Private key; ssh's own choice when absent. With one, no other key is offered.
    pub identity: Option<PathBuf>,
    /// Hosts to jump over, as `ssh -J` takes them.
    pub jump: Option<String>,
    /// Configuration file in place of the user's; `none` for no file.
    pub config: Option<PathBuf>,
    /// File of known host keys in place of the user's.
    pub known_hosts: Option<PathBuf>,
    /// Name under which the host key is known.
    pub host_key_alias: Option<String>,
}

impl SshTarget {
    fn options(&self, socket: &std::path::Path) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut option = |text: String| words.extend(["-o".to_owned(), text]);
        option("BatchMode=yes".to_owned());
        option("StrictHostKeyChecking=yes".to_owned());
        option("ConnectTimeout=15".to_owned());
        option("ServerAliveInterval=15".to_owned());
        option("ServerAliveCountMax=4".to_owned());
        option(format!("ControlPath={}", socket.display()));
        if let Some(file) = &self.known_hosts {
            option(format!("UserKnownHostsFile={}", file.display()));
            option("GlobalKnownHostsFile=none".to_owned());
        }
        if let Some(alias) = &self.host_key_alias {
            option(format!("HostKeyAlias={alias}"));
        }
        if let Some(user) = &self.user {
            option(format!("User={user}"));
        }
        if let Some(port) = self.port {
            option(format!("Port={port}"));
        }
        if let Some(key) = &self.identity {
            option("IdentitiesOnly=yes".to_owned());
            words.extend(["-i".to_owned(), key.display().to_string()]);
        }
        if let Some(jump) = &self.jump {
            words.extend(["-J".to_owned(), jump.clone()]);
        }
        if let Some(file) = &self.config {
            words.extend(["-F".to_owned(), file.display().to_string()]);
        }
        words
    }
}

#[derive(Debug)]
struct Inner {
    target: SshTarget,
    place: Place,
    master: Mutex<Option<Child>>,
    forwards: Mutex<BTreeMap<u16, (SocketAddr, AbortHandle)>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (_, forward) in self.forwards.get_mut().values() {
            forward.abort();
        }
    }
}

/// A node reached by ssh.
#[derive(Debug, Clone)]
pub struct SshShell {
    inner: Arc<Inner>,
}

impl SshShell {
    /// Logs in.
    ///
    /// # Errors
    /// When the host cannot be reached, its key is not the known one, or the login is refused.
    pub async fn connect(target: SshTarget) -> Result<Self> {
        if target.host.is_empty() || target.host.starts_with('-') {
            return Err(Error::usage(format!("host `{}`", target.host), "no host name", "name a host"));
        }
        end_left_over().await;
        let place = Place::make()?;
        let shell =
            Self { inner: Arc::new(Inner { target, place, master: Mutex::default(), forwards: Mutex::default() }) };
        shell.inner.ensure_master().await?;
        Ok(shell)
    }
}

impl Inner {
    fn process(&self) -> Process {
        let mut process = Process::new("ssh");
        process.args(self.target.options(&self.place.socket()));
        process.process_group(0); // Ctrl-C in the terminal is for the operator's command alone
        process
    }

    /// Starts the connection unless it lives.
    async fn ensure_master(&self) -> Result<()> {
        let mut master = self.master.lock().await;
        if let Some(child) = master.as_mut()
            && matches!(child.try_wait(), Ok(None))
        {
            return Ok(());
        }
        let _ = std::fs::remove_file(self.place.socket());
        let log = self.place.log();
        let file = std::fs::File::create(&log).map_err(|why| Error::file(&log, &why))?;
        let mut process = self.process();
        process.args(["-M", "-N", "-o", "ControlPersist=no", "--", &self.target.host]);
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        let mut child = process.spawn().map_err(|why| {
            let meaning = format!("cannot be started ({why})");
            Error::new(Kind::Usage, "`ssh`", meaning, "install an OpenSSH client")
        })?;
        let until = Instant::now() + Duration::from_secs(40);
        loop {
            if matches!(child.try_wait(), Ok(Some(_))) {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(login_failure(&self.target.host, &text));
            }
            if self.place.socket().exists() && self.answers().await {
                *master = Some(child);
                return Ok(());
            }
            if Instant::now() > until {
                return Err(login_failure(&self.target.host, "no login within 40 s"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn answers(&self) -> bool {
        let mut check = self.process();
        check.args(["-O", "check", "--", &self.target.host]);
        check.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        check.status().await.is_ok_and(|status| status.success())
    }

    async fn run(&self, command: &Command) -> Result<Output> {
        self.ensure_master().await?;
        let mut process = self.process();
        let guarded = ["sh", "-c", GUARD, "sh"].map(str::to_owned);
        let words = [&guarded, command.argv.as_slice()].concat();
        process.args(["-o", "ControlMaster=no", "--", &self.target.host]).arg(format!("exec {}", quote(&words)?));
        let output = carry(process, command, &self.target.host).await?;
        if output.code == 255 {
            return Err(login_failure(&self.target.host, &output.last_line()));
        }
        Ok(output)
    }

    /// Carries one connection to a port of the node.
    async fn forward(&self, mut from: TcpStream, port: u16) -> Result<()> {
        self.ensure_master().await?;
        let mut process = self.process();
        process.args(["-o", "ControlMaster=no", "-W", &format!("127.0.0.1:{port}"), "--", &self.target.host]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let lost = |why: std::io::Error| Error::new(Kind::Unreachable, &self.target.host, why.to_string(), "try again");
        let mut child = process.spawn().map_err(lost)?;
        let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else { return Ok(()) };
        let (mut read, mut write) = from.split();
        let there = async {
            let _ = tokio::io::copy(&mut read, &mut input).await;
            let _ = input.shutdown().await;
            drop(input);
        };
        let back = async {
            let _ = tokio::io::copy(&mut output, &mut write).await;
            let _ = write.shutdown().await;
        };
        tokio::select! {
            () = back => {}
            () = async { there.await; std::future::pending().await } => {}
        }
        Ok(())
    }
}

#[async_trait]
impl Shell for SshShell {
    async fn run(&self, command: &Command) -> Result<Output> {
        self.inner.run(command).await
    }

    async fn address(&self, port: u16) -> Result<SocketAddr> {
        let failed = |why: std::io::Error| {
            Error::new(Kind::Unreachable, "a port on 127.0.0.1", why.to_string(), "free local ports")
        };
        let mut forwards = self.inner.forwards.lock().await;
        if let Some((address, _)) = forwards.get(&port) {
            return Ok(*address);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let inner = Arc::downgrade(&self.inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(inner) = inner.upgrade() else { return };
                tokio::spawn(async move {
                    if let Err(error) = inner.forward(stream, port).await {
                        tracing::debug!("port {port}: {error}");
                    }
                });
            }
        });
        forwards.insert(port, (address, task.abort_handle()));
        Ok(address)
    }

    fn login(&self) -> (Vec<String>, Option<PathBuf>) {
        let target = &self.inner.target;
        let mut words = vec!["ssh".to_owned()];
        // A connection of its own, on which a person may be asked.
        let options = target.options(std::path::Path::new("none"));
        words.extend(
            options.into_iter().map(|word| if word == "BatchMode=yes" { "BatchMode=no".to_owned() } else { word }),
        );
        words.push(target.host.clone());
        (words, None)
    }
}

fn login_failure(host: &str, text: &str) -> Error {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let has = |words: &str| text.contains(words);
    let sign = lines().next_back().unwrap_or("no message").to_owned();
    let (meaning, remedy) = if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        (
            "the host presents another key than the one known",
            "if the machine was reinstalled, remove the old key with `ssh-keygen -R`; otherwise the connection may be intercepted",
        )
    } else if has("Host key verification failed") {
        ("the host's key is not known", "log in once with `ssh` and compare its fingerprint")
    } else if has("Permission denied") {
        ("the login was refused", "check user and key; `ssh -v` shows which keys are offered")
    } else if has("Could not resolve hostname") {
        ("the host name is unknown", "check the name in hosts.toml or ~/.ssh/config")
    } else if has("Connection refused") || has("timed out") || has("No route to host") {
        ("no ssh server answers", "wait until the machine has booted; check address, port and firewall")
    } else {
        ("the connection was lost", "run the command again: finished steps are kept")
    };
    Error::new(Kind::Unreachable, format!("{host}: {sign}"), meaning, remedy)
}
