use super::*;
use crate::results::Point;
use crate::results::test_data::points;

fn results(points: Vec<Point>, spec: &str) -> Results {
    Results::of(spec.to_owned(), points)
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let evil = "</pre><script>alert('x')</script><img src=x onerror=\"y\">";
    let mut points = points(&["least-load", evil], 2, 30);
    for point in &mut points {
        point.names.replicas[0] = evil.to_owned();
        point.origins[0].origin = evil.to_owned();
        point.version = evil.to_owned();
    }
    let page = html(&results(points, &format!("name = \"{evil}\"\n"))).unwrap();
    assert!(!page.contains("<script>alert") && !page.contains("<img"));
    // The library, the data of the charts.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn the_page_stands_alone_and_is_well_formed() {
    let page = html(&results(points(&["least-load", "gorgo"], 3, 60), "name = \"t\"\n")).unwrap();
    // The addresses are the name of the SVG language and the comment over the library, which no browser opens.
    let addresses = page.matches("http://").count() + page.matches("https://").count();
    let harmless = page.matches("http://www.w3.org/2000/svg").count() + page.matches("/*! https://github.com").count();
    assert_eq!(addresses, harmless);
    assert!(!page.contains("@import") && !page.contains("src=") && !page.contains("<?xml"));
    let (page, _) = page.split_once("<script>").unwrap();
    for tag in [
        "table", "figure", "svg", "tr", "td", "div", "pre", "main", "ul", "h2", "details", "noscript", "nav", "dl", "g",
    ] {
        let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert!(page.contains("<h1>t</h1>") && page.contains("none lost") && page.contains("class=\"better\""));
    for hash in ["9e3779b97f4a7c15", "3c6ef372fe94f82a"] {
        assert!(page.contains(hash), "event hash {hash}");
    }
}

#[test]
fn lost_requests_are_told_at_the_top() {
    let mut points = points(&["gorgo"], 1, 10);
    points[0].counts.lost = 3;
    let page = html(&results(points, "")).unwrap();
    assert!(page.contains("<strong>3 without an end"));
}

#[test]
fn nothing_at_all_makes_a_page_too() {
    let page = html(&results(Vec::new(), "")).unwrap();
    assert!(page.contains("No arm was run.") && page.contains("<h1>Experiment</h1>"));
    assert!(html(&results(points(&["a"], 1, 0), "")).unwrap().contains("No request reached its first token."));
}

#[test]
fn the_title_is_the_experiments_name_and_not_that_of_a_table() {
    assert_eq!(text_of("seed = 1\nname = \"three regions\"\n[arm]\nname = \"x\"\n", "title"), "three regions");
    assert_eq!(text_of("[arm]\nname = \"x\"\n", "title"), "Experiment");
}

#[test]
fn a_large_sweep_shows_its_first_arms_and_says_so() {
    let arms: Vec<String> = (0..120).map(|i| format!("gorgo factor={i}")).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    let page = html(&results(points(&arms, 1, 2), "")).unwrap();
    let (tables, runs) = page.split_once("<h2>Runs<").unwrap();
    assert!(tables.contains("The first 100 of 120 arms") && !tables.contains("factor=101</th>"));
    assert!(runs.contains("factor=101<"), "every run is named");
}

#[test]
fn the_verdict_comes_first_with_the_question_and_the_expectation() {
    let spec = "title = \"t\"\nquestion = \"Which <one>?\"\nexpect = \"gorgo wins\"\n";
    let page = html(&results(points(&["least-load", "gorgo"], 4, 200), spec)).unwrap();
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
    assert!(at("Which &lt;one&gt;?") < at("gorgo wins") && at("gorgo wins") < at("<h2>Verdict"));
    assert!(at("<h2>Verdict") < at("<dt>TTFT p50</dt><dd><b class=\"better\">gorgo</b>"));
    assert!(at("<dt>E2E p99</dt>") < at("<h2>Comparison"));
}

#[test]
fn unfinished_requests_are_counted_at_the_top() {
    let mut points = points(&["a", "b"], 1, 100);
    points[0].counts.finished -= 40;
    points[0].counts.failed += 40;
    let page = html(&results(points, "")).unwrap();
    let (lead, _) = page.split_once("<nav").unwrap();
    assert!(lead.contains("did not finish (") && page.contains("not ranked by latency"), "{lead}");
}

#[test]
fn a_terminal_shows_the_ten_best_of_a_large_grid_and_the_baseline() {
    let arms: Vec<String> = (0..30).map(|i| format!("gorgo factor={i}")).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    let all = results(points(&arms, 2, 20), "").summary;
    assert!(crate::summary::ten_best(&all[..24], false).is_none(), "a page of arms is shown whole");
    let mean = |arm: &crate::summary::ArmSummary| arm.ttft_ms.unwrap().mean.value;
    let best = crate::summary::ten_best(&all, false).unwrap();
    let mut means: Vec<f64> = all.iter().map(mean).collect();
    means.sort_by(f64::total_cmp);
    assert_eq!(best[..10].iter().map(mean).collect::<Vec<_>>(), means[..10]);
    assert!(best.len() == 10 || best.len() == 11 && best[10].against_baseline.is_none());
    let first: Vec<String> = crate::summary::ten_best(&all, true).unwrap().into_iter().map(|arm| arm.arm).collect();
    assert_eq!(first[..10], all[..10].iter().map(|arm| arm.arm.clone()).collect::<Vec<_>>(), "in the order asked for");
}

#[test]
fn a_large_grid_has_a_table_of_its_ten_best() {
    let arms: Vec<String> = (0..30).map(|i| format!("gorgo factor={i}")).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    let page = html(&results(points(&arms, 1, 20), "")).unwrap();
    let (_, best) = page.split_once("<h2>Ten best").unwrap();
    let (table, after) = best.split_once("</table>").unwrap();
    assert_eq!(table.matches("<tr>").count(), 11);
    assert!(after.starts_with("</div>\n<p>The ten of the lowest mean TTFT, of 30."), "{}", &after[..60]);
    let (before, table) = page.split_once("<h2>Comparison").unwrap();
    assert!(
        before.contains("<h2>Plots")
            && before.ends_with("<summary>")
            && !table.starts_with("</h2></summary>\n<details open")
    );
    assert!(!before.rsplit_once("<details").unwrap().1.contains(" open"), "the long table is folded");
}

#[test]
fn the_script_is_the_one_that_the_policy_of_the_page_names() {
    let page = html(&results(points(&["a", "b"], 1, 20), "")).unwrap();
    let (_, script) = page.split_once("<script>").unwrap();
    let (script, _) = script.split_once("</script>").unwrap();
    use base64::Engine;
    use sha2::Digest;
    let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(script));
    assert!(page.contains(&format!("script-src 'sha256-{hash}'\"")));
}
