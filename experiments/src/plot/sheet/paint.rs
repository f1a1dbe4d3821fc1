//! Shapes become SVG or PNG.

use super::{Anchor, FAMILY, FINE, Shape, Sheet, font};
use crate::markup::escape;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write;
use std::ops::Range;

impl Sheet {
    /// The drawing as SVG.
    pub(in crate::plot) fn svg(&self) -> Result<String, String> {
        let (width, height) = (self.width, self.height);
        let (fine_width, fine_height) = (width * FINE, height * FINE);
        // The size in units; the view box keeps the painted size.
        let mut text = format!(
            "<svg width=\"{width}\" height=\"{height}\" role=\"img\" viewBox=\"0 0 {fine_width} {fine_height}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n\
             <rect x=\"0\" y=\"0\" width=\"{fine_width}\" height=\"{fine_height}\" fill=\"#FFFFFF\" stroke=\"none\"/>\n"
        );
        let mut from = 0;
        for (range, hover) in &self.hovers {
            text += &self.elements(from..range.start)?;
            let inner = self.elements(range.clone())?;
            let _ = write!(text, "<g>\n<title>{}</title>\n{inner}</g>\n", escape(hover));
            from = range.end;
        }
        text += &self.elements(from..self.shapes.len())?;
        text.push_str("</svg>\n");
        Ok(text)
    }

    /// Some of the shapes as elements of SVG.
    fn elements(&self, shapes: Range<usize>) -> Result<String, String> {
        let mut text = String::new();
        {
            let size = (self.width * FINE, self.height * FINE);
            let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
            paint(&self.shapes[shapes], &area, true)?;
        }
        let inner = text.find("<svg").and_then(|at| Some(at + text[at..].find('>')? + 1)).zip(text.rfind("</svg>"));
        let (start, end) = inner.ok_or("the SVG writer changed its header")?;
        Ok(text[start..end].trim_start().to_owned())
    }

    /// The drawing as PNG.
    pub(in crate::plot) fn png(&self) -> Result<Vec<u8>, String> {
        let (width, height) = (self.width * FINE, self.height * FINE);
        // White paper from the start: filling pixel by pixel takes longer than all the rest.
        let mut pixels = vec![255u8; (width * height * 3) as usize];
        {
            let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
            paint(&self.shapes, &area, false)?;
        }
        let (small, size) = halve(&pixels, (width, height));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // Even areas need no choice of filter row by row.
        encoder.set_filter(png::Filter::Up);
        let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
        writer.write_image_data(&small).map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

fn paint<DB: DrawingBackend>(shapes: &[Shape], area: &DrawingArea<DB, Shift>, vector: bool) -> Result<(), String> {
    font()?;
    let text = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
    let fine = |v: f64| (v * f64::from(FINE)).round() as i32;
    let at = |p: (f64, f64)| (fine(p.0), fine(p.1));
    for shape in shapes {
        match shape {
            Shape::Line { points, color, width, dash } => {
                let points: Vec<_> = points.iter().map(|&p| at(p)).collect();
                let style = color.stroke_width(fine(*width).max(1) as u32);
                let pieces = dash.map_or_else(|| vec![points.clone()], |on| dashes(&points, fine(on), fine(on * 0.7)));
                pieces.into_iter().try_for_each(|piece| match vector {
                    true => area.draw(&PathElement::new(piece, style)),
                    false => segments(area, &piece, style),
                })
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
                // In pixels, plotters centres letters with the room below their line.
                let drop = if vector { 0.0 } else { size * 0.15 };
                let (dx, dy) = if matches!(anchor, Anchor::Upwards) { (drop, 0.0) } else { (0.0, drop) };
                area.draw(&Text::new(text.as_str(), at((point.0 + dx, point.1 + dy)), style))
            }
        }
        .map_err(text)?;
    }
    area.present().map_err(text)
}

/// The parts of a line that show when `on` pixels are drawn and `off` are not, in turns.
fn dashes(points: &[(i32, i32)], on: i32, off: i32) -> Vec<Vec<(i32, i32)>> {
    let (mut pieces, mut piece) = (Vec::new(), points[..1].to_vec());
    let (mut drawn, mut left) = (true, f64::from(on.max(1)));
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let turn = (from.0 + (dx * done / length).round() as i32, from.1 + (dy * done / length).round() as i32);
            if drawn {
                piece.push(turn);
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece = vec![turn];
            }
            drawn = !drawn;
            left = f64::from(if drawn { on } else { off }.max(1));
        }
        left -= length - done;
        if drawn {
            piece.push(to);
        }
    }
    pieces.push(piece);
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

/// A line of pixels, piece by piece: drawn as a whole, plotters gives sharp corners spikes many times their width.
fn segments<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    points: &[(i32, i32)],
    style: ShapeStyle,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    for pair in points.windows(2) {
        area.draw(&PathElement::new(pair, style))?;
    }
    let inner = points.get(1..points.len().saturating_sub(1)).unwrap_or_default();
    let radius = style.stroke_width as i32 / 2;
    inner.iter().try_for_each(|&joint| area.draw(&Circle::new(joint, radius, style.color.filled())))
}

/// Each 2 × 2 block of RGB pixels becomes its mean.
fn halve(pixels: &[u8], (width, height): (u32, u32)) -> (Vec<u8>, (u32, u32)) {
    let row = width as usize * 3;
    let (half_width, half_height) = (width / 2, height / 2);
    let mut out = vec![0; half_width as usize * 3 * half_height as usize];
    for (pair, halved) in pixels.chunks_exact(2 * row).zip(out.chunks_exact_mut(half_width as usize * 3)) {
        let (upper, lower) = pair.split_at(row);
        let blocks = upper.as_chunks::<6>().0.iter().zip(lower.as_chunks::<6>().0);
        for ((a, b), mean) in blocks.zip(halved.as_chunks_mut::<3>().0) {
            let sum = |i: usize| u16::from(a[i]) + u16::from(a[i + 3]) + u16::from(b[i]) + u16::from(b[i + 3]);
            *mean = [0, 1, 2].map(|i| (sum(i) / 4) as u8);
        }
    }
    (out, (half_width, half_height))
}
