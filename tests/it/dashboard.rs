//! The page of operators in a real browser, where one is installed: the key is typed in and leaves the tab in headers only,
//! figures come each second, a decision opens, nothing is asked of other hosts.

use crate::client::send;
use crate::processes::{Process, ports};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

/// A browser with one page, commanded over a pipe by the DevTools protocol: JSON messages that end with a zero byte.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Value,
    next: u64,
    /// Addresses that the page asked for.
    asked: Vec<String>,
    /// How often a page was loaded.
    loads: usize,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    fn open(program: &Path, profile: &Path) -> Self {
        // The protocol is on descriptors 3 and 4.
        let mut child = Command::new("bash")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "bash"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Self { child, to, from, session: Value::Null, next: 0, asked: Vec::new(), loads: 0 };
        let page = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", &json!({"targetId": page["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].clone();
        browser.call("Network.enable", &json!({}));
        browser.call("Page.enable", &json!({}));
        browser
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let told = self.read();
            if told["id"] == self.next {
                assert!(told["error"].is_null(), "{method}: {}", told["error"]);
                return told["result"].clone();
            }
        }
    }

    /// The next message of the browser.
    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser has ended");
        let told: Value = serde_json::from_slice(&bytes).unwrap();
        if told["method"] == "Network.requestWillBeSent" {
            self.asked.push(told["params"]["request"]["url"].as_str().unwrap().to_owned());
        }
        self.loads += usize::from(told["method"] == "Page.loadEventFired");
        told
    }

    /// Waits until the page has been loaded so many times: what is evaluated during a navigation is lost with the old page.
    fn loaded(&mut self, times: usize) {
        while self.loads < times {
            self.read();
        }
    }

    /// The value of an expression; a promise is waited for.
    fn value(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let told = self.call("Runtime.evaluate", &ask);
        assert!(told["exceptionDetails"].is_null(), "{expression}: {}", told["exceptionDetails"]);
        told["result"]["value"].clone()
    }

    /// Waits until a condition holds in the page; fails after some 3,000 looks.
    fn until(&mut self, condition: &str) {
        let holds = self.value(&format!(
            "new Promise((done) => {{ let looks = 0; const look = () => {condition} ? done(true) : ++looks > 3000 ? \
             done(false) : setTimeout(look, 20); look(); }})"
        ));
        assert_eq!(holds, true, "{condition}");
    }
}

