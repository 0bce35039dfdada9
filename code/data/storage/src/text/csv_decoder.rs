//! Decodes the records of a CSV file. Arrow's decoder is fast, but refuses some legal values, such as numbers with blanks
//! around them, and does not name the line in errors. If it fails, the records of the batch are decoded again as text,
//! and each text is parsed on its own.

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::csv;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use buzz_protocol::{CsvFormat, QueryError, Result};
use datafusion_datasource::decoder::Decoder;
use std::sync::Arc;

use super::csv::{FileColumns, arrow_format};
use super::encoding::not_utf8;
use super::exact::{Syntax, as_texts, exact_batch, has_infinity};
use super::quotes::{check_quotes, lines_in};
use super::record::OpenRecord;

/// Decodes CSV without a header to batches of the wanted columns.
#[derive(Debug)]
pub(super) struct CsvDecoder {
    csv: CsvFormat,
    decoder: csv::reader::Decoder,
    columns: FileColumns,
    /// The wanted columns, with type text for those that arrow does not parse exactly.
    read_as: SchemaRef,
    wanted: SchemaRef,
    batch_size: usize,
    /// True at the end of the text.
    is_end: bool,
    /// The bytes of the records that are not flushed yet.
    kept: Vec<u8>,
    /// Number of lines before `kept`.
    lines: usize,
    open: OpenRecord,
}

impl CsvDecoder {
    /// Creates a decoder of a file with the columns `names`, after `lines` lines.
    pub(super) fn new(csv: &CsvFormat, names: &[String], wanted: &SchemaRef, batch_size: usize, lines: usize) -> Self {
        let is_exact = |exact: &DataType| {
            let is_time = matches!(exact, DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_));
            exact.is_decimal() || matches!(exact, DataType::Date32 | DataType::Float32) || is_time
        };
        let read_as = as_texts(wanted, is_exact);
        let columns = FileColumns::find(names, &read_as);
        CsvDecoder {
            decoder: decoder(csv, Arc::clone(&columns.schema), &columns, batch_size),
            columns,
            read_as,
            wanted: Arc::clone(wanted),
            batch_size,
            is_end: false,
            csv: csv.clone(),
            kept: Vec::new(),
            lines,
            open: OpenRecord::default(),
        }
    }

    fn typed(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        exact_batch(&self.with_absent_columns(batch, &self.read_as)?, &self.wanted, Syntax::Csv)
    }

    /// Adds the wanted columns that the file lacks to `batch`, as nulls.
    fn with_absent_columns(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let mut present = batch.columns().iter();
        let column = |(position, field): (&Option<usize>, &FieldRef)| -> ArrayRef {
            match position.and_then(|_| present.next()) {
                Some(column) => Arc::clone(column),
                None => new_null_array(field.data_type(), batch.num_rows()),
            }
        };
        let columns = self.columns.positions.iter().zip(schema.fields()).map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
    }

    /// Decodes the kept records again, all values as text.
    fn one_by_one(&self, failure: ArrowError) -> Result<RecordBatch> {
        if let Err(error) = std::str::from_utf8(&self.kept) {
            return Err(not_utf8(self.lines + lines_in(&self.kept[..error.valid_up_to()])));
        }
        let all = self.columns.schema.fields().iter();
        let all = all.map(|field| Field::new(field.name(), DataType::Utf8, true)).collect::<Vec<_>>();
        let mut texts = decoder(&self.csv, Arc::new(Schema::new(all)), &self.columns, self.batch_size);
        texts.decode(&self.kept).and_then(|_| texts.decode(&[])).map_err(not_readable)?;
        let batch = texts.flush().map_err(not_readable)?.ok_or_else(|| not_readable(failure))?;
        let fields = self.wanted.fields().iter();
        let fields = fields.map(|field| Field::new(field.name(), DataType::Utf8, true)).collect::<Vec<_>>();
        let batch = self.with_absent_columns(&batch, &Arc::new(Schema::new(fields))).map_err(not_readable)?;
        exact_batch(&batch, &self.wanted, Syntax::Csv).map_err(|error| self.named(&batch, error))
    }

    /// Names the line of the first value of `batch` that is not of its column's type.
    fn named(&self, batch: &RecordBatch, error: ArrowError) -> QueryError {
        let fails = |row: usize| exact_batch(&batch.slice(row, 1), &self.wanted, Syntax::Csv).err();
        let first = (0..batch.num_rows()).find_map(|row| Some((row, fails(row)?)));
        let Some((row, ArrowError::ParseError(text))) = first else { return not_readable(error) };
        let record = records(&self.csv, &self.kept).nth(row).and_then(Result::ok);
        let line = record.map_or(self.lines, |record| self.line_of(&record, &self.kept));
        let is_null_text = |column: &ArrayRef| {
            let value = column.as_string_opt::<i32>().map(|texts| texts.value(row).trim());
            value.is_some_and(|value| ["NULL", "NA", "N/A", "\\N", "-", "null", "None"].contains(&value))
        };
        let null = if batch.columns().iter().any(is_null_text) { ", or `null` if it is the text of nulls" } else { "" };
        QueryError::data(format!(
            "not readable CSV: line {line}, {text}; set `schema` in the catalog entry to replace the inferred types{null}"
        ))
    }

    /// Returns the line in which `record` of `text` begins, which follows the first lines of the file.
    fn line_of(&self, record: &::csv::ByteRecord, text: &[u8]) -> usize {
        let mut start = record.position().map_or(0, |position| position.byte() as usize);
        // The position is that before empty lines and comments.
        while let Some(line) = text[start..].split_inclusive(|byte| *byte == b'\n').next()
            && (line.trim_ascii().is_empty()
                || (self.csv.comment.is_some() && line.first().copied() == self.csv.comment))
        {
            start += line.len();
        }
        self.lines + lines_in(&text[..start]) + 1
    }

    /// Explains that a record of the kept bytes or of `more` does not have one value per column.
    fn uneven(&self, more: &[u8], error: ArrowError) -> QueryError {
        let both = [&self.kept, more].concat();
        let columns = self.columns.schema.fields().len();
        let differs = |record: &::csv::ByteRecord| record.len() != columns;
        let Some(record) = records(&self.csv, &both).map_while(Result::ok).find(differs) else {
            return not_readable(error);
        };
        let line = self.line_of(&record, &both);
        let quoted = |byte: u8| record.iter().any(|value| value.trim_ascii().first() == Some(&byte));
        let single = self.csv.quote != b'\'' && quoted(b'\'');
        let comments =
            self.csv.comment.is_none() && self.columns.schema.fields().iter().any(|f| f.name().starts_with('#'));
        let option = match (comments || (self.csv.comment.is_none() && quoted(b'#')), single) {
            (true, _) => "set `comment` in the catalog entry if lines that begin with `#` are comments",
            (_, true) => "set `quote` in the catalog entry if values are in single quotes",
            _ => "correct the file, or set `delimiter`, `quote` or `comment` in the catalog entry",
        };
        QueryError::data(format!(
            "not readable CSV: line {line} has {}, but the file has {}; {option}",
            counted(record.len(), "value"),
            counted(columns, "column")
        ))
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn records<'a>(csv: &CsvFormat, text: &'a [u8]) -> impl Iterator<Item = Result<::csv::ByteRecord, ::csv::Error>> + 'a {
    let reader = ::csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(csv.delimiter)
        .quote(csv.quote)
        .escape(csv.escape)
        .comment(csv.comment)
        .from_reader(text);
    reader.into_byte_records()
}

