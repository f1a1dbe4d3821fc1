//! `gorgo report`: writes the report of a result folder again.

use super::experiment::{ShowArgs, note_gap, print_table};
use super::output::print_line;
use clap::Args as ClapArgs;
use gorgo_experiments::results::ResultFolder;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct ReportArgs {
    /// Result folder
    dir: PathBuf,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let folder = ResultFolder::open(&args.dir)?;
    let results = folder.load()?;
    note_gap(&results);
    let results = args.show.apply(results)?;
    print_table(&results, args.show.is_sorted())?;
    print_line(folder.write_report(&results)?.display())?;
    Ok(())
}
