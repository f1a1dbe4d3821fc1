//! The commands of `docs/clouds.md`, run on this machine in their order.

use super::{command, processes, ran};

#[test]
fn the_walk_of_the_page_runs_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clouds.md")).unwrap();
    let walk = page.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let mut commands = 0;
    let mut wanted: Vec<String> = Vec::new();
    let mut printed = String::new();
    let check = |wanted: &[String], printed: &str| {
        for word in wanted {
            assert!(printed.contains(word.as_str()), "the page shows `{word}`; printed was:\n{printed}");
        }
    };
    for line in walk.lines() {
        let Some(words) = line.strip_prefix("$ gorgo ") else {
            // The first word of a shown line stands in what was printed.
            wanted.extend(line.split_whitespace().next().filter(|word| *word != "...").map(str::to_owned));
            continue;
        };
        check(&wanted, &printed);
        wanted.clear();
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = command(&state, "local", &words);
        command.current_dir(folder.path());
        let _ = std::fs::create_dir(folder.path().join("docs"));
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/machines.toml");
        std::fs::copy(file, folder.path().join("docs/machines.toml")).unwrap();
        let done = ran(command);
        assert!(done.ok, "{line}: {}\n{}", done.out, done.err);
        printed = done.out + &done.err;
        commands += 1;
    }
    check(&wanted, &printed);
    assert!(commands >= 15, "{commands}");
    assert_eq!(processes(&state), Vec::<String>::new());
}