fn decoder(csv: &CsvFormat, schema: SchemaRef, columns: &FileColumns, batch_size: usize) -> csv::reader::Decoder {
    csv::ReaderBuilder::new(schema)
        .with_format(arrow_format(csv))
        .with_batch_size(batch_size)
        .with_projection(columns.positions.iter().flatten().copied().collect())
        .build_decoder()
}

fn not_readable(error: ArrowError) -> QueryError {
    let text = match error {
        ArrowError::CsvError(text) | ArrowError::ParseError(text) => text,
        error => error.to_string(),
    };
    QueryError::data(format!("not readable CSV: {text}"))
}

/// Carries `error` through a decoder's errors.
fn external(error: QueryError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, buf: &[u8]) -> Result<usize, ArrowError> {
        self.is_end |= buf.is_empty();
        let read = self.decoder.decode(buf).map_err(|error| external(self.uneven(buf, error)))?;
        self.kept.extend_from_slice(&buf[..read]);
        self.open.add(read, self.decoder.capacity())?;
        Ok(read)
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let (records, lines) = (self.batch_size - self.decoder.capacity(), lines_in(&self.kept));
        // If each record is one line, no quoted value spans lines, and none is open.
        if records != lines || (self.is_end && self.kept.last().is_some_and(|last| *last != b'\n')) {
            check_quotes(&self.csv, &self.kept, self.lines, self.is_end).map_err(external)?;
        }
        let batch = match self.decoder.flush() {
            Ok(None) => return Ok(None),
            Ok(Some(batch)) if has_infinity(&batch) => {
                Err(ArrowError::ParseError("a number is too large for its type".to_string()))
            }
            Ok(Some(batch)) => self.typed(&batch),
            Err(error) => Err(error),
        };
        let batch = match batch {
            Ok(batch) => Ok(batch),
            Err(error) => self.one_by_one(error).map_err(external),
        };
        self.lines += lines;
        self.kept.clear();
        self.open = OpenRecord::default();
        batch.map(Some)
    }

    fn can_flush_early(&self) -> bool {
        self.decoder.capacity() == 0
    }
}
