use super::*;
use std::io::Write;
use std::path::Path;

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn read(path: &Path, columns: &str) -> Result<Records, RecordError> {
    open(path, &ReadOptions { columns: ColumnMap::parse(columns)?, arm: None })
}

#[test]
fn a_table_of_the_recorded_fleet_is_read_by_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let text = "row,sched_ms,dispatch_s,target,status,proxy_tokens,engine_prompt_tokens,output_tokens,ttft_ms,total_ms,cached_at_target\n\
                4,420,3.25,0,200,8,18,64,853.5,5674.75,2\n5,1600,3.5,2,400,8153,,0,,594.78,0\n";
    let path = file(dir.path(), "requests_least-load.csv", text);
    let records = read(&path, "").unwrap();
    let [a, b] = &records.rows[..] else { panic!("{records:?}") };
    assert_eq!(
        (&*a.arm, &*a.id, a.replica.as_deref(), a.at, a.scheduled),
        ("least-load", "4", Some("0"), Some(3250.0), Some(420.0))
    );
    assert_eq!(
        (a.ttft, a.e2e, a.prompt_tokens, a.router_tokens, a.ok),
        (Some(853.5), Some(5674.75), Some(18.0), Some(8.0), true)
    );
    assert_eq!((b.ok, b.ttft, b.prompt_tokens, b.tokens()), (false, None, None, Some(8153.0)));
    // The user's map wins over the preset.
    let counted = read(&path, "prompt_tokens=proxy_tokens,answered=200|400").unwrap();
    assert_eq!((counted.rows[0].prompt_tokens, counted.rows[1].ok), (Some(8.0), true));
}

#[test]
fn records_of_vllm_aiperf_and_guidellm_give_the_same_row() {
    let dir = tempfile::tempdir().unwrap();
    let vllm = r#"{"request_id": "bench-0", "input_toks": 2358, "output_toks": 531, "arrival_time": 1787267980.08, "queued_ts": 27536.5, "scheduled_ts": 27536.75, "first_token_ts": 27537.25, "last_token_ts": 27554.5}"#;
    let aiperf = r#"{"metadata":{"session_num":0,"turn_index":0,"request_start_ns":27536500000000,"benchmark_phase":"profiling"},"metrics":{"input_sequence_length":{"value":2358,"unit":"tokens"},"output_sequence_length":{"value":531,"unit":"tokens"},"time_to_first_token":{"value":750.0,"unit":"ms"},"request_latency":{"value":18000.0,"unit":"ms"}},"error":null}
{"metadata":{"session_num":1,"turn_index":0,"request_start_ns":27536500000000},"metrics":{},"error":{"code":499,"message":"cancelled"}}"#;
    let guidellm = r#"{"metadata":{},"benchmarks":[{"requests":{"successful":[{"request_id":"x","request_latency":18.0,"time_to_first_token_ms":750.0,"prompt_tokens":2358,"output_tokens":531,"request_start_time":27536.5}],"errored":[{"request_id":"y","request_latency":1.0}],"incomplete":[]}}]}"#;
    for (name, text, id) in [
        ("run.requests.jsonl", vllm, "bench-0"),
        ("profile_export.jsonl", aiperf, "0+0"),
        ("benchmarks.json", guidellm, "x"),
    ] {
        let records = read(&file(dir.path(), name, text), "").unwrap();
        let row = &records.rows[0];
        assert_eq!((&*row.id, row.at, row.ok), (id, Some(27_536_500.0), true), "{name}");
        assert_eq!((row.ttft, row.e2e), (Some(750.0), Some(18_000.0)), "{name}");
        assert_eq!((row.prompt_tokens, row.output_tokens), (Some(2358.0), Some(531.0)), "{name}");
        assert!(records.rows[1..].iter().all(|row| !row.ok), "{name}: {records:?}");
    }
    let stages = read(&dir.path().join("run.requests.jsonl"), "").unwrap().rows[0].stages.clone();
    let stages: Vec<_> = stages.iter().map(|(name, ms)| (&**name, *ms)).collect();
    assert_eq!(stages, [("engine-queue", 250.0), ("prefill", 500.0), ("decode", 17_250.0)]);
}

