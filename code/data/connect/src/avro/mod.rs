//! Rows in Avro: object container files here, messages with the id of their schema in `messages`, whose schemas are in a
//! `registry`.
//!
//! Columns are found by name. Types of Avro that tables cannot declare become texts: enums and UUIDs.

#[cfg(any(feature = "kafka", test))]
mod messages;
#[cfg(any(feature = "kafka", test))]
mod registry;

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, RecordBatch, RecordBatchOptions, StringArray,
    StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_avro::codec::Tz;
use arrow_avro::reader::{ReaderBuilder, read_header_info};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;

#[cfg(feature = "kafka")]
pub(crate) use self::messages::{Schemas, decode, schema_id};
#[cfg(feature = "kafka")]
pub(crate) use self::registry::{Login, Registry};

/// Maximum number of rows of a block.
const BLOCK_ROWS_MAX: usize = 100_000_000;

/// Bytes of a UUID.
const UUID_BYTES: i32 = 16;

/// Decodes an object container file.
///
/// # Errors
/// `Data` if it is not readable, or ends within a block.
pub(crate) fn file_batches(bytes: &Bytes) -> Result<Vec<RecordBatch>> {
    guarded("the file", || {
        let (header, blocks) = blocks(bytes)?;
        let mut batches = Vec::with_capacity(blocks.len());
        for block in blocks.iter().filter(|block| block.rows > 0) {
            // One batch: a reader does not end if a block has bytes behind its rows.
            let reader = ReaderBuilder::new().with_batch_size(block.rows).with_tz(Tz::Utc);
            let mut reader = reader.build(Cursor::new(&header[..]).chain(Cursor::new(&block.bytes[..])))?;
            let batch = reader.next().transpose()?.filter(|batch| batch.num_rows() == block.rows);
            let batch = batch.ok_or_else(|| broken("a block has fewer rows than it says"))?;
            batches.push(plain(&batch)?);
        }
        Ok(batches)
    })
}

/// Returns the columns of an object container file.
///
/// # Errors
/// `Data` if it is not readable.
pub(crate) fn file_schema(bytes: &Bytes) -> Result<SchemaRef> {
    guarded("the file", || {
        let reader = ReaderBuilder::new().with_tz(Tz::Utc).build(Cursor::new(&bytes[..]))?;
        let fields = reader.schema().fields().iter().map(plain_field).collect::<Vec<_>>();
        Ok(Arc::new(Schema::new(fields)))
    })
}

/// A block of a file.
struct Block {
    rows: usize,
    /// The block with the numbers before it and the marker behind it.
    bytes: Bytes,
}

/// Divides a file into its header and its blocks, of which each must be whole: the reader takes a part of one for the end.
fn blocks(file: &Bytes) -> Result<(Bytes, Vec<Block>), ArrowError> {
    let header = read_header_info(Cursor::new(&file[..]))?;
    let cut = || broken("it ends within a block, so rows are missing; write it again");
    let start = usize::try_from(header.header_len()).ok().filter(|start| *start <= file.len()).ok_or_else(cut)?;
    let (mut rest, mut blocks) = (file.slice(start..), Vec::new());
    while !rest.is_empty() {
        let mut numbers = &rest[..];
        let rows = long(&mut numbers).ok_or_else(cut)?;
        let size = long(&mut numbers).ok_or_else(cut)?;
        let rows = usize::try_from(rows).ok().filter(|rows| *rows <= BLOCK_ROWS_MAX);
        let rows = rows.ok_or_else(|| broken("a block says that it has too many rows"))?;
        let size = usize::try_from(size).map_err(|_| cut())?;
        let before = rest.len() - numbers.len();
        let marker = before.checked_add(size).ok_or_else(cut)?;
        let end = marker.checked_add(header.sync().len()).filter(|end| *end <= rest.len()).ok_or_else(cut)?;
        if rest[marker..end] != header.sync() {
            return Err(broken("a block does not end with the marker of the file"));
        }
        blocks.push(Block { rows, bytes: rest.split_to(end) });
    }
    Ok((file.slice(..start), blocks))
}

/// Takes an integer from the start of `bytes`; `None` if they end before.
fn long(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(((number >> 1) as i64) ^ -((number & 1) as i64));
        }
    }
    None
}

fn broken(reason: &str) -> ArrowError {
    ArrowError::AvroError(reason.to_string())
}

/// Runs `work`, which decodes bytes from outside. Its errors, and its panics, are those of `what`.
///
/// # Errors
/// `Data` if `work` fails.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, ArrowError>) -> Result<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    let reason = match done {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => reason_of(&error),
        Err(_) => "it is broken".to_string(),
    };
    Err(QueryError::data(format!("{what} is not readable as Avro: {reason}")))
}

