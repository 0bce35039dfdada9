//! Decodes JSON objects. Arrow's decoder is fast, but does not read an object or a list as text. If it fails, the
//! objects of the batch are decoded again, with such values as JSON text.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::is_not_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json;
use buzz_protocol::{JsonFormat, QueryError, Result};
use datafusion_datasource::decoder::Decoder;
use serde_json::value::RawValue;

use super::encoding::not_utf8;
use super::exact::{Syntax, as_texts, exact_batch, has_infinity};
use super::members::Members;
use super::quotes::lines_in;
use super::record::OpenRecord;

/// Decodes JSON objects to batches of the wanted columns.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    decoder: json::reader::Decoder,
    /// The wanted columns and their other spellings, with type text for those that arrow does not parse exactly.
    read_as: SchemaRef,
    wanted: SchemaRef,
    /// Other spellings of wanted columns.
    spellings: BTreeMap<String, Vec<String>>,
    batch_size: usize,
    /// The bytes of the objects that are not flushed yet.
    kept: Vec<u8>,
    /// Number of lines before `kept`; `None` if the text is a part of a file.
    lines: Option<usize>,
    open: OpenRecord,
}

impl JsonDecoder {
    /// Creates a decoder of a file, or of a part of a file if `is_part` is true.
    ///
    /// # Errors
    /// `Invalid` if a wanted type cannot be decoded.
    pub(super) fn new(json: &JsonFormat, wanted: &SchemaRef, batch_size: usize, is_part: bool) -> Result<Self> {
        let is_exact = |exact: &DataType| {
            let is_time = matches!(exact, DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_));
            exact.is_integer() || exact.is_decimal() || matches!(exact, DataType::Date32 | DataType::Float32) || is_time
        };
        let mut fields: Vec<_> = as_texts(wanted, is_exact).fields().iter().cloned().collect();
        for index in 0..fields.len() {
            let field = Arc::clone(&fields[index]);
            let others = json.spellings.get(field.name()).into_iter().flatten();
            fields.extend(others.map(|other| Arc::new(field.as_ref().clone().with_name(other))));
        }
        let read_as = Arc::new(Schema::new(fields));
        Ok(JsonDecoder {
            decoder: decoder(&read_as, batch_size)?,
            read_as,
            wanted: Arc::clone(wanted),
            spellings: json.spellings.clone(),
            batch_size,
            kept: Vec::new(),
            lines: (!is_part).then_some(0),
            open: OpenRecord::default(),
        })
    }

    /// Decodes the kept objects again, with objects and lists as JSON text where text is wanted.
    fn as_json_text(&self, failure: ArrowError) -> Result<RecordBatch> {
        if let Err(error) = std::str::from_utf8(&self.kept) {
            return Err(self.not_utf8(error.valid_up_to()));
        }
        let mut text = String::with_capacity(self.kept.len());
        for object in serde_json::Deserializer::from_slice(&self.kept).into_iter::<&RawValue>() {
            let object = object.map_err(|error| self.invalid(&error))?;
            rewrite(&mut text, object.get(), Rewrite::Object(self.read_as.fields()))
                .map_err(|error| self.invalid(&error))?;
            text.push('\n');
        }
        let mut again = decoder(&self.read_as, self.batch_size)?;
        again.decode(text.as_bytes()).map_err(not_readable)?;
        again.flush().map_err(not_readable)?.ok_or_else(|| not_readable(failure))
    }

    fn typed(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let batch = if self.spellings.is_empty() { batch.clone() } else { self.one_spelling(batch)? };
        exact_batch(&batch, &self.wanted, Syntax::Json)
    }

    /// Puts the values of all spellings of a column into one column.
    fn one_spelling(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut columns = batch.columns()[..self.wanted.fields().len()].to_vec();
        for (field, column) in self.wanted.fields().iter().zip(&mut columns) {
            for other in self.spellings.get(field.name()).into_iter().flatten() {
                let other: &ArrayRef = batch.column_by_name(other).expect("all spellings are decoded");
                *column = zip(&is_not_null(column)?, column, other)?;
            }
        }
        let fields: Fields = self.read_as.fields().iter().take(columns.len()).cloned().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
    }

    /// Finds the first error in the kept objects and `more`.
    fn explained(&self, more: &[u8], error: ArrowError) -> QueryError {
        let both = [&self.kept, more].concat();
        if let Err(error) = std::str::from_utf8(&both)
            && error.error_len().is_some()
        {
            return self.not_utf8(error.valid_up_to());
        }
        let mut objects = serde_json::Deserializer::from_slice(&both).into_iter::<&RawValue>();
        let checked = |object: Result<&RawValue, serde_json::Error>| {
            object.and_then(|object| serde_json::from_str::<Members<'_>>(object.get()).map(|_| ()))
        };
        match objects.find_map(|object| checked(object).err()) {
            Some(error) => self.invalid(&error),
            None => not_readable(error),
        }
    }

    fn not_utf8(&self, at: usize) -> QueryError {
        not_utf8(self.lines.unwrap_or_default() + lines_in(&self.kept[..at.min(self.kept.len())]))
    }

    fn invalid(&self, error: &serde_json::Error) -> QueryError {
        match self.lines {
            Some(lines) if error.line() > 0 => {
                let why = error.to_string();
                let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
                QueryError::data(format!("not readable JSON: line {}: {why}", lines + error.line()))
            }
            _ => QueryError::data(format!(
                "not readable JSON: {error} of a part of the file; set `newlines_in_values` in the catalog entry to true \
                 if objects span several lines"
            )),
        }
    }
}

