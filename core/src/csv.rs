//! Text in CSV files.

use std::borrow::Cow;

/// `text` as a cell that no spreadsheet takes for a formula: text that begins with `=`, `+`, `-`, `@`, a tab or a
/// carriage return gets an apostrophe before it. For text only: a negative number is a number.
pub fn text_cell(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        Cow::Owned(format!("'{text}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// The text of a cell that [`text_cell`] wrote.
pub fn text_of_cell(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|text| matches!(text_cell(text), Cow::Owned(_))).unwrap_or(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_formula() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(text_cell(text), format!("'{text}"));
            assert_eq!(text_of_cell(&text_cell(text)), text);
        }
        assert_eq!(text_cell("a=b"), "a=b");
        for text in ["", "'", "'a", "a=b"] {
            assert_eq!(text_of_cell(&text_cell(text)), text);
        }
    }
}
