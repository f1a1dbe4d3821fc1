use crate::fixture::{World, chat, whole};
use gorgo_live::config::{Config, Security};
use gorgo_live::testkit::Script;
use gorgo_live::tls_client_config;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

fn keys(config: &mut Config) {
    config.security = Security { api_key: Some("ask".into()), admin_key: Some("rule".into()), ..Security::default() };
}

#[tokio::test(start_paused = true)]
async fn keys_are_asked_for_compared_and_kept_from_engines() {
    let world = World::new(1, Script::default(), keys).await;
    for (key, status) in
        [(None, 401), (Some("Bearer wrong"), 401), (Some("Bearer ask"), 200), (Some("bearer rule"), 200)]
    {
        let mut request = chat("x", false);
        if let Some(key) = key {
            request.headers_mut().insert("authorization", HeaderValue::from_static(key));
        }
        let response = world.send(request).await;
        assert_eq!(response.status().as_u16(), status, "{key:?}");
        whole(response).await;
    }
    assert!(world.engines[0].seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    let (status, error) = world.call(Method::POST, "/proxy/cache/clear", &Value::Null).await;
    assert_eq!((status, &error["error"]["type"]), (401, &json!("authentication_error")));
    assert_eq!(world.get("/metrics").await.0, 401);
    assert_eq!((world.get("/health").await.0, world.get("/ready").await.0), (200, 200));
}

#[tokio::test(start_paused = true)]
async fn tls_listens_and_reaches_replicas_and_unknown_roots_are_refused() {
    use gorgo_live::testkit::{Connector, Io};
    use std::time::Duration;
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["router".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let world = World::new(1, Script::default(), |config| {
        config.tls.cert = Some(cert.clone());
        config.tls.key = Some(key.clone());
    })
    .await;
    let connect = |ca: Option<std::path::PathBuf>, insecure: bool| {
        let trust =
            tls_client_config(&gorgo_live::config::Tls { upstream_ca: ca, insecure, ..Default::default() }).unwrap();
        let connector = Connector::new(world.net.dial(), trust, Duration::from_secs(5));
        async move { connector.connect(true, "router", 8000).await }
    };
    let talk = |io: Io| async move {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(chat("x", false)).await.unwrap().status().as_u16()
    };
    assert_eq!(talk(connect(Some(cert.clone()), false).await.unwrap()).await, 200);
    assert_eq!(talk(connect(None, true).await.unwrap()).await, 200);
    assert!(connect(None, false).await.is_err(), "an unknown root is refused");
    let missing = tls_client_config(&gorgo_live::config::Tls { upstream_ca: Some(key), ..Default::default() });
    assert!(missing.unwrap_err().to_string().ends_with("holds no PEM certificate"));
}
