//! Rows as CSV.

use std::io::Write;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_engine::Batches;

use crate::format::WriteError;
use crate::parallel::{PIECE_ROWS, in_order, threads};

/// Writes a header and `batches`. A null is an empty field and an empty text is `""`, so that a reader can tell them apart.
/// In a file of one column, a null is also `""`, because most readers skip empty lines.
pub(crate) fn csv(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let mut header = String::new();
    for (index, field) in schema.fields().iter().enumerate() {
        separate(index, &mut header);
        quoted(field.name(), &mut header);
    }
    header.push('\n');
    out.write_all(header.as_bytes())?;
    in_order(batches, PIECE_ROWS, threads(), &lines, &mut |lines| Ok(out.write_all(lines.as_bytes())?))
}

/// Returns a line for each row.
fn lines(batch: RecordBatch) -> Result<String, WriteError> {
    let (options, mut value, mut lines) = (FormatOptions::default(), String::new(), String::new());
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| Ok((column, ArrayFormatter::try_new(column, &options)?)))
        .collect::<Result<_, ArrowError>>()?;
    for row in 0..batch.num_rows() {
        for (index, (column, formatter)) in columns.iter().enumerate() {
            separate(index, &mut lines);
            if column.is_valid(row) {
                value.clear();
                formatter.value(row).write(&mut value)?;
                quoted(&value, &mut lines);
            } else if columns.len() == 1 {
                lines.push_str("\"\"");
            }
        }
        lines.push('\n');
    }
    Ok(lines)
}

fn separate(index: usize, line: &mut String) {
    if index > 0 {
        line.push(',');
    }
}

/// Appends `value`, in quotes if it is empty or has a comma, a quote or the end of a line.
fn quoted(value: &str, line: &mut String) {
    if !value.is_empty() && !value.contains([',', '"', '\n', '\r']) {
        line.push_str(value);
        return;
    }
    line.push('"');
    line.push_str(&value.replace('"', "\"\""));
    line.push('"');
}
