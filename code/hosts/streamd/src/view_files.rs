//! Files with the rows of materialized views, and rows that are looked for in them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Rows that are looked for, each as often as it is.
pub(crate) struct Missing {
    /// `None` if none are looked for.
    converter: Option<RowConverter>,
    rows: HashMap<OwnedRow, usize>,
    count: usize,
}

impl Missing {
    /// Checks that rows with `columns`, which can all be NULL, can be kept and looked for.
    ///
    /// # Errors
    /// `Invalid` if the values of a column cannot be compared, or Parquet does not have its type.
    pub(crate) fn check(columns: &SchemaRef) -> Result<()> {
        let fields = fields_of(columns).into_iter().zip(columns.fields());
        let unfit = fields.into_iter().find(|(field, _)| !RowConverter::supports_fields(std::slice::from_ref(field)));
        match unfit {
            Some((_, field)) => Err(QueryError::invalid(format!(
                "column `{}` has type {}, whose values cannot be compared with those that are kept; cast it, such as to TEXT",
                field.name(),
                field.data_type()
            ))),
            // Parquet refuses some types only when a row has them.
            None => {
                let nulls = columns.fields().iter().map(|field| new_null_array(field.data_type(), 1));
                let row = RecordBatch::try_new(Arc::clone(columns), nulls.collect())?;
                encode(&[row], columns).map(|_| ())
            }
        }
    }

    /// Looks for `rows`, which have `columns`.
    pub(crate) fn of(columns: &SchemaRef, rows: &[RecordBatch]) -> Result<Self> {
        let mut missing = Self { converter: None, rows: HashMap::new(), count: 0 };
        if rows.is_empty() {
            return Ok(missing);
        }
        let converter = RowConverter::new(fields_of(columns))?;
        for batch in rows {
            for row in &converter.convert_columns(batch.columns())? {
                *missing.rows.entry(row.owned()).or_default() += 1;
                missing.count += 1;
            }
        }
        missing.converter = Some(converter);
        Ok(missing)
    }

    /// Returns true if all rows were found.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the number of rows that were not found yet.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns `batches` without the rows that are looked for, which count as found.
    pub(crate) fn without(&mut self, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let Some(converter) = self.converter.as_ref().filter(|_| self.count > 0) else { return Ok(batches) };
        let mut rest = Vec::with_capacity(batches.len());
        for batch in batches {
            let rows = converter.convert_columns(batch.columns())?;
            let mut kept = Vec::with_capacity(batch.num_rows());
            for row in &rows {
                let wanted = self.rows.get_mut(&row.owned()).filter(|count| **count > 0);
                kept.push(wanted.is_none());
                if let Some(wanted) = wanted {
                    *wanted -= 1;
                    self.count -= 1;
                }
            }
            let batch = filter_record_batch(&batch, &BooleanArray::from(kept))?;
            rest.extend(Some(batch).filter(|batch| batch.num_rows() > 0));
        }
        Ok(rest)
    }
}

fn fields_of(columns: &SchemaRef) -> Vec<SortField> {
    columns.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect()
}

/// Encodes rows with `columns` as Parquet.
///
/// # Errors
/// `Invalid` if Parquet has no representation of a type.
pub(crate) fn encode(rows: &[RecordBatch], columns: &SchemaRef) -> Result<Bytes> {
    let level = ZstdLevel::try_new(1).map_err(|error| QueryError::internal(error.to_string()))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut bytes = Vec::new();
    let failed = |error: parquet::errors::ParquetError| {
        QueryError::invalid(format!("its rows cannot be kept as Parquet: {error}; cast the column to another type"))
    };
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(columns), Some(properties)).map_err(failed)?;
    for batch in rows {
        writer.write(batch).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(bytes.into())
}

/// Decodes rows with `columns`.
///
/// # Errors
/// `Data` if the file is broken or has other columns.
pub(crate) fn decode(bytes: Bytes, columns: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let broken = |error: &dyn std::fmt::Display| QueryError::data(format!("the rows cannot be read: {error}"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| broken(&error))?;
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|error| broken(&error))? {
        rows.push(typed(&batch.map_err(|error| broken(&error))?, columns)?);
    }
    Ok(rows)
}

/// Returns `batch` with the types of `columns`.
fn typed(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch> {
    let own: &Schema = columns.as_ref();
    if batch.num_columns() != own.fields().len() {
        return Err(QueryError::data(format!(
            "the rows have {} columns, not {}",
            batch.num_columns(),
            own.fields().len()
        )));
    }
    let cast = batch.columns().iter().zip(own.fields()).map(|(column, field)| cast(column, field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(columns), cast.collect::<Result<Vec<_>, _>>()?)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Float64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Float64Type, IntervalUnit, TimeUnit};

    use super::*;

    fn rows(names: &[Option<&str>], values: &[f64]) -> RecordBatch {
        let names: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        let values: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("name", names, true), ("value", values, true)])
            .expect("columns of one length")
    }

    #[test]
    fn rows_are_taken_out_as_often_as_they_are_looked_for() {
        let all = rows(&[Some("a"), None, Some("a"), Some("a"), Some("")], &[1.0, 2.0, 1.0, 1.5, 2.0]);
        let wanted = rows(&[Some("a"), None, Some("b")], &[1.0, 2.0, 1.0]);
        let mut missing = Missing::of(&all.schema(), &[wanted]).expect("the types can be compared");
        let encoded = encode(std::slice::from_ref(&all), &all.schema()).expect("Parquet has the types");
        let decoded = decode(encoded, &all.schema()).expect("it was encoded");
        let rest = missing.without(decoded).expect("the types can be compared");
        let values: Vec<f64> =
            rest.iter().flat_map(|rest| rest.column(1).as_primitive::<Float64Type>().values().to_vec()).collect();
        assert_eq!((values, missing.len()), (vec![1.0, 1.5, 2.0], 1));
        assert!(missing.without(vec![rows(&[Some("b")], &[1.0])]).expect("the types can be compared").is_empty());
        assert!(missing.is_empty());
    }

    #[test]
    fn types_that_cannot_be_kept_are_refused() {
        let columns = |data_type: DataType| Arc::new(Schema::new(vec![Field::new("c", data_type, true)]));
        for data_type in [DataType::UInt64, DataType::Timestamp(TimeUnit::Nanosecond, None), DataType::Date32] {
            Missing::check(&columns(data_type)).expect("it can be kept");
        }
        let error = Missing::check(&columns(DataType::Interval(IntervalUnit::MonthDayNano)));
        let error = error.expect_err("Parquet does not have it").to_string();
        assert!(error.contains("cannot be kept as Parquet"), "{error}");
    }

    #[test]
    fn file_without_rows_has_the_columns() {
        let columns = rows(&[], &[]).schema();
        let encoded = encode(&[], &columns).expect("Parquet has the types");
        let reader = ParquetRecordBatchReaderBuilder::try_new(encoded).expect("it is a file");
        assert_eq!(reader.schema().fields(), columns.fields());
    }
}
