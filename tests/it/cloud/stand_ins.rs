//! Hosts of a test: one `sshd` a host, each with a folder as its home and stand-ins for Docker and the NVIDIA tools.
//!
//! The stand-in for Docker keeps images and one container as files and runs `gorgo engine` for SGLang. It keeps the
//! container as Docker does: by its restart policy, which ends with `docker kill` and `docker stop`.

use crate::loopback_sshd::{Sshd, free_port, script};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DOCKER: &str = r#"#!/bin/sh
d=$HOME/docker; mkdir -p "$d/images"
key() { echo "$1" | tr '/:@' '___'; }
alive() { [ -r "/proc/$1/stat" ] && ! grep -q ') Z ' "/proc/$1/stat"; }
live() { [ -s "$d/supervisor" ] && alive "$(cat "$d/supervisor")"; }
named() { [ -e "$d/label" ] && [ "$1" = "$(cat "$d/name")" ] || { echo "Error response from daemon: No such container: $1" >&2; exit 1; }; }
send() { p=$(cat "$d/pid" 2>/dev/null) && [ -n "$p" ] && { kill -s "$1" -- "-$p" 2>/dev/null || kill -s "$1" "$p" 2>/dev/null; }; }
halt() { : > "$d/stopped"; send "$1"; i=0; while live; do i=$((i+1)); [ $i != 200 ] || send KILL; sleep 0.05; done; }
begin() {
    rm -f "$d/stopped" "$d/up"; echo 0 > "$d/restarts"; setsid "$HOME/bin/docker-container" > /dev/null 2>&1 < /dev/null &
    echo $! > "$d/supervisor"; while live && [ ! -e "$d/up" ]; do sleep 0.02; done
}
case "$1" in run) echo "$(date +%s%3N) run" ;; kill|stop|start|rm) echo "$(date +%s%3N) $*" ;; esac >> "$d/calls"
case "$1 $2" in
info*) [ -e "$HOME/no-docker" ] && { echo "permission denied while trying to connect to the Docker daemon socket" >&2; exit 1; }; exit 0 ;;
"image inspect") [ -e "$d/images/$(key "$5")" ] || { echo "No such image" >&2; exit 1; }
    case "$4" in *RepoDigests*) echo "lmsysorg/sglang@sha256:$(cat "$d/images/$(key "$5")")" ;; *) echo "sha256:id" ;; esac ;;
pull*) [ -e "$HOME/full" ] && { echo "write /var/lib/docker/x: no space left on device" >&2; exit 1; }
    case "$2" in *@sha256:*) echo "${2##*:}" > "$d/images/$(key "$2")" ;; *) cat "$HOME/tag-points-to" > "$d/images/$(key "$2")" ;; esac
    echo "Pulled $2" >> "$d/pulls" ;;
tag*) cp "$d/images/$(key "$2")" "$d/images/$(key "$3")" ;;
inspect*) named "$4"; live && r=true || r=false
    case "$3" in *Labels*) echo "$r $(cat "$d/label")" ;; "{{.State.Running}}") echo $r ;; *) echo "$r $(cat "$d/status" 2>/dev/null || echo 0) false $(cat "$d/restarts")" ;; esac ;;
exec*) named "$2"; live || { echo "container is not running" >&2; exit 1; }
    [ -e "$d/lost" ] && { echo "Failed to initialize NVML: Unknown Error" >&2; exit 255; }; echo "GPU 0" ;;
