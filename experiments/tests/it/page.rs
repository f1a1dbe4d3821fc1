//! The page of a run in a real browser, where one is installed: a column head sorts, an arm hides, nothing is asked of
//! other hosts.

use gorgo_experiments::results::{ResultFolder, Rows};
use gorgo_experiments::runner::{self, RunOptions};
use gorgo_experiments::spec::Experiment;
use std::path::{Path, PathBuf};
use std::process::Command;

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

/// The page's elements after its scripts and then `script` have run.
fn after(browser: &Path, page: &str, script: &str, dir: &Path) -> String {
    // The policy of the page allows no script but its own.
    let (head, rest) = page.split_once("<meta http-equiv=\"Content-Security-Policy\"").unwrap();
    let (_, rest) = rest.split_once('>').unwrap();
    let page = format!("{head}{rest}").replace("</body>", &format!("<script>{script}</script></body>"));
    dump(browser, &page, dir)
}

fn dump(browser: &Path, page: &str, dir: &Path) -> String {
    let file = dir.join("page.html");
    std::fs::write(&file, page).unwrap();
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let out = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom", &profile])
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_column_head_sorts_and_an_arm_hides() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("three-regions.toml");
    let sets = ["seeds=1", "workload.requests=40", "vary={}", "workload.rate=5.0"].map(str::to_owned);
    let experiment = Experiment::load(&file, &sets, &[]).unwrap();
    let plan = experiment.plan().unwrap();
    let folder = ResultFolder::create(&dir.path().join("results"), &experiment.resolved()).unwrap();
    let options = RunOptions { jobs: Some(1), rows: Rows::Drop, live: false, shard: None };
    runner::run(&experiment, &plan, &folder, options, &|_| {}).unwrap();
    let page = std::fs::read_to_string(folder.dir().join("report.html")).unwrap();

    // As it stands, under its own policy.
    let plain = dump(&browser, &page, dir.path());
    assert!(plain.contains("data-ready=\"1\""), "the script of the page did not run to its end");
    assert!(plain.contains("class=\"u-wrap\""), "no chart was drawn");

    let clicked = after(
        &browser,
        &page,
        r#"
        const table = document.querySelector("table.data");
        const values = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[5].textContent));
        const head = table.tHead.rows[0].cells[5].querySelector("button");
        const ascending = (list) => list.every((v, i) => i === 0 || list[i - 1] <= v);
        head.click();
        const up = ascending(values());
        head.click();
        const down = ascending(values().reverse());
        const chip = document.querySelector(".chip[data-arm=gorgo]");
        chip.click();
        const rows = [...document.querySelectorAll("tr[data-arm=gorgo]")];
        const hidden = rows.length > 0 && rows.every((row) => getComputedStyle(row).display === "none");
        const other = getComputedStyle(document.querySelector("tr[data-arm=least-load]")).display !== "none";
        const off = document.querySelectorAll(".u-legend .u-off").length;
        document.body.append(JSON.stringify({ up, down, hidden, other, off, pressed: chip.ariaPressed }));
        "#,
        dir.path(),
    );
    let wanted = r#"{"up":true,"down":true,"hidden":true,"other":true,"off":1,"pressed":"false"}"#;
    assert!(clicked.contains(wanted), "{}", &clicked[clicked.len().saturating_sub(400)..]);
}
