use super::app::{App, Mode, Wish};
use super::view::draw;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

fn replica(id: &str, region: &str, state: &str, rtt: f64, rate: f64) -> Value {
    let ttft = json!({"ttft_ms": rtt + 95.0, "network_ms": rtt, "queue_ms": 15.0, "prefill_ms": 80.0});
    json!({
        "id": id, "region": region, "kind": "remote", "state": state, "available": state == "up", "latency_ms": rtt,
        "load": {"waiting_requests": 1, "running_requests": 3}, "waiting_reqs": 0, "running_reqs": 4,
        "gpu_cache_usage": 0.42, "requests_per_second": rate, "ttft": {"p50": ttft},
        "hits": {"prompt_tokens": 1000, "best_anywhere": 800, "expected": 700, "delivered": 650},
        "last_error": if state == "up" { Value::Null } else { json!("connection refused") }, "last_error_age_ms": 12_000,
    })
}

fn overview() -> Value {
    let replicas = vec![
        replica("fra-1", "aws:eu-central-1", "up", 9.25, 4.0),
        replica("fra-2", "aws:eu-central-1", "down", 9.5, 0.0),
        replica("sfo-1", "aws:us-west-1", "up", 148.0, 12.0),
        replica("a-replica-with-a-very-long-name.example.com:30000", "aws:us-west-1", "draining", 151.0, 0.5),
    ];
    let region = |name: &str, place: [f64; 2], available: u32, rate: f64| {
        let mut row = replica("", "", "up", 20.0, rate);
        row["region"] = json!(name);
        row["place"] = json!(place);
        row["replicas"] = json!(2);
        row["available"] = json!(available);
        row["waiting"] = json!(2);
        row["running"] = json!(6);
        row["rtt_ms"] = json!(9.25);
        row
    };
    let part = |ms: f64| json!({"ttft_ms": ms, "network_ms": ms * 0.2, "queue_ms": ms * 0.3, "prefill_ms": ms * 0.5});
    let decision = |id: &str, term: Value, reason: Value| {
        json!({
            "request_id": id, "status": "finished", "predicted_ttft_ms": 120.0, "actual_ttft_ms": 131.0,
            "predicted_cached_tokens": 4096, "actual_cached_tokens": 4090,
            "decision": {
                "chosen": "fra-1", "reason": reason, "prompt_tokens": 5200,
                "deciding": {"runner_up": "sfo-1", "deciding_term": term, "ahead_by": 138.75, "regret_ms": 0.0},
            },
        })
    };
    json!({
        "policy": "gorgo", "phase": "serving", "uptime_seconds": 754.0, "place": [50.1, 8.7],
        "requests": {"per_second": 16.5, "in_flight": 9, "queue": 2, "queue_limit": 1000, "failed": 3, "rejected": 0,
            "retried": 4, "cancelled": 1},
        "ttft": {"p50": part(120.0), "p90": part(400.0), "p99": part(12_000.0)},
        "hits": {"prompt_tokens": 1000, "best_anywhere": 800, "expected": 700, "delivered": 650, "unreported": 0},
        "regions": [
            region("aws:eu-central-1", [50.1, 8.7], 1, 4.0),
            region("aws:us-west-1", [37.3, -121.9], 2, 12.5),
        ],
        "replicas": replicas,
        "decisions": [
            decision("req-0f3a-1", json!("network"), Value::Null),
            decision("req-0f3a-2", Value::Null, json!("tie")),
        ],
    })
}

fn app() -> App {
    let mut app = App::new("localhost:8000".to_owned(), false);
    app.show(overview());
    app
}

fn screen(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    terminal
}

fn text(app: &App) -> String {
    screen(app, 80, 24).backend().to_string()
}

fn press(app: &mut App, code: KeyCode) -> Option<Wish> {
    app.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_in(app: &mut App, text: &str) {
    for c in text.chars() {
        assert_eq!(press(app, KeyCode::Char(c)), None);
    }
}

#[test]
fn it_fits_80_by_24() {
    insta::assert_snapshot!(screen(&app(), 80, 24).backend());
}

#[test]
fn it_has_all_columns_and_a_map_at_120_by_40() {
    insta::assert_snapshot!(screen(&app(), 120, 40).backend());
}

#[test]
fn any_size_is_drawn() {
    for (width, height) in [(1, 1), (20, 5), (40, 12), (79, 23), (110, 34), (300, 100)] {
        screen(&app(), width, height);
        screen(&App::new("x".to_owned(), true), width, height);
    }
}

#[test]
fn help_and_the_question_before_a_drain_are_windows() {
    let mut app = app();
    press(&mut app, KeyCode::Char('?'));
    insta::assert_snapshot!("help", screen(&app, 80, 24).backend());
    press(&mut app, KeyCode::Char('x'));
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Char('d'));
    insta::assert_snapshot!("confirm", screen(&app, 80, 24).backend());
}

