//! Notifies systemd (`sd_notify`) that the router is ready, and of the unit's main process after an upgrade.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Notifies the service manager; does nothing without one.
pub(crate) fn tell(state: &str) {
    let Some(at) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(at.as_encoded_bytes(), state) {
        tracing::warn!(%error, "cannot send `{state}` to the service manager");
    }
}

fn send(at: &[u8], state: &str) -> io::Result<()> {
    let address = match at {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::new(std::str::from_utf8(path).map_err(io::Error::other)?))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Why the unit of this process would end with an upgrade; `None` if it would not.
pub(super) fn forbids(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<&'static str> {
    if pid == 1 {
        return Some("this router is the first process of its container, which ends with it; roll out a new container");
    }
    let is_main = variable("SYSTEMD_EXEC_PID").is_some_and(|main| main == pid.to_string());
    if is_main && variable("NOTIFY_SOCKET").is_none() {
        return Some("its systemd unit would end with this process; set Type=notify in the unit, and restart it once");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("gorgo-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let managers = [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}"), UnixDatagram::bind_addr(&abstract_name).unwrap()),
        ];
        for (at, manager) in managers {
            send(at.as_bytes(), "MAINPID=7").unwrap();
            let mut text = [0; 64];
            let length = manager.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"MAINPID=7", "{at}");
        }
        assert!(send(b"/nowhere/at/all", "READY=1").is_err());
    }

    #[test]
    fn a_process_whose_end_ends_all_is_not_upgraded() {
        let none = |_: &str| None;
        assert!(forbids(none, 1).unwrap().contains("container"));
        assert_eq!(forbids(none, 7), None);
        let simple = |name: &str| (name == "SYSTEMD_EXEC_PID").then(|| "7".to_owned());
        assert!(forbids(simple, 7).unwrap().contains("Type=notify"));
        assert_eq!(forbids(simple, 8), None, "a process started by a shell of the unit");
        assert_eq!(forbids(|name| Some(if name == "NOTIFY_SOCKET" { "@x" } else { "7" }.to_owned()), 7), None);
    }
}
