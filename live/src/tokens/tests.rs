use super::*;
use crate::wire::prompt_blocks::Blocks;
use proptest::prelude::*;

/// Words, as a tokenizer that never looks over a space would count them.
fn words_counter() -> Counter {
    Counter::new(Box::new(|text, _| text.split_whitespace().count()), 1_000)
}

fn chat(turns: &[String]) -> Bytes {
    let messages: Vec<_> = turns
        .iter()
        .enumerate()
        .map(|(n, text)| serde_json::json!({"role": (["user", "assistant"][n % 2]), "content": text}))
        .collect();
    serde_json::json!({"messages": messages}).to_string().into()
}

fn count(counter: &Counter, body: &Bytes) -> u32 {
    let prompt = request_fields::extract(body, 1).unwrap().prompt;
    counter.count_now(body, 1, &prompt.symbols[..prompt.whole]).unwrap()
}

/// A counter that also tells how many bytes it was given.
fn weighed() -> (Counter, Arc<Mutex<usize>>) {
    let bytes = Arc::new(Mutex::new(0));
    let sum = Arc::clone(&bytes);
    let encode = move |text: &str, _| {
        *sum.lock() += text.len();
        text.split_whitespace().count()
    };
    (Counter::new(Box::new(encode), 1_000), bytes)
}

fn text(words: usize, from: usize) -> String {
    (from..from + words).map(|n| format!("word{} ", "s".repeat(n % 7))).collect::<String>() + "end"
}

#[test]
fn only_what_is_new_is_counted_again() {
    let (counter, bytes) = weighed();
    let mut turns = vec![text(3_000, 0)];
    assert_eq!(count(&counter, &chat(&turns)), 3_001);
    let fresh = std::mem::take(&mut *bytes.lock());
    turns.extend([text(100, 5), text(50, 3)]);
    assert_eq!(count(&counter, &chat(&turns)), 3_153);
    let again = *bytes.lock();
    assert!(fresh > 20_000 && again < 2_500, "{fresh} bytes, then {again}");
    // Another model's prompt is another prompt.
    let other = String::from_utf8(chat(&turns).to_vec()).unwrap().replacen('{', "{\"model\":\"m\",", 1);
    assert_eq!(count(&counter, &other.into()), 3_153);
    assert!(*bytes.lock() > again + fresh);
}

