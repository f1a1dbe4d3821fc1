//! Processes on a node that outlive the login: units of the user's systemd, or plain processes where there is none.
//!
//! A service is known by the digest of all that defines it: what runs unchanged is left alone.

use crate::error::Result;
use crate::shell::{Command, Shell};

/// A process to keep running.
#[derive(Debug, Clone)]
pub struct Service<'a> {
    /// Name on the node.
    pub name: &'a str,
    /// Program and arguments, without secrets.
    pub argv: Vec<String>,
    /// File of NAME=VALUE lines below the login directory, where secrets are.
    pub environment: Option<String>,
    /// Digest of files it reads at its start.
    pub inputs: String,
}

impl Service<'_> {
    fn digest(&self) -> String {
        let whole = format!("{}\0{:?}\0{}", self.argv.join("\0"), self.environment, self.inputs);
        crate::digest::of(whole.as_bytes())
    }
}

/// A process is known by its id and its start time, so that another with the same id is never taken for it.
const COMMON: &str = r#"
started() { s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; s=${s##*) }; set -- $s; [ "$1" != Z ] || return 1; shift 19; echo "$1"; }
alive() { [ -s "$d/pid" ] && read -r p t < "$d/pid" && [ -n "$t" ] && [ "$(started "$p")" = "$t" ]; }
end() { alive || return 0; kill "$p"; i=0; while alive && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; alive && kill -9 "$p"; rm -f "$d/pid"; }
d=$1
"#;

const START: &str = r#"
g=$2; e=$3; shift 3
if alive && [ "$(cat "$d/digest" 2>/dev/null)" = "$g" ]; then echo same; exit 0; fi
end; mkdir -p "$d" || exit 1
if [ -n "$e" ]; then set -a; . "./$e"; set +a; fi
setsid "$@" > "$d/log" 2>&1 < /dev/null &
p=$!; t=$(started "$p"); echo "$p $t" > "$d/pid"; echo "$g" > "$d/digest"; echo started
"#;

const SYSTEMD: &str = r#"
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
n=$1; u="$HOME/.config/systemd/user/$n.service"
"#;

fn folder(name: &str) -> String {
    format!(".gorgo/services/{name}")
}

fn unit(name: &str) -> String {
    format!("gorgo-{name}")
}

/// Starts the service unless it runs as it should; returns whether it was started.
///
/// # Errors
/// When it cannot be started.
pub async fn ensure(shell: &dyn Shell, service: &Service<'_>, systemd: bool) -> Result<bool> {
    let digest = service.digest();
    let environment = service.environment.clone().unwrap_or_default();
    let command = if systemd {
        // The unit arrives on standard input. Lingering lets it outlive the login and start at boot.
        let script = format!(
            r#"{SYSTEMD}
            grep -q "^# $2\$" "$u" 2>/dev/null && systemctl --user is-active -q "$n" && {{ echo same; exit 0; }}
            set -e; mkdir -p "$(dirname "$u")"; cat > "$u.part"; mv "$u.part" "$u"
            loginctl enable-linger 2>/dev/null || sudo -n loginctl enable-linger "$(id -un)" || {{ echo "cannot enable lingering" >&2; exit 1; }}
            systemctl --user daemon-reload; systemctl --user enable -q "$n"; systemctl --user restart "$n"; echo started"#
        );
        let text = unit_text(service, &digest, &environment);
        Command::script(&script, &[&unit(service.name), &digest]).stdin(text)
    } else {
        let mut command = Command::script(&format!("{COMMON}{START}"), &[&folder(service.name), &digest, &environment]);
        command.argv.extend(service.argv.iter().cloned());
        command
    };
    Ok(shell.must(&command).await?.text() == "started")
}

fn unit_text(service: &Service<'_>, digest: &str, environment: &str) -> String {
    // systemd expands % and $ and takes words in double quotes.
    let quote = |word: &String| {
        format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
    };
    let words: Vec<String> = service.argv.iter().map(quote).collect();
    let environment =
        if environment.is_empty() { String::new() } else { format!("EnvironmentFile=%h/{environment}\n") };
    // systemd refuses the sixth start within ten seconds, also one by hand, and restarts no more then: a router whose
    // port is taken would stay down once it is free, and an engine that an experiment lets crash often would, too.
    format!(
        "# {digest}\n[Unit]\nDescription=gorgo {}\nStartLimitIntervalSec=0\n\n[Service]\n{environment}WorkingDirectory=%h\nExecStart={}\n\
         Restart=always\nRestartSec=2\nLimitNOFILE=65535\n\n[Install]\nWantedBy=default.target\n",
        service.name,
        words.join(" ")
    )
}

/// Ends the service; one that does not run is no error.
///
/// # Errors
/// When the node cannot be reached.
pub async fn stop(shell: &dyn Shell, name: &str) -> Result<()> {
    let script = format!("{COMMON}\nend; rm -f \"$d/digest\"; exit 0");
    shell.must(&Command::script(&script, &[&folder(name)])).await?;
    let script = format!(
        r#"{SYSTEMD}[ -f "$u" ] || exit 0
        systemctl --user disable -q --now "$n"; rm -f "$u"; systemctl --user daemon-reload"#
    );
    shell.must(&Command::script(&script, &[&unit(name)])).await.map(drop)
}

/// Kills the service with its children, as a crash would, and keeps it from starting by itself.
///
/// # Errors
/// When the node cannot be reached.
pub async fn crash(shell: &dyn Shell, name: &str) -> Result<()> {
    // It leads a process group of its own.
    let script = format!(
        r#"{COMMON}
        alive && {{ kill -s KILL -- "-$p" 2>/dev/null || kill -9 "$p"; rm -f "$d/pid"; }}
        export XDG_RUNTIME_DIR=${{XDG_RUNTIME_DIR:-/run/user/$(id -u)}}
        [ -f "$HOME/.config/systemd/user/$2.service" ] || exit 0
        systemctl --user kill -s KILL "$2"; systemctl --user stop "$2"
        "#
    );
    shell.must(&Command::script(&script, &[&folder(name), &unit(name)])).await.map(drop)
}

/// Whether the service runs.
///
/// # Errors
/// When the node cannot be reached.
pub async fn runs(shell: &dyn Shell, name: &str) -> Result<bool> {
    let script = format!(
        r#"{COMMON}alive && exit 0
        export XDG_RUNTIME_DIR=${{XDG_RUNTIME_DIR:-/run/user/$(id -u)}}
        systemctl --user is-active -q "$2" 2>/dev/null"#
    );
    Ok(shell.run(&Command::script(&script, &[&folder(name), &unit(name)])).await?.code == 0)
}

/// The last lines of its log.
///
/// # Errors
/// When the node cannot be reached.
pub async fn log(shell: &dyn Shell, name: &str, lines: usize) -> Result<String> {
    let script = r#"[ -f "$1/log" ] && exec tail -n "$3" "$1/log"
        export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
        journalctl --user -u "$2" -n "$3" --no-pager -o cat 2>/dev/null; exit 0"#;
    let command = Command::script(script, &[folder(name), unit(name), lines.to_string()]);
    Ok(shell.must(&command).await?.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::local::LocalShell;

    fn sleeper(argv: &[&str]) -> Service<'static> {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        Service { name: "s", argv, environment: Some("env".to_owned()), inputs: String::new() }
    }

    #[tokio::test]
    async fn a_service_that_runs_as_it_should_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("env"), "WORD=secret\n").unwrap();
        let shell: Box<dyn Shell> = Box::new(LocalShell::new(folder.path().to_owned()).unwrap());
        let shell = shell.as_ref();
        let first = sleeper(&["sh", "-c", "echo $WORD; exec sleep 600"]);
        let pid = || std::fs::read_to_string(folder.path().join(".gorgo/services/s/pid")).unwrap();
        assert!(ensure(shell, &first, false).await.unwrap());
        let before = pid();
        assert!(!ensure(shell, &first, false).await.unwrap());
        assert_eq!(pid(), before);
        assert!(ensure(shell, &sleeper(&["sleep", "601"]), false).await.unwrap());
        assert_ne!(pid(), before);
        assert!(runs(shell, "s").await.unwrap());
        stop(shell, "s").await.unwrap();
        assert!(!runs(shell, "s").await.unwrap());
        stop(shell, "s").await.unwrap();
        assert!(ensure(shell, &first, false).await.unwrap());
        while log(shell, "s", 5).await.unwrap() != "secret" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        stop(shell, "s").await.unwrap();
        ensure(shell, &sleeper(&["sh", "-c", "trap '' TERM; sleep 600 & wait"]), false).await.unwrap();
        crash(shell, "s").await.unwrap();
        assert!(!runs(shell, "s").await.unwrap());
        crash(shell, "s").await.unwrap();
        // One that ends before its start time is read runs no longer.
        assert!(ensure(shell, &sleeper(&["true"]), false).await.unwrap());
        while runs(shell, "s").await.unwrap() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        std::fs::write(folder.path().join(".gorgo/services/s/pid"), "999999999 \n").unwrap();
        assert!(!runs(shell, "s").await.unwrap());
    }

    #[test]
    fn words_of_a_unit_reach_the_program_as_they_are() {
        let text = unit_text(&sleeper(&["a b", "50%", "$x", "\"q\""]), "d", ".gorgo/env");
        assert!(text.starts_with("# d\n"));
        assert!(text.contains(r#"ExecStart="a b" "50%%" "$$x" "\"q\"""#));
        assert!(text.contains("EnvironmentFile=%h/.gorgo/env\n"));
    }
}
