//! Shells over a real `sshd` on loopback.

use super::loopback_sshd::{Sshd, free_port, keygen};
use super::user_systemd::UserSystemd;
use gorgo_cloud::shell::Command;
use gorgo_cloud::shell::ssh::{SshShell, SshTarget};
use gorgo_cloud::{Kind, Shell};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A host in a folder of its own.
struct Host {
    sshd: Sshd,
    _folder: tempfile::TempDir,
}

impl Host {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self { sshd: Sshd::start(folder.path(), "host", "")?, _folder: folder })
    }

    fn at(&self, file: &str) -> PathBuf {
        self.sshd.home.join(file)
    }

    fn target(&self) -> SshTarget {
        SshTarget {
            host: "127.0.0.1".to_owned(),
            port: Some(self.sshd.port),
            identity: Some(self.sshd.identity.clone()),
            config: Some("none".into()),
            known_hosts: Some(self.sshd.known_hosts.clone()),
            ..SshTarget::default()
        }
    }

    async fn shell(&self) -> Box<dyn Shell> {
        Box::new(SshShell::connect(self.target()).await.unwrap())
    }
}

#[tokio::test]
async fn words_input_output_and_status_pass_unchanged() {
    let Some(host) = Host::start() else { return };
    let shell = host.shell().await;
    let odd = "a 'quoted' \"word\" with $HOME, `ticks`; and\na line";
    let command = Command::script(r#"printf '%s' "$1"; cat; printf err >&2; exit 3"#, &[odd]).stdin("input");
    let output = shell.run(&command).await.unwrap();
    assert_eq!((output.code, output.stderr.as_slice()), (3, b"err".as_slice()));
    assert_eq!(output.stdout, format!("{odd}input").into_bytes());
    // 255 is also how ssh reports a lost connection.
    assert_eq!(shell.run(&Command::new(&["sh", "-c", "exit 255"])).await.unwrap().code, 254);
}

#[tokio::test]
async fn a_file_is_put_whole_with_its_mode() {
    let Some(host) = Host::start() else { return };
    let shell = host.shell().await;
    let bytes: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let path = host.at("new folder/file").display().to_string();
    shell.put(&path, 0o640, &bytes).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(shell.get(&path).await.unwrap(), bytes);
    let error = shell.put("/proc/no/file", 0o600, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Command);
}

#[tokio::test]
async fn a_port_of_the_node_is_reached_through_the_login() {
    let Some(host) = Host::start() else { return };
    let shell = host.shell().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut text = Vec::new();
                stream.read_to_end(&mut text).await.unwrap();
                stream.write_all(&[b"got ", text.as_slice()].concat()).await.unwrap();
            });
        }
    });
    let address: SocketAddr = shell.address(port).await.unwrap();
    assert_eq!(shell.address(port).await.unwrap(), address);
    for word in ["one", "two"] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(word.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, format!("got {word}"));
    }
}

#[tokio::test]
async fn a_changed_or_unknown_host_key_is_refused_and_explained() {
    let Some(host) = Host::start() else { return };
    let other = keygen(&host.at("other"));
    let changed = host.at("changed");
    std::fs::write(&changed, format!("[127.0.0.1]:{} {other}", host.sshd.port)).unwrap();
    let target = SshTarget { known_hosts: Some(changed), ..host.target() };
    let error = SshShell::connect(target).await.unwrap_err();
    assert!(error.meaning.contains("another key"), "{error}");
    let target = SshTarget { known_hosts: Some("/dev/null".into()), ..host.target() };
    let error = SshShell::connect(target).await.unwrap_err();
    assert!(error.meaning.contains("not known"), "{error}");
    // A key noted under a name of its own, as for machines whose key was made here.
    let known = std::fs::read_to_string(&host.sshd.known_hosts).unwrap();
    let pinned = host.at("pinned");
    std::fs::write(&pinned, known.replace(&format!("[127.0.0.1]:{}", host.sshd.port), "nonce")).unwrap();
    let alias = Some("nonce".to_owned());
    SshShell::connect(SshTarget { known_hosts: Some(pinned), host_key_alias: alias, ..host.target() }).await.unwrap();
}