#[test]
fn tools_and_token_ids_are_counted_too() {
    let counter = words_counter();
    let body = Bytes::from_static(br#"{"tools":[{"a": "b c"}],"prompt":"one two"}"#);
    assert_eq!(count(&counter, &body), 2 + 3);
    assert_eq!(count(&counter, &Bytes::from_static(br#"{"input_ids":[1,2,3],"text":"four"}"#)), 4);
}

#[test]
fn what_is_kept_is_bounded_and_what_is_asked_for_stays() {
    let mut cache = CountCache { most: 10, ..CountCache::default() };
    for n in 0..1_000u64 {
        cache.store(&[n + 1], &[Counted { end: 10, seen: 12, tokens: n }]);
        assert_eq!(cache.longest(&[1]), (10, 0));
        assert!(cache.young.len() + cache.old.len() <= 20);
    }
    assert_eq!(cache.longest(&[500]), (0, 0));
}

#[tokio::test]
async fn a_count_that_takes_too_long_is_not_waited_for_but_kept_for_the_next() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let encode = move |text: &str, _| {
        let _ = gate.lock().recv(); // ends at once when the sender is gone
        text.split_whitespace().count()
    };
    let counter = Arc::new(Counter::new(Box::new(encode), 100));
    let body = chat(&[text(500, 0)]);
    let prompt = request_fields::extract(&body, 1).unwrap().prompt;
    assert_eq!(counter.count(&body, 1, &prompt, Duration::from_millis(1)).await, None);
    drop(open);
    assert_eq!(counter.count(&body, 1, &prompt, Duration::from_secs(60)).await, Some(501));
    assert!(!counter.counted.lock().young.is_empty());
}

/// Text in which no letter follows a space used to be cut within words at 1.5 kB; those were counted twice.
#[test]
fn text_without_a_letter_after_a_space_is_cut_between_words() {
    for text in ["12345678 ".repeat(400), "12345678\n\n".repeat(400), "wor\u{e9} \u{e9}d ".repeat(400)] {
        let words = text.split_whitespace().count();
        assert_eq!(count(&words_counter(), &chat(&[text])) as usize, words);
    }
}

/// An escape in JSON splits the text as it is read; the text after it still continues the message.
#[test]
fn text_after_an_escape_continues_its_message() {
    let body = br#"{"messages":[{"role":"user","content":"say \"x\" and"}]}"#;
    let begin = "\u{1}user\u{2}".len() as u64;
    for (from, continues) in [(begin, false), (begin + 4, true), (begin + 7, true)] {
        let texts = request_fields::texts(body, 1, from).unwrap();
        assert_eq!((texts.parts.len(), texts.parts[0].continues), (1, continues), "from {from}");
    }
}

proptest! {
    #[test]
    fn counting_in_turns_equals_counting_at_once(
        turns in proptest::collection::vec("([a-z.,0-9\u{e9}]{1,9}[ \n]{1,2}){0,300}", 1..5),
        cuts in proptest::collection::vec(1usize..5, 0..4),
    ) {
        let counter = words_counter();
        for cut in cuts {
            count(&counter, &chat(&turns[..cut.min(turns.len())]));
        }
        let all: usize = turns.iter().map(|turn| turn.split_whitespace().count()).sum();
        prop_assert_eq!(count(&counter, &chat(&turns)) as usize, all);
    }

    #[test]
    fn any_text_is_cut_into_pieces_that_make_it_up(text in "[a-z \u{4e2d}]{0,6000}") {
        let mut rest = text.as_bytes();
        while let Some(Cut { length, seen }) = cut(rest) {
            prop_assert!((PIECE..=LONGEST).contains(&length) && std::str::from_utf8(&rest[..length]).is_ok());
            // Bytes after those that the cut depends on do not move it.
            let other = [&rest[..seen], b" x 1"].concat();
            prop_assert_eq!(cut(&other).map(|cut| cut.length), Some(length));
            rest = &rest[length..];
        }
        prop_assert!(rest.len() <= LONGEST);
    }

    #[test]
    fn text_from_anywhere_is_the_rest_of_the_text(text in "[a-z\"\u{e9}]{0,400}", from in 0u64..500) {
        let body = serde_json::json!({"prompt": text}).to_string();
        let texts = request_fields::texts(body.as_bytes(), 1, from).unwrap();
        let rest: Vec<u8> = texts.parts.iter().flat_map(|part| part.text.clone()).collect();
        prop_assert_eq!(&rest, &text.as_bytes()[text.len().min(from as usize)..]);
        prop_assert_eq!(Blocks::keeping(1, from).into_texts().parts.len(), 0);
    }
}

#[cfg(feature = "tokenizer")]
mod real {
    use super::*;
    use tokenizers::models::bpe::BPE;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// A byte-level BPE with a few merges, written as a tokenizer.json.
    fn file(folder: &Path) -> std::path::PathBuf {
        let bytes: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        let merges =
            [("h", "e"), ("t", "he"), ("\u{120}", "the"), ("e", "r"), ("a", "n"), ("an", "d"), ("\u{120}", "and")];
        let merges: Vec<_> = merges.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let mut all = bytes;
        all.sort();
        all.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
        let vocab = all.into_iter().zip(0u32..).collect::<std::collections::HashMap<_, _>>();
        let model =
            BPE::builder().vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges);
        let mut tokenizer = tokenizers::Tokenizer::new(model.build().unwrap());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
        let path = folder.join("tokenizer.json");
        tokenizer.save(&path, false).unwrap();
        path
    }

    #[test]
    fn a_tokenizers_own_count_is_told_however_the_prompt_came_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        let counter = Counter::load(&path, 1_000).unwrap();
        assert_eq!(count(&counter, &Bytes::from_static(br#"{"prompt":"the and, the"}"#)), 4, "the| and|,| the");
        let whole = tokenizers::Tokenizer::from_file(&path).unwrap();
        let mut turns: Vec<String> = Vec::new();
        for n in 0..6 {
            turns.push("the other and the \u{e9}t\u{e9}, another. ".repeat(30 + 20 * n));
            let expected: usize = turns.iter().map(|turn| whole.encode(turn.as_str(), false).unwrap().len()).sum();
            assert_eq!(count(&counter, &chat(&turns)) as usize, expected);
        }
        let why = Counter::load(&folder.path().join("none.json"), 10).unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }

    /// Counts at once against counts in turns by a real tokenizer, GORGO_TOKENIZER, on conversations, one JSON list of
    /// texts a line of GORGO_TEXT.
    #[test]
    #[ignore = "needs a model's tokenizer.json and conversations"]
    #[allow(clippy::print_stderr)]
    fn measured_against_whole_prompts() {
        let path = std::env::var("GORGO_TOKENIZER").unwrap();
        let text = std::fs::read_to_string(std::env::var("GORGO_TEXT").unwrap()).unwrap();
        let talks: Vec<Vec<String>> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let whole = tokenizers::Tokenizer::from_file(&path).unwrap();
        let (mut all, mut counted, mut worst, mut prompts) = (0usize, 0usize, 0usize, 0);
        let counter = Counter::load(Path::new(&path), 100_000).unwrap();
        for turns in &talks {
            for upto in (1..=turns.len()).step_by(2) {
                let exact: usize =
                    turns[..upto].iter().map(|t| whole.encode_fast(t.as_str(), false).unwrap().len()).sum();
                let ours = count(&counter, &chat(&turns[..upto])) as usize;
                (all, counted, prompts) = (all + exact, counted + ours, prompts + 1);
                worst = worst.max(exact.abs_diff(ours));
            }
        }
        eprintln!("{prompts} prompts: {all} tokens at once, {counted} in turns; the worst is off by {worst}");
        let text = talks.concat().join("\n");
        let body = chat(&[text.chars().take(80_000).collect()]);
        let counter = Counter::load(Path::new(&path), 100_000).unwrap();
        count(&counter, &chat(&[text.chars().rev().take(80_000).collect()])); // warm, with other text
        let start = std::time::Instant::now();
        let tokens = count(&counter, &body);
        let fresh = start.elapsed();
        let most: String = text.chars().take(72_000).collect();
        let counter = Counter::load(Path::new(&path), 100_000).unwrap();
        count(&counter, &chat(&[most]));
        let start = std::time::Instant::now();
        assert_eq!(count(&counter, &body), tokens);
        eprintln!("80 kB ({tokens} tokens) fresh {fresh:?}, 90 % held {:?}", start.elapsed());
    }
}
