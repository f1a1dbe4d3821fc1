//! The engine's thread, driven through its handle.

use super::super::handle::{EngineHandle, Ticket};
use super::*;
use crate::text;
use gorgo_sim::engine::{EngineError, EngineRequest};

fn request(prompt: &str, output_tokens: u32) -> EngineRequest {
    let cut = text::blocks(prompt.as_bytes(), 4);
    EngineRequest {
        id: RequestId(0),
        input_tokens: cut.tokens,
        output_tokens,
        max_new_tokens: Some(output_tokens),
        block_tokens: text::BLOCK_TOKENS,
        refused: false,
        blocks: cut.ids.into(),
        answer_blocks: [].into(),
    }
}

fn at_speed(speed: f64) -> EmulatorConfig {
    EmulatorConfig { speed, ..EmulatorConfig::default() }
}

fn fast() -> EmulatorConfig {
    at_speed(100.0)
}

async fn end(ticket: &mut Ticket) -> RequestProgress {
    ticket.progress.wait_for(|p| p.end.is_some()).await.unwrap().clone()
}

/// The instants that requests met in real time are, to the nanosecond, those of a simulated engine that is handed the
/// same requests at the instants they came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_time_and_virtual_time_agree_to_the_bit() {
    let handle = EngineHandle::start(&fast(), None).unwrap();
    let mut tasks = Vec::new();
    for n in 0..40usize {
        let handle = handle.clone();
        tasks.push(tokio::spawn(async move {
            let prompt = format!("{:>256}", n % 7).repeat(n % 5 + 1) + &"x".repeat(n);
            let request = request(&prompt, 3 + (n as u32 * 7) % 40);
            let mut ticket = handle.submit(request.clone(), true).await.unwrap();
            (EngineRequest { id: ticket.id, ..request }, end(&mut ticket).await)
        }));
        tokio::task::yield_now().await;
    }
    let mut lived = Vec::new();
    for task in tasks {
        lived.push(task.await.unwrap());
    }
    lived.sort_by_key(|(request, progress)| (progress.accepted, request.id));
    let mut engine = Engine::new(EngineConfig { stream_tokens: true, ..fast().engine }, fast().seed).unwrap();
    let mut events = Vec::new();
    for (request, progress) in &lived {
        engine.advance(progress.accepted, &mut events);
        engine.submit(progress.accepted, request.clone()).unwrap();
    }
    while let Some(at) = engine.next_event() {
        engine.advance(at, &mut events);
    }
    for (request, progress) in &lived {
        let mine: Vec<&EngineEvent> = events.iter().filter(|e| e.id() == request.id).collect();
        let find = |pick: fn(&EngineEvent) -> bool| mine.iter().find(|e| pick(e)).map(|e| e.at());
        assert_eq!(progress.prefill, find(|e| matches!(e, EngineEvent::PrefillStarted { .. })));
        assert_eq!(progress.first, find(|e| matches!(e, EngineEvent::FirstToken { .. })));
        let ended = progress.end.clone().map(|(at, _)| at);
        assert_eq!(ended, find(|e| matches!(e, EngineEvent::Finished { .. })));
        assert_eq!(progress.generated, request.output_tokens);
    }
}

#[tokio::test]
async fn a_crash_ends_requests_in_flight_and_the_engine_refuses_others_until_its_restart() {
    // So slow that nothing finishes by itself during the test.
    let handle = EngineHandle::start(&at_speed(0.01), None).unwrap();
    let mut long = handle.submit(request("a long story", 4000), true).await.unwrap();
    handle.crash();
    let progress = end(&mut long).await;
    assert!(matches!(progress.end, Some((_, Err(EngineError::Crashed)))));
    assert_eq!(handle.submit(request("anybody?", 3), true).await.unwrap_err(), EngineError::Down);
    handle.restart(Some(20.0));
    assert!(matches!(handle.read().await.unwrap().health, Health::Starting(_)));
    handle.submit(request("anybody?", 3), true).await.unwrap();
}

#[tokio::test]
async fn a_restart_is_cold() {
    let handle = EngineHandle::start(&fast(), None).unwrap();
    handle.crash();
    let down = handle.read().await.unwrap().now;
    handle.restart(Some(20.0));
    let mut waits = handle.submit(request("anybody?", 3), true).await.unwrap();
    let progress = end(&mut waits).await;
    assert!(progress.prefill.unwrap() >= down + Span::from_secs(20.0), "{progress:?} {down:?}");
}

#[tokio::test]
async fn a_hang_costs_no_engine_time_and_a_crash_ends_it() {
    let handle = EngineHandle::start(&fast(), None).unwrap();
    let mut before = handle.submit(request("hello", 20), true).await.unwrap();
    handle.hang(Duration::from_millis(30));
    let held = end(&mut before).await;
    let mut after = handle.submit(request("another", 20), true).await.unwrap();
    let free = end(&mut after).await;
    let took = |p: &RequestProgress| (p.end.clone().unwrap().0 - p.accepted).ms();
    assert!((took(&held) - took(&free)).abs() < 0.2 * took(&free), "{} {}", took(&held), took(&free));
    handle.hang(Duration::from_secs(3600));
    handle.crash();
    assert_eq!(handle.read().await.unwrap().health, Health::Down);
}

#[tokio::test]
async fn cancelled_requests_end_and_too_many_are_refused() {
    // In real time 4000 tokens take 43 s, far more than the test.
    let handle = EngineHandle::start(&EmulatorConfig { max_in_flight: 2, ..at_speed(1.0) }, None).unwrap();
    let mut one = handle.submit(request("one", 4000), true).await.unwrap();
    let _two = handle.submit(request("two", 4000), true).await.unwrap();
    assert_eq!(handle.submit(request("three", 1), true).await.unwrap_err(), EngineError::QueueFull);
    one.progress.wait_for(|p| p.generated > 0).await.unwrap();
    assert!(!handle.flush().await, "busy");
    handle.cancel(one.id);
    assert!(matches!(end(&mut one).await.end, Some((_, Err(EngineError::Cancelled)))));
    handle.submit(request("three", 1), true).await.unwrap();
}

#[test]
fn a_bad_engine_setting_is_reported_at_the_start() {
    let engine = EngineConfig { step_noise: 3.0, ..EngineConfig::default() };
    let error = EngineHandle::start(&EmulatorConfig { engine, ..fast() }, None).unwrap_err().to_string();
    assert!(error.contains("step_noise"), "{error}");
}
