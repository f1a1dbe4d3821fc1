//! `docs/experiment-file.md` and `docs/router-settings.md`: every key with its values, default and meaning, made from the
//! types and their comments.

use gorgo_core::policy::PolicyConfig;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// A section of the experiment file: its heading, the struct that reads it, the struct's source, its defaults.
type Section = (&'static str, &'static str, &'static str, fn() -> Table);

fn none() -> Table {
    Table::new()
}

fn of<T: Default + serde::Serialize>() -> Table {
    Table::try_from(T::default()).unwrap()
}

const SECTIONS: [Section; 16] = [
    ("Top of the file", "RunSpec", "experiments/src/spec/run.rs", none),
    ("[workload]", "WorkloadSpec", "experiments/src/spec/workload.rs", none),
    (
        "[workload], options of the reader",
        "Options",
        "traces/src/workload/options.rs",
        of::<gorgo_traces::workload::Options>,
    ),
    ("[fleet]", "FleetSpec", "experiments/src/spec/run.rs", none),
    ("[[fleet.replicas]]", "ReplicaSpec", "experiments/src/spec/run.rs", none),
    (
        "[fleet.settings] of all engines, or of one replica",
        "EngineConfig",
        "sim/src/engine/config.rs",
        of::<gorgo_sim::engine::EngineConfig>,
    ),
    ("[fleet.settings.prefill]", "PrefillTimes", "sim/src/engine/steps.rs", || engine("prefill")),
    ("[fleet.settings.decode]", "DecodeTimes", "sim/src/engine/steps.rs", || engine("decode")),
    ("[network]", "NetworkConfig", "sim/src/network.rs", of::<gorgo_sim::network::NetworkConfig>),
    ("[signals]", "SignalsSpec", "experiments/src/spec/run.rs", of::<gorgo_experiments::spec::run::SignalsSpec>),
    ("[client]", "ClientSpec", "experiments/src/spec/run.rs", of::<gorgo_experiments::spec::run::ClientSpec>),
    ("[[faults]]", "FaultSpec", "experiments/src/spec/run.rs", none),
    (
        "[measure]",
        "MeasureSpec",
        "experiments/src/spec/measure.rs",
        of::<gorgo_experiments::spec::measure::MeasureSpec>,
    ),
    ("[measure.slo]", "Slo", "experiments/src/spec/measure.rs", none),
    ("[live]", "LiveSpec", "experiments/src/spec/live.rs", of::<gorgo_experiments::spec::LiveSpec>),
    ("[[live.nodes]]", "LiveNode", "experiments/src/spec/live.rs", none),
];

/// The struct of a policy's settings and its source, from the registry; `None` without settings. `gorgo`'s keys are those
/// of its weights.
fn settings_of(policy: &str) -> Option<(String, String)> {
    let registry = std::fs::read_to_string(root().join("core/src/policy/registry.rs")).unwrap();
    let line = registry.lines().find(|line| line.contains(&format!("= \"{policy}\" =>"))).unwrap();
    let (module, name) = line.split(['(', ')']).nth(1).unwrap().split_once("::")?;
    let name = if policy == "gorgo" { "Weights" } else { name };
    Some((name.to_owned(), format!("core/src/policy/{module}.rs")))
}

fn engine(part: &str) -> Table {
    of::<gorgo_sim::engine::EngineConfig>()[part].as_table().cloned().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

struct Field {
    name: String,
    kind: String,
    about: String,
}

/// The fields of a struct with their types and comments, in order.
fn fields(source: &str, name: &str) -> Vec<Field> {
    let text = std::fs::read_to_string(root().join(source)).unwrap();
    let body = text.split(&format!("pub struct {name} {{")).nth(1).unwrap_or_else(|| panic!("{name} in {source}"));
    let (mut found, mut about) = (Vec::new(), String::new());
    for line in body.split("\n}").next().unwrap().lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            about = format!("{about} {}", text.trim()).trim().to_owned();
        } else if let Some((field, kind)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            let kind = kind.trim().trim_end_matches(',').to_owned();
            found.push(Field { name: field.to_owned(), kind, about: std::mem::take(&mut about) });
        }
    }
    found
}

