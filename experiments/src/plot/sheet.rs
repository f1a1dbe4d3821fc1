//! A drawing as a list of shapes in units of one SVG pixel, painted by plotters at four times the size: plotters knows
//! only whole pixels, so the SVG gets quarter units through its view box, and the PNG is averaged down by two, which
//! smooths its lines and letters.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::sync::OnceLock;

/// Painted pixels a unit.
const FINE: u32 = 4;
/// PNG pixels a unit.
const PNG_SCALE: u32 = 2;
const FAMILY: &str = "sans-serif";
static FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");

pub(super) type Paint = RGBAColor;

/// Near-black of text.
pub(super) const INK: Paint = RGBAColor(34, 38, 43, 1.0);
/// Second text and axis lines.
pub(super) const GREY: Paint = RGBAColor(96, 103, 112, 1.0);
/// Grid lines.
pub(super) const GRID: Paint = RGBAColor(226, 229, 233, 1.0);
pub(super) const WHITE_PAPER: Paint = RGBAColor(255, 255, 255, 1.0);

/// Okabe and Ito's colours for all kinds of sight, less the yellow, which is too pale on white for lines.
const PALETTE: [(u8, u8, u8); 7] =
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (60, 60, 60)];

/// The colour of series `i`; they come again after seven, then dashed (see [`dash`]).
pub(super) fn color(i: usize) -> Paint {
    let (r, g, b) = PALETTE[i % PALETTE.len()];
    RGBAColor(r, g, b, 1.0)
}

/// The dash length of series `i`.
pub(super) fn dash(i: usize) -> Option<f64> {
    [None, Some(7.0), Some(2.5)][(i / PALETTE.len()) % 3]
}

/// The same colour, paler.
pub(super) fn faint(color: Paint, alpha: f64) -> Paint {
    RGBAColor(color.0, color.1, color.2, alpha)
}

/// Where a text's point lies within it.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
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
pub(super) struct Sheet {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
}