#[test]
fn a_drain_is_carried_out_after_a_yes_only() {
    let mut app = app();
    let drain = |draining| Some(Wish::Drain { id: "fra-2".to_owned(), draining });
    press(&mut app, KeyCode::Char('j'));
    assert_eq!(press(&mut app, KeyCode::Char('d')), None);
    assert_eq!(press(&mut app, KeyCode::Char('n')), None);
    assert_eq!(press(&mut app, KeyCode::Char('y')), None, "nothing waits for it any more");
    press(&mut app, KeyCode::Char('d'));
    assert_eq!(press(&mut app, KeyCode::Char('y')), drain(true));
    press(&mut app, KeyCode::Char('u'));
    assert_eq!(press(&mut app, KeyCode::Char('y')), drain(false));
    // What the filter hides is not selected, so it is not drained either.
    press(&mut app, KeyCode::Char('/'));
    type_in(&mut app, "sfo");
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Char('d'));
    assert_eq!(app.mode, Mode::Confirm(Wish::Drain { id: "sfo-1".to_owned(), draining: true }));
}

#[test]
fn replicas_are_sorted_and_filtered() {
    let mut app = app();
    let ids =
        |app: &App| app.replicas().iter().map(|row| row["id"].as_str().unwrap()[..5].to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&app), ["fra-1", "fra-2", "sfo-1", "a-rep"]);
    type_in(&mut app, "s");
    assert_eq!(ids(&app), ["a-rep", "fra-1", "fra-2", "sfo-1"], "by name");
    type_in(&mut app, "ss");
    assert_eq!(ids(&app), ["sfo-1", "fra-1", "a-rep", "fra-2"], "by requests, the most first");
    type_in(&mut app, "r");
    assert_eq!(ids(&app), ["fra-2", "a-rep", "fra-1", "sfo-1"]);
    type_in(&mut app, "/US-west");
    assert_eq!(ids(&app), ["a-rep", "sfo-1"]);
    assert!(text(&app).contains("2 of 4"));
    press(&mut app, KeyCode::Esc);
    assert_eq!(ids(&app).len(), 4);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Wish::Quit));
}

#[test]
fn a_frozen_screen_stays_and_a_silent_router_is_said() {
    let mut app = app();
    press(&mut app, KeyCode::Char('f'));
    let mut later = overview();
    later["policy"] = json!("random");
    app.show(later.clone());
    assert!(text(&app).contains("FROZEN") && text(&app).contains("gorgo  up 13 min"));
    press(&mut app, KeyCode::Char(' '));
    let shown = std::time::Instant::now();
    app.show(later);
    assert!(text(&app).contains("random  up 13 min"));
    app.silent("no router answers at localhost:8000: Connection refused".to_owned());
    let screen = text(&app);
    let ages = 0..=shown.elapsed().as_secs() + 1;
    assert!(ages.into_iter().any(|age| screen.contains(&format!("  {age} s OLD"))), "{screen}");
    assert!(screen.contains("Connection refused"));
    app.show(overview());
    assert!(!text(&app).contains("OLD"));
    let mut never = App::new("localhost:8000".to_owned(), false);
    never.silent("no router answers at localhost:8000: Connection refused".to_owned());
    assert!(text(&never).contains("Connection refused") && text(&never).contains("asked again"));
}

#[test]
fn without_colours_there_are_none() {
    let colours = |app: &App| {
        let terminal = screen(app, 120, 40);
        let cells = terminal.backend().buffer().content();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(&app()), 0);
    let mut coloured = App::new("localhost:8000".to_owned(), true);
    coloured.show(overview());
    assert!(colours(&coloured) > 100);
}

#[test]
fn text_of_clients_cannot_command_the_terminal() {
    let mut overview = overview();
    overview["decisions"][0]["request_id"] = json!("\u{1b}[2Jgone");
    overview["replicas"][0]["id"] = json!("\u{1b}]0;title\u{7}");
    let mut app = App::new("x".to_owned(), false);
    app.show(overview);
    assert!(!screen(&app, 120, 40).backend().to_string().contains(['\u{1b}', '\u{7}']));
}

#[test]
fn what_has_no_room_is_counted_and_a_message_is_shown_to_its_end() {
    let mut overview = overview();
    let regions: Vec<Value> = (0..9).map(|n| json!({"region": format!("region-{n}"), "replicas": 1})).collect();
    overview["regions"] = json!(regions);
    overview["discovery"] = json!([{"source": "engines.example:8080", "error": "the name server does not answer"}]);
    let mut app = App::new("localhost:8000".to_owned(), false);
    app.show(overview);
    for (width, height, counted) in [(80, 24, "regions (+"), (40, 10, "replicas 4 (+3 more)")] {
        let shown = screen(&app, width, height).backend().to_string();
        assert!(shown.contains(counted), "{shown}");
        assert!(shown.contains("discovery from engines.example:8080"), "{shown}");
    }
    app.silent(
        "localhost:8000 refused (401 Unauthorized): send the admin key, or the key to read, as `Authorization: \
                Bearer KEY`; `gorgo` takes it from GORGO_ADMIN_KEY"
            .to_owned(),
    );
    let shown = screen(&app, 80, 24).backend().to_string();
    assert!(shown.contains("GORGO_ADMIN_KEY"), "{shown}");
}