#[test]
fn any_table_is_read_by_a_map_and_units_become_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"who,begin,first,last,where\na,10,10.25,12,x\nb,11,11.5,14,y\n").unwrap();
    let path = dir.path().join("log.csv.gz");
    std::fs::write(&path, packed.finish().unwrap()).unwrap();
    let records = read(&path, "id=who,at_s=begin,first_s=first,done_s=last,replica=where").unwrap();
    let got: Vec<_> = records.rows.iter().map(|r| (&*r.id, r.ttft, r.e2e, r.replica.as_deref())).collect();
    assert_eq!(got, [("a", Some(250.0), Some(2000.0), Some("x")), ("b", Some(500.0), Some(3000.0), Some("y"))]);
    assert_eq!((records.arms()[0].as_ref(), records.replicas().len()), ("log", 2));
}

#[test]
fn decisions_have_replicas_but_no_latency() {
    let dir = tempfile::tempdir().unwrap();
    let line = r#"{"id":"7","prompt_tokens":900,"replicas":[{"id":"a"}],"decision":{"chosen":"a","policy":"gorgo","at_ms":12.5}}"#;
    let row = read(&file(dir.path(), "explain.jsonl", line), "").unwrap().rows.remove(0);
    assert_eq!(
        (&*row.arm, &*row.id, row.replica.as_deref(), row.at, row.ttft),
        ("gorgo", "7", Some("a"), Some(12.5), None)
    );
}

/// A router that was killed while it wrote its decision or access log.
#[test]
fn a_torn_line_of_a_log_is_left_out_with_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    let line = |id: u32| {
        format!(r#"{{"id":"{id}","prompt_tokens":9,"decision":{{"chosen":"a","policy":"gorgo","at_ms":12.5}}}}"#) + "\n"
    };
    let path = file(dir.path(), "explain.jsonl", &format!("{}{}", line(1), &line(2)[..40]));
    let records = read(&path, "").unwrap();
    assert_eq!((records.rows.len(), &*records.rows[0].id), (1, "1"));
    assert_eq!(records.notices, [format!("`{}`: the last line, 2, is torn and left out", path.display())]);
}

#[test]
fn a_folder_of_tables_has_an_arm_a_file_and_a_chrome_trace_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let row = "row,target,engine_prompt_tokens,status,ttft_ms,total_ms\n1,0,9,200,5,6\n";
    file(dir.path(), "requests_random.csv", row);
    file(dir.path(), "requests_gorgo.csv", row);
    file(dir.path(), "metrics.csv", "no,requests\n");
    let event = |ph: &str, name: &str, ts: u32| {
        format!(
            r#"{{"name":"{name}","ph":"{ph}","pid":1,"tid":3,"ts":{ts},"args":{{"request_id":"r","status_code":200}}}}"#
        )
    };
    let events = [
        event("B", "request", 1000),
        event("B", "queue", 2000),
        event("E", "queue", 5000),
        event("E", "request", 21_000),
    ];
    file(dir.path(), "node_trace.json", &format!("[{}]", events.join(",")));
    let records = read(dir.path(), "").unwrap();
    let arms: Vec<_> = records.arms().iter().map(ToString::to_string).collect();
    assert_eq!(arms, ["node", "gorgo", "random"]);
    assert_eq!(
        (records.rows[0].e2e, &*records.rows[0].stages[0].0, records.rows[0].stages[0].1),
        (Some(20.0), "queue", 3.0)
    );
}