#[test]
fn a_key_is_typed_in_figures_come_and_a_decision_opens() {
    let Some(program) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let engines = ports(2);
    let _engines: Vec<Process> = engines.iter().map(|addr| Process::engine(*addr, &[])).collect();
    let (_router, at) = Process::proxy(
        &engines,
        &[
            "--set",
            "security.admin_key=a-secret",
            "--set",
            "security.read_key=reader",
            "--set",
            "region=aws:eu-central-1",
            "--set",
            "name=demo",
        ],
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chat = r#"{"stream": true, "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}"#;
    for n in 0..3 {
        let answer = runtime.block_on(send(at, "POST", "/v1/chat/completions", chat, Duration::from_secs(20)));
        assert!(answer.body.contains("[DONE]"), "{n}: {answer:?}");
    }
    let mut page = Browser::open(&program, dir.path());
    page.call("Page.navigate", &json!({"url": format!("http://{at}/dashboard")}));
    page.loaded(1);
    let press = |page: &mut Browser, key: &str| {
        page.until("document.getElementById('ask') && !document.getElementById('ask').hidden");
        page.value(&format!(
            "document.getElementById('key').value = '{key}'; document.querySelector('#ask button').click()"
        ));
    };
    press(&mut page, "wrong");
    page.until("document.getElementById('state').textContent.includes('refuses')");
    press(&mut page, "reader");
    page.until("document.documentElement.dataset.ready === '1'");
    assert_eq!(page.value("document.getElementById('ask').hidden"), true);
    assert_eq!(page.value("document.querySelectorAll('#replicas tbody tr').length"), 2);
    assert_eq!(page.value("document.querySelectorAll('#ttft canvas').length"), 1, "a chart is drawn");
    assert_eq!(page.value("document.querySelector('#name').textContent"), "demo");
    // The page draws anew each second.
    page.value("window.before = document.querySelector('#replicas tbody')");
    page.until("document.querySelector('#replicas tbody') !== window.before");
    // A decision opens with the terms of both candidates, and stays open.
    page.value("document.querySelector('#decisions tr.head button').click()");
    let terms = "document.querySelectorAll('#decisions td.inner tbody tr').length";
    assert_eq!(page.value(terms), 2);
    page.value("window.before = document.querySelector('#replicas tbody')");
    page.until("document.querySelector('#replicas tbody') !== window.before");
    assert_eq!(page.value(terms), 2);
    // A column head sorts; a frozen page stays.
    page.value("document.querySelector('#replicas th button').click()");
    assert_eq!(page.value("document.querySelector('#replicas th').ariaSort"), "ascending");
    page.value("document.getElementById('freeze').click()");
    assert_eq!(page.value("document.getElementById('state').textContent"), "frozen");
    // It fits a phone.
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
    page.call("Emulation.setDeviceMetricsOverride", &phone);
    assert_eq!(page.value("document.documentElement.scrollWidth <= innerWidth"), true);
    // Nothing is asked elsewhere, and no key is in an address.
    assert!(page.asked.len() >= 3, "{:?}", page.asked);
    let own = format!("http://{at}/");
    assert!(page.asked.iter().all(|url| url.starts_with(&own) || url.starts_with("data:")), "{:?}", page.asked);
    assert!(page.asked.iter().all(|url| !url.contains("reader") && !url.contains("wrong")), "{:?}", page.asked);
    // A forgotten key is asked for again.
    let before = page.loads;
    page.value("document.getElementById('forget').click()");
    page.loaded(before + 1);
    page.until("document.getElementById('ask') && !document.getElementById('ask').hidden");
    assert_eq!(page.value("sessionStorage.length"), 0);
}

#[test]
fn long_names_leave_the_page_its_width() {
    let Some(program) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let engines = ports(2);
    let _engines: Vec<Process> = engines.iter().map(|addr| Process::engine(*addr, &[])).collect();
    let name = |n: usize| format!("vllm-deployment-of-a-large-model-in-a-far-away-cluster-5f6-{n}");
    let region = format!("far:{}", "r".repeat(56));
    let replica = |n: usize| {
        format!("[[replicas]]\nurl = \"http://{}\"\nname = \"{}\"\nregion = \"{region}\"\n", engines[n], name(n))
    };
    let config = dir.path().join("router.toml");
    std::fs::write(&config, format!("listen = \"127.0.0.1:0\"\n{}{}", replica(0), replica(1))).unwrap();
    let config = config.display().to_string();
    let (_router, at) = Process::spawn(&["proxy", "start", "--config", &config]).serving();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chat = r#"{"stream": true, "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}"#;
    let answer = runtime.block_on(send(at, "POST", "/v1/chat/completions", chat, Duration::from_secs(20)));
    assert!(answer.body.contains("[DONE]"), "{answer:?}");
    let mut page = Browser::open(&program, &dir.path().join("profile"));
    page.call("Page.navigate", &json!({"url": format!("http://{at}/dashboard")}));
    page.loaded(1);
    page.until("document.documentElement.dataset.ready === '1' && document.querySelector('#decisions tr.head')");
    page.value("document.querySelector('#decisions tr.head button').click()");
    let wide = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).map((one) => \
                one.firstElementChild.id).join()";
    for (width, is_phone) in [(1_400, false), (390, true)] {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": is_phone});
        page.call("Emulation.setDeviceMetricsOverride", &screen);
        assert_eq!(page.value("document.documentElement.scrollWidth <= innerWidth"), true, "{width}");
        if !is_phone {
            assert_eq!(page.value(wide), "", "tables that are wider than their section");
        }
    }
    assert_eq!(page.value("document.querySelector('#replicas .name').title.length"), 60);
    assert_eq!(
        page.value("document.querySelector('#replicas .name').textContent.length"),
        60,
        "all of it can be copied"
    );
}
