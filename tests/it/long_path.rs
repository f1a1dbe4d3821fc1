//! The relay against the kernel's TCP over a long path. Optional: root, network namespaces, python3.

use std::process::Command;

/// `benchmark/wan/measure.py` sends prompts of 8, 80 and 320 kB through a router to an engine 200 ms away, over the kernel's
/// TCP and then over the relay; it fails where the two differ by more than half a round trip.
#[test]
#[ignore = "takes three minutes, root and network namespaces: cargo test --test it -- --ignored the_relay_delays"]
fn the_relay_delays_prompts_as_the_kernels_tcp_does() {
    let gorgo = env!("CARGO_BIN_EXE_gorgo");
    for (router, link) in [("--set upstream.congestion=system", "cubic"), ("", "bbr")] {
        let router = format!("{gorgo} proxy start --servers {{engine}} --listen {{listen}} {router}");
        let relay = format!("{gorgo} relay");
        let measured = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benchmark/wan/measure.py"))
            .args(["--idle", "0,3", "--router", &router, "--relay", &relay, "--link", link])
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&measured.stdout), String::from_utf8_lossy(&measured.stderr));
        assert!(measured.status.success(), "{link}:\n{out}{err}");
    }
}
