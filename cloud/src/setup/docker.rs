//! SGLang in Docker: one image for all nodes, chosen by their drivers.

use super::{Done, Engine, Facts, Plan, Site};
use crate::error::{Error, Kind, Result};
use crate::shell::{Command, Output, Shell};
use std::time::{Duration, Instant};

/// Images of current releases need a driver of CUDA 13.
const CURRENT: (&str, u32) = ("lmsysorg/sglang:v0.5.23-runtime", 580);
/// The last release with an image of CUDA 12.
const CUDA_12: (&str, u32) = ("lmsysorg/sglang:v0.5.19-cu129", 525);
/// Docker writes a line a layer; one layer may take this long.
const PULL: Duration = Duration::from_secs(30 * 60);

pub(super) const CONTAINER: &str = "gorgo-engine";

pub(super) async fn docker(shell: &dyn Shell, facts: &Facts, words: &[&str], silence: Duration) -> Result<Output> {
    let mut argv = facts.docker.clone();
    argv.extend(words.iter().map(|&word| word.to_owned()));
    shell.run(&Command::new(&argv).silence(silence)).await
}

/// As [`docker`], for a command that must succeed.
pub(super) async fn docker_must(
    shell: &dyn Shell,
    facts: &Facts,
    words: &[&str],
    silence: Duration,
    meaning: &str,
) -> Result<Output> {
    let done = docker(shell, facts, words, silence).await?;
    match done.code {
        0 => Ok(done),
        _ => Err(crate::signs::explain(&done.last_line(), Kind::SetUp, meaning)),
    }
}

pub(super) const QUICK: Duration = Duration::from_secs(120);

/// The image every node runs: results of two releases must not be mixed.
pub(super) fn image_for_all<'a>(plan: &Plan, facts: impl Iterator<Item = &'a Facts>) -> Result<String> {
    let Engine::Docker { image, .. } = &plan.engine else { return Ok(String::new()) };
    if let Some(image) = image {
        return Ok(image.clone());
    }
    let oldest = facts.map(|facts| facts.driver.unwrap_or(0)).min();
    match oldest {
        None => Ok(String::new()), // no node is left
        Some(driver) if driver >= CURRENT.1 => Ok(CURRENT.0.to_owned()),
        Some(driver) if driver >= CUDA_12.1 => Ok(CUDA_12.0.to_owned()),
        Some(driver) => {
            let meaning = format!("no image of SGLang runs below driver {}", CUDA_12.1);
            let remedy = "update the NVIDIA driver, or name an image with --image";
            Err(Error::new(Kind::SetUp, format!("NVIDIA driver {driver}"), meaning, remedy))
        }
    }
}

/// Pulls the image unless it is there. Access to the model is asked for first: a pull takes long.
pub(super) async fn pull(site: &mut Site<'_>, image: &str) -> Done {
    if image.is_empty() {
        return Ok(("none needed".to_owned(), false));
    }
    may_load(site).await?;
    let (shell, facts) = (site.shell()?, site.facts());
    let found = docker(shell, facts, &["image", "inspect", "-f", "{{.Id}}", image], QUICK).await?;
    if found.code == 0 {
        return Ok((image.to_owned(), false));
    }
    site.tell(format!("pull {image}"));
    docker_must(shell, facts, &["pull", image], PULL, &format!("cannot pull {image}")).await?;
    Ok((format!("{image}, pulled"), true))
}

/// Makes all nodes use the digest of the first: a tag may have moved between two pulls.
pub(super) async fn one_digest(sites: &mut [Site<'_>], image: &str) {
    if image.is_empty() {
        return;
    }
    let mut first: Option<String> = None;
    for site in sites.iter_mut().filter(|site| site.fine()) {
        let began = Instant::now();
        match same_digest(site, image, first.as_deref()).await {
            Ok(digest) => first = first.or(digest),
            Err(error) => site.note("image", began, Err(error)),
        }
    }
}

async fn same_digest(site: &Site<'_>, image: &str, wanted: Option<&str>) -> Result<Option<String>> {
    let (shell, facts) = (site.shell()?, site.facts());
    let format = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{end}}";
    let digest = docker(shell, facts, &["image", "inspect", "-f", format, image], QUICK).await?.text();
    // An image built on the node has none.
    if let Some(wanted) = wanted.filter(|&wanted| !digest.is_empty() && digest != wanted) {
        for words in [["pull", wanted].as_slice(), &["tag", wanted, image]] {
            docker_must(shell, facts, words, PULL, &format!("cannot use {wanted} as on the other nodes")).await?;
        }
    }
    Ok(Some(digest).filter(|digest| !digest.is_empty()))
}

/// Whether the model's hub is reached from the node and gives the model to this token.
async fn may_load(site: &Site<'_>) -> Result<()> {
    use secrecy::ExposeSecret;
    let url = format!("{}/{}/resolve/main/config.json", site.plan.hub.trim_end_matches('/'), site.plan.model);
    let mut config = format!("url = \"{url}\"\n");
    if let Some(token) = &site.plan.hub_token {
        config += &format!("header = \"Authorization: Bearer {}\"\n", token.expose_secret());
    }
    let words = ["curl", "-sSL", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "--config", "-"];
    let output = site.shell()?.run(&Command::new(&words).stdin(config)).await?;
    let error = |meaning: &str, remedy: &str| {
        let sign = if output.code == 0 { format!("{url}: HTTP {}", output.text()) } else { output.last_line() };
        Err(Error::new(Kind::SetUp, sign, meaning, remedy))
    };
    match output.text().as_str() {
        "200" => Ok(()),
        "401" | "403" => error(
            "the model is gated and this token has no access",
            "accept the model's terms on its page, then set HF_TOKEN",
        ),
        "404" => error("the hub has no such model", "correct --model"),
        _ => error("the node does not reach the model's hub", "check the node's network, or set HF_ENDPOINT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Keys;

    fn facts(driver: u32) -> Facts {
        Facts {
            arch: "x86_64".to_owned(),
            directory: "/".to_owned(),
            free_kib: 0,
            gpus: 1,
            driver: Some(driver),
            docker: Vec::new(),
            systemd: false,
        }
    }

    #[test]
    fn the_oldest_driver_decides_for_all() {
        let plan = Plan {
            engine: Engine::Docker { image: None, args: Vec::new() },
            model: String::new(),
            max_running: 1,
            own: std::collections::BTreeMap::new(),
            rates: std::collections::BTreeMap::new(),
            owner: String::new(),
            router: toml::Table::new(),
            keys: Keys::random(),
            binary: "x".into(),
            binary_arm64: None,
            disk_gib: 0,
            healthy_within_min: 60,
            hub_token: None,
            hub: String::new(),
        };
        let image = |drivers: &[u32]| {
            let facts: Vec<Facts> = drivers.iter().map(|&driver| facts(driver)).collect();
            image_for_all(&plan, facts.iter())
        };
        assert_eq!(image(&[580, 590]).unwrap(), CURRENT.0);
        assert_eq!(image(&[580, 550]).unwrap(), CUDA_12.0);
        assert!(image(&[580, 470]).unwrap_err().to_string().contains("driver 470"));
    }
}
