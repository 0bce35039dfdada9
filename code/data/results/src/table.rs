//! Rows as a table for people, in memory that does not depend on the number of rows.
//!
//! The rows are read two times: once to measure the columns, once to write them. A value is formatted up to the width that
//! it may have and no further. Control characters of the data are escaped, so that a row is one line and the data cannot
//! control a terminal.

use std::fmt::{self, Write as _};
use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions, ValueFormatter};
use buzz_engine::Batches;
use buzz_protocol::Result;
use unicode_width::UnicodeWidthChar;

use crate::format::WriteError;

/// Maximum width of a value in a table, in columns of a terminal.
const VALUE_WIDTH_MAX: usize = 1000;

/// Width below which a column is not narrowed; others are left out instead.
const COLUMN_WIDTH_MIN: usize = 12;

/// The end of a value that was cut, and the sign for columns and rows that are left out.
const MORE: &str = "…";

/// The space for a table.
#[derive(Debug, Clone, Copy, Default)]
pub struct Layout {
    /// Columns of the terminal; `None` if the table may have any width.
    pub width: Option<usize>,
    /// Maximum number of rows, from the start and the end of the result; `None` for all rows.
    pub rows_max: Option<usize>,
}

/// The parts of a result that a table does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Number of rows in the table and in the result, if some are left out.
    pub rows: Option<(usize, usize)>,
    /// Number of columns in the table and in the result, if some are left out.
    pub columns: Option<(usize, usize)>,
    /// True if a value is not complete.
    pub values: bool,
}

impl Cut {
    /// Describes the cut in one line. Returns `None` if the table is complete.
    pub fn note(&self) -> Option<String> {
        let part = |what: &str, (shown, all): (usize, usize)| format!("{shown} of {all} {what}");
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.rows.map(|rows| part("rows", rows)));
        parts.extend(self.columns.map(|columns| part("columns", columns)));
        if self.values {
            parts.push(format!("values up to their {MORE}"));
        }
        (!parts.is_empty()).then(|| format!("the table has {}; other formats have everything", parts.join(", ")))
    }
}

/// Writes a table of the batches that `read` returns, each time from the first row.
pub(crate) fn table(
    schema: &Schema,
    read: &dyn Fn() -> Result<Batches>,
    layout: &Layout,
    out: &mut dyn Write,
) -> Result<Cut, WriteError> {
    let mut rows = Shown::all();
    if let Some(most) = layout.rows_max {
        let mut total = 0;
        for batch in read()? {
            total += batch?.num_rows();
        }
        rows = Shown::at_most(most, total);
    }
    let value_max = layout.width.map_or(VALUE_WIDTH_MAX, |width| width.clamp(1, VALUE_WIDTH_MAX));
    let mut cell = Cell::default();
    let mut widths: Vec<usize> = Vec::new();
    for field in schema.fields() {
        cell.set(value_max, |cell| cell.write_str(field.name()));
        widths.push(cell.width);
    }
    rows.each(read()?, |columns, row| {
        for (column, width) in columns.iter().zip(&mut widths) {
            cell.set(value_max, |cell| formatted(&column.value(row), cell));
            *width = (*width).max(cell.width);
        }
        Ok(())
    })?;

    let plan = fitted(&widths, layout.width);
    let mut writer = Lines { out, plan: &plan, cell, cut: false };
    writer.line()?;
    writer.row(|column, cell| cell.write_str(schema.field(column).name()))?;
    writer.line()?;
    let mut last = None;
    rows.each(read()?, |columns, row| {
        let number = last.map_or(0, |last: usize| last + 1);
        if rows.hidden() && number == rows.head {
            writer.row(|_, cell| cell.write_str(MORE))?;
        }
        last = Some(number);
        writer.row(|column, cell| formatted(&columns[column].value(row), cell))
    })?;
    writer.line()?;
    let shown = plan.iter().filter(|column| column.is_some()).count();
    Ok(Cut {
        rows: rows.hidden().then_some((rows.head + rows.tail, rows.total)),
        columns: (shown < widths.len()).then_some((shown, widths.len())),
        values: writer.cut,
    })
}

/// The rows of a result that a table has: the first `head` and the last `tail`.
struct Shown {
    head: usize,
    tail: usize,
    total: usize,
}

impl Shown {
    fn all() -> Self {
        Self { head: usize::MAX, tail: 0, total: 0 }
    }

    fn at_most(most: usize, total: usize) -> Self {
        if total <= most {
            Self { total, ..Self::all() }
        } else {
            Self { head: most.div_ceil(2), tail: most / 2, total }
        }
    }

    fn hidden(&self) -> bool {
        self.head.saturating_add(self.tail) < self.total
    }

