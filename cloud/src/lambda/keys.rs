//! Keys of a run: one to log in, and one of each host, known before the first login.

use super::api::Api;
use super::wire::SshKey;
use crate::error::{Error, Kind, Result};
use serde_json::json;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of a run's key at the service.
pub(super) fn name(run: &str) -> String {
    format!("gorgo-{run}")
}

pub(super) fn private(folder: &Path) -> PathBuf {
    folder.join("id_ed25519")
}

pub(super) fn known_hosts(folder: &Path) -> PathBuf {
    folder.join("known_hosts")
}

/// The public key of a run, made at its first launch.
pub(super) async fn of_run(folder: &Path) -> Result<String> {
    make_folder(folder)?;
    pair(&private(folder)).await
}

/// Puts the key into the account unless it is there under this name.
pub(super) async fn ensure(api: &Api, name: &str, public: &str) -> Result<()> {
    if !public.starts_with("ssh-") && !public.starts_with("ecdsa-") {
        return Err(Error::usage(format!("SSH key `{name}`"), "no public key", "name the file that ends in .pub"));
    }
    // The comment behind a key is no part of it.
    let words = |key: &str| key.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    let exists = async || {
        let keys: Vec<SshKey> = api.get("/ssh-keys").await?;
        let Some(known) = keys.iter().find(|key| key.name == name) else { return Ok(false) };
        if words(&known.public_key) != words(public) {
            let remedy = "choose another name, or delete that key first";
            return Err(Error::usage(format!("SSH key `{name}`"), "the account has another key of this name", remedy));
        }
        Ok(true)
    };
    api.create("/ssh-keys", &json!({"name": name, "public_key": public}), exists).await
}

/// Makes the host key of a launch, notes it as known, and returns the cloud-init text that installs it.
pub(super) async fn cloud_config(folder: &Path, key: &str) -> Result<String> {
    let path = folder.join(format!("host-{key}"));
    let public = pair(&path).await?;
    let known = known_hosts(folder);
    let mut options = std::fs::OpenOptions::new();
    let noted = options.append(true).create(true).mode(0o600).open(&known);
    let noted = noted.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{key} {public}\n").as_bytes()));
    noted.map_err(|why| Error::file(&known, &why))?;
    let private = std::fs::read_to_string(&path).map_err(|why| Error::file(&path, &why))?;
    // The node has it from now on; nothing here needs it again.
    std::fs::remove_file(&path).map_err(|why| Error::file(&path, &why))?;
    let indented: String = private.lines().map(|line| format!("    {line}\n")).collect();
    Ok(format!(
        "#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{indented}  ed25519_public: {public}\n"
    ))
}

/// The public half of the pair at `path`, which is made if absent.
async fn pair(path: &Path) -> Result<String> {
    if !path.exists() {
        let mut command = tokio::process::Command::new("ssh-keygen");
        command
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "gorgo", "-f"])
            .arg(path)
            .stdin(std::process::Stdio::null());
        let output = command.output().await;
        let failed = |why: String| Error::new(Kind::Usage, "`ssh-keygen`", why, "install an OpenSSH client");
        let output = output.map_err(|why| failed(why.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
    }
    let public = path.with_extension("pub");
    let text = std::fs::read_to_string(&public).map_err(|why| Error::file(&public, &why))?;
    Ok(text.trim().to_owned())
}

fn make_folder(folder: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|why| Error::file(folder, &why))
}
