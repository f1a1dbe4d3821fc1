//! Building blocks of HTML: the frame of a page, escaping, tables and figures.

use crate::markup::escape;
use crate::plot::Figure;
use crate::results::{ResultError, VERSION};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use std::fmt::Write;

const STYLE: &str = concat!(include_str!("../../assets/uPlot.min.css"), "\n", include_str!("style.css"));
/// The chart library and what the page itself does.
const SCRIPT: &str = concat!(include_str!("../../assets/uPlot.iife.min.js"), "\n", include_str!("page.js"));

/// One part of a page.
pub(super) struct Section {
    title: String,
    open: bool,
    html: String,
}

impl Section {
    /// A part that is shown at once.
    pub(super) fn open(title: impl Into<String>, html: String) -> Self {
        Self { title: title.into(), open: true, html }
    }

    /// A part that is folded.
    pub(super) fn closed(title: impl Into<String>, html: String) -> Self {
        Self { title: title.into(), open: false, html }
    }

    /// Whether it has no content.
    pub(super) fn is_empty(&self) -> bool {
        self.html.is_empty()
    }
}

/// A page that stands alone: title, `lead`, contents, sections.
pub(super) fn page(title: &str, lead: &str, sections: &[Section]) -> String {
    let hash = BASE64.encode(Sha256::digest(SCRIPT));
    let mut contents = String::new();
    let mut body = String::new();
    for (i, section) in sections.iter().enumerate() {
        let (title, open) = (escape(&section.title), if section.open { " open" } else { "" });
        let _ = writeln!(contents, "<a href=\"#part-{i}\">{title}</a>");
        let _ = writeln!(
            body,
            "<details id=\"part-{i}\"{open}>\n<summary><h2>{title}</h2></summary>\n{}</details>",
            section.html
        );
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'sha256-{hash}'\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n{lead}\
         <nav aria-label=\"contents\">\n{contents}</nav>\n{body}\
         <footer>gorgo {1}; charts by uPlot 1.6.32 (MIT, Leon Sorokin)</footer>\n</main>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        escape(title),
        escape(VERSION)
    )
}

/// JSON that cannot end the element that it stands in.
pub(super) fn escape_json(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// A plot with its caption.
pub(super) fn figure(figure: &Figure) -> Result<String, ResultError> {
    let svg = figure.svg()?;
    // The header of a file has no place inside a page.
    let svg = svg.find("<svg").map_or(svg.as_str(), |at| &svg[at..]);
    let caption = escape(&figure.caption);
    let label = svg.replacen("<svg ", &format!("<svg aria-label=\"{caption}\" "), 1);
    Ok(format!("<figure>\n<div class=\"scroll paper\">{label}</div>\n<figcaption>{caption}</figcaption>\n</figure>\n"))
}

/// A table that escapes its cells; the first column names the row, the others are figures.
pub(super) struct HtmlTable {
    text: String,
    empty: bool,
}

impl HtmlTable {
    pub(super) fn new(header: &[&str]) -> Self {
        let cells: String = header.iter().map(|h| format!("<th scope=\"col\">{}</th>", escape(h))).collect();
        Self {
            text: format!("<div class=\"scroll\"><table class=\"data\">\n<thead><tr>{cells}</tr></thead>\n<tbody>\n"),
            empty: true,
        }
    }

    /// Adds a row; a cell that is a verdict gets its class.
    pub(super) fn row(&mut self, cells: &[String]) {
        self.add("<tr>", cells);
    }

    /// Adds a row that is hidden with the arm of this name, which is without its load.
    pub(super) fn row_of(&mut self, arm: &str, cells: &[String]) {
        self.add(&format!("<tr data-arm=\"{}\">", escape(arm)), cells);
    }

    fn add(&mut self, open: &str, cells: &[String]) {
        self.empty = false;
        self.text.push_str(open);
        for (i, cell) in cells.iter().enumerate() {
            let class = match cell.rsplit(' ').next() {
                Some("better") if i > 0 => " class=\"better\"",
                Some("worse") if i > 0 => " class=\"worse\"",
                _ => "",
            };
            let (open, close) = if i == 0 { ("<th scope=\"row\"", "</th>") } else { ("<td", "</td>") };
            self.text.push_str(&format!("{open}{class}>{}{close}", escape(cell)));
        }
        self.text.push_str("</tr>\n");
    }

    /// The table, or the sentence `otherwise` if it has no rows.
    pub(super) fn finish(mut self, otherwise: &str) -> String {
        if self.empty {
            return format!("<p>{}</p>\n", escape(otherwise));
        }
        self.text.push_str("</tbody>\n</table></div>\n");
        self.text
    }
}
