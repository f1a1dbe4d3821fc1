//! `gorgo schema`, and the pages made from it: `docs/experiment-file.md` and `docs/router-settings.md`.

use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const EXPERIMENT: &str = "# The experiment file

`gorgo run` and `gorgo sweep` read it. An arm `[[arms]]` may hold any of these settings, `[vary]` crosses the arms with lists of
values, and `--set KEY=VALUE` overrides one key by its dotted name. Times ending in `_ms` may have a unit: `patience_ms = \"5s\"`.
`gorgo schema experiment` prints the same as a JSON schema, from which this page is made
(`GORGO_WRITE_DOCS=1 cargo test --test it reference`). A file to begin with:
[experiments/three-regions.toml](../experiments/three-regions.toml).
";

const ROUTER: &str = "# Settings of a router

`gorgo proxy start --config router.toml` and `gorgo lb start --config router.toml` read them, `--set KEY=VALUE` overrides one by
its dotted name, and `GET /proxy/config` shows those in force. Times ending in `_ms` may have a unit: `idle_ms = \"75s\"`.
`gorgo schema router` prints the same as a JSON schema, from which this page is made
(`GORGO_WRITE_DOCS=1 cargo test --test it reference`). A file with all of them: [deploy/router.toml](../deploy/router.toml).
Settings of policies: [experiment-file.md](experiment-file.md#policies).
";

fn schema(file: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_gorgo")).args(["schema", file]).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A page under construction.
struct Page<'a> {
    schema: &'a Value,
    out: String,
}

impl<'a> Page<'a> {
    /// The schema that a reference or an optional value leads to.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        if let Some(name) = schema["$ref"].as_str() {
            return self.resolve(&self.schema["$defs"][name.rsplit('/').next().unwrap()]);
        }
        match schema["anyOf"].as_array().map(Vec::as_slice) {
            Some([some, none]) if none["type"] == "null" => self.resolve(some),
            _ => schema,
        }
    }

    /// The tables of a section, and its other keys in a table of the page.
    fn section(&mut self, heading: &str, path: &str, schema: &'a Value) {
        let Some(properties) = schema["properties"].as_object() else { return };
        let mut rows = String::new();
        let mut inner = Vec::new();
        for (key, property) in properties {
            let value = self.resolve(property);
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let item = self.resolve(&value["items"]);
            if value["properties"].is_object() {
                inner.push((format!("[{path}]"), path, property, value));
                continue;
            }
            if item["properties"].is_object() {
                inner.push((format!("[[{path}]]"), path, property, item));
                continue;
            }
            let default = match &property["default"] {
                Value::Null => String::new(),
                Value::Array(list) if list.is_empty() => "`[]`".to_owned(),
                Value::Object(keys) if keys.contains_key("draw") => format!("`{}`", property["default"]),
                Value::Object(_) => String::new(),
                other => format!("`{other}`"),
            };
            let _ = writeln!(rows, "| `{key}` | {} | {default} | {} |", self.values(value), about(property, value));
        }
        if !rows.is_empty() {
            let _ = write!(self.out, "\n## {heading}\n\n");
            if let Some(text) = schema["description"].as_str().filter(|_| !path.is_empty()) {
                let _ = write!(self.out, "{}\n\n", plain(text));
            }
            self.out += "| key | value | default | meaning |\n|---|---|---|---|\n";
            self.out += &rows;
        }
        for (heading, path, property, schema) in inner {
            match (path.as_str(), self.out.contains("[fleet.settings]")) {
                ("arms", _) => {
                    let _ = write!(
                        self.out,
                        "\n## [[arms]]\n\n{} Keys: `name`, and all of this page.\n",
                        about(property, schema)
                    );
                }
                ("fleet.replicas.settings", _) => {
                    let _ = write!(
                        self.out,
                        "\n## [fleet.replicas.settings]\n\n{} Keys: those of `[fleet.settings]`.\n",
                        about(property, schema)
                    );
                }
                _ => self.section(&heading, &path, schema),
            }
        }
    }

    /// What may be written for a value.
    fn values(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        if let Some(list) = schema["enum"].as_array() {
            return list.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        }
        if let Some(word) = schema.get("const") {
            return format!("`{word}`");
        }
        if schema["anyOf"][1]["title"].is_string() {
            return "a policy".to_owned();
        }
        if let Some(forms) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            let forms: Vec<String> = forms.iter().map(|form| self.values(form)).collect();
            return forms.join(if schema["oneOf"].is_array() { ", " } else { " or " });
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|&kind| kind != "null"),
            kind => kind.as_str(),
        };
        match kinds {
            Some("integer") => "whole number".to_owned(),
            Some("number") => "number".to_owned(),
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("string") if schema["pattern"].is_string() => "duration".to_owned(),
            Some("string") => "text".to_owned(),
            Some("array") => format!("list of {}", self.values(&schema["items"])),
            Some("object") => match schema["properties"].as_object().and_then(|keys| keys.keys().next()) {
                Some(key) => format!("`{{ {key} = ... }}`"),
                None => "table".to_owned(),
            },
            _ => "any value".to_owned(),
        }
    }

    fn policies(&mut self) {
        self.out += "\n## Policies\n\n`policy = \"NAME\"`, or a table `[policy]` with `name` and any of its keys. What each does:\n[policies.md](policies.md).\n";
        for form in self.schema["$defs"]["Policy"]["anyOf"].as_array().unwrap().iter().skip(1) {
            let name = form["title"].as_str().unwrap();
            let _ = write!(self.out, "\n### {name}\n\n{}\n", form["description"].as_str().unwrap());
            let keys = form["properties"].as_object().unwrap();
            if keys.len() > 1 {
                self.out += "\n| key | value | default | meaning |\n|---|---|---|---|\n";
            }
            for (key, property) in keys.iter().filter(|(key, _)| *key != "name") {
                let default = Some(&property["default"]).filter(|value| !value.is_null());
                let default = default.map_or_else(String::new, |value| format!("`{value}`"));
                let (values, value) = (self.values(property), self.resolve(property));
                let _ = writeln!(self.out, "| `{key}` | {values} | {default} | {} |", about(property, value));
            }
        }
    }
}

