//! `promtool` reads what routers and engines export.

use crate::client::send;
use crate::processes::{Process, ports};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `promtool check metrics` complains of; `None` where there is no promtool.
fn complaints(page: &str) -> Option<String> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match promtool.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        started => started.unwrap(),
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[tokio::test]
async fn promtool_accepts_the_metrics_of_routers_and_engines() {
    let Some(nonsense) = complaints("up{ 1\n") else {
        eprintln!("skipped: there is no promtool here (apt-get install prometheus)");
        return;
    };
    assert!(nonsense.contains("parsing"), "{nonsense}");
    let addrs = ports(2);
    let _engines = [Process::engine(addrs[0], &[]), Process::engine(addrs[1], &[])];
    let (_proxy, router) = Process::proxy(&addrs, &["--set", "shadow.policies=[{name=\"random\"}]"]);
    let body = r#"{"prompt": "hello", "stream": true, "max_tokens": 5}"#;
    for _ in 0..3 {
        assert!(send(router, "POST", "/v1/completions", body, Duration::from_secs(30)).await.whole);
    }
    let page = send(router, "GET", "/metrics", "", Duration::from_secs(10)).await.body;
    assert!(page.contains("gorgo_requests_total{"), "{page}");
    assert_eq!(complaints(&page).unwrap(), "");
    for engine in addrs {
        let page = send(engine, "GET", "/metrics", "", Duration::from_secs(10)).await.body;
        assert!(page.contains("sglang:max_total_num_tokens"), "{page}");
        // SGLang's own names have the colon that promtool would keep for recording rules, and counters without help.
        let other: Vec<String> =
            complaints(&page).unwrap().lines().filter(|line| !line.contains("sglang:")).map(str::to_owned).collect();
        assert!(other.is_empty(), "{other:?}");
    }
}