/// Returns the message of an error, without the name of its kind.
fn reason_of(error: &ArrowError) -> String {
    match error {
        ArrowError::ParseError(text) | ArrowError::AvroError(text) | ArrowError::SchemaError(text) => text.clone(),
        error => error.to_string(),
    }
}

/// Returns `batch` with texts instead of enums and UUIDs.
fn plain(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        columns.push(plain_column(field, column)?);
    }
    let fields = schema.fields().iter().map(plain_field).collect::<Vec<_>>();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Returns a field with the type that [`plain_column`] gives its column. Any column may be null.
fn plain_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::FixedSizeBinary(_) if is_uuid(field) => DataType::Utf8,
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::List(item) => DataType::List(plain_field(item)),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, true))
}

fn plain_column(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match field.data_type() {
        DataType::FixedSizeBinary(_) if is_uuid(field) => Arc::new(uuids(column.as_fixed_size_binary())),
        DataType::Dictionary(_, values) => cast(column, values)?,
        DataType::Struct(fields) => {
            let rows = column.as_struct();
            let columns = fields.iter().zip(rows.columns()).map(|(field, column)| plain_column(field, column));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let fields = fields.iter().map(plain_field).collect();
            Arc::new(StructArray::try_new_with_length(fields, columns, rows.nulls().cloned(), rows.len())?)
        }
        DataType::List(item) => {
            let lists = column.as_list::<i32>();
            let values = plain_column(item, lists.values())?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Arc::new(ListArray::try_new(plain_field(item), offsets, values, nulls)?)
        }
        _ => Arc::clone(column),
    })
}

/// Returns true for the column of a UUID, which is decoded as its bytes.
fn is_uuid(field: &Field) -> bool {
    let says = |key: &str, value: &str| field.metadata().get(key).is_some_and(|known| known == value);
    *field.data_type() == DataType::FixedSizeBinary(UUID_BYTES)
        && (says("logicalType", "uuid") || says("ARROW:extension:name", "arrow.uuid"))
}