#[test]
fn errors_name_file_line_column_value_and_what_is_near() {
    let dir = tempfile::tempdir().unwrap();
    let why =
        |name: &str, text: &str, columns: &str| read(&file(dir.path(), name, text), columns).unwrap_err().to_string();
    let message = why("a.csv", "id,ttft\n1,5\n2,fast\n", "id=id,ttft_ms=ttft");
    assert!(message.ends_with("a.csv:3: column `ttft` is \"fast\", not a number"), "{message}");
    // Each row begins on its own line, whatever lies before it.
    for (text, line) in [
        ("id,ttft\n\"1\n\n\",5\n2,fast\n", 5),
        ("id,ttft\r\n\r\n1,5\r\n\r\n\"2\",fast\r\n", 5),
        ("id,ttft\n1,5\n\"2\nb\",fast", 3),
    ] {
        let message = why("a.csv", text, "id=id,ttft_ms=ttft");
        assert!(message.contains(&format!("a.csv:{line}: ")), "{message}");
    }
    let head: Vec<String> = (0..31).map(|i| format!("column-number-{i}")).collect();
    let row = |ttft: &str| format!("{ttft}{}", ",123456.123456".repeat(31));
    let text = format!("ttft,{}\n{}\n{}\n{}\n", head.join(","), row("5"), row("600.25"), row("nan"));
    let message = why("a.csv", &text, "ttft_ms=ttft");
    assert!(message.contains("a.csv:4: "), "{message}");
    let message = why("a.csv", "id,ttft\n1,-5\n", "ttft_ms=ttft");
    assert!(message.contains("a.csv:2: column `ttft` is \"-5\", not a number from 0 on"), "{message}");
    let message = why("a.csv", "id,ttft_us\n1,5\n", "ttft_ms=ttft_usd");
    assert!(message.contains("has no column `ttft_usd`; did you mean `ttft_us`?"), "{message}");
    let message = why("a.csv", "x,y\n1,5\n", "");
    assert!(message.contains("is none of the known tables") && message.contains("x, y"), "{message}");
    let message = why("a.jsonl", "{\"id\":1}\nnot json\nnor this\n", "id=id");
    assert!(
        message.contains("a.jsonl:2: is not JSON (expected ident at line 1 column 2), the first of 2 such lines"),
        "{message}"
    );
    let message = why("a.jsonl", "{\"id\":1}\n5\n", "id=id");
    assert!(message.contains("a.jsonl:2: is not a JSON object"), "{message}");
    let message = why("a.csv", "id,ttft\n1,5\n2\n", "ttft_ms=ttft");
    assert!(message.contains("a.csv:3: has 1 fields; the header has 2"), "{message}");
    let message = ColumnMap::parse("tttf_ms=x").unwrap_err().to_string();
    assert!(message.contains("did you mean `ttft_ms`?"), "{message}");
    let message = ColumnMap::parse("preset=fleat").unwrap_err().to_string();
    assert!(message.contains("did you mean `fleet`?"), "{message}");
    assert!(why("empty.csv", "row,target,engine_prompt_tokens\n", "").contains("holds no requests"));
    assert!(
        open(&dir.path().join("none.csv"), &ReadOptions::default()).unwrap_err().to_string().contains("cannot read")
    );
}

/// The refusal of a table with the columns id, t (s), ttft and e2e (ms).
fn refusal(name: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    read(&file(dir.path(), name, text), COLUMNS).unwrap_err().to_string()
}

const COLUMNS: &str = "id=id,at_s=t,ttft_ms=ttft,e2e_ms=e2e";
const HEADER: &str = "id,t,ttft,e2e\n";

#[test]
fn a_time_of_another_unit_or_clock_is_refused_with_its_line() {
    for (second, value) in [("1e300", "1e300"), ("1700000000036100000", "1700000000036100000")] {
        let message = refusal("a.csv", &format!("{HEADER}a,1,5,9\nb,{second},5,9\n"));
        let wanted = format!("a.csv:3: column `t` is \"{value}\", not an instant within 1e15 ms");
        assert!(message.contains(&wanted), "{message}");
    }
    let message = refusal("a.csv", &format!("{HEADER}a,1700000000,5,9\nb,1700000001,5,9\nc,3,5,9\n"));
    assert!(message.contains("a.csv:4: column `t` is 3000 ms, more than 10 years from line 2"), "{message}");
    // Between the files of one arm.
    let dir = tempfile::tempdir().unwrap();
    for (name, at) in [("requests_a.csv", "1"), ("requests_b.csv", "1700000000")] {
        file(dir.path(), name, &format!("arm,{HEADER}x,a,{at},5,9\n"));
    }
    let message = read(dir.path(), &format!("arm=arm,{COLUMNS}")).unwrap_err().to_string();
    assert!(message.contains("arm `x`") && message.contains("10 years apart"), "{message}");
    assert_eq!(read(dir.path(), COLUMNS).unwrap().rows.len(), 2, "arms may have clocks of their own");
}

