//! Tables of JSON rows that fit the terminal.

use gorgo_experiments::table::shorten;
use serde_json::Value;

/// The least room of a name.
const LEAST_NAME: usize = 12;

/// A column: its title, and what it shows of a row. Columns are left out from the last on narrow terminals.
pub(super) type Column = (&'static str, fn(&Value) -> String);

/// A head and one line for each of `rows`, in `width` characters: columns that show nothing but `-` are left out. Where the
/// rest does not fit, names longer than two fifths of the width lose their middle (names of pods differ at their ends), and
/// then columns are left out; two stay.
pub(super) fn fit(columns: &[Column], rows: &[Value], pad: &str, width: usize) -> String {
    let mut cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()).collect();
    let says = |&i: &usize| i == 0 || cells.iter().any(|row| row[i] != "-");
    let mut shown: Vec<usize> = (0..columns.len()).filter(says).collect();
    let long = |cells: &[Vec<String>], i: usize| {
        let longest = cells.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        longest.max(columns[i].0.chars().count())
    };
    let is_wide = |cells: &[Vec<String>], shown: &[usize]| {
        pad.len() + shown.iter().map(|&i| long(cells, i) + 2).sum::<usize>() > width.saturating_add(2)
    };
    if is_wide(&cells, &shown) {
        let room = (2 * width / 5).max(LEAST_NAME);
        cells.iter_mut().for_each(|row| row[0] = shorten(&row[0], room));
    }
    while shown.len() > 2 && is_wide(&cells, &shown) {
        shown.pop();
    }
    let long = |i: usize| long(&cells, i);
    let line = |cell: &dyn Fn(usize) -> String| {
        let line: String = shown.iter().map(|&i| format!("{:<1$}  ", cell(i), long(i))).collect();
        format!("{pad}{}", line.trim_end())
    };
    let head = line(&|i| columns[i].0.to_owned());
    std::iter::once(head).chain(cells.iter().map(|row| line(&|i| row[i].clone()))).collect::<Vec<_>>().join("\n")
}
