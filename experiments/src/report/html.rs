//! Building blocks of HTML: escaping and tables.

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