impl Sheet {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width: width.ceil() as u32, height: height.ceil() as u32, shapes: Vec::new() }
    }

    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, color: Paint, width: f64, dash: Option<f64>) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, color, width, dash });
        }
    }

    pub(super) fn area(&mut self, points: Vec<(f64, f64)>, color: Paint) {
        self.shapes.push(Shape::Area { points, color });
    }

    pub(super) fn fill(&mut self, from: (f64, f64), to: (f64, f64), color: Paint) {
        self.shapes.push(Shape::Rect { corners: [from, to], color, width: None });
    }

    pub(super) fn outline(&mut self, from: (f64, f64), to: (f64, f64), color: Paint, width: f64) {
        self.shapes.push(Shape::Rect { corners: [from, to], color, width: Some(width) });
    }

    pub(super) fn dot(&mut self, at: (f64, f64), radius: f64, color: Paint) {
        self.shapes.push(Shape::Dot { at, radius, color });
    }

    pub(super) fn text(&mut self, text: impl Into<String>, at: (f64, f64), size: f64, color: Paint, anchor: Anchor) {
        self.shapes.push(Shape::Text { text: text.into(), at, size, color, anchor });
    }

    /// Texts and corners that lie outside the sheet, for tests: nothing may be clipped.
    #[cfg(test)]
    pub(super) fn outside(&self) -> Vec<String> {
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

    /// The drawing as SVG.
    pub(super) fn svg(&self) -> Result<String, String> {
        let (width, height) = (self.width, self.height);
        let (fine_width, fine_height) = (width * FINE, height * FINE);
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, (fine_width, fine_height)).into_drawing_area();
            area.fill(&WHITE_PAPER).map_err(|e| e.to_string())?;
            self.paint(&area)?;
        }
        // The size in units; the view box keeps the painted size.
        let painted = format!("width=\"{fine_width}\" height=\"{fine_height}\" viewBox");
        let wanted = format!("width=\"{width}\" height=\"{height}\" role=\"img\" viewBox");
        if !text.contains(&painted) {
            return Err("the SVG writer changed its header".to_owned());
        }
        Ok(text.replacen(&painted, &wanted, 1))
    }

    /// The drawing as PNG.
    pub(super) fn png(&self) -> Result<Vec<u8>, String> {
        let (width, height) = (self.width * FINE, self.height * FINE);
        // White paper from the start: filling pixel by pixel takes longer than all the rest.
        let mut pixels = vec![255u8; (width * height * 3) as usize];
        {
            let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
            self.paint(&area)?;
        }
        let (small, size) = average(&pixels, (width, height), FINE / PNG_SCALE);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
        writer.write_image_data(&small).map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn paint<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<(), String> {
        font()?;
        let text = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        let fine = |v: f64| (v * f64::from(FINE)).round() as i32;
        let at = |p: (f64, f64)| (fine(p.0), fine(p.1));
        for shape in &self.shapes {
            match shape {
                Shape::Line { points, color, width, dash } => {
                    let points: Vec<_> = points.iter().map(|&p| at(p)).collect();
                    let style = color.stroke_width(fine(*width).max(1) as u32);
                    match dash {
                        Some(dash) => area.draw(&DashedPathElement::new(points, fine(*dash), fine(*dash * 0.7), style)),
                        None => area.draw(&PathElement::new(points, style)),
                    }
                }
                Shape::Area { points, color } => {
                    area.draw(&Polygon::new(points.iter().map(|&p| at(p)).collect::<Vec<_>>(), color.filled()))
                }
                Shape::Rect { corners: [a, b], color, width } => {
                    let style = width.map_or_else(|| color.filled(), |w| color.stroke_width(fine(w).max(1) as u32));
                    area.draw(&Rectangle::new([at(*a), at(*b)], style))
                }
                Shape::Dot { at: centre, radius, color } => {
                    area.draw(&Circle::new(at(*centre), fine(*radius), color.filled()))
                }
                Shape::Text { text, at: point, size, color, anchor } => {
                    let (h, turn) = match anchor {
                        Anchor::Left => (HPos::Left, FontTransform::None),
                        Anchor::Right => (HPos::Right, FontTransform::None),
                        Anchor::Centre => (HPos::Center, FontTransform::None),
                        Anchor::Upwards => (HPos::Center, FontTransform::Rotate270),
                    };
                    let font = (FAMILY, size * f64::from(FINE)).into_font().transform(turn);
                    let style = TextStyle::from(font).color(color).pos(Pos::new(h, VPos::Center));
                    area.draw(&Text::new(text.as_str(), at(*point), style))
                }
            }
            .map_err(text)?;
        }
        area.present().map_err(text)
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
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let measured = font().ok().and_then(|()| (FAMILY, size * f64::from(FINE)).into_font().box_size(text).ok());
    // Without a font nothing will be drawn, and `paint` says why.
    measured.map_or(0.0, |(width, _)| f64::from(width) / f64::from(FINE))
}

/// The text, its middle left out if it is wider than `room` units.
pub(super) fn shorten(text: &str, size: f64, room: f64) -> String {
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

/// Each `by` × `by` block of RGB pixels becomes its mean.
fn average(pixels: &[u8], (width, height): (u32, u32), by: u32) -> (Vec<u8>, (u32, u32)) {
    let (w, by) = (width as usize, by as usize);
    let (out_w, out_h) = (w / by, height as usize / by);
    let mut out = Vec::with_capacity(out_w * out_h * 3);
    for y in 0..out_h {
        for x in 0..out_w {
            for channel in 0..3 {
                let mut sum = 0u32;
                for dy in 0..by {
                    let row = ((y * by + dy) * w + x * by) * 3 + channel;
                    sum += (0..by).map(|dx| u32::from(pixels[row + dx * 3])).sum::<u32>();
                }
                out.push((sum / (by * by) as u32) as u8);
            }
        }
    }
    (out, (out_w as u32, out_h as u32))
}
