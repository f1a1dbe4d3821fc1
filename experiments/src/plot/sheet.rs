//! A drawing as a list of shapes in units of one SVG pixel, painted by plotters at four times the size: plotters knows
//! only whole pixels, so the SVG gets quarter units through its view box, and the PNG is averaged down by two, which
//! smooths its lines and letters.

mod paint;

use plotters::prelude::*;
use plotters::style::register_font;
use std::sync::OnceLock;

/// Painted pixels a unit.
const FINE: u32 = 4;
const FAMILY: &str = "sans-serif";
static FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");

pub(in crate::plot) type Paint = RGBAColor;

/// Near-black of text.
pub(in crate::plot) const INK: Paint = RGBAColor(34, 38, 43, 1.0);
/// Second text and axis lines.
pub(in crate::plot) const GREY: Paint = RGBAColor(96, 103, 112, 1.0);
/// Grid lines.
pub(in crate::plot) const GRID: Paint = RGBAColor(226, 229, 233, 1.0);
/// One of many lines that have no colour.
pub(in crate::plot) const PALE: Paint = RGBAColor(170, 176, 184, 1.0);
pub(in crate::plot) const WHITE_PAPER: Paint = RGBAColor(255, 255, 255, 1.0);

/// Okabe and Ito's colours for all kinds of sight, less the yellow, which is too pale on white for lines.
const PALETTE: [(u8, u8, u8); 7] =
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (60, 60, 60)];

/// The colour of series `i`; they come again after seven, then dashed (see [`dash`]).
pub(in crate::plot) fn color(i: usize) -> Paint {
    let (r, g, b) = PALETTE[i % PALETTE.len()];
    RGBAColor(r, g, b, 1.0)
}

/// A colour as in HTML.
pub(in crate::plot) fn hex(color: Paint) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// The colour of area `i`: areas cannot be dashed, so they come again paler.
pub(in crate::plot) fn area_color(i: usize) -> Paint {
    let pale = [0.0, 0.5, 0.75][(i / PALETTE.len()) % 3];
    let (r, g, b) = PALETTE[i % PALETTE.len()];
    let mix = |c: u8| (f64::from(c) + (255.0 - f64::from(c)) * pale).round() as u8;
    RGBAColor(mix(r), mix(g), mix(b), 1.0)
}

/// Series that differ in colour or dash.
pub(in crate::plot) const DISTINCT: usize = 3 * PALETTE.len();

/// The dash length of series `i`.
pub(in crate::plot) fn dash(i: usize) -> Option<f64> {
    [None, Some(7.0), Some(2.5)][(i / PALETTE.len()) % 3]
}

/// The same colour, paler.
pub(in crate::plot) fn faint(color: Paint, alpha: f64) -> Paint {
    RGBAColor(color.0, color.1, color.2, alpha)
}

/// Dark ink on areas, which keep their colours where a dark page inverts [`INK`].
const INK_ON_AREA: Paint = RGBAColor(34, 38, 42, 1.0);

/// Dark or white, whichever reads better on `ground`.
pub(in crate::plot) fn ink_on(ground: Paint) -> Paint {
    let brightness = 0.299 * f64::from(ground.0) + 0.587 * f64::from(ground.1) + 0.114 * f64::from(ground.2);
    if brightness > 150.0 { INK_ON_AREA } else { WHITE_PAPER }
}

/// Where a text's point lies within it.
#[derive(Clone, Copy)]
pub(in crate::plot) enum Anchor {
    /// Middle of the left edge.
    Left,
    /// Middle of the right edge.
    Right,
    /// Centre.
    Centre,
    /// Centre, turned to read upwards.
    Upwards,
}

enum Shape {
    Line { points: Vec<(f64, f64)>, color: Paint, width: f64, dash: Option<f64> },
    Area { points: Vec<(f64, f64)>, color: Paint },
    Rect { corners: [(f64, f64); 2], color: Paint, width: Option<f64> },
    Dot { at: (f64, f64), radius: f64, color: Paint },
    Text { text: String, at: (f64, f64), size: f64, color: Paint, anchor: Anchor },
}

/// The shapes of one plot.
pub(in crate::plot) struct Sheet {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
    /// What a browser shows when the pointer rests on the shapes of a range.
    hovers: Vec<(std::ops::Range<usize>, String)>,
}

impl Sheet {
    pub(in crate::plot) fn new(width: f64, height: f64) -> Self {
        Self { width: width.ceil() as u32, height: height.ceil() as u32, shapes: Vec::new(), hovers: Vec::new() }
    }

