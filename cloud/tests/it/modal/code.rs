//! The code made from the protocol files: the client in the crate, the server for the fake in the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILES: [&str; 3] = ["modal.proto", "task_command_router.proto", "status.proto"];

/// Files made for one side, by name.
fn made(server: bool) -> BTreeMap<String, String> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(FILES.map(|file| place.join(file)), [&place]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut builder = tonic_prost_build::configure().build_client(!server).build_server(server);
    builder = builder.build_transport(false).out_dir(folder.path()).emit_rerun_if_changed(false);
    if server {
        builder = builder.extern_path(".modal.client", "::gorgo_cloud::modal::proto::client");
        builder = builder.extern_path(".modal.task_command_router", "::gorgo_cloud::modal::proto::router");
    }
    builder.compile_fds(files).unwrap();
    let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
    let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let all = entries.map(|entry| (entry.file_name().into_string().unwrap(), text(entry.path())));
    all.filter(|(name, _)| !server || name.starts_with("modal.")).collect()
}

/// With GORGO_MAKE_PROTO set, the committed files are written anew.
#[test]
fn the_committed_code_is_what_the_protocol_files_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (server, place) in [(false, "proto/made"), (true, "tests/fake_modal/made")] {
        for (name, text) in made(server) {
            let path = root.join(place).join(name);
            if std::env::var_os("GORGO_MAKE_PROTO").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(there == text, "`{}` is not what the protocol files make", path.display());
        }
    }
}