fn uuids(values: &FixedSizeBinaryArray) -> StringArray {
    let text = |bytes: Option<&[u8]>| uuid::Uuid::from_slice(bytes?).ok().map(|uuid| uuid.to_string());
    values.iter().map(text).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::datatypes::{Decimal128Type, Int64Type, TimeUnit};
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;
    use crate::decode::{Format, decode_file};

    /// Encodes an integer.
    pub(crate) fn encoded(number: i64) -> Vec<u8> {
        let mut rest = ((number << 1) ^ (number >> 63)) as u64;
        let mut bytes = Vec::new();
        while rest > 0x7f {
            bytes.push((rest as u8 & 0x7f) | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    /// Encodes a text, or bytes.
    pub(crate) fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
        let value = value.as_ref();
        [encoded(i64::try_from(value.len()).expect("it is short")), value.to_vec()].concat()
    }

    /// Returns a file of rows that are encoded as `schema` says.
    fn file(schema: &str, rows: &[Vec<u8>]) -> Bytes {
        let sync = [7_u8; 16];
        let data = rows.concat();
        let count = encoded(i64::try_from(rows.len()).expect("it is small"));
        let size = encoded(i64::try_from(data.len()).expect("it is small"));
        let header =
            [b"Obj\x01".to_vec(), encoded(1), text("avro.schema"), text(schema), encoded(0), sync.to_vec()].concat();
        [header, count, size, data, sync.to_vec()].concat().into()
    }

    /// A schema with the types that tables can declare.
    pub(crate) const WIDE: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": null},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "ms", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "us", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
        {"name": "key", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {"name": "at", "type": {"type": "record", "name": "Place", "fields": [
            {"name": "city", "type": "string"}, {"name": "kind", "type": "State"}]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "size", "type": "double"}]}"#;

    const UUID: &str = "0192f0c1-7d3a-7b6e-8c55-0242ac120002";

    /// A row of [`WIDE`].
    pub(crate) fn wide(id: i64, name: Option<&str>) -> Vec<u8> {
        let name = name.map_or_else(|| encoded(0), |name| [encoded(1), text(name)].concat());
        // 12.34 is 1234 hundredths.
        let price = text([0x04, 0xd2]);
        let times = [
            encoded(19_723),
            encoded(1_704_067_200_123),
            encoded(1),
            encoded(1_704_067_200_123_456),
            encoded(1_000_000),
        ];
        let tags = [encoded(2), text("a"), text("b"), encoded(0)].concat();
        let rest = [text(UUID), encoded(1), text("Rome"), encoded(0), tags, 0.5_f64.to_le_bytes().to_vec()];
        [[encoded(id), name, price].concat(), times.concat(), rest.concat()].concat()
    }

    /// The columns of a table for [`WIDE`], in another order and with one that the schema lacks.
    pub(crate) fn declared() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        let place = vec![Field::new("city", DataType::Utf8, true), Field::new("kind", DataType::Utf8, true)];
        let columns = [
            ("name", DataType::Utf8),
            ("id", DataType::Int64),
            ("price", DataType::Decimal128(12, 2)),
            ("day", DataType::Date32),
            ("ms", time.clone()),
            ("us", utc),
            ("local", time),
            ("key", DataType::Utf8),
            ("state", DataType::Utf8),
            ("at", DataType::Struct(place.into())),
            ("tags", DataType::new_list(DataType::Utf8, true)),
            ("size", DataType::Float64),
            ("missing", DataType::Int32),
        ];
        Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
    }

    /// The values of a row of [`declared`] as text.
    pub(crate) fn shown(batch: &RecordBatch, row: usize) -> Vec<String> {
        let options = FormatOptions::default().with_null("NULL");
        let columns = batch.columns().iter().map(|column| {
            ArrayFormatter::try_new(column, &options).expect("all types have a format").value(row).to_string()
        });
        columns.collect()
    }

    pub(crate) const WIDE_SHOWN: [&str; 12] = [
        "5",
        "12.34",
        "2024-01-01",
        "2024-01-01T00:00:00.123",
        "2024-01-01T00:00:00.123456Z",
        "1970-01-01T00:00:01",
        UUID,
        "PAID",
        "{city: Rome, kind: NEW}",
        "[a, b]",
        "0.5",
        "NULL",
    ];

    #[test]
    fn file_has_the_columns_of_the_table_by_name() {
        let file = file(WIDE, &[wide(5, Some("x")), wide(5, None)]);
        let batches = decode_file(&Format::Avro, &declared(), file.clone()).expect("it is readable");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        for (row, name) in ["x", "NULL"].into_iter().enumerate() {
            let found = shown(&batches[0], row);
            assert_eq!(found, [&[name], WIDE_SHOWN.as_slice()].concat(), "row {row}");
        }
        let own = file_schema(&file).expect("it is readable");
        let named = |name: &str| own.field_with_name(name).expect("it has the column").data_type().clone();
        assert_eq!((named("key"), named("state"), named("id")), (DataType::Utf8, DataType::Utf8, DataType::Int64));
        let whole = decode_file(&Format::Avro, &own, file).expect("it is readable");
        assert_eq!(whole[0].column(0).as_primitive::<Int64Type>().values(), &[5, 5]);
        assert_eq!(whole[0].column(2).as_primitive::<Decimal128Type>().value(0), 1234);
    }

    #[test]
    fn broken_and_foreign_files_are_errors() {
        let good = file(WIDE, &[wide(5, None)]);
        for length in [0, 3, 40, good.len() - 20, good.len() - 60] {
            let cut = good.slice(..length);
            let found = decode_file(&Format::Avro, &declared(), cut);
            let error = found.expect_err("it is not whole").message;
            assert!(error.contains("not readable as Avro"), "{length} bytes: {error}");
        }
        // One row more than the block says, and one less.
        for rows in [vec![wide(5, None), wide(6, None)], Vec::new()] {
            let mut wrong = file(WIDE, &rows).to_vec();
            let sync = wrong.windows(16).position(|bytes| bytes == [7; 16]).expect("the header ends with it");
            wrong[sync + 16] = 2;
            let found = decode_file(&Format::Avro, &declared(), wrong.into());
            assert_eq!(found.map_or(0, |found| found.iter().map(RecordBatch::num_rows).sum()), rows.len().min(1));
        }
        let other = Arc::new(Schema::new(vec![Field::new("other", DataType::Int64, true)]));
        let error = decode_file(&Format::Avro, &other, good.clone()).expect_err("no column fits").message;
        assert!(error.contains("none of the table's columns"), "{error}");
        let narrow = Arc::new(Schema::new(vec![Field::new("size", DataType::Int64, true)]));
        let error = decode_file(&Format::Avro, &narrow, good).expect_err("0.5 is no integer").message;
        assert!(error.contains("column `size`") && error.contains("a value would change"), "{error}");
        let error = decode_file(&Format::Avro, &other, Bytes::from_static(b"{\"id\": 1}\n")).expect_err("it is JSON");
        assert!(error.message.contains("not readable as Avro"), "{error}");
    }
}
