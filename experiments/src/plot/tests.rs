use super::*;
use crate::results::Point;
use crate::results::test_data::{points, results, swept};

fn names(figures: &[Figure]) -> Vec<&str> {
    figures.iter().map(|f| f.name.as_str()).collect()
}

fn sweep(arms: &[(&str, &[(&str, f64)])]) -> Results {
    let all = arms.iter().enumerate();
    results(all.map(|(i, (policy, settings))| Point::of(i as u32, &swept(policy, settings, 1, 20))).collect())
}

#[test]
fn every_text_of_a_plot_is_in_the_svg_and_escaped() {
    let all = figures(&results(points(&["least-load", "<script>alert(1)</script>&"], 2, 60)));
    assert_eq!(names(&all), ["ttft-cdf", "ttft", "e2e", "share", "queues"]);
    let svg = all[0].svg().unwrap();
    assert!(svg.contains("least-load") && svg.contains("time to first token at the user (ms, logarithmic)"));
    for figure in &all {
        let svg = figure.svg().unwrap();
        assert!(!svg.contains("<script"), "{}", figure.name);
        assert!(svg.contains("&lt;script&gt;") || figure.name == "queues" || figure.name == "share", "{}", figure.name);
    }
}

#[test]
fn every_shape_lies_within_the_sheet() {
    let long =
        "gorgo running_cost_factor=0.525 ms_per_token=0.094 waiting_cost_factor=1.25 topology=proxy and more of it";
    let arms: Vec<String> = (0..14).map(|i| format!("{long} {i}")).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    for figure in figures(&results(points(&arms, 2, 40))) {
        let outside = figure.sheet.outside();
        assert!(outside.is_empty(), "{}: {outside:?}", figure.name);
    }
    let grid = [0.01, 0.5, 1.0, 1.5].map(|x| [("a", x), ("b", 1000.0 * x)]);
    let arms: Vec<(&str, &[(&str, f64)])> = grid.iter().map(|s| ("gorgo", s.as_slice())).collect();
    for figure in figures(&sweep(&arms)) {
        assert!(figure.sheet.outside().is_empty(), "{}: {:?}", figure.name, figure.sheet.outside());
    }
}

#[test]
fn a_png_has_twice_the_size_of_its_svg_and_is_not_blank() {
    let all = figures(&results(points(&["gorgo"], 1, 30)));
    let share = all.iter().find(|f| f.name == "share").unwrap();
    let bytes = share.render(Format::Png).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(info.width, 2 * 960);
    assert!(pixels.chunks(3).filter(|p| *p != [255, 255, 255]).count() > 10_000);
}

#[test]
fn one_swept_setting_makes_lines_and_two_make_heat_maps() {
    let line: Vec<[(&str, f64); 1]> = [0.0, 0.5, 1.0].map(|x| [("running_cost_factor", x)]).to_vec();
    let mut arms: Vec<(&str, &[(&str, f64)])> = line.iter().map(|s| ("gorgo", s.as_slice())).collect();
    arms.push(("least-load", &[]));
    assert_eq!(names(&figures(&sweep(&arms)))[0], "sweep-running-cost-factor");
    let grid: Vec<[(&str, f64); 2]> =
        [0.0, 1.0].iter().flat_map(|&a| [0.1, 1.0].map(|b| [("a", a), ("b", b)])).collect();
    let arms: Vec<(&str, &[(&str, f64)])> = grid.iter().map(|s| ("gorgo", s.as_slice())).collect();
    assert_eq!(names(&figures(&sweep(&arms)))[0], "sweep-a-b-1");
}

#[test]
fn results_without_requests_draw_nothing() {
    assert!(figures(&results(points(&["gorgo"], 2, 0))).is_empty());
    assert!(figures(&results(Vec::new())).is_empty());
}

