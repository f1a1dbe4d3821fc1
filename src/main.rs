//! The `gorgo` command: parse, call, print.

fn main() {}
