//! The engine of a node: started if it does not run as it should, and waited for until it is healthy.

use super::docker::{CONTAINER, QUICK, docker, docker_must};
use super::service::{self, Service};
use super::{Done, Engine, Plan, Site, facts};
use crate::error::{Error, Kind, Result};
use crate::shell::{Command, Shell};
use secrecy::ExposeSecret;
use std::time::{Duration, Instant};

/// Where an engine image keeps models: the cache of Hugging Face's library for the image's user, root.
pub(crate) const MODELS: &str = "/root/.cache/huggingface";
const SERVICE: &str = "engine";
const ENVIRONMENT: &str = ".gorgo/engine.env";
/// An engine that neither answers nor writes a line for so long has failed.
const SILENCE: Duration = Duration::from_secs(600);
/// A container that ended so often before its first answer has failed.
const RESTARTS: u32 = 3;
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn step(site: &mut Site<'_>, image: &str) -> Done {
    let changed = match &site.plan.engine {
        Engine::Docker { args, .. } => container(site, image, args).await?,
        Engine::Emulated { args } => process(site, emulated(site, args)).await?,
        Engine::Sglang { args } => process(site, sglang(site, args)).await?,
        Engine::Command { argv } => process(site, argv.clone()).await?,
    };
    healthy(site).await?;
    Ok((if changed { "started".to_owned() } else { "runs".to_owned() }, changed))
}

/// Kills the engine as a crash would, and keeps it from starting by itself.
pub(super) async fn crash(site: &Site<'_>) -> Result<()> {
    let (shell, facts) = (site.shell()?, site.facts());
    if !matches!(site.plan.engine, Engine::Docker { .. }) {
        return service::crash(shell, SERVICE).await;
    }
    // Docker starts no container again that was killed by name, also not one that waits for its restart.
    let killed = docker(shell, facts, &["kill", CONTAINER], QUICK).await?;
    let format = "{{.State.Running}}";
    if killed.code == 0 || docker(shell, facts, &["inspect", "-f", format, CONTAINER], QUICK).await?.text() == "false" {
        return Ok(());
    }
    Err(crate::signs::explain(&killed.last_line(), Kind::SetUp, "Docker cannot kill the engine"))
}

/// Starts an engine that was killed, which is cold then.
pub(super) async fn again(site: &Site<'_>) -> Result<()> {
    let (shell, facts) = (site.shell()?, site.facts());
    match &site.plan.engine {
        Engine::Docker { .. } => {
            docker_must(shell, facts, &["start", CONTAINER], QUICK, "Docker cannot start the engine").await?;
        }
        Engine::Emulated { args } => {
            // A process starts within milliseconds; the time until a real engine serves is a setting of the emulated.
            let mut argv = emulated(site, args);
            argv.push("--cold".to_owned());
            process(site, argv).await?;
        }
        Engine::Sglang { args } => drop(process(site, sglang(site, args)).await?),
        Engine::Command { argv } => drop(process(site, argv.clone()).await?),
    }
    Ok(())
}

fn emulated(site: &Site<'_>, args: &[String]) -> Vec<String> {
    let (node, plan) = (&site.member.node, site.plan);
    let words = plan.words_on(node, args);
    let mut argv = vec![site.binary.clone(), "engine".to_owned()];
    argv.extend(["--listen".to_owned(), format!("127.0.0.1:{}", node.ports.engine), "--model".to_owned()]);
    argv.extend([plan.model.clone(), "--set".to_owned()]);
    argv.push(format!("max_running_requests={}", plan.max_running_on(node)));
    let machine = crate::local::MACHINES.iter().find(|(name, _)| *name == node.machine);
    if let Some((_, preset)) = machine.filter(|_| !words.iter().any(|word| word == "--preset")) {
        argv.extend(["--gpu".to_owned(), (*preset).to_owned()]);
    }
    argv.extend(words);
    argv
}

fn sglang(site: &Site<'_>, args: &[String]) -> Vec<String> {
    let port = site.member.node.ports.engine.to_string();
    server(site, &["--host".to_owned(), "127.0.0.1".to_owned(), "--port".to_owned(), port], args)
}

