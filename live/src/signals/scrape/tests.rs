use super::*;

const SGLANG: &str = "# TYPE sglang:num_running_reqs gauge\n\
    sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"0\",dp_rank=\"0\"} 3.0\n\
    sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"0\",dp_rank=\"1\"} 2.0\n\
    sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"1\",dp_rank=\"0\"} 3.0\n\
    sglang:num_queue_reqs{tp_rank=\"0\"} 4.0\nsglang:num_used_tokens 48000.0\nsglang:max_total_num_tokens 466000.0\n\
    sglang:num_requests_total{model_name=\"m\"} 17.0\n";

#[test]
fn sglang_by_its_real_names() {
    let page = metrics(SGLANG);
    let report = EngineReport { running: 5, queued: 4, used_tokens: 48_000, kv_tokens: 466_000, kv_share: None };
    assert_eq!((page.report, page.sglang, page.requests), (Some(report), true, Some(17.0)));
}

#[test]
fn vllm_by_its_real_names() {
    let page = metrics(
        "vllm:num_requests_running{engine=\"0\"} 2.0\nvllm:num_requests_waiting 1.0\nvllm:kv_cache_usage_perc 0.25\n\
         vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"1000\"} 1.0\nprocess_start_time_seconds 5.0\n",
    );
    let report = EngineReport { running: 2, queued: 1, used_tokens: 4_000, kv_tokens: 16_000, kv_share: None };
    assert_eq!((page.report, page.sglang, page.vllm, page.started), (Some(report), false, true, Some(5.0)));
}

#[test]
fn pages_of_other_things_report_nothing() {
    for text in ["", "<html>", "up 1\n", "sglang:num_running_reqs NaN\n"] {
        assert_eq!(metrics(text).report, None, "{text}");
    }
}

#[test]
fn what_a_page_does_not_tell_is_unknown_and_not_0() {
    for text in [
        "sglang:num_running_reqs 3\n",
        "vllm:num_requests_waiting 3\n",
        "sglang:num_running_reqs 3\nsglang:num_queue_reqs +Inf\n",
    ] {
        assert_eq!(metrics(text).report, None, "{text}");
    }
    let both = "sglang:num_running_reqs {tp_rank=\"0\"} 3\nsglang:num_queue_reqs 1\n";
    let kv = |lines: &str| {
        let report = metrics(&format!("{both}{lines}")).report.unwrap();
        assert_eq!((report.running, report.queued), (3, 1));
        (report.used_tokens, report.kv_tokens, report.kv_use())
    };
    assert_eq!(kv("sglang:max_total_num_tokens 1000\n"), (0, 0, None));
    assert_eq!(kv("sglang:max_total_num_tokens 1000\nsglang:num_used_tokens NaN\n"), (0, 0, None));
    assert_eq!(kv("sglang:max_total_num_tokens 1000\nsglang:token_usage 0.99\n"), (990, 1_000, Some(0.99)));
    assert_eq!(
        kv("vllm:kv_cache_usage_perc{engine=\"0\"} 0.5\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.7\n").2,
        Some(0.6)
    );
}

#[test]
fn loads_are_summed_over_ranks() {
    let body = br#"{"timestamp":"t","loads":[{"dp_rank":0,"num_running_reqs":1,"num_waiting_reqs":2,"num_used_tokens":3,"max_total_num_tokens":4},{"num_running_reqs":1}]}"#;
    assert_eq!(loads(body), Some(EngineReport { running: 2, queued: 2, used_tokens: 3, kv_tokens: 4, kv_share: None }));
    assert_eq!((loads(b"{}"), loads(b"[]"), loads(b"{\"loads\":[]}")), (None, None, None));
}

#[test]
fn every_data_parallel_rank_counts_once_whatever_its_tensor_rank() {
    let line = |name: &str, dp: u32, tp: u32, value: u32| {
        format!("sglang:{name}{{model_name=\"m\",pp_rank=\"0\",tp_rank=\"{tp}\",dp_rank=\"{dp}\"}} {value}\n")
    };
    // DP attention: the tensor rank runs on.
    let page: String =
        (0..4).map(|d| line("num_running_reqs", d, d, d + 1) + &line("num_queue_reqs", d, d, 2)).collect();
    let report = metrics(&page).report.unwrap();
    assert_eq!((report.running, report.queued), (10, 8));
    // Two tensor ranks in each of two groups.
    let page: String = (0..4)
        .map(|rank| line("num_running_reqs", rank / 2, rank, 5) + &line("num_queue_reqs", rank / 2, rank, 0))
        .collect();
    assert_eq!(metrics(&page).report.unwrap().running, 10);
}

#[test]
fn classes_of_requests_and_their_sum_are_not_both_counted() {
    let class = |priority: &str, value: u32| {
        format!("sglang:num_queue_reqs{{tp_rank=\"0\",priority=\"{priority}\"}} {value}\n")
    };
    let classes = "sglang:num_running_reqs 1\n".to_owned() + &class("0", 2) + &class("5", 3);
    assert_eq!(metrics(&classes).report.unwrap().queued, 5);
    assert_eq!(metrics(&(class("", 5) + &classes)).report.unwrap().queued, 5);
    assert_eq!(metrics(&("sglang:num_queue_reqs{tp_rank=\"0\"} 5\n".to_owned() + &classes)).report.unwrap().queued, 5);
}

fn page(started: Option<f64>, requests: Option<f64>) -> Page {
    Page { started, requests, ..Page::default() }
}

#[test]
fn restarts_are_seen_by_start_time_or_falling_counts() {
    let mut restarts = Restarts::default();
    for (requests, seen) in [(5.0, Seen::Same), (9.0, Seen::Same), (1.0, Seen::Restarted), (3.0, Seen::Same)] {
        assert_eq!(restarts.look(&page(None, Some(requests))), seen, "{requests}");
    }
    let mut restarts = Restarts::default();
    for (started, seen) in [(10.0, Seen::Same), (10.2, Seen::Same), (99.0, Seen::Restarted), (99.0, Seen::Same)] {
        assert_eq!(restarts.look(&page(Some(started), Some(2.0))), seen, "{started}");
    }
}

#[test]
fn several_processes_in_turn_are_no_restart_each() {
    let mut restarts = Restarts::default();
    let seen: Vec<Seen> = (0..6).map(|n| restarts.look(&page(Some([1_000.0, 1_500.0][n % 2]), None))).collect();
    assert_eq!(seen[..2], [Seen::Same, Seen::Restarted]);
    assert!(seen[2..].iter().all(|seen| *seen == Seen::Several), "{seen:?}");
    let mut restarts = Restarts::default();
    let counts = [100.0, 7.0, 101.0, 8.0, 102.0, 9.0, 103.0, 9.0];
    let seen: Vec<Seen> = counts.iter().map(|&count| restarts.look(&page(None, Some(count)))).collect();
    assert_eq!(seen.iter().filter(|seen| **seen == Seen::Restarted).count(), 2, "{seen:?}");
    assert_eq!(seen[7], Seen::Several);
    // Long after the last change there is one process again, and its restart is one.
    for _ in 0..CALM {
        restarts.look(&page(None, Some(200.0)));
    }
    assert_eq!(restarts.look(&page(None, Some(1.0))), Seen::Restarted);
}
