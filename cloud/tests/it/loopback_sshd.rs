//! A real `sshd` on loopback, as one host of a test: its own keys, port and log, and a folder as its home.
//!
//! The tests of the `gorgo` command include this file, too.
#![allow(dead_code)] // two test programs use different parts

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The login shell: the host's home is the user's, and programs of its `bin` come first. `BEFORE` runs first.
const LOGIN: &str = r#"#!/bin/sh
cd HOME_FOLDER || exit 1
HOME=HOME_FOLDER; PATH=HOME_FOLDER/bin:$PATH; export HOME PATH; unset XDG_RUNTIME_DIR
BEFORE
exec sh -c "$SSH_ORIGINAL_COMMAND"
"#;

/// One host; it ends with this value.
pub(crate) struct Sshd {
    child: Child,
    pub(crate) port: u16,
    pub(crate) home: PathBuf,
    /// A file with the host's key.
    pub(crate) known_hosts: PathBuf,
    /// The user's private key.
    pub(crate) identity: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// Starts a host with the home `folder`/`name` and its other files beside it. `before` is shell code that runs before
    /// each command. `None` where no sshd is installed.
    pub(crate) fn start(folder: &Path, name: &str, before: &str) -> Option<Self> {
        let program = program()?;
        let at = |file: &str| folder.join(format!("{name}-{file}"));
        let (host_key, identity) = (keygen(&at("host")), at("user"));
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(at("authorized"), keygen(&identity)).unwrap();
        let port = free_port();
        std::fs::write(at("known"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        Some(Self::serve(&program, folder, name, before, "127.0.0.1", port))
    }

    /// A host at a loopback address, with the private key `NAME-host` and the file `NAME-authorized` that are in `folder`
    /// already. `None` where no sshd is installed.
    pub(crate) fn start_at(folder: &Path, name: &str, address: &str, port: u16) -> Option<Self> {
        Some(Self::serve(&program()?, folder, name, "", address, port))
    }

    fn serve(program: &Path, folder: &Path, name: &str, before: &str, address: &str, port: u16) -> Self {
        // Where sshd drops its privileges to, as its service file makes it.
        let _ = std::fs::create_dir_all("/run/sshd");
        let home = folder.join(name);
        std::fs::create_dir_all(&home).unwrap();
        let at = |file: &str| folder.join(format!("{name}-{file}"));
        script(&at("login"), &LOGIN.replace("HOME_FOLDER", home.to_str().unwrap()).replace("BEFORE", before));
        let config = format!(
            "Port {port}\nListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxSessions 64\nForceCommand {}\n",
            at("host").display(),
            at("authorized").display(),
            at("login").display()
        );
        std::fs::write(at("config"), config).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let mut command = Command::new(program);
        command.args(["-D", "-e", "-f"]).arg(at("config"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut sshd = Self { child, port, home, known_hosts: at("known"), identity: at("user") };
        while TcpStream::connect((address, port)).is_err() {
            let log = || std::fs::read_to_string(at("log")).unwrap_or_default();
            assert!(sshd.child.try_wait().unwrap().is_none(), "sshd ended: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        sshd
    }
}

fn program() -> Option<PathBuf> {
    let paths = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"].map(PathBuf::from);
    let found = paths.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no sshd on this machine (apt-get install openssh-server)");
    }
    found
}

/// A port on which nothing listens. Each is given once, and none that the system gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Another test program on this machine begins elsewhere.
        let step = std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (step % 22_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Writes an executable file.
pub(crate) fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes a key pair; returns the public key.
pub(crate) fn keygen(path: &Path) -> String {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}
