//! Hosts of a test: one `sshd` a host, each with a folder as its home and stand-ins for Docker and the NVIDIA tools.
//!
//! The stand-in for Docker keeps images and one container as files and runs `gorgo engine` for SGLang.

use crate::loopback_sshd::{Sshd, free_port, script};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOCKER: &str = r#"#!/bin/sh
d=$HOME/docker; mkdir -p "$d/images"
key() { echo "$1" | tr '/:@' '___'; }
running() { [ -s "$d/pid" ] && kill -0 "$(cat "$d/pid")" 2>/dev/null; }
case "$1 $2" in
info*) [ -e "$HOME/no-docker" ] && { echo "permission denied while trying to connect to the Docker daemon socket" >&2; exit 1; }; exit 0 ;;
"image inspect") [ -e "$d/images/$(key "$5")" ] || { echo "No such image" >&2; exit 1; }
    case "$4" in *RepoDigests*) echo "lmsysorg/sglang@sha256:$(cat "$d/images/$(key "$5")")" ;; *) echo "sha256:id" ;; esac ;;
pull*) [ -e "$HOME/full" ] && { echo "write /var/lib/docker/x: no space left on device" >&2; exit 1; }
    case "$2" in *@sha256:*) echo "${2##*:}" > "$d/images/$(key "$2")" ;; *) cat "$HOME/tag-points-to" > "$d/images/$(key "$2")" ;; esac
    echo "Pulled $2" >> "$d/pulls" ;;
tag*) cp "$d/images/$(key "$2")" "$d/images/$(key "$3")" ;;
inspect*) [ -e "$d/label" ] || { echo "No such object" >&2; exit 1; }
    running && r=true || r=false
    case "$3" in *Labels*) echo "$r $(cat "$d/label")" ;; *) echo "$r $(cat "$d/status" 2>/dev/null || echo 0) false $(cat "$d/restarts" 2>/dev/null || echo 0)" ;; esac ;;
exec*) [ -e "$d/lost" ] && { echo "Failed to initialize NVML: Unknown Error" >&2; exit 255; }; echo "GPU 0" ;;
rm*) running && kill "$(cat "$d/pid")"; rm -f "$d/pid" "$d/label" "$d/lost" "$d/restarts"; exit 0 ;;
stop*) running && kill "$(cat "$d/pid")"; exit 0 ;;
logs*) cat "$d/log" 2>/dev/null; exit 0 ;;
run*)
    shift; while [ $# -gt 0 ]; do case "$1" in
        --label) echo "${2#gorgo.digest=}" > "$d/label"; shift ;;
        -p) port=$(echo "$2" | cut -d: -f2); shift ;;
        --env-file) cp "$2" "$d/environment"; shift ;;
        --model-path) model=$2; shift ;;
        esac; shift; done
    echo "run" >> "$d/runs"
    if [ -e "$HOME/bad-flag" ]; then echo "error: unrecognized arguments" > "$d/log"; echo 2 > "$d/status"; echo 3 > "$d/restarts"; exit 0; fi
    setsid GORGO engine --listen "127.0.0.1:$port" --model "$model" --health-ms 0 > "$d/log" 2>&1 < /dev/null &
    echo $! > "$d/pid"; echo container ;;
*) echo "docker stand-in: $*" >&2; exit 1 ;;
esac
"#;

/// The command whose number stands in `cut` loses its connection.
const CUT: &str = r#"if [ -s cut ]; then
    n=$(cat cut); n=$((n-1)); if [ $n -le 0 ]; then rm -f cut; kill -9 $PPID; exit 1; fi; echo $n > cut
fi"#;

/// One host.
pub(super) struct Host {
    sshd: Sshd,
    pub(super) home: PathBuf,
    pub(super) name: String,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.home.join("docker/pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

impl Host {
    pub(super) fn start(folder: &Path, name: &str) -> Option<Self> {
        let sshd = Sshd::start(folder, name, CUT)?;
        let home = sshd.home.clone();
        script(&home.join("bin/docker"), &DOCKER.replace("GORGO", env!("CARGO_BIN_EXE_gorgo")));
        script(&home.join("bin/nvidia-smi"), "#!/bin/sh\necho 580.95.05\n");
        script(&home.join("bin/sudo"), "#!/bin/sh\necho 'sudo: a password is required' >&2; exit 1\n");
        script(&home.join("bin/systemctl"), "#!/bin/sh\nexit 1\n");
        std::fs::write(home.join("tag-points-to"), "aaaa\n").unwrap();
        Some(Self { sshd, home, name: name.to_owned() })
    }

    /// Its entry in `hosts.toml`.
    pub(super) fn entry(&self, region: &str) -> String {
        format!(
            "[[hosts]]\nname = \"{}\"\nhost = \"127.0.0.1\"\nport = {}\nidentity = \"{}\"\nknown_hosts = \"{}\"\n\
             region = \"{region}\"\ngpus = 1\nengine_port = {}\nrouter_port = {}\nproxy_port = {}\n",
            self.name,
            self.sshd.port,
            self.sshd.identity.display(),
            self.sshd.known_hosts.display(),
            free_port(),
            free_port(),
            free_port()
        )
    }

    pub(super) fn mark(&self, file: &str, text: &str) {
        std::fs::write(self.home.join(file), text).unwrap();
    }

    pub(super) fn unmark(&self, file: &str) {
        std::fs::remove_file(self.home.join(file)).unwrap();
    }

    pub(super) fn lines(&self, file: &str) -> usize {
        std::fs::read_to_string(self.home.join(file)).map_or(0, |text| text.lines().count())
    }
}

/// A model hub that answers every request with this status.
pub(super) fn hub(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let mut stream = stream;
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    url
}

/// The program without its debug tables, so that an upload is short.
pub(super) fn program(folder: &Path) -> PathBuf {
    let (from, to) = (PathBuf::from(env!("CARGO_BIN_EXE_gorgo")), folder.join("gorgo"));
    let stripped = Command::new("strip").arg("-o").arg(&to).arg(&from).status();
    if stripped.is_ok_and(|status| status.success()) { to } else { from }
}