    /// Calls `each` for the rows of the table, in order.
    fn each(
        &self,
        batches: Batches,
        mut each: impl FnMut(&[ArrayFormatter<'_>], usize) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut start = 0;
        for batch in batches {
            let batch = batch?;
            let count = batch.num_rows();
            // The rows of this batch that are in the head, then those in the tail.
            let head = self.head.saturating_sub(start).min(count);
            let tail = if self.hidden() { (self.total - self.tail).saturating_sub(start).min(count) } else { count };
            start += count;
            if head == 0 && tail == count {
                continue;
            }
            let columns = formatters(&batch)?;
            for row in (0..head).chain(tail.max(head)..count) {
                each(&columns, row)?;
            }
        }
        Ok(())
    }
}

fn formatters(batch: &RecordBatch) -> Result<Vec<ArrayFormatter<'_>>, ArrowError> {
    const OPTIONS: FormatOptions<'static> = FormatOptions::new();
    batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &OPTIONS)).collect()
}

/// Writes a value. A value that has no text, such as a date beyond the calendar, becomes the error.
fn formatted(value: &ValueFormatter<'_>, cell: &mut Cell) -> fmt::Result {
    match value.write(cell) {
        Err(error) if !cell.cut => write!(cell, "ERROR: {error}"),
        _ => Ok(()),
    }
}

/// Returns the columns of the table with their widths. `None` stands for columns that are left out, from the middle.
fn fitted(widths: &[usize], width: Option<usize>) -> Vec<Option<(usize, usize)>> {
    let all = || widths.iter().copied().enumerate().map(Some).collect();
    let Some(space) = width else { return all() };
    let need = |widths: &mut dyn Iterator<Item = usize>, most: usize| -> usize {
        1 + widths.map(|width| width.min(most) + 3).sum::<usize>()
    };
    let whole = need(&mut widths.iter().copied(), usize::MAX);
    if whole <= space {
        return all();
    }
    // Takes columns from both ends as long as they fit, with the sign for those between them.
    let (mut front, mut back) = (0, 0);
    if need(&mut widths.iter().copied(), COLUMN_WIDTH_MIN) <= space {
        front = widths.len();
    } else {
        let mut used = 1 + 3 + 1;
        while front + back < widths.len() {
            let next = if front <= back { front } else { widths.len() - 1 - back };
            used += widths[next].min(COLUMN_WIDTH_MIN) + 3;
            if used > space && front > 0 {
                break;
            }
            if front <= back { front += 1 } else { back += 1 }
        }
    }
    let chosen = || (0..front).chain(widths.len() - back..widths.len());
    let hidden = front + back < widths.len();
    let space = space.saturating_sub(if hidden { 4 } else { 0 });
    let most = (1..=space.max(1)).rev().find(|&most| need(&mut chosen().map(|column| widths[column]), most) <= space);
    let most = most.unwrap_or(1);
    let column = |index: usize| Some((index, widths[index].min(most)));
    let middle = hidden.then_some(None);
    (0..front).map(column).chain(middle).chain((widths.len() - back..widths.len()).map(column)).collect()
}

struct Lines<'a> {
    out: &'a mut dyn Write,
    plan: &'a [Option<(usize, usize)>],
    cell: Cell,
    cut: bool,
}

impl Lines<'_> {
    /// Writes a horizontal line.
    fn line(&mut self) -> Result<(), WriteError> {
        let mut line = String::from("+");
        for column in self.plan {
            line.extend(std::iter::repeat_n('-', column.map_or(1, |(_, width)| width) + 2));
            line.push('+');
        }
        if self.plan.is_empty() {
            line.push('+');
        }
        Ok(writeln!(self.out, "{line}")?)
    }

    /// Writes a row whose values `value` writes, by the number of the column.
    fn row(&mut self, value: impl Fn(usize, &mut Cell) -> fmt::Result) -> Result<(), WriteError> {
        if self.plan.is_empty() {
            return Ok(());
        }
        self.out.write_all(b"|")?;
        for column in self.plan {
            let (text, width, space) = match column {
                Some((column, space)) => {
                    self.cell.set(*space, |cell| value(*column, cell));
                    self.cut |= self.cell.cut;
                    (self.cell.text.as_str(), self.cell.width, *space)
                }
                None => (MORE, 1, 1),
            };
            write!(self.out, " {text}{:padding$} |", "", padding = space.saturating_sub(width))?;
        }
        Ok(self.out.write_all(b"\n")?)
    }
}

/// The text of a value, up to a width. Writing more fails, so that the rest is not formatted.
#[derive(Debug, Default)]
struct Cell {
    text: String,
    width: usize,
    most: usize,
    cut: bool,
}

impl Cell {
    /// Replaces the value by what `write` writes.
    fn set(&mut self, most: usize, write: impl FnOnce(&mut Cell) -> fmt::Result) {
        self.text.clear();
        (self.width, self.most, self.cut) = (0, most, false);
        // Fails if the value was cut, which is noted.
        _ = write(self);
    }