#[test]
fn latencies_below_zero_or_in_the_wrong_order_are_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let instants = file(dir.path(), "i.csv", "id,t,first,done\na,1,1100,1200\nb,2,1900,2300\n");
    let message = read(&instants, "id=id,at_s=t,first_ms=first,done_ms=done").unwrap_err().to_string();
    assert!(message.contains("i.csv:3: column `first` is 1900 ms, before column `t` at 2000 ms"), "{message}");
    let message = refusal("a.csv", &format!("{HEADER}a,1,445.2,38.2\n"));
    assert!(message.contains("a.csv:2:") && message.contains("`ttft` is 445.2 ms"), "{message}");
    assert!(message.contains("the columns may be swapped"), "{message}");
    // One token: the first is the last, up to rounding; a request that failed has what it has.
    let rows = "id,t,ttft,e2e,status\na,1,38.2,38.2,200\nb,1,38.2,38,200\nc,1,500,20,503\n";
    let path = file(dir.path(), "ok.csv", rows);
    assert_eq!(read(&path, &format!("{COLUMNS},status=status,answered=200")).unwrap().rows.len(), 3);
}

#[test]
fn csv_that_is_shifted_doubled_or_separated_otherwise_is_refused() {
    let message = refusal("a.csv", &format!("{HEADER}a,1,5,9\nb,1,2,34,5\n"));
    assert!(message.contains("a.csv:3: has 5 fields; the header has 4"), "{message}");
    let message = refusal("a.csv", "id,t,ttft,e2e,ttft\na,1,5,9,7\n");
    assert!(message.contains("a.csv:1: has the column `ttft` twice"), "{message}");
    for (sign, name) in [(";", "semicolons"), ("\t", "tabs")] {
        let message = refusal("a.csv", &format!("{HEADER}a,1,5,9\n").replace(',', sign));
        assert!(message.contains(&format!("separates its columns by {name}; separate them by commas")), "{message}");
    }
    // A column that nothing reads may stand twice.
    let dir = tempfile::tempdir().unwrap();
    assert!(read(&file(dir.path(), "a.csv", "id,t,ttft,e2e,x,x\na,1,5,9,0,0\n"), COLUMNS).is_ok());
}

#[test]
fn json_lines_may_begin_with_a_mark_or_a_row_that_lacks_fields() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"id\":\"a\",\"t\":1}\n{\"id\":\"b\",\"t\":2,\"ttft\":5,\"e2e\":9}\n";
    let lacking = read(&file(dir.path(), "a.jsonl", rows), COLUMNS).unwrap().rows;
    assert_eq!((lacking[0].ttft, lacking[1].ttft, lacking[1].at), (None, Some(5.0), Some(2000.0)));
    let marked = read(&file(dir.path(), "b.jsonl", &format!("\u{feff}{rows}")), COLUMNS).unwrap().rows;
    assert_eq!(marked.len(), 2);
    // More rows than the columns are taken from.
    let many: String = (0..3000).map(|i| format!("{{\"id\":{i},\"t\":{i},\"ttft\":5,\"e2e\":9}}\n")).collect();
    let many = read(&file(dir.path(), "c.jsonl", &many), COLUMNS).unwrap().rows;
    assert_eq!((many.len(), &*many[2999].id), (3000, "2999"));
}

#[test]
fn files_of_another_kind_say_what_to_write() {
    let row = "{\"id\":\"a\",\"t\":1,\"ttft\":5,\"e2e\":9}";
    let nan = row.replace('5', "NaN");
    for (name, text, wanted) in [
        ("a.json", format!("[{row},{row}]"), "write one object a line"),
        ("a.jsonl", format!("[{row},{row}]"), "write one object a line"),
        ("a.json", format!("{row}\n{row}\n"), "a name that ends with .jsonl"),
        ("a.csv", String::new(), "is empty"),
        ("a.jsonl", " \n".to_owned(), "is empty"),
        ("a.jsonl", format!("{row}\n{nan}\n"), "a.jsonl:2: holds NaN, which JSON does not have"),
        ("a.json", format!("{{\"benchmarks\":\n[{nan}]}}"), "a.json:2: holds NaN, which JSON does not have"),
    ] {
        let message = refusal(name, &text);
        assert!(message.contains(wanted), "{text}: {message}");
    }
    // Within a text it is a word like any other.
    let message = refusal("a.jsonl", "{\"id\":\"\\\"NaN\", x}\n");
    assert!(message.contains("a.jsonl:1: is not JSON ("), "{message}");
}

#[test]
fn a_timeline_of_ours_tells_the_seed_of_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"metadata":{"requests_per_run":9,"runs":[{"drawn":1,"requests":1,"run":"gorgo","seed":7}],"writer":"gorgo"},"traceEvents":[
{"name":"process_name","ph":"M","pid":1,"args":{"name":"gorgo"}},
{"name":"gorgo finished","cat":"router","ph":"X","ts":1000.0,"dur":2000.0,"pid":1,"tid":7,"args":{"request":0,"status":"finished","ttft_ms":1.0,"e2e_ms":2.0}}]}"#;
    let records = read(&file(dir.path(), "timeline.json", text), "").unwrap();
    assert_eq!((&*records.rows[0].arm, &*records.rows[0].run), ("gorgo", "7"));
}

