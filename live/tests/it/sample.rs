//! `deploy/router.toml`: every setting of the router with its default, made from the types and their comments.

use gorgo_live::config::Config;
use std::path::{Path, PathBuf};

/// Each table of the file, the struct that reads it, and the struct's source.
const TABLES: [(&str, &str, &str); 20] = [
    ("", "Config", "live/src/config.rs"),
    ("router", "RouterConfig", "core/src/router/config.rs"),
    ("router.gates", "Gates", "core/src/fleet/gates.rs"),
    ("router.breaker", "BreakerConfig", "core/src/fleet/breaker.rs"),
    ("router.egress", "EgressConfig", "core/src/egress.rs"),
    ("discovery", "Discovery", "live/src/config/discovery.rs"),
    ("residency", "Residency", "live/src/config/residency.rs"),
    ("sharing", "Sharing", "live/src/config/sharing.rs"),
    ("kv_events", "KvEvents", "live/src/config/kv_events.rs"),
    ("snapshot", "Snapshots", "live/src/config/snapshot.rs"),
    ("probes", "Probes", "live/src/config/sections.rs"),
    ("limits", "Limits", "live/src/config/sections.rs"),
    ("timeouts", "Timeouts", "live/src/config/sections.rs"),
    ("upstream", "Upstreams", "live/src/config/upstream.rs"),
    ("security", "Security", "live/src/config/sections.rs"),
    ("cors", "Cors", "live/src/config/sections.rs"),
    ("tls", "Tls", "live/src/config/sections.rs"),
    ("explain", "Explain", "live/src/config/sections.rs"),
    ("shadow", "Shadow", "live/src/config/sections.rs"),
    ("tune", "Tune", "live/src/config/tune.rs"),
];

const HEAD: &str = "\
# Every setting of a router with its default. `gorgo proxy start --config router.toml --check` reads a file and ends.
# Times are in milliseconds, or have a unit: idle_ms = \"75s\". Made from the types; see live/tests/it/sample.rs.

# Engines; `[[peers]]` (url, name) are other edges of `gorgo lb`.
# [[replicas]]
# url = \"http://10.0.0.1:8080\"
# name = \"a\"
# region = \"us\"
# labels = [\"hipaa\"]    # what [residency] can allow, besides the region
# api_key = \"...\"       # the engine's own key; or api_key_file
# ms_per_token = 0.09   # prefill time per token, ms
# models = [\"m\"]        # besides those of its own /v1/models
# kv_tokens = 400000    # if the engine's metrics do not report it

# policy = \"predictive\" # or [policy] with name = \"gorgo\" and its settings; `gorgo policies` lists the names

# Where requests may go; see docs/operators.md.
# [[residency.rules]]
# value = \"eu\"          # of the header that residency.header names; or header, model, api_key_sha256
# allow = [\"eu-west\"]   # regions or labels of which a replica must have one

# [[router.egress.prices]]
# from = \"eu-west\"
# to = \"us-east\"
# per_gb = 0.02         # money per 10^9 bytes
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The fields of a struct with their comments, in order.
fn fields(source: &str, name: &str) -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join(source)).unwrap();
    let body = text.split(&format!("pub struct {name} {{")).nth(1).unwrap().split("\n}").next().unwrap().to_owned();
    let (mut found, mut comment, mut skipped) = (Vec::new(), Vec::new(), false);
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim().to_owned());
        } else if line == "#[serde(skip)]" {
            skipped = true;
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            let comment = std::mem::take(&mut comment);
            if !std::mem::take(&mut skipped) {
                found.push((field.to_owned(), comment));
            }
        }
    }
    found
}

fn sample() -> String {
    let defaults: toml::Table = Config::default().to_toml().parse().unwrap();
    let known = |name: &str| name == "policy" || TABLES.iter().any(|(table, ..)| *table == name);
    assert!(defaults.iter().all(|(key, value)| !value.is_table() || known(key)), "a table is missing in TABLES");
    let mut out = HEAD.to_owned();
    for (table, name, source) in TABLES {
        let mut values = &defaults;
        for part in table.split('.').filter(|part| !part.is_empty()) {
            values = values[part].as_table().unwrap();
        }
        let is_table = |field: &str| values.get(field).is_some_and(toml::Value::is_table);
        if !table.is_empty() {
            out.push_str(&format!("\n[{table}]\n"));
        } else {
            out.push('\n');
        }
        for (field, comment) in fields(source, name) {
            if is_table(&field) || ["policy", "replicas", "peers"].contains(&field.as_str()) {
                continue;
            }
            comment.iter().for_each(|line| out.push_str(&format!("# {line}\n")));
            match values.get(&field) {
                Some(value) => out.push_str(&format!("# {field} = {value}\n")),
                None => out.push_str(&format!("# {field} is not set\n")),
            }
        }
    }
    out
}

#[test]
fn the_sample_has_every_setting_with_its_default() {
    let path = root().join("deploy/router.toml");
    if std::env::var_os("GORGO_WRITE_SAMPLE").is_some() {
        std::fs::write(&path, sample()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == sample(), "run this test with GORGO_WRITE_SAMPLE=1 and commit deploy/router.toml");
    assert_eq!(Config::parse(&kept).unwrap(), Config::default());
    // With every default spelled out it is the same configuration.
    let is_setting = |line: &&str| {
        let key = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).map_or("", |(key, _)| key);
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let after_head = &kept[HEAD.len()..];
    let spelled: String = after_head
        .lines()
        .map(|line| if is_setting(&line) { format!("{}\n", &line[2..]) } else { format!("{line}\n") })
        .collect();
    assert_eq!(Config::parse(&spelled).unwrap(), Config::default());
    assert!(spelled.lines().filter(|line| !line.starts_with(['#', '[']) && line.contains(" = ")).count() > 50);
}
