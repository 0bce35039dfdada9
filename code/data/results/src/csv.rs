//! Rows as CSV.

use std::io::Write;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_engine::Batches;

use crate::format::WriteError;

/// Writes a header and `batches`. A null is an empty field and an empty text is `""`, so that a reader can tell them apart.
/// In a file of one column, a null is also `""`, because most readers skip empty lines.
pub(crate) fn csv(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut line = String::new();
    for (index, name) in names.iter().enumerate() {
        separate(index, &mut line);
        quoted(name, &mut line);
    }
    end(&mut line, out)?;
    let (options, mut value) = (FormatOptions::default(), String::new());
    for batch in batches {
        let batch = batch?;
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| Ok((column, ArrayFormatter::try_new(column, &options)?)))
            .collect::<Result<_, ArrowError>>()?;
        for row in 0..batch.num_rows() {
            for (index, (column, formatter)) in columns.iter().enumerate() {
                separate(index, &mut line);
                if column.is_valid(row) {
                    value.clear();
                    formatter.value(row).write(&mut value)?;
                    quoted(&value, &mut line);
                } else if columns.len() == 1 {
                    line.push_str("\"\"");
                }
            }
            end(&mut line, out)?;
        }
    }
    Ok(())
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

fn end(line: &mut String, out: &mut dyn Write) -> std::io::Result<()> {
    line.push('\n');
    out.write_all(line.as_bytes())?;
    line.clear();
    Ok(())
}
