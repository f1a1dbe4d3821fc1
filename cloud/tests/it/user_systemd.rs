//! A stand-in for the user's systemd on a host of a test, with the programs that go with it.
//!
//! A unit is a real process in a process group of its own, kept by a supervisor as the unit's file says. What systemd
//! documents and a set-up may stumble over is kept: a changed file acts after `daemon-reload` only, `Restart=` and
//! `RestartSec=` act on every end that `stop` did not ask for, a unit that waits for its restart is not active, its
//! process gets nothing of the caller's environment, and starts are limited to five, those by hand included, unless
//! `StartLimitIntervalSec=0`. The limit counts all starts since the unit was loaded, as if they fell into one interval.
//!
//! The tests of the `gorgo` command include this file, too.
#![allow(dead_code)] // two test programs use different parts

use super::loopback_sshd::script;
use std::path::{Path, PathBuf};
use std::process::Command;

const SYSTEMCTL: &str = r#"#!/bin/sh
[ "$1" = --user ] || { echo "stand-in: --user is missing" >&2; exit 1; }; shift
[ -n "$XDG_RUNTIME_DIR" ] || { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
mkdir -p "$HOME/systemd"; echo "$(date +%s%3N) $*" >> "$HOME/systemd/calls"
verb=$1; shift; now=; signal=TERM; n=
while [ $# -gt 0 ]; do case "$1" in -s) signal=$2; shift ;; --now) now=1 ;; -*) ;; *) n=$1 ;; esac; shift; done
units=$HOME/.config/systemd/user; s=$HOME/systemd/$n
alive() { [ -r "/proc/$1/stat" ] && ! grep -q ') Z ' "/proc/$1/stat"; }
live() { [ -s "$1/supervisor" ] && alive "$(cat "$1/supervisor")"; }
send() { p=$(cat "$s/main" 2>/dev/null) && [ -n "$p" ] && { kill -s "$1" -- "-$p" 2>/dev/null || kill -s "$1" "$p" 2>/dev/null; }; }
stop() {
    live "$s" || return 0
    : > "$s/stopping"; send TERM; i=0
    while live "$s"; do i=$((i+1)); [ $i != 1800 ] || send KILL; sleep 0.05; done
    rm -f "$s/stopping"
}
start() {
    [ -e "$s/loaded" ] || { mkdir -p "$s" && cp "$units/$n.service" "$s/loaded"; } || exit 5
    ! live "$s" || return 0
    rm -f "$s/up"
    setsid "$HOME/bin/systemd-unit" "$n" > /dev/null 2>&1 < /dev/null &
    echo $! > "$s/supervisor"
    while live "$s"; do [ ! -e "$s/up" ] || return 0; sleep 0.02; done
    [ "$(cat "$s/state")" != failed ] || { echo "Job for $n.service failed: start request repeated too quickly." >&2; exit 1; }
}
case "$verb" in
show-environment) ;;
daemon-reload) for of in "$HOME"/systemd/*/; do
    u=$units/$(basename "$of").service
    if [ -e "$u" ]; then cp "$u" "$of/loaded"; elif ! live "$of"; then rm -f "$of/loaded" "$of/recent" "$of/state"; fi
    done ;;
enable) [ -e "$units/$n.service" ] || { echo "Unit $n.service does not exist" >&2; exit 1; } ;;
disable) [ -z "$now" ] || stop ;;
start) start ;;
stop) stop ;;
restart) stop; start ;;
kill) send "$signal" || { echo "Failed to kill unit $n.service: No main process to kill" >&2; exit 1; } ;;
is-active) [ "$(cat "$s/state" 2>/dev/null)" = active ] || exit 3 ;;
*) echo "stand-in: $verb" >&2; exit 1 ;;
esac
"#;

const UNIT: &str = r#"#!/bin/sh
n=$1; s=$HOME/systemd/$n
value() { sed -n "s/^$1=//p" "$s/loaded" | tail -n 1; }
over() { echo "$1" > "$s/state"; exit 0; }
cd "$HOME" || exit 1
while :; do
    [ ! -e "$s/stopping" ] || over inactive
    [ "$(value StartLimitIntervalSec)" = 0 ] || [ "$(cat "$s/recent" 2>/dev/null | wc -l)" -lt 5 ] || over failed
    file=$(value EnvironmentFile | sed "s|%h|$HOME|"); words=$(value ExecStart | sed 's/%%/%/g; s/\$\$/\\$/g')
    echo active > "$s/state"
    eval "setsid env -i HOME=\"$HOME\" PATH=\"$PATH\" sh -c 'set -a; [ -z \"\$0\" ] || . \"\$0\"; set +a; exec \"\$@\"' \"$file\" $words >> \"$s/journal\" 2>&1 < /dev/null &"
    p=$!; echo "$(date +%s%3N) $p" | tee -a "$s/starts" >> "$s/recent"; echo $p > "$s/main"; : > "$s/up"
    [ ! -e "$s/stopping" ] || kill $p
    wait $p; code=$?
    kill -s KILL -- "-$p" 2>/dev/null; rm -f "$s/main"
    [ ! -e "$s/stopping" ] || over inactive
    case "$(value Restart) $code" in always*) ;; "on-failure 0") over inactive ;; on-failure*) ;; *" 0") over inactive ;; *) over failed ;; esac
    echo activating > "$s/state"
    i=$(($(value RestartSec) * 20)); while [ $i -gt 0 ] && [ ! -e "$s/stopping" ]; do sleep 0.05; i=$((i-1)); done
    [ -e "$s/stopping" ] || echo "$(date +%s%3N)" >> "$s/restarts"
done
"#;

const JOURNALCTL: &str = r#"#!/bin/sh
for word; do case "$last" in -u) n=$word ;; -n) lines=$word ;; esac; last=$word; done
tail -n "$lines" "$HOME/systemd/$n/journal"
"#;

const LOGINCTL: &str = r#"#!/bin/sh
mkdir -p "$HOME/systemd"; echo "$(date +%s%3N) loginctl $*" >> "$HOME/systemd/calls"
"#;

/// Ends every unit of the home `$1`.
const END: &str = r#"for s in "$1"/systemd/*/; do
    : > "$s/stopping"; [ ! -s "$s/main" ] || kill -s KILL -- "-$(cat "$s/main")"
