//! `gorgo schema`: the JSON schema of a file, for editors and checks.

use super::cloud::experiment::FleetTable;
use super::output;
use clap::{Args, ValueEnum};
use gorgo_core::settings::schema_of;
use serde_json::Value;

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// The file
    file: File,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum File {
    /// An experiment, as `gorgo run` and `gorgo sweep` read it
    Experiment,
    /// A router's configuration, as `gorgo proxy start` and `gorgo lb start` read it
    Router,
}

impl File {
    fn schema(self) -> Value {
        match self {
            Self::Experiment => gorgo_experiments::spec::experiment_schema(schema_of::<FleetTable>()),
            Self::Router => schema_of::<gorgo_live::config::Config>(),
        }
    }
}

pub(super) fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    Ok(output::print_line(serde_json::to_string_pretty(&args.file.schema())?)?)
}
