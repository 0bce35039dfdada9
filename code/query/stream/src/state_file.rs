//! State rows as bytes: Parquet, or Arrow IPC for types that Parquet lacks.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::stage::{KEY_GROUPS, KeyedRows, with_schema};

/// Returns the file extension for state rows with `schema`.
pub fn extension(schema: &SchemaRef) -> &'static str {
    if schema.fields().iter().any(|field| needs_ipc(field.data_type())) { "arrow" } else { "parquet" }
}

fn needs_ipc(data_type: &DataType) -> bool {
    match data_type {
        // Parquet lacks some of these types and returns others as different types.
        DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            needs_ipc(field.data_type())
        }
        DataType::Struct(fields) => fields.is_empty() || fields.iter().any(|field| needs_ipc(field.data_type())),
        DataType::Map(field, _) => needs_ipc(field.data_type()),
        _ => false,
    }
}

/// The key of the watermark in the metadata of a state file.
const BEFORE: &str = "buzz.before";

/// The key of the first key group of each row group, separated by commas.
const GROUPS: &str = "buzz.groups";

/// Rows from which a row group ends with a key group. Those of small states would cost more than their rows.
const GROUP_ROWS_MIN: usize = 4096;

/// A row group: its key groups and its rows.
struct RowGroup {
    groups: Range<u32>,
    rows: Vec<RecordBatch>,
}

/// Divides rows into row groups: a key group with many rows is one, and small ones share one with their neighbours.
fn row_groups(rows: &[KeyedRows]) -> Vec<RowGroup> {
    let mut by_group: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
    for rows in rows {
        for (group, range) in rows.groups() {
            by_group.entry(group).or_default().push(rows.batch().slice(range.start, range.len()));
        }
    }
    let mut parts: Vec<RowGroup> = Vec::new();
    let mut count = 0;
    for (group, rows) in by_group {
        let added: usize = rows.iter().map(RecordBatch::num_rows).sum();
        match parts.last_mut().filter(|_| count + added <= GROUP_ROWS_MIN) {
            Some(part) => {
                part.groups.end = group + 1;
                part.rows.extend(rows);
                count += added;
            }
            None => {
                parts.push(RowGroup { groups: group..group + 1, rows });
                count = added;
            }
        }
    }
    parts
}

/// Returns the key groups that have rows: the first, and one behind the last.
pub fn groups(rows: &[KeyedRows]) -> (u32, u32) {
    let groups = || rows.iter().flat_map(|rows| rows.groups().map(|(group, _)| group).collect::<Vec<_>>());
    (groups().min().unwrap_or(0), groups().max().map_or(0, |group| group + 1))
}

/// Encodes state rows: in the order of their key groups, of which each with many rows is a row group. `before` is the
/// watermark, in nanoseconds, that was valid before the rows were added.
///
/// # Errors
/// `Internal` if the rows cannot be encoded.
pub fn encode(schema: &SchemaRef, before: i64, rows: &[KeyedRows]) -> Result<Bytes> {
    let row_groups = row_groups(rows);
    let firsts: Vec<String> = row_groups.iter().map(|part| part.groups.start.to_string()).collect();
    let metadata = HashMap::from([(BEFORE.to_string(), before.to_string()), (GROUPS.to_string(), firsts.join(","))]);
    let schema = &Arc::new(schema.as_ref().clone().with_metadata(metadata));
    let mut bytes = Vec::new();
    if extension(schema) == "arrow" {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
        let mut writer = StreamWriter::try_new_with_options(&mut bytes, schema, options)?;
        for part in &row_groups {
            // A row group is one batch.
            writer.write(&concat_batches(schema, &part.rows)?)?;
        }
        writer.finish()?;
        drop(writer);
    } else {
        // Without dictionaries, files of many groups are five times smaller and faster to read.
        let level = ZstdLevel::try_new(1).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(None)
            .build();
        let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), Some(properties)).map_err(failed)?;
        for part in &row_groups {
            for batch in &part.rows {
                writer.write(&with_schema(schema, batch)?).map_err(failed)?;
            }
            writer.flush().map_err(failed)?;
        }
        writer.close().map_err(failed)?;
    }
    Ok(Bytes::from(bytes))
}

/// Decodes state rows, and the watermark that was valid before they were added.
///
/// # Errors
/// `Data` if the bytes are not such a file.
pub fn decode(schema: &SchemaRef, bytes: Bytes) -> Result<(i64, Vec<RecordBatch>)> {
    decode_groups(schema, bytes, 0..KEY_GROUPS as u32)
}

