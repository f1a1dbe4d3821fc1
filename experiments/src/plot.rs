//! Plots as SVG and as PNG of twice the size. The font is embedded, so they are the same on every machine.
//!
//! Each arm has one colour and line style in all pictures; arms under different loads are in separate panels. A picture
//! that leaves something out states it.
//!
//! Reading order: [`figures`] (which plots a set of results calls for) → `sheet` (a list of shapes and how it becomes
//! SVG or PNG) → `frame` (axes, ticks, legend) → `arms` (which arm has which colour, and what is left out) → `latency`,
//! `balance`, `sweep`, `residuals`, `throughput` (the plots themselves); `charts` (the same lines as data for the page).

mod arms;
mod balance;
pub mod charts;
mod frame;
mod latency;
mod residuals;
mod sheet;
mod sweep;
mod throughput;

use crate::results::{ResultError, Results};
use crate::stats::Digest;
use crate::summary::loads::{Load, loads};
use arms::Styles;
pub use residuals::Residuals;
use sheet::Sheet;

/// Loads with pictures; a sweep of more is read in its lines or heat map.
const MAX_LOADS: usize = 24;

/// File format of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Vector graphics.
    Svg,
    /// Pixels, two for each unit of the SVG.
    Png,
}

impl Format {
    /// Ending of the file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }
}

/// One plot.
pub struct Figure {
    /// File name without ending.
    pub name: String,
    /// What the plot shows and how it was computed.
    pub caption: String,
    sheet: Sheet,
    charted: bool,
}

impl Figure {
    /// The file's bytes.
    ///
    /// # Errors
    /// When the drawing library fails.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, ResultError> {
        match format {
            Format::Svg => self.svg().map(String::into_bytes),
            Format::Png => self.sheet.png().map_err(|why| self.failed(why)),
        }
    }

    /// The SVG text, fit to stand in an HTML page.
    ///
    /// # Errors
    /// When the drawing library fails.
    pub fn svg(&self) -> Result<String, ResultError> {
        self.sheet.svg().map_err(|why| self.failed(why))
    }

    /// Whether [`charts`] hold the same lines.
    pub(crate) fn has_chart(&self) -> bool {
        self.charted
    }

    fn failed(&self, why: String) -> ResultError {
        ResultError::Plot { name: self.name.clone(), why }
    }
}

/// A kind of plot with a panel a load: name, loads of one picture, caption, how it is drawn.
struct Kind {
    name: &'static str,
    loads: usize,
    caption: &'static str,
    draw: fn(&[Load<'_>], &Results, &Styles) -> Option<Sheet>,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "ttft-cdf",
        loads: 4,
        caption: "Share of all counted requests whose first token reached the user within the time; all seeds together. The curve of an arm that answers half of its requests ends at 0.5.",
        draw: |loads, results, styles| latency::cdf(loads, &results.points, styles),
    },
    Kind {
        name: "ttft",
        loads: 4,
        caption: "Percentiles of time to first token: mean over seeds, whiskers are 95 % intervals.",
        draw: |loads, _, styles| latency::bars(loads, styles, "Time to first token", "TTFT (ms)", |arm| arm.ttft_ms),
    },
    Kind {
        name: "e2e",
        loads: 4,
        caption: "Percentiles of end-to-end latency: mean over seeds, whiskers are 95 % intervals.",
        draw: |loads, _, styles| latency::bars(loads, styles, "End-to-end latency", "E2E (ms)", |arm| arm.e2e_ms),
    },
    Kind {
        name: "share",
        loads: 4,
        caption: "Requests by replica that answered, all seeds together.",
        draw: |loads, _, _| balance::shares(loads),
    },
    Kind {
        name: "queues",
        loads: 1,
        caption: "Requests waiting in each replica's engine and at the fullest router over time, first seed of each arm; neighbouring instants are drawn at their largest value.",
        draw: |loads, results, _| balance::queues(loads, &results.points),
    },
];

/// The plots of `results` in the order of the report; plots without data are left out.
pub fn figures(results: &Results) -> Vec<Figure> {
    let styles = Styles::of(&results.summary);
    let mut figures = sweep::figures(&results.summary, &styles);
    let all = loads(&results.summary);
    let shown = &all[..all.len().min(MAX_LOADS)];
    let cut = if shown.len() < all.len() {
        format!(" The first {} of {} loads; all are in the tables.", shown.len(), all.len())
    } else {
        String::new()
    };
    for kind in &KINDS {
        for (i, loads) in shown.chunks(kind.loads).enumerate() {
            let name = if i == 0 { kind.name.to_owned() } else { format!("{}-{}", kind.name, i + 1) };
            let sheet = (kind.draw)(loads, results, &styles);
            // Loads with too many arms for a chart keep their picture.
            let charted = kind.name == "ttft-cdf" && loads.iter().all(|load| load.arms.len() <= sheet::DISTINCT);
            let caption = format!("{}{cut}", kind.caption);
            figures.extend(sheet.map(|sheet| Figure { name, caption, sheet, charted }));
        }
    }
    figures
}

pub use throughput::Step;

/// Latency against throughput of the steps of a bench; `None` with fewer than two.
pub fn latency_throughput(steps: &[Step]) -> Option<Figure> {
    let sheet = throughput::curve(steps)?;
    let caption = "Time to first token from the scheduled time, over the rate of answered requests; one point a run.";
    Some(Figure { name: "latency-throughput".to_owned(), caption: caption.to_owned(), sheet, charted: false })
}

/// The distribution of the time to first token for each (label, samples); `None` without samples.
pub fn ttft_distribution(samples: &[(String, Digest)]) -> Option<Figure> {
    let sheet = latency::cdf_of(samples)?;
    let caption = "Share of the answered requests whose first token reached the user within the time.".to_owned();
    Some(Figure { name: "ttft-cdf".to_owned(), caption, sheet, charted: false })
}

/// The distributions of the time to first token of two sources, for each (arm, measured, simulated); `None` without
/// samples.
pub fn two_distributions(arms: &[(String, Digest, Digest)]) -> Option<Figure> {
    let sheet = latency::cdf_of_two(arms)?;
    let caption =
        "Share of the answered requests whose first token came within the time, measured and simulated.".to_owned();
    Some(Figure { name: "validation-cdf".to_owned(), caption, sheet, charted: false })
}

/// Residuals of a fit by class; `None` without classes.
pub fn residuals(title: &str, classes: &[Residuals]) -> Option<Figure> {
    let sheet = residuals::sheet(title, classes)?;
    let caption = "Residuals by class: bars from the 10th to the 90th percentile, marks at the median.".to_owned();
    Some(Figure { name: "residuals".to_owned(), caption, sheet, charted: false })
}

#[cfg(test)]
mod tests;
