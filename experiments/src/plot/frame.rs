//! Axes, grid and legend. Ticks lie at 1, 2 and 5 times powers of ten, on linear and logarithmic scales.

use super::sheet::{Anchor, GREY, GRID, INK, Paint, Sheet, shorten, text_width};

/// Size of tick labels and legend: a letter of the SVG is 1.24 times smaller, and so 11.7 pixels where the page shows the
/// plot in full width.
pub(in crate::plot) const SMALL: f64 = 14.5;
/// Size of axis titles.
pub(in crate::plot) const MEDIUM: f64 = 15.5;
/// Size of plot titles.
pub(in crate::plot) const LARGE: f64 = 19.0;
/// Width of every plot.
pub(in crate::plot) const WIDTH: f64 = 960.0;
/// Free edge around every plot.
pub(in crate::plot) const EDGE: f64 = 18.0;

/// One axis: what it measures, from where to where.
pub(in crate::plot) struct Axis {
    title: String,
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// A linear axis whose ends are ticks, with about `count` of them.
    pub(in crate::plot) fn linear(title: &str, low: f64, high: f64, count: usize) -> Self {
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let step = step(span / count.max(1) as f64);
        let (first, last) = ((low / step).floor(), ((low + span) / step - 1e-9).ceil());
        let ticks: Vec<f64> = (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect();
        let ends = (first * step, last * step);
        Self { title: title.to_owned(), low: ends.0, high: ends.1, log: false, ticks }
    }

    /// A linear axis that ends exactly at its data.
    pub(in crate::plot) fn tight(title: &str, low: f64, high: f64, count: usize) -> Self {
        let wide = Self::linear(title, low, high, count);
        let high = if high > low { high } else { wide.high };
        let ticks = wide.ticks.into_iter().filter(|t| (low..=high).contains(t)).collect();
        Self { title: wide.title, low, high, log: false, ticks }
    }

    /// A logarithmic axis; `low` must be above 0.
    pub(in crate::plot) fn log(title: &str, low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low * 2.0 };
        let ticks = log_ticks(low, high);
        Self { title: title.to_owned(), low, high, log: true, ticks }
    }

    /// An axis with one place for each of `count` things: the first at 0.5.
    pub(in crate::plot) fn places(title: &str, count: usize) -> Self {
        Self { title: title.to_owned(), low: 0.0, high: count as f64, log: false, ticks: Vec::new() }
    }

    /// Where `value` lies: 0 at the low end, 1 at the high end; kept within.
    fn part(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        part.clamp(0.0, 1.0)
    }
}

/// Round values within `low..=high` for a logarithmic axis: at least three, however narrow the range.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let of = |marks: &[f64]| -> Vec<f64> {
        let all = (first..=last).flat_map(|e| marks.iter().map(move |m| m * 10f64.powi(e)));
        all.filter(|t| (low..=high).contains(t)).collect()
    };
    let marks: [&[f64]; 3] = [&[1.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]];
    let decades = (high / low).log10();
    let coarsest = usize::from(decades < 3.5);
    // Less than a decade may hold none of these: then the ticks are as far apart as on a linear axis.
    marks[coarsest..].iter().map(|marks| of(marks)).find(|ticks| ticks.len() >= 3).unwrap_or_else(|| {
        let step = step((high - low) / 5.0);
        let from = (low / step).ceil();
        (0..=20).map(|i| (from + f64::from(i)) * step).take_while(|t| *t <= high).collect()
    })
}

/// Labels of ticks, with as many digits as tell neighbours apart.
fn labels(ticks: &[f64]) -> Vec<String> {
    let apart = |labels: &[String]| labels.windows(2).all(|pair| pair[0] != pair[1]);
    let short: Vec<String> = ticks.iter().map(|&t| number(t)).collect();
    let longer = (1..=6).map(|digits| ticks.iter().map(|t| format!("{t:.digits$}")).collect::<Vec<_>>());
    std::iter::once(short).chain(longer).find(|labels| apart(labels)).unwrap_or_default()
}

