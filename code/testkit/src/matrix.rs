//! A table of faults and query shapes in a document, whose cells are what tests saw.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::workspace_root;

/// Variable that makes tests write their tables instead of comparing them.
const WRITE: &str = "BUZZ_FAULT_MATRIX_WRITE";

/// The outcome of one query shape under one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The answer: `rows`, or the kind of its error.
    pub outcome: String,
    /// Time that the query took.
    pub time: Duration,
}

impl Cell {
    /// Formats the cell with the class of its time.
    fn text(&self) -> String {
        let class = match self.time.as_millis() {
            0..1_000 => "1 s",
            1_000..10_000 => "10 s",
            10_000..60_000 => "1 min",
            _ => "3 min",
        };
        format!("{}, {class}", self.outcome)
    }
}

/// A table with one row per fault and one column per query shape.
#[derive(Debug)]
pub struct FaultMatrix {
    name: String,
    shapes: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

impl FaultMatrix {
    /// Creates an empty table. `docs/faults.md` has it between the lines `<!-- matrix: {name} -->` and `<!-- end -->`.
    pub fn new(name: &str, shapes: &[&str]) -> Self {
        Self { name: name.to_string(), shapes: shapes.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds the row of `fault`, with one cell per shape.
    ///
    /// # Panics
    /// When the number of cells differs from that of the shapes.
    pub fn add(&mut self, fault: &str, cells: &[Cell]) {
        assert_eq!(cells.len(), self.shapes.len(), "one cell per shape of {fault}");
        self.rows.push((fault.to_string(), cells.iter().map(Cell::text).collect()));
    }

    /// Adds the row of a fault that the tests cannot make, with the reason in each cell.
    pub fn add_unmade(&mut self, fault: &str, why: &str) {
        self.rows.push((fault.to_string(), vec![why.to_string(); self.shapes.len()]));
    }

    /// Formats the table as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("| fault | {} |\n|{}\n", self.shapes.join(" | "), "---|".repeat(self.shapes.len() + 1));
        for (fault, cells) in &self.rows {
            _ = writeln!(text, "| {fault} | {} |", cells.join(" | "));
        }
        text
    }

    /// Compares the table with the one in `docs/faults.md`, except for times. With `BUZZ_FAULT_MATRIX_WRITE=1`, writes it
    /// there instead.
    ///
    /// # Panics
    /// When the document lacks the table, or has another one.
    pub fn check(&self) {
        let path = document();
        let text = std::fs::read_to_string(&path).expect("docs/faults.md exists");
        let begin = format!("<!-- matrix: {} -->\n", self.name);
        let (head, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("docs/faults.md has the line `{begin}`"));
        let (old, tail) = rest.split_once("<!-- end -->").expect("the table ends with `<!-- end -->`");
        if std::env::var(WRITE).is_ok_and(|value| value == "1") {
            let new = format!("{head}{begin}{}<!-- end -->{tail}", self.markdown());
            std::fs::write(&path, new).expect("docs/faults.md can be written");
            return;
        }
        let (old, seen) = (without_times(old), without_times(&self.markdown()));
        assert_eq!(
            seen, old,
            "the table `{}` of docs/faults.md is not what the tests saw: `make fault-matrix`",
            self.name
        );
    }
}

fn document() -> PathBuf {
    workspace_root().join("docs/faults.md")
}

/// Returns the lines of a table whose cells have no times.
fn without_times(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    let cell = |cell: &str| cell.rsplit_once(", ").map_or(cell, |(outcome, _)| outcome).trim().to_string();
    // The first cell is a fault, whose words may have a comma.
    let cells = |line: &str| {
        let mut cells: Vec<String> = line.split('|').skip(1).map(str::trim).map(ToString::to_string).collect();
        cells.iter_mut().skip(1).for_each(|text| *text = cell(text));
        cells
    };
    lines.map(cells).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_compared_without_times() {
        let table = |outcome: &str, seconds| {
            let mut table = FaultMatrix::new("t", &["join", "window"]);
            let cell = Cell { outcome: outcome.to_string(), time: Duration::from_secs(seconds) };
            table.add("dies, late", &[cell.clone(), cell]);
            table.markdown()
        };
        let row = "| fault | join | window |\n|---|---|---|\n| dies, late | rows, 1 s | rows, 1 s |\n";
        assert_eq!(table("rows", 0), row);
        assert_eq!(table("rows", 59).lines().last(), Some("| dies, late | rows, 1 min | rows, 1 min |"));
        assert_eq!(without_times(&table("rows", 0)), without_times(&table("rows", 100)));
        assert_eq!(without_times(row), without_times(&row.replace(", 1 s", "")));
        assert_ne!(without_times(&table("rows", 0)), without_times(&table("`Limit`", 0)));
        assert_ne!(without_times(row), without_times(&row.replace("dies, late", "dies, soon")));
    }
}