#[test]
fn many_replicas_are_drawn_as_shades_and_their_queues_as_mean_and_fullest() {
    let mut run = crate::results::test_data::run("gorgo", 1, 300);
    run.names.replicas = (0..40).map(|i| format!("replica-{i}")).collect();
    for (i, sample) in run.samples.iter_mut().enumerate() {
        sample.replica = (i % 40) as u16;
    }
    for (i, r) in run.records.iter_mut().enumerate() {
        r.replica = ((i % 40) as u16).into();
    }
    let all = figures(&results(vec![Point::of(0, &run)]));
    let svg = |name: &str| all.iter().find(|f| f.name == name).unwrap().svg().unwrap();
    assert!(svg("queues").contains("fullest replica"));
    let share = svg("share");
    assert!(
        share.contains("replica-0\n") && share.contains("replica-39\n") && !share.contains("replica-20\n"),
        "{share}"
    );
    assert!(all.iter().all(|figure| figure.sheet.outside().is_empty()));
}

#[test]
fn a_line_of_a_sweep_is_an_arm_by_its_name() {
    let mut points = Vec::new();
    for (i, (arm, preset)) in [("published", "a"), ("fitted", "b")].into_iter().enumerate() {
        for rate in [3.0, 5.0] {
            let mut run = crate::results::test_data::swept("gorgo", &[("workload.rate", rate)], 1, 60);
            run.arm = format!("{arm} rate={rate}");
            run.settings.insert("policy.preset".to_owned(), preset.to_owned());
            points.push(Point::of(i as u32, &run));
        }
    }
    let figures = figures(&crate::results::test_data::results(points));
    let sweep = figures.into_iter().find(|f| f.name == "sweep-workload-rate").unwrap();
    let svg = String::from_utf8(sweep.render(Format::Svg).unwrap()).unwrap();
    assert!(svg.contains("published") && svg.contains("fitted") && !svg.contains("rate=3"), "two arms, two lines");
}

/// Arms of one policy and topology under two loads.
fn named_arms() -> Vec<Point> {
    let mut all = Vec::new();
    for (l, rate) in [3.0, 5.0].iter().enumerate() {
        for (a, arm) in ["least-load", "published", "fitted"].iter().enumerate() {
            let mut run = swept("gorgo", &[("workload.rate", *rate)], 1, 60);
            run.arm = format!("{arm} rate={rate}");
            all.push(Point::of((3 * l + a) as u32, &run));
        }
    }
    all
}

#[test]
fn a_line_is_an_arm_by_its_name_and_has_one_colour_in_every_picture() {
    let all = figures(&results(named_arms()));
    let svg = |name: &str| all.iter().find(|f| f.name == name).unwrap().svg().unwrap();
    let sweep = svg("sweep-workload-rate");
    // Two panels with one line of each arm, and a dot a value.
    for arm in ["least-load", "published", "fitted"] {
        assert_eq!(sweep.matches(&format!("<title>{arm}</title>")).count(), 2, "{arm}");
        assert_eq!(sweep.matches(&format!("<title>{arm} at ")).count(), 4, "{arm}");
    }
    let colour = |svg: &str, title: &str| {
        let after = svg.split_once(title).unwrap().1;
        after.split('#').nth(1).unwrap()[..6].to_owned()
    };
    let cdf = svg("ttft-cdf");
    for (arm, expected) in [("least-load", "0072B2"), ("published", "D55E00"), ("fitted", "009E73")] {
        assert_eq!(colour(&sweep, &format!("<title>{arm}</title>")), expected);
        // One panel a load, each with the arm in the same colour.
        assert_eq!(cdf.matches(&format!("<title>{arm}</title>")).count(), 2, "{arm}");
        assert_eq!(colour(&cdf, &format!("<title>{arm}</title>")), expected);
        assert_eq!(colour(&svg("ttft"), &format!("<title>{arm}, p50")), expected);
    }
    assert!(cdf.contains("rate=3\n") && cdf.contains("rate=5\n"));
}