async fn process(site: &Site<'_>, argv: Vec<String>) -> Result<bool> {
    let shell = site.shell()?;
    let sglang = matches!(site.plan.engine, Engine::Sglang { .. });
    let mut environment = environment(site.plan, site.member.node.ports.engine, false);
    if sglang {
        environment += &format!("HF_ENDPOINT={}\n", site.plan.hub);
    }
    shell.put(ENVIRONMENT, 0o600, environment.as_bytes()).await?;
    let inputs = crate::digest::of(environment.as_bytes());
    let service = Service { name: SERVICE, argv, environment: Some(ENVIRONMENT.to_owned()), inputs };
    service::ensure(shell, &service, site.facts().systemd).await
}

fn environment(plan: &Plan, port: u16, docker: bool) -> String {
    let mut text = format!("PORT={port}\n");
    if docker {
        text = format!("HF_ENDPOINT={}\n", plan.hub);
    }
    if let Some(token) = &plan.hub_token {
        text += &format!("HF_TOKEN={}\n", token.expose_secret());
    }
    text
}

/// The command that serves the model with SGLang.
fn server(site: &Site<'_>, address: &[String], args: &[String]) -> Vec<String> {
    let (gpus, running) =
        (site.member.node.gpus.max(1).to_string(), site.plan.max_running_on(&site.member.node).to_string());
    let mut words: Vec<String> = ["python3", "-m", "sglang.launch_server"].map(str::to_owned).to_vec();
    words.extend_from_slice(address);
    words.extend(["--tp-size", &gpus, "--enable-metrics", "--enable-cache-report"].map(str::to_owned));
    words.extend(["--max-running-requests", &running, "--model-path", &site.plan.model].map(str::to_owned));
    words.extend(site.plan.words_on(&site.member.node, args));
    words
}