/// A comment without its links, as one line.
fn plain(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("[`Self::", "[`").replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

/// The meaning of a key: its own comment, else that of its type.
fn about(property: &Value, value: &Value) -> String {
    plain(property["description"].as_str().or(value["description"].as_str()).unwrap_or_default())
}

fn page(head: &str, schema: &Value, with_policies: bool) -> String {
    let mut page = Page { schema, out: head.to_owned() };
    page.section("Top of the file", "", schema);
    if with_policies {
        page.policies();
    }
    page.out
}

#[test]
fn the_reference_pages_are_current() {
    for (name, head, file, policies) in
        [("experiment-file.md", EXPERIMENT, "experiment", true), ("router-settings.md", ROUTER, "router", false)]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        let made = page(head, &schema(file), policies);
        for line in made.lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "a key of {name} has no comment: {line}");
        }
        if std::env::var_os("GORGO_WRITE_DOCS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "docs/{name} is out of date: GORGO_WRITE_DOCS=1 cargo test --test it reference");
    }
}

/// A TOML file as JSON.
fn json(path: &Path) -> Value {
    let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    serde_json::to_value(table).unwrap()
}

#[test]
fn shipped_files_fit_their_schema_and_wrong_keys_do_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let experiment = jsonschema::validator_for(&schema("experiment")).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(root.join("experiments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "toml") && !path.ends_with("Cargo.toml") {
            let errors: Vec<String> =
                experiment.iter_errors(&json(&path)).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
            files += 1;
        }
    }
    assert!(files > 5);
    let mut wrong = json(&root.join("experiments/three-regions.toml"));
    wrong["fleet"]["engin"] = "mistral-7b-a100-80".into();
    assert!(!experiment.is_valid(&wrong), "an unknown key");

    let router = jsonschema::validator_for(&schema("router")).unwrap();
    let sample = json(&root.join("deploy/router.toml"));
    let errors: Vec<String> = router.iter_errors(&sample).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for (key, value, fits) in [("idle_ms", "75s", true), ("idle_ms", "75 parsecs", false), ("idel_ms", "75s", false)] {
        assert_eq!(router.is_valid(&serde_json::json!({"timeouts": {key: value}})), fits, "{key} = {value}");
    }
}
