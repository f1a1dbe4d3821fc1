//! `gorgo bench` against a router in a separate process, over TLS.

use crate::processes::{Process, ports};
use crate::{gorgo, text};

#[test]
fn load_is_sent_to_https_targets_with_a_trusted_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let engine = ports(1)[0];
    let _engine = Process::engine(engine, &["--speed", "50"]);
    let (cert, key) = (format!("tls.cert={}", path("cert.pem")), format!("tls.key={}", path("key.pem")));
    let (_proxy, addr) = Process::proxy(&[engine], &["--set", &cert, "--set", &key]);
    let target = format!("https://localhost:{}", addr.port());
    let bench = |more: &[&str]| {
        let args = ["bench", "--target", &target, "--profile", "synchronous", "--max-requests", "3", "--json"];
        gorgo(&[&args, more].concat(), "")
    };
    for trust in [&["--tls-ca", &path("cert.pem")][..], &["--tls-insecure"]] {
        let out = bench(trust);
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let totals = &report["benchmarks"][0]["request_totals"];
        assert_eq!((&totals["successful"], &totals["errored"]), (&3.into(), &0.into()), "{}", text(&out.stderr));
    }
    let out = bench(&["--strict"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("certificate"), "{}", text(&out.stderr));
}
