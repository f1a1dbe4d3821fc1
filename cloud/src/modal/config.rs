//! Where Modal's credentials are: the environment, else `~/.modal.toml`, as Modal's own programs read them.

use crate::error::{Error, Result};
use crate::time::Time;
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Address of the service.
pub const SERVICE: &str = "https://api.modal.com:443";

/// How to talk to Modal.
#[derive(Debug, Clone)]
pub struct ModalConfig {
    /// Address of the service.
    pub service: String,
    /// Id of the token.
    pub token_id: SecretString,
    /// Secret of the token.
    pub token_secret: SecretString,
    /// Environment; the account's default one when empty.
    pub environment: String,
    /// Longest wait that the service may ask for, of all attempts of a call together.
    pub throttle_wait: Duration,
    /// Time.
    pub time: Time,
}

#[derive(Debug, Default, Deserialize)]
struct Profile {
    token_id: Option<String>,
    token_secret: Option<String>,
    environment: Option<String>,
    server_url: Option<String>,
    #[serde(default)]
    active: bool,
}

impl ModalConfig {
    /// The credentials of these environment variables or of the file that they name; none when there are none.
    ///
    /// # Errors
    /// When the file is damaged, has no such profile, or half of a token is missing.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variable = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|value| !value.is_empty());
        let file = variable("MODAL_CONFIG_PATH").map(PathBuf::from);
        let file = file.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".modal.toml")));
        let (id, secret) = (variable("MODAL_TOKEN_ID"), variable("MODAL_TOKEN_SECRET"));
        let named = variable("MODAL_PROFILE");
        let profile = match file.map(|file| profile(&file, named.as_deref())).transpose() {
            Ok(profile) => profile.unwrap_or_default(),
            // A whole token of the environment needs no file.
            Err(_) if id.is_some() && secret.is_some() && named.is_none() => Profile::default(),
            Err(error) => return Err(error),
        };
        let (id, secret) = (id.or(profile.token_id), secret.or(profile.token_secret));
        let (id, secret) = match (id, secret) {
            (Some(id), Some(secret)) => (id, secret),
            (None, None) => return Ok(None),
            (id, _) => {
                let missing = if id.is_some() { "MODAL_TOKEN_SECRET" } else { "MODAL_TOKEN_ID" };
                let remedy = "export both halves of the token, or run `modal token new`";
                return Err(Error::usage(missing, "not set, but the other half of the token is", remedy));
            }
        };
        let throttle = variable("MODAL_MAX_THROTTLE_WAIT").and_then(|text| text.parse::<u64>().ok());
        Ok(Some(Self {
            service: variable("MODAL_SERVER_URL").or(profile.server_url).unwrap_or_else(|| SERVICE.to_owned()),
            token_id: id.into(),
            token_secret: secret.into(),
            environment: variable("MODAL_ENVIRONMENT").or(profile.environment).unwrap_or_default(),
            throttle_wait: Duration::from_secs(throttle.unwrap_or(300).min(3_600)),
            time: Time::real(),
        }))
    }
}

fn profile(path: &std::path::Path, named: Option<&str>) -> Result<Profile> {
    let text = match std::fs::read_to_string(path) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(Profile::default()),
        text => text.map_err(|why| Error::file(path, &why))?,
    };
    let shown = path.display();
    // The parser's message may quote a line with the secret; its place is enough.
    let damaged = |why: toml::de::Error| {
        let at = why.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        Error::usage(format!("`{shown}` line {at}"), "not a table of profiles", "correct it, or run `modal token new`")
    };
    let mut profiles: BTreeMap<String, Profile> = toml::from_str(&text).map_err(damaged)?;
    let active = || profiles.iter().find(|(_, profile)| profile.active).map(|(name, _)| name.clone());
    let only = || (profiles.len() == 1).then(|| profiles.keys().next().cloned()).flatten();
    let chosen = named.map(str::to_owned).or_else(active).or_else(only);
    let Some(name) = chosen else { return Ok(Profile::default()) };
    let unknown = || Error::usage(format!("profile `{name}`"), format!("not in `{shown}`"), "correct MODAL_PROFILE");
    profiles.remove(&name).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn read(variables: &[(&str, &str)]) -> Result<Option<ModalConfig>> {
        ModalConfig::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_environment_wins_over_the_active_profile_and_no_error_shows_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("modal.toml");
        let path = file.to_str().unwrap();
        let text = "[work]\ntoken_id = \"ak-w\"\ntoken_secret = \"as-w\"\n\n[home]\ntoken_id = \"ak-h\"\n\
                    token_secret = \"as-h\"\nenvironment = \"lab\"\nactive = true\n";
        std::fs::write(&file, text).unwrap();
        let config = read(&[("MODAL_CONFIG_PATH", path)]).unwrap().unwrap();
        assert_eq!((config.token_id.expose_secret(), config.environment.as_str()), ("ak-h", "lab"));
        let work = read(&[("MODAL_CONFIG_PATH", path), ("MODAL_PROFILE", "work")]).unwrap().unwrap();
        assert_eq!((work.token_secret.expose_secret(), work.service.as_str()), ("as-w", SERVICE));
        let both = [("MODAL_CONFIG_PATH", path), ("MODAL_TOKEN_ID", "ak-e"), ("MODAL_TOKEN_SECRET", "as-e")];
        assert_eq!(read(&both).unwrap().unwrap().token_secret.expose_secret(), "as-e");
        assert!(read(&[("MODAL_CONFIG_PATH", path), ("MODAL_PROFILE", "x")]).unwrap_err().sign.contains("`x`"));
        assert!(read(&[("HOME", folder.path().to_str().unwrap())]).unwrap().is_none());
        assert_eq!(read(&[("MODAL_TOKEN_ID", "ak-e")]).unwrap_err().sign, "MODAL_TOKEN_SECRET");
        std::fs::write(&file, "[a]\ntoken_secret = \"as-secret\n").unwrap();
        let damaged = read(&[("MODAL_CONFIG_PATH", path)]).unwrap_err();
        assert!(damaged.sign.contains("line 2") && !format!("{damaged:?}").contains("as-secret"), "{damaged:?}");
        let beside = [("MODAL_CONFIG_PATH", path), ("MODAL_TOKEN_ID", "ak-e"), ("MODAL_TOKEN_SECRET", "as-e")];
        assert_eq!(read(&beside).unwrap().unwrap().token_id.expose_secret(), "ak-e", "the damaged file is not needed");
        assert!(read(&beside[..2]).is_err());
        assert!(!format!("{config:?}").contains("as-h"));
    }
}