#[tokio::test]
async fn a_refused_login_and_a_closed_port_are_explained() {
    let Some(host) = Host::start() else { return };
    keygen(&host.at("stranger"));
    let target = SshTarget { identity: Some(host.at("stranger")), ..host.target() };
    assert!(SshShell::connect(target).await.unwrap_err().meaning.contains("refused"));
    let error = SshShell::connect(SshTarget { port: Some(free_port()), ..host.target() }).await.unwrap_err();
    assert!(error.meaning.contains("no ssh server"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_fails_its_command_and_the_next_one_logs_in_again() {
    let Some(host) = Host::start() else { return };
    let shell = host.shell().await;
    // The command's own connection: the nearest server process above it.
    let kill = r#"p=$$; until case $(cat /proc/$p/comm) in sshd*) ;; *) false ;; esac; do
        p=$(awk '/^PPid/ {print $2}' /proc/$p/status); done; kill -9 $p; sleep 60"#;
    let kill = Command::script(kill, &[] as &[&str]);
    let error = shell.run(&kill).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable, "{error}");
    let mut answer = shell.run(&Command::new(&["echo", "again"])).await;
    // The master may take a moment to notice.
    for _ in 0..100 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        answer = shell.run(&Command::new(&["echo", "again"])).await;
    }
    assert_eq!(answer.unwrap().text(), "again");
}

#[tokio::test]
async fn a_silent_command_is_ended() {
    let Some(host) = Host::start() else { return };
    let shell = host.shell().await;
    let silent = Command::new(&["sleep", "600"]).silence(std::time::Duration::from_millis(300));
    let error = shell.run(&silent).await.unwrap_err();
    assert!(error.meaning.contains("`sleep 600` wrote nothing"), "{error}");
}

#[tokio::test]
async fn where_systemd_runs_a_service_is_a_unit_of_it_that_outlives_the_login() {
    use gorgo_cloud::setup::service::{Service, ensure, runs, stop};
    let Some(host) = Host::start() else { return };
    let systemd = UserSystemd::install(&host.sshd.home);
    let calls = || systemd.calls().into_iter().map(|(_, words)| words).collect::<Vec<_>>().join("\n");
    let shell = host.shell().await;
    shell.put("env", 0o600, b"SECONDS_TO_SLEEP=600\n").await.unwrap();
    let service = |words: &[&str]| Service {
        name: "router",
        argv: words.iter().map(|&word| word.to_owned()).collect(),
        environment: Some("env".to_owned()),
        inputs: String::new(),
    };
    let sleep = service(&["sleep", "600"]);
    assert!(ensure(shell.as_ref(), &sleep, true).await.unwrap());
    assert!(calls().contains("loginctl enable-linger") && calls().contains("enable -q gorgo-router"));
    assert!(!ensure(shell.as_ref(), &sleep, true).await.unwrap());
    assert_eq!(calls().matches("restart gorgo-router").count(), 1);
    assert!(runs(shell.as_ref(), "router").await.unwrap());
    assert!(ensure(shell.as_ref(), &service(&["sleep", "601"]), true).await.unwrap());
    let unit = host.at(".config/systemd/user/gorgo-router.service");
    assert!(std::fs::read_to_string(&unit).unwrap().contains("ExecStart=\"sleep\" \"601\""));
    stop(shell.as_ref(), "router").await.unwrap();
    assert!(!unit.exists() && !runs(shell.as_ref(), "router").await.unwrap());
    assert!(!systemd.keeps("gorgo-router"));
}

#[tokio::test]
async fn a_unit_that_was_made_to_crash_stays_down_until_it_is_started_however_often() {
    use gorgo_cloud::setup::service::{Service, crash, ensure, log, runs, stop};
    let Some(host) = Host::start() else { return };
    let systemd = UserSystemd::install(&host.sshd.home);
    let shell = host.shell().await;
    let shell = shell.as_ref();
    // What the service starts breaks with it.
    let words = ["sh", "-c", "echo $((50 % 7)); trap '' TERM; sleep 600 & wait"].map(str::to_owned).to_vec();
    let service = Service { name: "engine", argv: words, environment: None, inputs: String::new() };
    let alone = || systemd.starts("gorgo-engine").last().map(|(_, pid)| processes_of_group(pid)).unwrap_or_default();
    // systemd counts starts by hand, too, and refuses the sixth within ten seconds unless the unit says otherwise.
    for start in 1..=7 {
        assert!(ensure(shell, &service, true).await.unwrap());
        assert_eq!(systemd.starts("gorgo-engine").len(), start);
        crash(shell, "engine").await.unwrap();
        assert!(!runs(shell, "engine").await.unwrap());
        assert!(!systemd.keeps("gorgo-engine"), "it would be started again");
        assert_eq!(alone(), 0);
    }
    assert_eq!(systemd.restarts("gorgo-engine"), 0);
    crash(shell, "engine").await.unwrap();
    assert!(log(shell, "engine", 5).await.unwrap().ends_with("1"));
    // One that ends by itself is started again.
    assert!(ensure(shell, &service, true).await.unwrap());
    let (_, pid) = systemd.starts("gorgo-engine").pop().unwrap();
    assert!(shell.run(&Command::new(&["kill", "-9", &pid])).await.unwrap().code == 0);
    while systemd.restarts("gorgo-engine") == 0 || !runs(shell, "engine").await.unwrap() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // A crash while it waits for that ends the wait.
    let (_, pid) = systemd.starts("gorgo-engine").pop().unwrap();
    assert!(shell.run(&Command::new(&["kill", "-9", &pid])).await.unwrap().code == 0);
    crash(shell, "engine").await.unwrap();
    assert!(!systemd.keeps("gorgo-engine"));
    stop(shell, "engine").await.unwrap();
}

/// How many processes run in the group that this one leads or led.
fn processes_of_group(leader: &str) -> usize {
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    // Behind the name in parentheses: state, parent, group.
    let of = |stat: &String| {
        let words: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        words[0] != "Z" && words[2] == leader
    };
    stats.filter(of).count()
}

#[tokio::test]
async fn a_command_ends_with_its_connection() {
    let Some(host) = Host::start() else { return };
    let shell = host.shell().await;
    let command = Command::script("echo $$ > part; mv part pid; exec sleep 600", &[""; 0]);
    let started = async {
        while !host.at("pid").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = shell.run(&command) => panic!("{ended:?}"),
        () = started => {}
    }
    let pid = std::fs::read_to_string(host.at("pid")).unwrap();
    let runs =
        || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(runs());
    drop(shell);
    while runs() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