#[test]
fn many_arms_are_all_drawn_and_what_rows_leave_out_stands_in_the_picture() {
    let arms: Vec<String> = (0..60).map(|i| format!("arm {i}")).collect();
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    let all = figures(&results(points(&arms, 1, 20)));
    let svg = |name: &str| all.iter().find(|f| f.name == name).unwrap().svg().unwrap();
    let cdf = svg("ttft-cdf");
    assert!(arms.iter().all(|arm| cdf.contains(&format!("<title>{arm}</title>"))));
    assert!(cdf.contains("60 arms, the lowest means and the baseline in colour"));
    for name in ["ttft", "e2e", "share", "queues"] {
        assert!(svg(name).contains("the 12 arms of the lowest mean TTFT, of 60"), "{name}");
    }
}

#[test]
fn a_heat_map_marks_the_lowest_and_the_published_point() {
    let grid: Vec<[(&str, f64); 2]> = [0.05, 0.1, 0.15]
        .iter()
        .flat_map(|&a| [0.0, 0.4, 0.8].map(|b| [("policy.ms_per_token", a), ("policy.running_cost_factor", b)]))
        .collect();
    let arms: Vec<(&str, &[(&str, f64)])> = grid.iter().map(|s| ("gorgo", s.as_slice())).collect();
    let all = figures(&sweep(&arms));
    assert_eq!(all[0].name, "sweep-policy-ms-per-token-policy-running-cost-factor-1");
    assert!(all[0].caption.contains("published point (0.094 and 0.5)"), "{}", all[0].caption);
    let svg = all[0].svg().unwrap();
    assert!(svg.contains("lowest: ") && svg.contains("published point"));
    assert_eq!(svg.matches("<title>policy.ms_per_token=").count(), 9);
    // The cross lies between columns; outside the axes there is none.
    let outside: Vec<(&str, &[(&str, f64)])> = arms[3..].to_vec();
    let outside: Vec<_> = outside.into_iter().filter(|(_, s)| s[1].1 < 0.5).collect();
    assert!(!figures(&sweep(&outside)).iter().any(|f| f.svg().unwrap().contains("published point\n")));
}

#[test]
fn the_lowest_cell_of_a_heat_map_finishes_as_many_requests_as_any_and_an_unanswered_one_is_grey() {
    let grid = [0.0, 1.0].iter().flat_map(|&a| [0.1, 1.0].map(|b| [("a", a), ("b", b)]));
    let runs = grid.enumerate().map(|(i, settings)| (i as u32, swept("gorgo", &settings, 1, 60)));
    let mut all: Vec<Point> = runs.map(|(i, run)| Point::of(i, &run)).collect();
    let svg = |all: &[Point]| figures(&results(all.to_vec()))[0].svg().unwrap();
    let lowest = |svg: &str| svg.split_once("lowest: ").unwrap().1.split(" ms").next().unwrap().to_owned();
    let before = svg(&all);
    let best =
        all.iter_mut().min_by(|a, b| a.latency.ttft.mean_ms().unwrap().total_cmp(&b.latency.ttft.mean_ms().unwrap()));
    best.unwrap().counts.finished /= 2;
    let after = svg(&all);
    assert_ne!(lowest(&before), lowest(&after), "the cell that drops half of its requests");
    assert!(!before.contains("no request was answered"));
    all[0].latency = Default::default();
    all[0].counts.finished = 0;
    assert!(svg(&all).contains("a=0, b=0.1: no request was answered"));
}

#[test]
fn east_asian_names_have_room() {
    use super::sheet::text_width;
    assert!(text_width("東京の複製", 14.0) >= 5.0 * 14.0 && text_width("a東", 14.0) > text_width("東", 14.0));
    for figure in figures(&results(points(&["最少負荷のルーター", "서울 라우터"], 2, 40))) {
        assert!(figure.sheet.outside().is_empty(), "{}: {:?}", figure.name, figure.sheet.outside());
    }
}
