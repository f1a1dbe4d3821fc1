//! Rates, places and notes of `[workload]`.

use super::*;

#[test]
fn a_drawn_rate_and_a_factor_on_times_exclude_each_other() {
    for (rate, key) in
        [("rate=5", "rate"), ("session_rate=5", "session_rate"), ("arrivals={ poisson = 5.0 }", "arrivals")]
    {
        let sets = [
            "workload={ trace = \"wildchat-located\" }".to_owned(),
            format!("workload.{rate}"),
            "workload.time_scale=2".into(),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let message = error("", &sets, &[]);
        assert!(
            message.contains(&format!("[workload] time_scale = 2 would change the rate that `{key}`")),
            "{message}"
        );
        assert!(parse("", &[sets[0], sets[1], "workload.time_scale=1"], &[]).is_ok());
    }
}

#[test]
fn users_without_a_place_get_one_unless_they_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let row = |t: u32| format!("{{\"timestamp\":{t},\"input_length\":9,\"output_length\":5}}\n");
    std::fs::write(dir.path().join("t.jsonl"), row(0) + &row(1)).unwrap();
    let load = |more: &str| {
        let set = format!("workload={{ trace = \"t.jsonl\"{more} }}");
        let workload = parse("", &[&set], &[]).unwrap().remove(0).spec.workload;
        let read = workload.read(dir.path()).unwrap();
        let (requests, notes) = workload.draw_noted(read.as_ref(), 1).unwrap();
        (requests.iter().filter(|r| r.place.is_some()).count(), notes)
    };
    for more in ["", ", unknown_places = { draw = \"first10k\" }"] {
        let (placed, notes) = load(more);
        assert_eq!(placed, 2);
        assert!(notes[0].starts_with("2 requests without a place: drawn"), "{notes:?}");
    }
    assert_eq!(load(", unknown_places = \"keep\""), (0, Vec::new()));
    for wrong in ["\"maybe\"", "\"draw\"", "{ draw = \"x\" }", "3"] {
        let message = error("", &[&format!("workload.unknown_places={wrong}")], &[]);
        let values = "give \"keep\", { draw = \"full1m\" } or { draw = \"first10k\" }";
        assert!(message.contains("[workload] unknown_places is ") && message.ends_with(values), "{message}");
    }
}

#[test]
fn a_run_that_misses_the_rate_asked_for_says_so() {
    let notes = |workload: &str| {
        let workload = parse("", &[&format!("workload={{ {workload} }}")], &[]).unwrap().remove(0).spec.workload;
        let read = workload.read(Path::new("")).unwrap();
        workload.draw_noted(read.as_ref(), 1).unwrap().1.join("\n")
    };
    let note = notes("generate = \"wildchat-like\", requests = 3000, rate = 5.0");
    assert!(note.contains(" of the 5 requests/s asked for, since the last turns"), "{note}");
    let note = notes("generate = \"wildchat-like\", rate = 3.0");
    assert!(note.contains(" of the 3 requests/s asked for, since the last turns") && note.ends_with("give duration_s"));
    let note = notes("trace = \"wildchat-located\", session_rate = 5.0, duration_s = 20.0");
    assert!(note.contains(" of the 5 requests/s asked for, since sessions last longer"), "{note}");
    for right in
        ["generate = \"wildchat-like\", duration_s = 300.0, rate = 5.0", "trace = \"wildchat-located\", rate = 5.0"]
    {
        let note = notes(right);
        assert!(!note.contains("asked for"), "{note}");
    }
}
