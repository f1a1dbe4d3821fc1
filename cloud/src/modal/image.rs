//! Images, built by Modal layer by layer. A layer that was built before is taken as it is.

use super::api::{Api, Repeat};
use super::proto::client::{
    BaseImage, EnvironmentGetOrCreateRequest, GenericResult, Image, ImageGetOrCreateRequest, ImageJoinStreamingRequest,
    ImageRegistryConfig, RegistryAuthType, generic_result::GenericStatus,
};
use super::refusal::{explain, passing};
use crate::error::{Error, Kind, Result};
use crate::provider::Shown;
use std::time::Duration;

/// A build may take so long; SGLang's image has more than 10 GB.
const BUILD: Duration = Duration::from_secs(30 * 60);
const LISTEN: f32 = 55.0;
/// Streams of a build's log that may break without a line in between.
const BREAKS: u32 = 10;

/// The layers on an image of a registry: curl for the checks between nodes, and an entrypoint that leaves the command
/// of a sandbox as it is.
fn layers(base: &str) -> [Vec<String>; 3] {
    let curl = "RUN command -v curl >/dev/null || \
                (apt-get update && apt-get install -y --no-install-recommends curl ca-certificates)";
    let on_base = |line: &str| vec!["FROM base".to_owned(), line.to_owned()];
    [vec![format!("FROM {base}")], on_base(curl), on_base("ENTRYPOINT []")]
}

/// The id of the image, built if it is not there. `show` gets lines of the build's log.
pub(super) async fn ensure(api: &Api, app: &str, environment: &str, base: &str, show: &Shown<'_>) -> Result<String> {
    let message = EnvironmentGetOrCreateRequest { deployment_name: environment.to_owned() };
    let known = api
        .call("EnvironmentGetOrCreate", message, Repeat::Safe, async |mut client, request| {
            client.environment_get_or_create(request).await
        })
        .await?;
    let settings = known.metadata.and_then(|metadata| metadata.settings).unwrap_or_default();
    let mut below: Option<String> = None;
    for commands in layers(base) {
        let message = ImageGetOrCreateRequest {
            image: Some(image(below.as_deref(), commands)),
            app_id: app.to_owned(),
            builder_version: settings.image_builder_version.clone(),
        };
        let got = api
            .call("ImageGetOrCreate", message, Repeat::Safe, async |mut client, request| {
                client.image_get_or_create(request).await
            })
            .await?;
        match got.result.filter(is_known) {
            Some(result) => built(base, &result)?,
            None => wait(api, &got.image_id, base, show).await?,
        }
        below = Some(got.image_id);
    }
    Ok(below.unwrap_or_default())
}

fn image(below: Option<&str>, dockerfile_commands: Vec<String>) -> Image {
    let base = |id: &str| BaseImage { image_id: id.to_owned(), docker_tag: "base".to_owned() };
    let public = ImageRegistryConfig { registry_auth_type: RegistryAuthType::Public.into() };
    Image {
        base_images: below.map(base).into_iter().collect(),
        dockerfile_commands,
        image_registry_config: below.is_none().then_some(public),
    }
}

fn is_known(result: &GenericResult) -> bool {
    result.status != i32::from(GenericStatus::Unspecified)
}

fn built(base: &str, result: &GenericResult) -> Result<()> {
    if result.status() == GenericStatus::Success {
        return Ok(());
    }
    let sign = if result.exception.is_empty() { format!("{:?}", result.status()) } else { result.exception.clone() };
    let meaning = format!("Modal could not build the image on {base}");
    Err(crate::signs::explain(&sign, Kind::SetUp, &meaning))
}

/// Follows a build to its end.
async fn wait(api: &Api, id: &str, base: &str, show: &Shown<'_>) -> Result<()> {
    show(&format!("building the image on {base}"));
    let until_ms = api.time.now_ms() + BUILD.as_millis() as u64;
    let (mut last, mut breaks) = (String::new(), 0);
    while api.time.now_ms() < until_ms {
        let message =
            ImageJoinStreamingRequest { image_id: id.to_owned(), timeout: LISTEN, last_entry_id: last.clone() };
        let request = api.request(message, Duration::from_secs(90));
        let broke = match api.client().image_join_streaming(request).await {
            Err(status) => Some(status),
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(entry)) => {
                            breaks = 0;
                            let lines = entry.task_logs.iter().flat_map(|log| log.data.lines());
                            lines.filter(|line| !line.trim().is_empty()).for_each(show);
                            if let Some(result) = entry.result.filter(is_known) {
                                return built(base, &result);
                            }
                            if !entry.entry_id.is_empty() {
                                last = entry.entry_id;
                            }
                        }
                        // Without a result the stream is opened again where it ended.
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
        };
        if let Some(status) = broke {
            breaks += 1;
            if !passing(&status) || breaks > BREAKS {
                return Err(explain("ImageJoinStreaming", &status));
            }
        }
        api.time.sleep(Duration::from_millis(500)).await;
    }
    let meaning = format!("the image was not built in {} minutes", BUILD.as_secs() / 60);
    Err(Error::new(Kind::SetUp, base, meaning, "run the command again: Modal goes on where it was"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_stands_on_the_one_before_and_the_last_clears_the_entrypoint() {
        let layers = layers("lmsysorg/sglang:v1");
        assert_eq!(layers[0], ["FROM lmsysorg/sglang:v1"]);
        assert!(layers[1..].iter().all(|commands| commands[0] == "FROM base"));
        assert_eq!(layers[2][1], "ENTRYPOINT []");
        let (first, next) = (image(None, layers[0].clone()), image(Some("im-1"), layers[1].clone()));
        assert!(first.base_images.is_empty() && first.image_registry_config.is_some());
        assert_eq!((next.base_images[0].image_id.as_str(), next.base_images[0].docker_tag.as_str()), ("im-1", "base"));
        assert!(next.image_registry_config.is_none());
    }
}
