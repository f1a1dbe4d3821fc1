//! Residuals of a fit by class: a bar from the 10th to the 90th percentile, a mark at the median.

use super::frame::{Axis, EDGE, Frame, LARGE, SMALL, WIDTH, head, number};
use super::sheet::{Anchor, GREY, INK, Sheet, color, faint, shorten, text_width};
use serde::Serialize;

/// Residuals of one class, ms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Residuals {
    /// The class.
    pub name: String,
    /// Its requests.
    pub requests: usize,
    /// 10th percentile.
    pub p10: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
}

/// One row a class; `None` without classes.
pub(super) fn sheet(title: &str, classes: &[Residuals]) -> Option<Sheet> {
    let low = classes.iter().map(|c| c.p10).fold(0.0, f64::min);
    let high = classes.iter().map(|c| c.p90).fold(0.0, f64::max);
    if classes.is_empty() || !(low.is_finite() && high.is_finite()) {
        return None;
    }
    let labels: Vec<String> = classes.iter().map(|c| format!("{} ({})", c.name, c.requests)).collect();
    let room = labels.iter().map(|label| text_width(label, SMALL)).fold(0.0, f64::max).min(240.0);
    let (row, top) = (30.0, EDGE + LARGE + 18.0);
    let bottom = top + row * classes.len() as f64 + 60.0;
    let mut sheet = Sheet::new(WIDTH, bottom + EDGE);
    head(&mut sheet, title, &[]);
    let x = Axis::linear("measured - predicted (ms)", low, high, 6);
    let left = EDGE + room + 8.0;
    let frame =
        Frame::draw(&mut sheet, (left - 8.0, top), (WIDTH - EDGE - 14.0, bottom), x, Axis::places("", classes.len()));
    sheet.line(vec![(frame.x(0.0), frame.top), (frame.x(0.0), frame.bottom)], GREY, 1.5, None);
    let step = (frame.bottom - frame.top) / classes.len() as f64;
    for (i, (class, label)) in classes.iter().zip(labels).enumerate() {
        let y = frame.top + (i as f64 + 0.5) * step;
        sheet.text(shorten(&label, SMALL, room), (frame.left - 8.0, y), SMALL, INK, Anchor::Right);
        let said =
            format!("{label}: p10 {}, p50 {}, p90 {} ms", number(class.p10), number(class.p50), number(class.p90));
        sheet.hover(said, |sheet| {
            sheet.fill((frame.x(class.p10), y - 7.0), (frame.x(class.p90), y + 7.0), faint(color(0), 0.4));
            sheet.line(vec![(frame.x(class.p50), y - 9.0), (frame.x(class.p50), y + 9.0)], color(1), 3.0, None);
        });
    }
    Some(sheet)
}
