//! Parts of the comparison with other routers (`benchmark/peers/measure.py` drives them): an engine that costs
//! nearly nothing, the bare hyper pass-through that the router is held against, and a load that costs little.
//!
//! `peers engine --port P [--prefill-ms N] [--gap-ms N] [--cache-chars N]`
//! `peers floor --port P --to URL,URL...`
//! `peers load --to URL,... --bytes N --connections N (--seconds N | --requests N) [--events N]`
//! `peers open --to URL --rate N --seconds N [--bytes N --families N --zipf X --shared X --events N]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod engine;
mod floor;
mod load;
mod lru;
mod text;

use std::collections::BTreeMap;

// As in the `gorgo` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `--name value` pairs.
struct Args(BTreeMap<String, String>);

impl Args {
    fn number(&self, name: &str, or: f64) -> f64 {
        self.0.get(name).map_or(or, |v| v.parse().unwrap_or_else(|_| panic!("--{name} {v}: give a number")))
    }

    fn urls(&self) -> Vec<String> {
        let list = self.0.get("to").expect("--to URL is missing");
        list.split(',').map(|url| url.trim_start_matches("http://").to_owned()).collect()
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let role = words.next().unwrap_or_default();
    let mut args = Args(BTreeMap::new());
    while let Some(name) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{name} needs a value"));
        args.0.insert(name.trim_start_matches("--").to_owned(), value);
    }
    // The router's own runtime has a thread a core; engine and load get by on one.
    let mut runtime = match role.as_str() {
        "floor" => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build().unwrap();
    match role.as_str() {
        "engine" => runtime.block_on(engine::serve(&args)),
        "floor" => runtime.block_on(floor::serve(&args)),
        "load" => runtime.block_on(load::closed(&args)),
        "open" => runtime.block_on(load::open(&args)),
        _ => panic!("say engine, floor, load or open"),
    }
}
