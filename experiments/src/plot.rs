//! Plots as SVG and as PNG of twice the size. The font is embedded, so they are the same on every machine.
//!
//! Reading order: [`figures`] (which plots a set of results calls for) → `sheet` (a list of shapes and how it becomes
//! SVG or PNG) → `frame` (axes, ticks, legend) → `latency`, `balance`, `sweep` (the plots themselves).

mod balance;
mod frame;
mod latency;
mod sheet;
mod sweep;

use crate::results::{ResultError, Results};
use crate::stats::Digest;
use sheet::Sheet;

/// Lines or groups of bars in one plot: more cannot be distinguished.
const MAX_ARMS: usize = 12;

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

    fn failed(&self, why: String) -> ResultError {
        ResultError::Plot { name: self.name.clone(), why }
    }
}

/// The plots of `results` in the order of the report; plots without data are left out.
pub fn figures(results: &Results) -> Vec<Figure> {
    let arms = &results.summary[..results.summary.len().min(MAX_ARMS)];
    let cut = if arms.len() < results.summary.len() {
        format!(" The first {} of {} arms.", arms.len(), results.summary.len())
    } else {
        String::new()
    };
    let mut figures = sweep::figures(&results.summary);
    let sheets = [
        (
            "ttft-cdf",
            latency::cdf(arms, &results.points),
            "Share of requests whose first token reached the user within the time; all seeds together.",
        ),
        (
            "latency",
            latency::bars(arms),
            "Percentiles of time to first token and of end-to-end latency: mean over seeds, whiskers are 95 % intervals.",
        ),
        ("share", balance::shares(arms), "Requests by replica that answered, all seeds together."),
        (
            "queues",
            balance::queues(arms, &results.points),
            "Requests waiting in each replica's engine and at the fullest router over time, first seed of each arm; neighbouring instants are drawn at their largest value.",
        ),
    ];
    for (name, sheet, caption) in sheets {
        if let Some(sheet) = sheet {
            figures.push(Figure { name: name.to_owned(), caption: format!("{caption}{cut}"), sheet });
        }
    }
    figures
}

/// The distribution of the time to first token for each (label, samples); `None` without samples.
pub fn ttft_distribution(samples: &[(String, Digest)]) -> Option<Figure> {
    let sheet = latency::cdf_of(&samples[..samples.len().min(MAX_ARMS)])?;
    let caption = "Share of requests whose first token reached the user within the time.".to_owned();
    Some(Figure { name: "ttft-cdf".to_owned(), caption, sheet })
}

#[cfg(test)]
mod tests;