#[test]
fn our_own_rows_keep_their_arm_seed_and_stages() {
    let dir = tempfile::tempdir().unwrap();
    let run = crate::results::test_data::run("gorgo", 3, 20);
    let mut text = Vec::new();
    crate::results::write_requests(&mut text, &run, true).unwrap();
    let path = dir.path().join("requests.csv");
    std::fs::write(&path, text).unwrap();
    let records = read(&path, "").unwrap();
    let (row, record) = (&records.rows[0], &run.records[0]);
    assert_eq!((&*row.arm, &*row.run, &*row.id), ("gorgo", "3", "0"));
    assert_eq!(row.ttft, record.ttft().map(gorgo_core::Span::ms));
    assert_eq!(records.rows.iter().filter(|r| r.ok).count(), run.records.iter().filter(|r| r.e2e().is_some()).count());
    let prefill = row.stages.iter().find(|(name, _)| &**name == "prefill").unwrap().1;
    let (from, to) = (record.prefill.get().unwrap(), record.engine_first.get().unwrap());
    assert!((prefill - (to - from).ms()).abs() < 1e-6);
}

/// Cut from files of AIPerf 0.13 and GuideLLM 0.8, as they wrote them for an emulated engine (`DATA.md`).
#[test]
fn real_files_of_aiperf_and_guidellm_are_read() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/records/samples");
    let records = read(&samples.join("aiperf-0.13.jsonl"), "").unwrap();
    let got: Vec<_> = records
        .rows
        .iter()
        .map(|r| (&*r.id, r.ok, r.prompt_tokens, r.cached_tokens, r.output_tokens, r.ttft, r.e2e))
        .collect();
    // The two requests of the warm-up, whose sessions have the numbers 1 and 2 as well, are left out.
    let expected = [
        ("1+0", true, Some(118.0), None, Some(100.0), Some(47.978091), Some(1064.159956)),
        ("0+0", true, Some(108.0), None, Some(100.0), Some(21.912495999999997), Some(1062.903636)),
        ("2+0", true, Some(107.0), None, Some(100.0), Some(49.300743), Some(1062.221012)),
        ("7+1", true, Some(236.0), Some(112.0), Some(24.0), Some(41.645098), Some(296.29836)),
        ("8+0", false, None, None, None, None, None),
    ];
    assert_eq!(got, expected);
    assert!(
        records.rows.iter().all(|r| r.at.zip(r.scheduled).is_some_and(|(at, due)| (0.0..1e3).contains(&(at - due))))
    );
    let records = read(&samples.join("guidellm-0.8.json"), "").unwrap();
    let got: Vec<_> = records.rows.iter().map(|r| (r.ok, r.prompt_tokens, r.cached_tokens, r.output_tokens)).collect();
    let expected = [(80.0, None, 64.0), (88.0, None, 64.0), (354.0, Some(352.0), 32.0)];
    assert_eq!(got, expected.map(|(prompt, cached, output)| (true, Some(prompt), cached, Some(output))));
}

#[test]
fn a_folder_of_aiperf_is_read_and_summaries_name_the_file_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/records/samples/aiperf-0.13.jsonl");
    std::fs::copy(sample, dir.path().join("profile_export.jsonl")).unwrap();
    for (name, text, give) in [
        ("profile_export_aiperf.csv", "Metric,avg,min,max,sum,p1,p50\n", "give its profile_export.jsonl"),
        (
            "profile_export_aiperf.json",
            r#"{"schema_version":"1.0","aiperf_version":"0.13.0"}"#,
            "give its profile_export.jsonl",
        ),
        (
            "guidellm.csv",
            "Run Info,Run Info,Benchmark,Timing\nRun ID,Run Index,Type,Start Time\n",
            "give its JSON output",
        ),
        ("guidellm.yaml", "benchmarks:\n- config:\n    backend:\n", "give its JSON output"),
    ] {
        let message = read(&file(dir.path(), name, text), "").unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(give), "{message}");
    }
    assert_eq!(read(dir.path(), "").unwrap().rows.len(), 5);
}