/// The smallest of 1, 2, 5 and their tens that is not below `rough`.
fn step(rough: f64) -> f64 {
    let ten = 10f64.powf(rough.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * ten).find(|s| *s >= rough * 0.999_999).unwrap_or(ten * 10.0)
}

/// A number as short as three digits allow.
pub(in crate::plot) fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        s if s >= 100.0 || s == 0.0 => format!("{value:.0}"),
        s if s >= 10.0 => format!("{value:.1}"),
        s if s >= 1.0 => format!("{value:.2}"),
        s if s >= 1e-4 => {
            let digits = 2 - s.log10().floor() as i32;
            format!("{value:.*}", digits.max(0) as usize)
        }
        _ => return format!("{value:.1e}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A rectangle of a sheet with two axes.
pub(in crate::plot) struct Frame {
    pub(in crate::plot) left: f64,
    pub(in crate::plot) top: f64,
    pub(in crate::plot) right: f64,
    pub(in crate::plot) bottom: f64,
    x: Axis,
    y: Axis,
}

impl Frame {
    /// Draws axes into the box `left..right` × `top..bottom`, labels included, and returns what is left for data.
    pub(in crate::plot) fn draw(
        sheet: &mut Sheet,
        (left, top): (f64, f64),
        (right, bottom): (f64, f64),
        x: Axis,
        y: Axis,
    ) -> Self {
        let widest = labels(&y.ticks).iter().map(|label| text_width(label, SMALL)).fold(0.0, f64::max);
        let y_title = if y.title.is_empty() { 0.0 } else { MEDIUM + 8.0 };
        let x_title = if x.title.is_empty() { 0.0 } else { MEDIUM + 4.0 };
        let x_ticks = if x.ticks.is_empty() { 4.0 } else { SMALL + 10.0 };
        let frame = Self { left: left + y_title + widest + 8.0, top, right, bottom: bottom - x_title - x_ticks, x, y };
        frame.grid(sheet);
        let centre = (top + frame.bottom) / 2.0;
        sheet.text(frame.y.title.clone(), (left + MEDIUM / 2.0, centre), MEDIUM, INK, Anchor::Upwards);
        let middle = (frame.left + right) / 2.0;
        sheet.text(frame.x.title.clone(), (middle, bottom - MEDIUM / 2.0), MEDIUM, INK, Anchor::Centre);
        frame
    }

    fn grid(&self, sheet: &mut Sheet) {
        for (&tick, label) in self.y.ticks.iter().zip(labels(&self.y.ticks)) {
            let y = self.y(tick);
            sheet.line(vec![(self.left, y), (self.right, y)], GRID, 1.0, None);
            sheet.text(label, (self.left - 6.0, y), SMALL, GREY, Anchor::Right);
        }
        let mut free = f64::NEG_INFINITY;
        for (&tick, label) in self.x.ticks.iter().zip(labels(&self.x.ticks)) {
            let x = self.x(tick);
            sheet.line(vec![(x, self.top), (x, self.bottom)], GRID, 1.0, None);
            // Labels that would touch their neighbour are left out; the line stays.
            let half = text_width(&label, SMALL) / 2.0;
            if x - half > free {
                sheet.text(label, (x, self.bottom + 12.0), SMALL, GREY, Anchor::Centre);
                free = x + half + 6.0;
            }
        }
        sheet.line(vec![(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)], GREY, 1.0, None);
    }

    pub(in crate::plot) fn x(&self, value: f64) -> f64 {
        self.left + self.x.part(value) * (self.right - self.left)
    }

    pub(in crate::plot) fn y(&self, value: f64) -> f64 {
        self.bottom - self.y.part(value) * (self.bottom - self.top)
    }

    pub(in crate::plot) fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x(x), self.y(y))
    }
}

/// One entry of a legend.
pub(in crate::plot) struct Entry {
    pub(in crate::plot) label: String,
    pub(in crate::plot) color: Paint,
    pub(in crate::plot) dash: Option<f64>,
    /// A line for curves, a box for areas.
    pub(in crate::plot) line: bool,
}

const SWATCH: f64 = 22.0;