    fn add(&mut self, text: &str, width: usize) -> fmt::Result {
        if self.width + width <= self.most {
            self.text.push_str(text);
            self.width += width;
            return Ok(());
        }
        while self.width + 1 > self.most {
            match self.text.pop() {
                Some(last) => self.width -= width_of(last),
                None => break,
            }
        }
        if self.most > 0 {
            self.text.push_str(MORE);
            self.width += 1;
        }
        self.cut = true;
        Err(fmt::Error)
    }
}

fn width_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// Returns true for characters that control a terminal or the direction of text.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Write for Cell {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Err(fmt::Error);
        }
        let mut one = [0; 4];
        for character in text.chars() {
            match character {
                '\n' => self.add("\\n", 2)?,
                '\r' => self.add("\\r", 2)?,
                '\t' => self.add("\\t", 2)?,
                control if is_control(control) => self.add(&format!("\\u{:04x}", u32::from(control)), 6)?,
                plain => self.add(plain.encode_utf8(&mut one), width_of(plain))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn printed(columns: &[(&str, ArrayRef)], layout: Layout) -> (String, Cut) {
        let batch = RecordBatch::try_from_iter(columns.iter().map(|(name, array)| (*name, Arc::clone(array)))).unwrap();
        let read = || -> Result<Batches> { Ok(Box::new(std::iter::once(Ok(batch.clone())))) };
        let mut out = Vec::new();
        let cut = table(&batch.schema(), &read, &layout, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), cut)
    }

    fn texts<const N: usize>(values: [&str; N]) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    #[test]
    fn table_without_bounds_equals_the_one_of_arrow() {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(-300)]));
        let columns = [("id", values), ("text", texts(["a", "日本", ""]))];
        let batch = RecordBatch::try_from_iter(columns.clone()).unwrap();
        let expected = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&batch)).unwrap();
        assert_eq!(printed(&columns, Layout::default()), (format!("{expected}\n"), Cut::default()));
        let empty = batch.slice(0, 0);
        let expected = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&empty)).unwrap();
        let read = || -> Result<Batches> { Ok(Box::new(std::iter::once(Ok(empty.clone())))) };
        let mut out = Vec::new();
        table(&empty.schema(), &read, &Layout::default(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
    }

    #[test]
    fn control_characters_are_escaped() {
        let (text, _) = printed(&[("a\nb", texts(["\u{1b}]0;x\u{7}", "\t\r\n\u{9b}\u{202e}"]))], Layout::default());
        assert!(text.contains("| a\\nb "), "{text}");
        assert!(text.contains("\\u001b]0;x\\u0007"), "{text}");
        assert!(text.contains("\\t\\r\\n\\u009b\\u202e"), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }

    #[test]
    fn long_value_is_cut_with_a_note() {
        let long = "x".repeat(300_000);
        let (text, cut) = printed(&[("a", texts([&long])), ("b", texts(["whole"]))], Layout::default());
        assert!(text.lines().all(|line| line.chars().count() == VALUE_WIDTH_MAX + 12), "{}", text.len());
        assert!(text.contains("x… | whole |"));
        assert_eq!(cut.note().unwrap(), "the table has values up to their …; other formats have everything");
    }

    #[test]
    fn table_fits_the_width_of_the_terminal() {
        let wide: Vec<(String, ArrayRef)> =
            (0..40).map(|number| (format!("column_{number}"), texts(["a text of 30 characters, it is"]))).collect();
        let wide: Vec<(&str, ArrayRef)> = wide.iter().map(|(name, array)| (name.as_str(), Arc::clone(array))).collect();
        for width in [1, 5, 10, 20, 33, 80, 200] {
            for count in [1, 2, 3, 40] {
                let (text, cut) = printed(&wide[..count], Layout { width: Some(width), rows_max: None });
                let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
                assert!(widest <= width.max(11), "{count} columns in {width}:\n{text}");
                assert!(cut.values || cut.columns.is_some() || widest <= width);
            }
        }
        let (text, cut) = printed(&wide, Layout { width: Some(80), rows_max: None });
        assert_eq!(cut, Cut { rows: None, columns: Some((5, 40)), values: true });
        assert!(text.contains("| column_0") && text.contains("| … |") && text.contains("column_39"), "{text}");
        let (text, cut) = printed(&wide[..2], Layout { width: Some(40), rows_max: None });
        assert_eq!((cut.columns, cut.values), (None, true));
        assert!(text.contains("| a text of 30 ch… | a text of 30 ch… |"), "{text}");
    }

    #[test]
    fn first_and_last_rows_are_kept() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let (text, cut) = printed(&[("n", numbers)], Layout { width: None, rows_max: Some(5) });
        let rows: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(rows, ["| 0  |", "| 1  |", "| 2  |", "| …  |", "| 98 |", "| 99 |", "+----+"]);
        assert_eq!(cut.rows, Some((5, 100)));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
        assert_eq!(printed(&[("n", numbers)], Layout { width: None, rows_max: Some(5) }).1, Cut::default());
    }
}
