//! Aligned columns.

use crate::cli::output;

/// Rows under a head, each column as wide as its widest cell.
pub(super) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    fitted(head, rows, &[])
}

/// As [`columns`]; where the terminal is too narrow, columns of `spare` are left out, the first one first, and the last
/// column is cut. `--json` holds all.
pub(super) fn fitted(head: &[&str], rows: &[Vec<String>], spare: &[&str]) -> String {
    within(output::columns(), head, rows, spare)
}

fn within(limit: Option<usize>, head: &[&str], rows: &[Vec<String>], spare: &[&str]) -> String {
    let (mut kept, mut spare) = ((0..head.len()).collect::<Vec<_>>(), spare.iter());
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
        cells.chain([head[i].len()]).max().unwrap_or(0)
    };
    let whole = |kept: &[usize]| kept.iter().map(|&i| width(i) + 2).sum::<usize>().saturating_sub(2);
    while limit.is_some_and(|limit| whole(&kept) > limit) {
        let Some(name) = spare.next() else { break };
        kept.retain(|&i| head[i] != *name);
    }
    let line = |cells: Vec<&str>| {
        let padded = kept.iter().filter_map(|&i| Some(format!("{:<1$}", cells.get(i)?, width(i))));
        let line = padded.collect::<Vec<_>>().join("  ").trim_end().to_owned();
        // What is said under a table has no columns, so the cut is at its last one alone.
        match limit.filter(|&limit| limit > 20 && line.chars().count() > limit) {
            Some(limit) => line.chars().take(limit - 3).chain("...".chars()).collect(),
            None => line,
        }
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(head.to_vec())).chain(body).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(within(None, &["NAME", "N"], &rows, &["N"]), "NAME  N\na     1\nlong  2");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_then_a_shorter_last_one() {
        let row = ["name", "an-id-that-is-long", "free in many regions of the world"].map(str::to_owned).to_vec();
        let table = |limit| within(Some(limit), &["NAME", "ID", "FREE IN"], std::slice::from_ref(&row), &["ID"]);
        assert_eq!(table(80).lines().last().unwrap(), "name  an-id-that-is-long  free in many regions of the world");
        assert_eq!(table(40).lines().last().unwrap(), "name  free in many regions of the world");
        assert_eq!(table(24).lines().last().unwrap(), "name  free in many re...");
    }
}
