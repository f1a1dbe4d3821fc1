//! `gorgo plot`: draws the plots of result folders again.

use super::experiment::note_gap;
use super::output::print_line;
use clap::Args as ClapArgs;
use gorgo_experiments::plot::Format;
use gorgo_experiments::results::ResultFolder;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct PlotArgs {
    /// Result folders
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Draw only this format; both when absent
    #[arg(long, value_enum)]
    format: Option<PlotFormat>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PlotFormat {
    Svg,
    Png,
}

pub(super) fn run(args: &PlotArgs) -> anyhow::Result<()> {
    let formats: &[Format] = match args.format {
        Some(PlotFormat::Svg) => &[Format::Svg],
        Some(PlotFormat::Png) => &[Format::Png],
        None => &[Format::Svg, Format::Png],
    };
    for dir in &args.dirs {
        let folder = ResultFolder::open(dir)?;
        let results = folder.load()?;
        note_gap(&results);
        for path in folder.write_plots(&results, formats)? {
            print_line(path.display())?;
        }
    }
    Ok(())
}