/// The words that an enum of one of these sources is written as.
fn variants(kind: &str) -> Option<String> {
    const SOURCES: [&str; 9] = [
        "experiments/src/spec/run.rs",
        "traces/src/workload/options.rs",
        "sim/src/network.rs",
        "core/src/network.rs",
        "core/src/policy/gorgo.rs",
        "core/src/policy/predictive.rs",
        "core/src/policy/least_load.rs",
        "core/src/policy/select.rs",
        "core/src/policy/kv_cost.rs",
    ];
    SOURCES.iter().find_map(|source| {
        let text = std::fs::read_to_string(root().join(source)).unwrap();
        let body = text.split(&format!("pub enum {kind} {{")).nth(1)?.split("\n}").next()?.to_owned();
        let names = body.lines().map(str::trim).filter_map(|line| {
            let name: String = line.chars().take_while(|c| c.is_alphanumeric()).collect();
            let rest = &line[name.len()..];
            (name.starts_with(char::is_uppercase) && (rest.starts_with(',') || rest.starts_with('('))).then(|| {
                let kebab = name.char_indices().fold(String::new(), |word, (i, c)| match c.is_uppercase() && i > 0 {
                    true => format!("{word}-{}", c.to_lowercase()),
                    false => format!("{word}{}", c.to_lowercase()),
                });
                match rest.starts_with('(') {
                    true => format!("`{{ {kebab} = ... }}`"),
                    false => format!("`\"{kebab}\"`"),
                }
            })
        });
        Some(names.collect::<Vec<_>>().join(", "))
    })
}

/// What may be written for a Rust type.
fn values(kind: &str) -> String {
    let inner = |outer: &str| kind.strip_prefix(outer).and_then(|rest| rest.strip_suffix('>')).map(values);
    if let Some(some) = inner("Option<") {
        return some;
    }
    if let Some(each) = inner("Vec<") {
        return format!("list of {each}");
    }
    match kind {
        "f64" | "f32" => "number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "whole number".to_owned(),
        "bool" => "`true`, `false`".to_owned(),
        "String" | "PathBuf" => "text".to_owned(),
        "PolicyConfig" => "a name, or a table with `name` and settings".to_owned(),
        kind if kind.starts_with("BTreeMap") => "table of texts".to_owned(),
        kind => variants(kind).unwrap_or_else(|| "table".to_owned()),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("[`Self::", "[`").replace("[`", "`").replace("`]", "`")
}

fn table(out: &mut String, fields: &[Field], defaults: &Table) {
    out.push_str("\n| key | values | default | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let default = match defaults.get(&field.name) {
            Some(Value::Table(_)) => "see below".to_owned(),
            Some(value) => format!("`{value}`"),
            None => String::new(),
        };
        let _ = writeln!(out, "| `{}` | {} | {default} | {} |", field.name, values(&field.kind), cell(&field.about));
    }
}

const EXPERIMENT_HEAD: &str = "\
# The experiment file

An experiment is a TOML file: what all arms share, the arms, and what varies. `experiments/three-regions.toml` is a whole one.
`gorgo run FILE --set KEY=VALUE` overrides any key by its dotted name (`workload.rate=4.5`, `fleet.settings.kv_tokens=426000`).
What stands later wins: the file, an arm, `[vary]`, the command line. An unknown key is an error that names the nearest.

This page is made from the types; `GORGO_WRITE_DOCS=1 cargo test --test it reference` writes it again. Where the column
`default` is empty, the key is needed or absent by default, as its meaning says.

## Of the file alone

| key | values | meaning |
|---|---|---|
";

