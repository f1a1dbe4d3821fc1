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
    assert_eq!(names(&all), ["ttft-cdf", "latency", "share", "queues"]);
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
    assert_eq!(info.width, 2 * 860);
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