/// Decodes the row groups with rows of `groups`, as [`decode`]. Rows of other key groups that share a row group with them are
/// returned too.
///
/// # Errors
/// As [`decode`].
pub fn decode_groups(schema: &SchemaRef, bytes: Bytes, groups: Range<u32>) -> Result<(i64, Vec<RecordBatch>)> {
    let stored: SchemaRef;
    let batches: Vec<RecordBatch> = if extension(schema) == "arrow" {
        let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
        stored = reader.schema();
        let wanted = with_rows_of(&stored, &groups)?;
        let batches = reader.enumerate().filter(|(index, _)| wanted.as_ref().is_none_or(|all| all.contains(index)));
        batches.map(|(_, batch)| batch).collect::<Result<_, _>>()?
    } else {
        let mut builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(broken)?;
        stored = Arc::clone(builder.schema());
        if let Some(wanted) = with_rows_of(&stored, &groups)? {
            let count = builder.metadata().num_row_groups();
            builder = builder.with_row_groups(wanted.into_iter().filter(|index| *index < count).collect());
        }
        builder.build().map_err(broken)?.collect::<Result<_, _>>()?
    };
    for batch in &batches {
        let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        if types(&batch.schema()) != types(schema) {
            return Err(QueryError::data(
                "a state file has other columns than the script needs; it was written by another script or build",
            ));
        }
    }
    let before = stored.metadata().get(BEFORE).and_then(|text| text.parse().ok());
    let before = before.ok_or_else(|| QueryError::data("a state file has no watermark; it was not written by Buzz"))?;
    Ok((before, batches))
}

/// Returns the row groups with rows of `groups`; `None` if all have some.
fn with_rows_of(stored: &SchemaRef, groups: &Range<u32>) -> Result<Option<Vec<usize>>> {
    let Some(firsts) = stored.metadata().get(GROUPS).filter(|_| *groups != (0..KEY_GROUPS as u32)) else {
        return Ok(None);
    };
    let firsts = firsts.split(',').filter(|text| !text.is_empty()).map(str::parse::<u32>);
    let firsts = firsts.collect::<Result<Vec<_>, _>>();
    let firsts = firsts.map_err(|_| QueryError::data("the key groups of a state file are not numbers"))?;
    let ends = firsts.iter().skip(1).copied().chain([u32::MAX]);
    let overlap =
        firsts.iter().zip(ends).enumerate().filter(|(_, (first, end))| **first < groups.end && groups.start < *end);
    Ok(Some(overlap.map(|(index, _)| index).collect()))
}

fn failed(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::internal(format!("state cannot be encoded: {error}"))
}

fn broken(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::data(format!("a state file is not readable: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::stage::keyed;

    fn rows(keys: Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
        RecordBatch::try_from_iter([("k", column)]).expect("one column is a batch")
    }

    fn keys(batches: &[RecordBatch]) -> BTreeSet<i64> {
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    /// Rows of two batches, in the order of their groups, and their file.
    fn file(count: i64) -> (SchemaRef, Vec<KeyedRows>, Bytes) {
        let batches = [rows(0..count / 2), rows(count / 2..count)];
        let schema = batches[0].schema();
        let rows = keyed(&schema, &[0], false, &batches).expect("integers have hashes");
        let bytes = encode(&schema, 7, &rows).expect("integers can be encoded");
        (schema, rows, bytes)
    }

    fn row_groups_of(bytes: &Bytes) -> usize {
        ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("it is Parquet").metadata().num_row_groups()
    }

    #[test]
    fn key_group_of_a_large_state_is_read_alone() {
        let (schema, rows, bytes) = file(600_000);
        assert_eq!(row_groups_of(&bytes), KEY_GROUPS);
        assert_eq!(groups(&rows), (0, KEY_GROUPS as u32));
        let (before, all) = decode(&schema, bytes.clone()).expect("it was written");
        assert_eq!(before, 7);
        assert_eq!(keys(&all).len(), 600_000);
        for group in [0, 17, 63] {
            let (_, read) = decode_groups(&schema, bytes.clone(), group..group + 1).expect("it was written");
            let of_group: Vec<RecordBatch> = rows.iter().filter_map(|rows| rows.of(&(group..group + 1))).collect();
            assert_eq!(keys(&read), keys(&of_group), "group {group}");
        }
    }

    #[test]
    fn key_groups_of_a_small_state_share_a_row_group() {
        let (schema, rows, bytes) = file(5000);
        assert_eq!(row_groups_of(&bytes), 2);
        let (_, read) = decode_groups(&schema, bytes, 60..64).expect("it was written");
        let last: Vec<RecordBatch> = rows.iter().filter_map(|rows| rows.of(&(60..64))).collect();
        assert!(keys(&read).is_superset(&keys(&last)));
        assert!(keys(&read).len() < 5000, "the other row group is not read");
        let empty = encode(&schema, 7, &[]).expect("no rows can be encoded");
        assert_eq!(decode(&schema, empty.clone()).expect("it was written").1.len(), 0);
        assert_eq!(decode_groups(&schema, empty, 3..4).expect("it was written").1.len(), 0);
        assert_eq!(groups(&[]), (0, 0));
    }
}
