//! The rows of an answer as text, cut at a number of rows and of bytes.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use buzz_engine::{RowSink, Rows};
use buzz_protocol::{Format, QueryError, Result};
use buzz_results::format::{self, WriteError};

/// Rows as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The text, without the end of its last line.
    pub(super) text: String,
    /// Number of rows in the text.
    pub(super) shown: usize,
    /// Number of rows before the cut.
    pub(super) found: usize,
}

/// Writes the first of `rows`: as many as have a text of at most `bytes_max`, and at most `rows_max`. Nothing is written if the
/// text without rows, such as a header, is longer.
///
/// # Errors
/// `Limit` if rows cannot be read back, `Invalid` if they do not fit the format.
pub(super) fn cut(rows: &Rows, format: Format, rows_max: usize, bytes_max: usize) -> Result<Cut> {
    let (mut first, mut found) = (Vec::new(), 0);
    for batch in rows.batches()? {
        let batch = batch?;
        if found < rows_max {
            first.push(batch.slice(0, batch.num_rows().min(rows_max - found)));
        }
        found += batch.num_rows();
    }
    let written = |count: usize| written(&part(rows, &first, count)?, format, bytes_max);
    let most = found.min(rows_max);
    if let Some(text) = written(most)? {
        return Ok(Cut { text, shown: most, found });
    }
    let (mut text, mut shown, mut exceeds) = (written(0)?.unwrap_or_default(), 0, most);
    while exceeds - shown > 1 {
        let middle = usize::midpoint(shown, exceeds);
        match written(middle)? {
            Some(longer) => (text, shown) = (longer, middle),
            None => exceeds = middle,
        }
    }
    Ok(Cut { text, shown, found })
}

/// Returns the first `count` rows of `batches`.
fn part(rows: &Rows, batches: &[RecordBatch], mut count: usize) -> Result<Rows> {
    let mut part = Rows::new();
    part.start(rows.schema())?;
    for batch in batches {
        let batch = batch.slice(0, batch.num_rows().min(count));
        count -= batch.num_rows();
        part.write(batch)?;
    }
    Ok(part)
}

/// Returns `rows` as text, or None if it has more than `bytes_max`.
fn written(rows: &Rows, format: Format, bytes_max: usize) -> Result<Option<String>> {
    let mut out = Bounded { bytes: Vec::new(), bytes_max, is_exceeded: false };
    match format::write(rows, format, &mut out) {
        _ if out.is_exceeded => Ok(None),
        Ok(()) => {
            let mut text = String::from_utf8(out.bytes)
                .map_err(|_| QueryError::internal(format!("{format} is written in another encoding than UTF-8")))?;
            text.truncate(text.trim_end_matches('\n').len());
            Ok(Some(text))
        }
        Err(WriteError::Rows(error)) => Err(error),
        Err(WriteError::Io(error)) => Err(QueryError::internal(format!("rows cannot be written to memory: {error}"))),
    }
}

/// An output that fails once it has more than `bytes_max`.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_exceeded: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            self.is_exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    /// Makes batches of two rows, `(text: Utf8)`.
    fn rows(texts: &[&str]) -> Rows {
        let batch = |texts: &[&str]| {
            let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
            RecordBatch::try_from_iter([("text", texts)]).unwrap()
        };
        let mut rows = Rows::new();
        rows.start(batch(&[]).schema()).unwrap();
        for texts in texts.chunks(2) {
            rows.write(batch(texts)).unwrap();
        }
        rows
    }

    fn check(texts: &[&str], format: Format, bounds: (usize, usize), expect: (&str, usize)) {
        let (text, shown) = expect;
        let expect = Cut { text: text.to_string(), shown, found: texts.len() };
        assert_eq!(cut(&rows(texts), format, bounds.0, bounds.1).unwrap(), expect, "{texts:?} {bounds:?}");
    }

    #[test]
    fn rows_are_cut_at_both_bounds() {
        let texts = ["a", "b\nb", "c", "d", "e"];
        check(&texts, Format::Csv, (9, 900), ("text\na\n\"b\nb\"\nc\nd\ne", 5));
        check(&texts, Format::Csv, (3, 900), ("text\na\n\"b\nb\"\nc", 3));
        check(&texts, Format::Csv, (9, 14), ("text\na\n\"b\nb\"", 2));
        check(&texts, Format::Csv, (9, 15), ("text\na\n\"b\nb\"\nc", 3));
        check(&texts, Format::Csv, (9, 5), ("text", 0));
        check(&texts, Format::Csv, (9, 4), ("", 0));
        check(&texts, Format::Json, (9, 30), (r#"[{"text":"a"}]"#, 1));
        check(&[], Format::Json, (9, 30), ("[]", 0));
        check(&[], Format::Csv, (9, 30), ("text", 0));
        let long = "x".repeat(1000);
        check(&[&long, "b"], Format::Json, (9, 100), ("[]", 0));
    }
}