fn experiment_page() -> String {
    let mut out = EXPERIMENT_HEAD.to_owned();
    let head = fields("experiments/src/spec.rs", "Experiment");
    for key in ["title", "question", "expect", "seeds", "baseline"] {
        let field = head.iter().find(|field| field.name == key).unwrap();
        let values = if key == "seeds" { "how many, or a list of them".to_owned() } else { values(&field.kind) };
        let _ = writeln!(out, "| `{key}` | {values} | {} |", cell(&field.about));
    }
    out.push_str(
        "| `[[arms]]` | tables | any key of a run, and `name`; what an arm sets wins over the file |\n\
         | `[vary]` | `\"KEY\" = [values]` | every arm runs with every combination of these values |\n",
    );
    for (title, name, source, defaults) in SECTIONS {
        let _ = write!(out, "\n## {title}\n");
        let own: Vec<Field> = fields(source, name)
            .into_iter()
            .filter(|field| !(name == "WorkloadSpec" && field.name == "options"))
            .filter(|field| !(name == "Options" && ["seed", "arrivals", "duration_s"].contains(&field.name.as_str())))
            .collect();
        table(&mut out, &own, &defaults());
    }
    out.push_str("\n## Policies\n\n`policy = \"NAME\"` or `policy = { name = \"NAME\", KEY = VALUE }`.\n");
    for name in PolicyConfig::names() {
        let keys = PolicyConfig::keys(name);
        let Some((of, source)) = settings_of(name) else {
            assert!(keys.is_empty(), "{name}");
            let _ = write!(out, "\n### {name}\n\nNo settings.\n");
            continue;
        };
        let policy = PolicyConfig::parse(name, serde_json::Map::new()).unwrap();
        let mut defaults = Table::try_from(&policy).unwrap();
        defaults.remove("name");
        let mut own = fields(&source, &of);
        if *name == "gorgo" {
            own.insert(
                0,
                Field {
                    name: "preset".to_owned(),
                    kind: "Preset".to_owned(),
                    about: "The weights that the keys below start from.".to_owned(),
                },
            );
        }
        let mut known: Vec<&str> = own.iter().map(|field| field.name.as_str()).collect();
        let mut read = keys.to_vec();
        known.sort_unstable();
        read.sort_unstable();
        assert_eq!(known, read, "{name}");
        let _ = write!(out, "\n### {name}\n");
        table(&mut out, &own, &defaults);
    }
    out
}

/// The settings of a router, from its sample file.
fn router_page() -> String {
    let sample = std::fs::read_to_string(root().join("deploy/router.toml")).unwrap();
    let mut out = "\
# Settings of a router

`gorgo proxy start --config router.toml` and `gorgo lb start --config router.toml` read them; `--set KEY=VALUE` overrides one by
its dotted name; `GET /proxy/config` shows those in force. Times are in milliseconds, or have a unit: `idle_ms = \"75s\"`.
[deploy/router.toml](../deploy/router.toml) is a file with all of them, from which this page is made
(`GORGO_WRITE_DOCS=1 cargo test --test it reference`). Settings of policies: [experiment-file.md](experiment-file.md).

## Top of the file

| key | default | meaning |
|---|---|---|
"
    .to_owned();
    let mut about = String::new();
    // The head of the file shows its lists by example.
    let body = sample.split_once("\n# Proxy or edge.").unwrap().1;
    for line in format!("# Proxy or edge.{body}").lines() {
        if let Some(table) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let _ = write!(out, "\n## [{table}]\n\n| key | default | meaning |\n|---|---|---|\n");
            continue;
        }
        let Some(text) = line.strip_prefix("# ") else { continue };
        let key = text.split([' ', '=']).next().unwrap_or_default();
        let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
        if let (true, Some((key, value))) = (is_key, text.split_once(" = ")) {
            let _ = writeln!(out, "| `{key}` | `{value}` | {} |", cell(about.trim()));
            about.clear();
        } else if let (true, Some(key)) = (is_key, text.strip_suffix(" is not set")) {
            let _ = writeln!(out, "| `{key}` | | {} |", cell(about.trim()));
            about.clear();
        } else {
            let _ = write!(about, " {text}");
        }
    }
    out += "\n## [[replicas]]\n";
    table(&mut out, &fields("live/src/config/sections.rs", "ReplicaConfig"), &none());
    out += "\n## [[peers]]\n";
    table(&mut out, &fields("live/src/config/sections.rs", "PeerConfig"), &none());
    out
}

#[test]
fn the_reference_pages_are_those_of_the_types() {
    for (path, page) in [("docs/experiment-file.md", experiment_page()), ("docs/router-settings.md", router_page())] {
        let file = root().join(path);
        if std::env::var_os("GORGO_WRITE_DOCS").is_some() {
            std::fs::write(&file, &page).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(kept == page, "{path}: run `GORGO_WRITE_DOCS=1 cargo test --test it reference` and commit it");
        assert!(page.lines().filter(|line| line.starts_with("| `")).count() > 60, "{path}");
    }
}
