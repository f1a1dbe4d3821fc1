//! What the prefix index learns from prompts, answers and the usage that engines report.

use super::*;

#[test]
fn usage_corrects_the_index_and_the_answer_is_learned() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    tell(&mut r, 0, ask(1, "abcdefgh"));
    let answer = Some(Answer { keep: 8, tail: symbols("XYZ"), tokens: 11 });
    let usage = Usage { cached_tokens: Some(0), output_tokens: 3 };
    tell(&mut r, 1, RequestEvent::Finished { id: RequestId(1), attempt: 1, usage, answer });
    let mut matched = [0];
    r.index().lookup(&symbols("abcdefghXYZ!"), &mut matched);
    assert_eq!(matched, [11]);
    // The engine evicted all but two tokens meanwhile; the finished prompt is there again, the old answer is not.
    tell(&mut r, 2, ask(2, "abcdefgh"));
    let usage = Usage { cached_tokens: Some(2), output_tokens: 1 };
    tell(&mut r, 3, RequestEvent::Finished { id: RequestId(2), attempt: 1, usage, answer: None });
    r.index().lookup(&symbols("abcdefghXYZ!"), &mut matched);
    assert_eq!(matched, [8]);
    let stats = r.stats();
    assert_eq!((stats.cache_reports, stats.predicted_cached_tokens, stats.actual_cached_tokens), (2, 8, 2));
}

#[test]
fn an_answer_that_comes_whole_is_learned_with_its_prompt_in_one_piece() {
    let held = |prompt: &str, answer: Option<Answer>| {
        let mut router = router(RouterConfig::default(), &[Kind::Remote]);
        tell(&mut router, 1, ask(1, prompt));
        let usage = Usage { cached_tokens: None, output_tokens: 2 };
        tell(&mut router, 2, RequestEvent::Finished { id: RequestId(1), attempt: 1, usage, answer });
        let mut matched = [0];
        let cached = |key: &str, matched: &mut [u32]| {
            router.index().lookup(&symbols(key), matched);
            matched[0]
        };
        (router.index().nodes(), cached("abcdXYZ", &mut matched), cached("abcde", &mut matched))
    };
    let answer = |keep, tail: &str| Some(Answer { keep, tail: symbols(tail), tokens: 7 });
    assert_eq!(held("abcde", None), (1, 4, 5), "no answer: the prompt alone");
    assert_eq!(held("abcde", answer(4, "XYZ")), (1, 7, 4), "the block the prompt ended in is now the answer's");
    assert_eq!(held("abcde", answer(3, "dXYZ")), (3, 7, 5), "more than its last block is the prompt's alone");
    assert_eq!(held("e", answer(0, "abcdXYZ")), (2, 7, 4), "else nothing of a short prompt would be left");
}