/// Starts the container unless it runs with these words and its GPUs.
async fn container(site: &Site<'_>, image: &str, args: &[String]) -> Result<bool> {
    let (shell, facts, plan) = (site.shell()?, site.facts(), site.plan);
    let environment = environment(plan, 0, true);
    let port = site.member.node.ports.engine;
    let cache = format!("{}/.cache/huggingface", facts.directory);
    let mut words: Vec<String> =
        ["--gpus", "all", "--ipc=host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
            .map(str::to_owned)
            .to_vec();
    words.extend(["--restart".to_owned(), "unless-stopped".to_owned()]);
    words.extend(["-v".to_owned(), format!("{cache}:{MODELS}")]);
    words.extend(["--env-file".to_owned(), format!("{}/{ENVIRONMENT}", facts.directory)]);
    words.extend(["-p".to_owned(), format!("127.0.0.1:{port}:8080"), image.to_owned()]);
    words.extend(server(site, &["--host", "0.0.0.0", "--port", "8080"].map(str::to_owned), args));
    let digest = crate::digest::of(format!("{}\0{environment}", words.join("\0")).as_bytes());

    let label = r#"{{.State.Running}} {{index .Config.Labels "gorgo.digest"}}"#;
    let found = docker(shell, facts, &["inspect", "-f", label, CONTAINER], QUICK).await?;
    if found.code == 0 && found.text() == format!("true {digest}") {
        // A daemon-reload takes the GPUs from a running container; then it must be created anew.
        let sees = docker(shell, facts, &["exec", CONTAINER, "nvidia-smi", "-L"], QUICK).await?;
        if sees.code == 0 {
            return Ok(false);
        }
        site.tell("the container has lost its GPUs");
    }
    shell.put(ENVIRONMENT, 0o600, environment.as_bytes()).await?;
    shell.must(&Command::new(&["mkdir", "-p", "--", &cache])).await?;
    docker(shell, facts, &["rm", "-f", CONTAINER], QUICK).await?;
    let label = format!("gorgo.digest={digest}");
    let mut run = vec!["run", "-d", "--name", CONTAINER, "--label", &label];
    run.extend(words.iter().map(String::as_str));
    docker_must(shell, facts, &run, QUICK, "Docker cannot start the engine").await?;
    Ok(true)
}

/// Waits until `/health` answers 200, showing the phase that the log is in.
pub(super) async fn healthy(site: &Site<'_>) -> Result<()> {
    let shell = site.shell()?;
    let address = shell.address(site.member.node.ports.engine).await?;
    let http = super::verify::client()?;
    let (mut last, mut moved, mut phase, began) = (String::new(), Instant::now(), "", Instant::now());
    let longest = Duration::from_secs(60 * site.plan.healthy_within_min);
    loop {
        let answer = http.get(format!("http://{address}/health")).timeout(QUICK).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        let log = condition(site).await?;
        if log != last {
            moved = Instant::now();
            last = log;
        }
        let now = phase_of(&last);
        if now != phase {
            phase = now;
            site.tell(format!("engine: {phase}"));
        }
        if began.elapsed() > longest {
            let sign = last.lines().last().unwrap_or("no log").to_owned();
            let meaning = format!("the engine was not healthy within {} min", site.plan.healthy_within_min);
            let remedy = "look at `gorgo cluster logs`; give large weights more time with --healthy-within";
            return Err(Error::new(Kind::SetUp, sign, meaning, remedy));
        }
        if moved.elapsed() > SILENCE {
            let sign = last.lines().last().unwrap_or("no log").to_owned();
            let meaning = format!("the engine wrote nothing for {} minutes", SILENCE.as_secs() / 60);
            return Err(Error::new(Kind::SetUp, sign, meaning, "look at `gorgo cluster logs`, then run set-up again"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn phase_of(log: &str) -> &'static str {
    let phases = [
        ("ready to roll", "ready"),
        ("Capture cuda graph", "CUDA graphs"),
        ("KV Cache is allocated", "KV cache"),
        ("Load weight", "load weights"),
        ("Downloading", "download weights"),
    ];
    phases.iter().find(|(words, _)| log.contains(words)).map_or("start", |(_, phase)| phase)
}

/// The end of the engine's log; a failure when the engine has ended.
async fn condition(site: &Site<'_>) -> Result<String> {
    let (shell, facts) = (site.shell()?, site.facts());
    if !matches!(site.plan.engine, Engine::Docker { .. }) {
        let log = service::log(shell, SERVICE, 40).await?;
        if service::runs(shell, SERVICE).await? {
            return Ok(log);
        }
        return Err(ended(&log, "the engine ended before it was ready"));
    }
    let format = "{{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.RestartCount}}";
    let state = docker(shell, facts, &["inspect", "-f", format, CONTAINER], QUICK).await?.text();
    let words: Vec<&str> = state.split_whitespace().collect();
    let log = docker(shell, facts, &["logs", "--tail", "40", CONTAINER], QUICK).await?;
    let log = format!("{}\n{}", log.text(), String::from_utf8_lossy(&log.stderr).trim());
    let restarts = words.get(3).and_then(|count| count.parse().ok()).unwrap_or(0);
    if restarts >= RESTARTS || words.first() != Some(&"true") && words.get(2) == Some(&"true") {
        let _ = docker(shell, facts, &["stop", CONTAINER], QUICK).await?;
        if words.get(2) == Some(&"true") {
            let meaning = "the kernel ended the engine: the node has too little memory";
            return Err(Error::new(Kind::SetUp, "OOMKilled", meaning, "use a machine with more memory"));
        }
        let code = words.get(1).unwrap_or(&"?");
        return Err(ended(&log, &format!("the engine ended {restarts} times before it was ready, with status {code}")));
    }
    Ok(log)
}

fn ended(log: &str, meaning: &str) -> Error {
    crate::signs::known(log).unwrap_or_else(|| {
        let sign = log.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no log");
        Error::new(Kind::SetUp, sign, meaning, "look at `gorgo cluster logs`, then run set-up again")
    })
}

/// Ends all that set-up started on a node and removes its keys; the node itself stays.
///
/// # Errors
/// When the node cannot be reached.
pub async fn stop(shell: &dyn Shell) -> Result<()> {
    for name in ["bench", "proxy", "gate", "router", SERVICE] {
        service::stop(shell, name).await?;
    }
    let (facts, _, _) = facts::look(shell, true).await?;
    if !facts.docker.is_empty() {
        docker(shell, &facts, &["rm", "-f", CONTAINER], QUICK).await?;
    }
    // The keys and the hub's token are in these files; the program stays for the next set-up.
    shell.must(&Command::script("rm -f .gorgo/*.env .gorgo/*.toml .gorgo/owner", &[""; 0])).await.map(drop)
}

/// The last lines of the container's log.
///
/// # Errors
/// When the node cannot be reached.
pub async fn log(shell: &dyn Shell, lines: usize) -> Result<String> {
    let (facts, _, _) = facts::look(shell, true).await?;
    let output = docker(shell, &facts, &["logs", "--tail", &lines.to_string(), CONTAINER], QUICK).await?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}