/// Places of legend entries in rows, from the left edge; the second value is the height of all rows.
fn flow(entries: &[Entry]) -> (Vec<(f64, f64, String)>, f64) {
    let (mut x, mut y) = (EDGE, 0.0);
    let mut places = Vec::new();
    for entry in entries {
        let label = shorten(&entry.label, SMALL, WIDTH - 2.0 * EDGE - SWATCH - 8.0);
        let width = SWATCH + 6.0 + text_width(&label, SMALL) + 18.0;
        if x > EDGE && x + width - 18.0 > WIDTH - EDGE {
            (x, y) = (EDGE, y + SMALL + 7.0);
        }
        places.push((x, y, label));
        x += width;
    }
    (places, if entries.is_empty() { 0.0 } else { y + SMALL + 7.0 })
}

/// Height of title and legend together.
pub(in crate::plot) fn head_height(entries: &[Entry]) -> f64 {
    EDGE + LARGE + 10.0 + flow(entries).1 + 8.0
}

/// Draws title and legend above everything else; returns where they end.
pub(in crate::plot) fn head(sheet: &mut Sheet, title: &str, entries: &[Entry]) -> f64 {
    sheet.text(shorten(title, LARGE, WIDTH - 2.0 * EDGE), (EDGE, EDGE + LARGE / 2.0), LARGE, INK, Anchor::Left);
    let top = EDGE + LARGE + 10.0;
    for ((x, y, label), entry) in flow(entries).0.into_iter().zip(entries) {
        let middle = top + y + SMALL / 2.0;
        if entry.line {
            sheet.line(vec![(x, middle), (x + SWATCH, middle)], entry.color, 2.5, entry.dash);
        } else {
            sheet.fill((x + 5.0, middle - 6.0), (x + SWATCH - 4.0, middle + 6.0), entry.color);
        }
        sheet.text(label, (x + SWATCH + 6.0, middle), SMALL, INK, Anchor::Left);
    }
    head_height(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round_and_hold_the_data() {
        let axis = Axis::linear("", 0.0, 873.0, 5);
        assert_eq!(axis.ticks, [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let flat = Axis::linear("", 0.0, 0.0, 5);
        assert_eq!((flat.low, flat.high), (0.0, 1.0));
    }

    #[test]
    fn log_ticks_lie_within_the_data() {
        assert_eq!(Axis::log("", 30.0, 700.0).ticks, [50.0, 100.0, 200.0, 500.0]);
        assert_eq!(Axis::log("", 1.0, 1e6).ticks.len(), 7);
        assert_eq!(Axis::log("", 190.0, 340.0).ticks, [200.0, 250.0, 300.0]);
        for (low, high) in [(160.0, 190.0), (0.98, 1.07), (1020.0, 1900.0)] {
            let ticks = Axis::log("", low, high).ticks;
            assert!((2..=20).contains(&ticks.len()) && ticks.iter().all(|t| (low..=high).contains(t)), "{ticks:?}");
        }
    }

    #[test]
    fn a_logarithmic_axis_is_labelled_however_narrow_it_is() {
        for (low, high) in
            [(220.0, 461.0), (220.0, 261.0), (320.1, 320.9), (0.1, 0.11), (9.9, 10.1), (1.0, 1.1), (3.0, 3e5)]
        {
            let ticks = Axis::log("", low, high).ticks;
            assert!((3..=14).contains(&ticks.len()), "{low}..{high}: {ticks:?}");
            assert!(ticks.iter().all(|t| (low..=high).contains(t)), "{low}..{high}: {ticks:?}");
            let mut shown = labels(&ticks);
            shown.dedup();
            assert_eq!(shown.len(), ticks.len(), "{low}..{high}: {shown:?}");
        }
        assert_eq!(labels(&[320.2, 320.4, 320.6]), ["320.2", "320.4", "320.6"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.0, 1234.4, 99.96, 5.0, 2.25, 0.094, 0.0105, 1e-7].map(number);
        assert_eq!(shown, ["0", "1234", "100", "5", "2.25", "0.094", "0.0105", "1.0e-7"]);
    }
}