/// The type of a value that is rewritten.
enum Rewrite<'a> {
    Object(&'a Fields),
    Value(&'a DataType),
}

/// Appends the JSON `value` to `text`. Objects and lists become JSON strings where the type is text.
fn rewrite(text: &mut String, value: &str, wanted: Rewrite<'_>) -> Result<(), serde_json::Error> {
    let first = value.as_bytes().first();
    let fields = match wanted {
        Rewrite::Object(fields) => Some(fields),
        Rewrite::Value(DataType::Struct(fields)) if first == Some(&b'{') => Some(fields),
        Rewrite::Value(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
            if matches!(first, Some(b'{' | b'[')) =>
        {
            text.push_str(&serde_json::to_string(value)?);
            return Ok(());
        }
        Rewrite::Value(DataType::List(item) | DataType::LargeList(item)) if first == Some(&b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(value)?;
            text.push('[');
            for (index, value) in items.into_iter().enumerate() {
                text.push_str(if index == 0 { "" } else { "," });
                rewrite(text, value.get(), Rewrite::Value(item.data_type()))?;
            }
            text.push(']');
            return Ok(());
        }
        Rewrite::Value(_) => None,
    };
    let Some(fields) = fields else {
        text.push_str(value);
        return Ok(());
    };
    let Members(members) = serde_json::from_str(value)?;
    text.push('{');
    let wanted = |name: &str| fields.find(name).map(|(_, field)| field);
    let members = members.iter().filter_map(|(name, value)| Some((name, value, wanted(name)?)));
    for (index, (name, value, field)) in members.enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        text.push_str(&serde_json::to_string(name)?);
        text.push(':');
        rewrite(text, value.get(), Rewrite::Value(Field::data_type(field)))?;
    }
    text.push('}');
    Ok(())
}

fn decoder(read_as: &SchemaRef, batch_size: usize) -> Result<json::reader::Decoder> {
    Ok(json::ReaderBuilder::new(Arc::clone(read_as))
        .with_batch_size(batch_size)
        .with_coerce_primitive(true)
        .build_decoder()?)
}

fn not_readable(error: ArrowError) -> QueryError {
    match error {
        ArrowError::JsonError(text) | ArrowError::ParseError(text) => QueryError::data(format!(
            "not readable JSON: {text}; set `schema` in the catalog entry to replace the inferred types"
        )),
        error => QueryError::data(format!("not readable JSON: {error}")),
    }
}

/// Carries `error` through a decoder's errors.
fn external(error: QueryError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, buf: &[u8]) -> Result<usize, ArrowError> {
        let read = self.decoder.decode(buf).map_err(|error| external(self.explained(buf, error)))?;
        self.kept.extend_from_slice(&buf[..read]);
        self.open.add(read, self.decoder.len())?;
        Ok(read)
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let batch = match self.decoder.flush() {
            Ok(None) => return Ok(None),
            Ok(Some(batch)) if has_infinity(&batch) => {
                // The decoder takes a number that is too large for infinity; the parser of texts does not.
                self.read_as = as_texts(&self.read_as, DataType::is_floating);
                self.decoder = decoder(&self.read_as, self.batch_size).map_err(external)?;
                let too_large = ArrowError::ParseError("a number is too large for its type".to_string());
                self.as_json_text(too_large).map_err(external)?
            }
            Ok(Some(batch)) => batch,
            Err(error) => {
                // A decoder that failed is of no use any more.
                self.decoder = decoder(&self.read_as, self.batch_size).map_err(external)?;
                self.as_json_text(error).map_err(external)?
            }
        };
        let batch = self.typed(&batch).map_err(|error| external(not_readable(error)))?;
        if let Some(lines) = &mut self.lines {
            *lines += lines_in(&self.kept);
        }
        self.kept.clear();
        self.open = OpenRecord::default();
        Ok(Some(batch))
    }

    fn can_flush_early(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_lists_become_text_where_text_is_wanted() {
        let inner = Fields::from(vec![Field::new("x", DataType::Utf8, true)]);
        let texts = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let fields = Fields::from(vec![
            Field::new("a", DataType::Utf8, true),
            Field::new("l", texts, true),
            Field::new("s", DataType::Struct(inner), true),
        ]);
        let mut text = String::new();
        let object = r#"{"a": {"b": "q\"" }, "l": [1, [2, 3], "z"], "s": {"x": [ {} ], "y": 1}, "other": []}"#;
        rewrite(&mut text, object, Rewrite::Object(&fields)).unwrap();
        assert_eq!(text, r#"{"a":"{\"b\": \"q\\\"\" }","l":[1,"[2, 3]","z"],"s":{"x":"[ {} ]"}}"#);
    }
}
