//! Progress of an experiment on standard error.

use crate::cli::output::print_note;
use gorgo_experiments::runner::Progress;
use indicatif::{ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// How long live runs take, and how to shorten long ones.
fn real_time_note(points: usize, s: f64) -> String {
    let runs = if points == 1 { "1 run".to_owned() } else { format!("{points} runs") };
    let time = if s < 90.0 {
        format!("{s:.0} s")
    } else if s < 5400.0 {
        format!("{:.0} min", s / 60.0)
    } else {
        format!("{:.1} h", s / 3600.0)
    };
    let advice = "; for less: --seed 1, --set workload.duration_s=30, --jobs 4";
    format!("{runs} in real time, at least {time}{}", if s < 600.0 { "" } else { advice })
}

/// A bar with the time left on a terminal, plain lines otherwise.
pub(super) struct ProgressBar {
    bar: indicatif::ProgressBar,
    plain: bool,
}

impl ProgressBar {
    pub(super) fn new() -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = indicatif::ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} runs  {elapsed} (left {eta})  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        if plain {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, plain }
    }

    pub(super) fn update(&self, news: Progress) {
        match news {
            Progress::Start { points, kept, real_time_s } => {
                self.bar.set_length(points as u64);
                if kept > 0 {
                    eprintln!("{kept} runs are in the folder already, {points} to go");
                }
                if let Some(s) = real_time_s.filter(|_| points > 0) {
                    // On a terminal, the bar follows this line.
                    eprintln!("{}", real_time_note(points, s));
                }
            }
            Progress::Notes { notes } => {
                for note in notes {
                    self.bar.suspend(|| print_note(note));
                }
            }
            Progress::Point { arm, seed, requests } => {
                self.bar.inc(1);
                let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
                self.bar.set_message(format!("{arm}, seed {seed}"));
                // Without a terminal, about ten lines in all.
                if self.plain && (all <= 20 || done % (all / 10) == 0 || done == all) {
                    eprintln!("{done}/{all} {arm}, seed {seed}: {requests} requests");
                }
            }
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_runs_print_how_long_they_take_and_long_ones_how_to_shorten_them() {
        assert_eq!(real_time_note(1, 58.9), "1 run in real time, at least 59 s");
        assert_eq!(real_time_note(4, 240.0), "4 runs in real time, at least 4 min");
        let long = real_time_note(540, 32_400.0);
        assert!(long.starts_with("540 runs in real time, at least 9.0 h; for less: --seed 1"), "{long}");
    }
}
