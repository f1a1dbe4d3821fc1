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
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn the_page_stands_alone_and_is_well_formed() {
    let page = html(&results(points(&["least-load", "gorgo"], 3, 60), "name = \"t\"\n")).unwrap();
    // The one address is the name of the SVG language, which no browser opens.
    let addresses = page.matches("http").count() - page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, page.matches("http-equiv").count());
    assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("<?xml"));
    for tag in ["table", "figure", "svg", "tr", "td", "div", "pre", "main", "ul", "h2"] {
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
    assert_eq!(title("seed = 1\nname = \"three regions\"\n[arm]\nname = \"x\"\n"), "three regions");
    assert_eq!(title("[arm]\nname = \"x\"\n"), "Experiment");
}

#[test]
fn a_large_sweep_shows_its_first_arms_and_says_so() {
    let arms: Vec<String> = (0..120).map(|i| format!("gorgo factor={i}")).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    let page = html(&results(points(&arms, 1, 2), "")).unwrap();
    let (tables, runs) = page.split_once("<h2>Runs").unwrap();
    assert!(tables.contains("The first 100 of 120 arms") && !tables.contains("factor=101<"));
    assert!(runs.contains("factor=101<"), "every run is named");
}
