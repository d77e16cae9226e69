//! Tables for people: columns as wide as they must be, separated by three spaces.

use std::io::{self, Write};

use super::terminal::Style;

/// A table that is filled row by row.
pub(super) struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// A field of a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Text in a colour, where colours are shown.
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Cell {
        Cell { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::styled(text, Style::Plain)
    }
}

impl Table {
    pub(super) fn new(titles: impl IntoIterator<Item = impl Into<String>>) -> Table {
        Table { titles: titles.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row, which has as many fields as the table has titles.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes it, in colours or not.
    pub(super) fn write(&self, mut output: impl Write, colours: bool) -> io::Result<()> {
        let titles: Vec<Cell> = self.titles.iter().map(|title| Cell::styled(title, Style::Bold)).collect();
        let all = || std::iter::once(&titles).chain(&self.rows);
        let mut widths = vec![0; titles.len()];
        for row in all() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(columns(&cell.text));
            }
        }
        for row in all() {
            let mut line = String::new();
            for (index, (width, cell)) in widths.iter().zip(row).enumerate() {
                line.push_str(&cell.style.paint(&cell.text, colours));
                if index + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', width - columns(&cell.text) + 3));
                }
            }
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Columns that a text takes.
fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["NAME", "STATE", "PORTS"]);
        table.row(["a-long-name".into(), Cell::styled("up", Style::Good), "".into()]);
        table.row(["é".into(), "exited".into(), "80".into()]);
        let mut text = Vec::new();
        table.write(&mut text, false).expect("written");
        let expected = "NAME          STATE    PORTS\na-long-name   up\né             exited   80\n";
        assert_eq!(String::from_utf8(text).expect("UTF-8"), expected);
        let mut text = Vec::new();
        table.write(&mut text, true).expect("written");
        assert!(String::from_utf8(text).expect("UTF-8").contains("\u{1b}[32mup\u{1b}[0m"));
    }
}