done 2>/dev/null"#;

/// The systemd of the user of one host; its units end with this value.
#[derive(Debug)]
pub(crate) struct UserSystemd {
    folder: PathBuf,
}

impl Drop for UserSystemd {
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", END, "sh"]).arg(self.folder.parent().unwrap()).status();
    }
}

impl UserSystemd {
    /// Puts it into the host's `bin`.
    pub(crate) fn install(home: &Path) -> Self {
        let programs = [("systemctl", SYSTEMCTL), ("systemd-unit", UNIT), ("journalctl", JOURNALCTL)];
        for (name, text) in programs.into_iter().chain([("loginctl", LOGINCTL)]) {
            script(&home.join("bin").join(name), text);
        }
        Self { folder: home.join("systemd") }
    }

    fn lines(&self, file: &str) -> Vec<(u64, String)> {
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        let of = |line: &str| line.split_once(' ').map(|(at, words)| (at.parse().unwrap(), words.to_owned()));
        text.lines().map(|line| of(line).unwrap_or_else(|| (line.parse().unwrap(), String::new()))).collect()
    }

    /// What it was told, and when, ms since 1970.
    pub(crate) fn calls(&self) -> Vec<(u64, String)> {
        self.lines("calls")
    }

    /// When the unit's process was started, ms since 1970, and its id.
    pub(crate) fn starts(&self, unit: &str) -> Vec<(u64, String)> {
        self.lines(&format!("{unit}/starts"))
    }

    /// How often the unit was started because `Restart=` says so.
    pub(crate) fn restarts(&self, unit: &str) -> usize {
        self.lines(&format!("{unit}/restarts")).len()
    }

    /// Whether something keeps the unit, also while it waits for its restart.
    pub(crate) fn keeps(&self, unit: &str) -> bool {
        let id = std::fs::read_to_string(self.folder.join(unit).join("supervisor")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        !id.is_empty() && stat.is_ok_and(|stat| !stat.contains(") Z "))
    }
}
