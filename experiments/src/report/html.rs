//! Building blocks of HTML: the frame of a page, escaping, tables and figures.

use crate::plot::Figure;
use crate::results::{ResultError, VERSION};

const STYLE: &str = include_str!("style.css");

/// A page that stands alone, with `body` below its title.
pub(super) fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n{body}\
         <footer>gorgo {1}</footer>\n</main>\n</body>\n</html>\n",
        escape(title),
        escape(VERSION)
    )
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

/// Text safe between tags and inside quoted attributes. Control characters but tab and line ends are dropped: no
/// browser shows them.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() && !matches!(c, '\n' | '\t' | '\r') => {}
            c => safe.push(c),
        }
    }
    safe
}

/// A table that escapes its cells; the first column names the row, the others are figures.
pub(super) struct HtmlTable {
    text: String,
    empty: bool,
}

impl HtmlTable {
    pub(super) fn new(header: &[&str]) -> Self {
        let cells: String = header.iter().map(|h| format!("<th scope=\"col\">{}</th>", escape(h))).collect();
        Self { text: format!("<div class=\"scroll\"><table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n"), empty: true }
    }

    /// Adds a row; a cell that is a verdict gets its class.
    pub(super) fn row(&mut self, cells: &[String]) {
        self.empty = false;
        self.text.push_str("<tr>");
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
