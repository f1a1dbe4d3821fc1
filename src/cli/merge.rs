//! `gorgo merge`: shards of one experiment into one result folder.

use super::calibrate::each_once;
use super::experiment::{note_gap, print_table};
use super::output::print_line;
use clap::Args as ClapArgs;
use gorgo_experiments::results::ResultFolder;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct MergeArgs {
    /// Result folders of one experiment; the others are copied into the first
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
}

pub(super) fn run(args: &MergeArgs) -> anyhow::Result<()> {
    each_once(&args.dirs, "result folder")?;
    let folder = ResultFolder::open(&args.dirs[0])?;
    let mut points = 0;
    for dir in &args.dirs[1..] {
        points += folder.absorb(&ResultFolder::open(dir)?)?;
    }
    let results = folder.finish()?;
    note_gap(&results);
    print_line(format_args!("{points} points copied into {}\n", args.dirs[0].display()))?;
    print_table(&results, false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_not_merged_into_itself() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = vec![dir.path().to_owned(), dir.path().join(".")];
        let message = run(&MergeArgs { dirs }).unwrap_err().to_string();
        assert!(message.ends_with("is given twice; name each result folder once"), "{message}");
    }
}