    pub(in crate::plot) fn line(&mut self, points: Vec<(f64, f64)>, color: Paint, width: f64, dash: Option<f64>) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, color, width, dash });
        }
    }

    pub(in crate::plot) fn area(&mut self, points: Vec<(f64, f64)>, color: Paint) {
        self.shapes.push(Shape::Area { points, color });
    }

    pub(in crate::plot) fn fill(&mut self, from: (f64, f64), to: (f64, f64), color: Paint) {
        self.shapes.push(Shape::Rect { corners: [from, to], color, width: None });
    }

    pub(in crate::plot) fn outline(&mut self, from: (f64, f64), to: (f64, f64), color: Paint, width: f64) {
        self.shapes.push(Shape::Rect { corners: [from, to], color, width: Some(width) });
    }

    pub(in crate::plot) fn dot(&mut self, at: (f64, f64), radius: f64, color: Paint) {
        self.shapes.push(Shape::Dot { at, radius, color });
    }

    pub(in crate::plot) fn text(
        &mut self,
        text: impl Into<String>,
        at: (f64, f64),
        size: f64,
        color: Paint,
        anchor: Anchor,
    ) {
        self.shapes.push(Shape::Text { text: text.into(), at, size, color, anchor });
    }

    /// Gives all shapes that `draw` adds one text, shown by a browser when the pointer rests on one of them.
    pub(in crate::plot) fn hover(&mut self, text: String, draw: impl FnOnce(&mut Self)) {
        let from = self.shapes.len();
        draw(self);
        self.hovers.push((from..self.shapes.len(), text));
    }

    /// Texts and corners that lie outside the sheet, for tests: nothing may be clipped.
    #[cfg(test)]
    pub(in crate::plot) fn outside(&self) -> Vec<String> {
        let (width, height) = (f64::from(self.width), f64::from(self.height));
        let within = |&(x, y): &(f64, f64)| (0.0..=width).contains(&x) && (0.0..=height).contains(&y);
        let corners = |shape: &Shape| match shape {
            Shape::Line { points, .. } | Shape::Area { points, .. } => points.clone(),
            Shape::Rect { corners, .. } => corners.to_vec(),
            Shape::Dot { at: (x, y), radius: r, .. } => vec![(x - r, y - r), (x + r, y + r)],
            Shape::Text { text, at: (x, y), size, anchor, .. } => {
                let (w, h) = (text_width(text, *size), size / 2.0);
                match anchor {
                    Anchor::Left => vec![(*x, y - h), (x + w, y + h)],
                    Anchor::Right => vec![(x - w, y - h), (*x, y + h)],
                    Anchor::Centre => vec![(x - w / 2.0, y - h), (x + w / 2.0, y + h)],
                    Anchor::Upwards => vec![(x - h, y - w / 2.0), (x + h, y + w / 2.0)],
                }
            }
        };
        let name = |shape: &Shape| match shape {
            Shape::Text { text, at, .. } => format!("text {text:?} at {at:?}"),
            other => format!("{:?}", corners(other)),
        };
        self.shapes.iter().filter(|s| !corners(s).iter().all(within)).map(name).collect()
    }
}

/// Registers the embedded font, once.
fn font() -> Result<(), String> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        register_font(FAMILY, FontStyle::Normal, FONT).map_err(|_| "the embedded font is damaged".to_owned())
    })
    .clone()
}

/// Width of a text in units.
pub(in crate::plot) fn text_width(text: &str, size: f64) -> f64 {
    // The embedded font has no East Asian letters; the browser's are squares.
    let (wide, narrow): (Vec<char>, Vec<char>) = text.chars().partition(|&c| is_wide(c));
    let narrow: String = narrow.into_iter().collect();
    let measured = font().ok().and_then(|()| (FAMILY, size * f64::from(FINE)).into_font().box_size(&narrow).ok());
    // Without a font nothing will be drawn, and `paint` says why.
    let measured = measured.map_or(0.0, |(width, _)| f64::from(width) / f64::from(FINE));
    measured + wide.len() as f64 * size
}

/// Letters as wide as high: Chinese, Japanese, Korean, full-width forms and pictographs.
fn is_wide(c: char) -> bool {
    matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f
        | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
}

/// The text, its middle left out if it is wider than `room` units.
pub(in crate::plot) fn shorten(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let with = |keep: usize| {
        let head: String = letters[..keep.div_ceil(2)].iter().collect();
        let tail: String = letters[letters.len() - keep / 2..].iter().collect();
        format!("{head}…{tail}")
    };
    let fits = (0..letters.len()).rev().map(with).find(|t| text_width(t, size) <= room);
    fits.unwrap_or_default()
}
