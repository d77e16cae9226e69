//! Tables for people: columns as wide as they must be, separated by three spaces.

use std::io::{self, Write};

use super::terminal::Style;

/// A table that is filled row by row.
pub(super) struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<Cell>>,
    /// Columns that are cut where a line would not fit: those of a group once those of the groups before are.
    elastic: Vec<Vec<usize>>,
    /// The column that is left out where that is not enough.
    dispensable: Option<usize>,
}

/// What is left of a column that is cut.
const LEAST: usize = 8;
/// Between two columns.
const GAP: usize = 3;

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
        Table {
            titles: titles.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
            elastic: Vec::new(),
            dispensable: None,
        }
    }

    /// Adds a row, which has as many fields as the table has titles.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Says which columns are cut where a line would not fit, in groups of which the first is cut first, and which one is
    /// left out where the first is not enough.
    pub(super) fn fitting(mut self, elastic: &[&[usize]], dispensable: usize) -> Table {
        self.elastic = elastic.iter().map(|group| group.to_vec()).collect();
        self.dispensable = Some(dispensable);
        self
    }

    /// Writes it, in colours or not, for lines of so many columns.
    pub(super) fn write(&self, mut output: impl Write, colours: bool, most: Option<usize>) -> io::Result<()> {
        let titles: Vec<Cell> = self.titles.iter().map(|title| Cell::styled(title, Style::Bold)).collect();
        let all = || std::iter::once(&titles).chain(&self.rows);
        let mut widths = vec![0; titles.len()];
        for row in all() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(columns(&cell.text));
            }
        }
        if let Some(most) = most {
            self.fit(&mut widths, most);
        }
        for row in all() {
            let mut line = String::new();
            for (index, (width, cell)) in widths.iter().zip(row).enumerate().filter(|(_, (width, _))| **width > 0) {
                let text = super::human::cut(&cell.text, *width);
                line.push_str(&cell.style.paint(&text, colours));
                if index + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', width - columns(&text) + GAP));
                }
            }
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Table {
    /// Takes from the widest of the elastic columns until lines have `most` columns, as far as that goes.
    fn fit(&self, widths: &mut [usize], most: usize) {
        let line = |widths: &[usize]| {
            let shown = widths.iter().filter(|width| **width > 0);
            shown.map(|width| width + GAP).sum::<usize>().saturating_sub(GAP)
        };
        let first = self.elastic.first().into_iter().flatten();
        let spare: usize = first.map(|column| widths[*column].saturating_sub(LEAST)).sum();
        if let Some(column) = self.dispensable.filter(|_| line(widths) > most + spare) {
            widths[column] = 0;
        }
        for group in &self.elastic {
            while line(widths) > most {
                let widest = group.iter().copied().max_by_key(|column| widths[*column]);
                let Some(widest) = widest.filter(|column| widths[*column] > LEAST) else { break };
                widths[widest] -= 1;
            }
        }
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
    fn lines_fit_where_they_can() {
        let mut table = Table::new(["ID", "COMMAND", "PORTS", "NAME"]).fitting(&[&[1, 2]], 1);
        table.row(["abc".into(), "a-long-command".into(), "0.0.0.0:8080->80/tcp".into(), "box".into()]);
        let shown = |most| {
            let mut text = Vec::new();
            table.write(&mut text, false, most).expect("written");
            String::from_utf8(text).expect("UTF-8").lines().last().unwrap_or_default().to_owned()
        };
        assert_eq!(shown(None), "abc   a-long-command   0.0.0.0:8080->80/tcp   box");
        assert_eq!(shown(Some(40)), "abc   a-long-comm…   0.0.0.0:808…   box");
        assert_eq!(shown(Some(26)), "abc   0.0.0.0:8080…   box");
        assert_eq!(shown(Some(5)), "abc   0.0.0.0…   box");
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["NAME", "STATE", "PORTS"]);
        table.row(["a-long-name".into(), Cell::styled("up", Style::Good), "".into()]);
        table.row(["é".into(), "exited".into(), "80".into()]);
        let mut text = Vec::new();
        table.write(&mut text, false, None).expect("written");
        let expected = "NAME          STATE    PORTS\na-long-name   up\né             exited   80\n";
        assert_eq!(String::from_utf8(text).expect("UTF-8"), expected);
        let mut text = Vec::new();
        table.write(&mut text, true, None).expect("written");
        assert!(String::from_utf8(text).expect("UTF-8").contains("\u{1b}[32mup\u{1b}[0m"));
    }
}