rm*) [ -e "$d/label" ] || exit 0; named "$3"; halt KILL; rm -f "$d/label" "$d/lost" "$d/log" "$d/status"; echo "$3" ;;
stop*) named "$2"; halt TERM; echo "$2" ;;
kill*) [ -e "$HOME/deaf" ] && { echo "Error response from daemon: cannot kill container: $2: tried to kill container, but did not receive an exit event" >&2; exit 1; }
    named "$2"; live || { echo "Error response from daemon: cannot kill container: $2: container is not running" >&2; exit 1; }
    if [ -e "$HOME/late-kill" ]; then
        for load in "$HOME"/../*/.gorgo/services/bench/pid; do
            while read -r p t < "$load" && alive "$p"; do sleep 0.1; done
        done
        sleep 4
    fi
    halt KILL; echo "$2" ;;
start*) named "$2"; live || begin; echo "$2" ;;
logs*) cat "$d/log" 2>/dev/null; exit 0 ;;
run*)
    [ ! -e "$d/label" ] || { echo "Conflict. The container name is already in use" >&2; exit 125; }
    shift; while [ $# -gt 0 ]; do case "$1" in
        --name) echo "$2" > "$d/name"; shift ;;
        --restart) echo "$2" > "$d/policy"; shift ;;
        --label) echo "${2#gorgo.digest=}" > "$d/label"; shift ;;
        -p) echo "$2" | cut -d: -f2 > "$d/port"; shift ;;
        --env-file) cp "$2" "$d/environment"; shift ;;
        --model-path) echo "$2" > "$d/model"; shift ;;
        --max-running-requests) echo "$2" > "$d/running"; shift ;;
        esac; shift; done
    echo "run" >> "$d/runs"; rm -f "$d/began"; begin; echo container ;;
*) echo "docker stand-in: $*" >&2; exit 1 ;;
esac
"#;

/// What Docker's daemon does for the container: it is started again, after a wait that doubles, unless its policy says
/// otherwise or it was stopped or killed by name. Weights are loaded at each start but the first, which tests wait for.
const CONTAINER: &str = r#"#!/bin/sh
d=$HOME/docker; n=0
while [ ! -e "$d/stopped" ]; do
    if [ -e "$HOME/bad-flag" ]; then echo "error: unrecognized arguments" >> "$d/log"; false &
    else
        [ -e "$d/began" ] && cold="--cold --set cold_start_s=1.0 --set cold_start_sigma=0.0" || cold=
        setsid GORGO engine --listen "127.0.0.1:$(cat "$d/port")" --model "$(cat "$d/model")" --health-ms 0 $cold \
            --set "max_running_requests=$(cat "$d/running")" >> "$d/log" 2>&1 < /dev/null &
    fi
    p=$!; : > "$d/began"; echo "$(date +%s%3N) $p" >> "$d/starts"; echo $p > "$d/pid"; : > "$d/up"
    [ ! -e "$d/stopped" ] || kill -s KILL $p
    wait $p; echo $? > "$d/status"; rm -f "$d/pid"
    [ "$(cat "$d/policy")" = unless-stopped ] || exit
    [ -e "$d/stopped" ] && exit
    n=$((n+1)); case $n in 1) sleep 0.1 ;; 2) sleep 0.2 ;; 3) sleep 0.4 ;; *) sleep 0.8 ;; esac; echo $n > "$d/restarts"
done
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
        // A container that runs still: its test has failed.
        let end = r#": > "$1/stopped"; [ ! -s "$1/pid" ] || kill -s KILL "$(cat "$1/pid")""#;
        let _ = Command::new("sh").args(["-c", end, "sh"]).arg(self.home.join("docker")).stderr(Stdio::null()).status();
    }
}

impl Host {
    pub(super) fn start(folder: &Path, name: &str) -> Option<Self> {
        let sshd = Sshd::start(folder, name, CUT)?;
        let home = sshd.home.clone();
        script(&home.join("bin/docker"), &DOCKER.replace("GORGO", env!("CARGO_BIN_EXE_gorgo")));
        script(&home.join("bin/docker-container"), &CONTAINER.replace("GORGO", env!("CARGO_BIN_EXE_gorgo")));
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

    /// What Docker was told to do with containers, and when, ms since 1970.
    pub(super) fn calls(&self) -> Vec<(u64, String)> {
        let text = std::fs::read_to_string(self.home.join("docker/calls")).unwrap_or_default();
        let call = |line: &str| line.split_once(' ').map(|(at, words)| (at.parse().unwrap(), words.to_owned()));
        text.lines().filter_map(call).collect()
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
