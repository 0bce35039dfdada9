//! Statistics of a table's files, from Delta's log or Parquet footers: row counts, bounds and null counts per column.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt64Array};
use arrow::compute::{SortOptions, sort_to_indices, take};
use arrow::datatypes::{DataType, Field, Schema};
use buzz_protocol::{Result, names_in_table};
use datafusion::common::stats::{ColumnStatistics, Precision, Statistics};
use datafusion::scalar::ScalarValue;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;

use crate::table::Table;

/// Row counts and bounds of files. Every array has one element per file of [`Table::files`]; unknown values are null.
#[derive(Debug, Clone)]
pub struct FileStatistics {
    /// Number of rows of each file, including deleted rows.
    pub row_counts: UInt64Array,
    /// Bounds of top-level columns, by column name.
    pub columns: BTreeMap<String, ColumnBounds>,
}

/// Bounds of one column in each file.
#[derive(Debug, Clone)]
pub struct ColumnBounds {
    /// Lower bound of the values.
    pub min: ArrayRef,
    /// Upper bound of the values.
    pub max: ArrayRef,
    /// Number of nulls, including those in deleted rows.
    pub null_counts: UInt64Array,
    /// True if both bounds are values of the column.
    pub exact: bool,
}

impl FileStatistics {
    /// Returns the statistics of the files at `positions`, in that order.
    ///
    /// # Errors
    /// `Internal` if a position is out of range.
    pub fn of(&self, positions: &UInt64Array) -> Result<FileStatistics> {
        let counts = |counts: &UInt64Array| -> Result<UInt64Array> {
            let taken = take(counts, positions, None)?;
            Ok(taken.as_any().downcast_ref::<UInt64Array>().expect("taking keeps the type").clone())
        };
        let mut columns = BTreeMap::new();
        for (name, bounds) in &self.columns {
            let bounds = ColumnBounds {
                min: take(&bounds.min, positions, None)?,
                max: take(&bounds.max, positions, None)?,
                null_counts: counts(&bounds.null_counts)?,
                exact: bounds.exact,
            };
            columns.insert(name.clone(), bounds);
        }
        Ok(FileStatistics { row_counts: counts(&self.row_counts)?, columns })
    }

    /// Collects the statistics in `footers` for the columns of `schema`, which excludes partition columns.
    ///
    /// # Errors
    /// `Internal` if values cannot be converted to an array.
    pub(crate) fn of_footers(schema: &Schema, footers: &[(Schema, Arc<ParquetMetaData>)]) -> Result<FileStatistics> {
        let rows = |(_, footer): &(Schema, Arc<ParquetMetaData>)| u64::try_from(footer.file_metadata().num_rows()).ok();
        let table = names_of(schema);
        let names = footers.iter().map(|(file, _)| names_in_table(&names_of(file), &table));
        let names: Vec<Vec<String>> = names.collect();
        let mut columns = BTreeMap::new();
        for field in schema.fields().iter().filter(|field| is_plain(field.data_type())) {
            let (mut min, mut max, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
            for ((file_schema, footer), names) in footers.iter().zip(&names) {
                let bounds = footer_bounds(field, names, file_schema, footer);
                let none = || ScalarValue::try_from(field.data_type());
                min.push(bounds.min.map_or_else(none, Ok)?);
                max.push(bounds.max.map_or_else(none, Ok)?);
                nulls.push(bounds.nulls);
            }
            let bounds = ColumnBounds {
                min: ScalarValue::iter_to_array(min)?,
                max: ScalarValue::iter_to_array(max)?,
                null_counts: UInt64Array::from(nulls),
                exact: can_be_exact(field.data_type()),
            };
            columns.insert(field.name().clone(), bounds);
        }
        Ok(FileStatistics { row_counts: footers.iter().map(rows).collect(), columns })
    }
}

fn names_of(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// Bounds of one column in one file; `None` if unknown.
#[derive(Debug, Default)]
struct Bounds {
    min: Option<ScalarValue>,
    max: Option<ScalarValue>,
    nulls: Option<u64>,
}

/// Returns the bounds of the column `field` in a file whose columns have the names `names` in the table.
fn footer_bounds(field: &Field, names: &[String], schema: &Schema, footer: &ParquetMetaData) -> Bounds {
    let Some(place) = names.iter().position(|name| name == field.name()) else {
        // All values of a missing column are null.
        return Bounds { nulls: u64::try_from(footer.file_metadata().num_rows()).ok(), ..Bounds::default() };
    };
    row_group_bounds(schema.field(place).name(), field.data_type(), schema, footer).unwrap_or_default()
}

fn row_group_bounds(name: &str, data_type: &DataType, schema: &Schema, footer: &ParquetMetaData) -> Option<Bounds> {
    let groups = footer.row_groups();
    let converter = StatisticsConverter::try_new(name, schema, footer.file_metadata().schema_descr()).ok()?;
    let converter = converter.with_missing_null_counts_as_zero(false);
    let (mins, maxes) = (converter.row_group_mins(groups).ok()?, converter.row_group_maxes(groups).ok()?);
    if !keeps_order(mins.data_type(), data_type) {
        return None;
    }
    let nulls = converter.row_group_null_counts(groups).ok()?;
    let all_nulls = nulls.iter().sum::<Option<u64>>();
    let scalar = |array: &ArrayRef, group: usize| {
        let stored = ScalarValue::try_from_array(array, group).ok()?;
        let value = stored.cast_to(data_type).ok()?;
        // A bound that the type of the column cannot hold is not that of any value.
        let is_held = || value.cast_to(&stored.data_type()).is_ok_and(|again| again == stored);
        (!value.is_null() && is_held()).then_some(value)
    };
    let mut bounds = Bounds { nulls: all_nulls, ..Bounds::default() };
    for (index, group) in groups.iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).ok()?;
        if rows == 0 || (nulls.is_valid(index) && nulls.value(index) == rows) {
            continue;
        }
        // If one row group has no bounds, the file has none.
        let (Some(min), Some(max)) = (scalar(&mins, index), scalar(&maxes, index)) else {
            return Some(Bounds { nulls: bounds.nulls, ..Bounds::default() });
        };
        bounds.min = Some(bounds.min.map_or(min.clone(), |known| if min < known { min } else { known }));
        bounds.max = Some(bounds.max.map_or(max.clone(), |known| if max > known { max } else { known }));
    }
    Some(bounds)
}

/// Returns whether a cast from `from` to `to` keeps the order of values. A cast of numbers to text does not: 5 < 10,
/// but `10` < `5`.
fn keeps_order(from: &DataType, to: &DataType) -> bool {
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_binary =
        |data_type: &DataType| matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let is_date = |data_type: &DataType| matches!(data_type, DataType::Date32 | DataType::Date64);
    match (from, to) {
        _ if from == to => true,
        (DataType::Dictionary(_, values), to) => keeps_order(values, to),
        (from, DataType::Dictionary(_, values)) => keeps_order(from, values),
        (DataType::Timestamp(_, here), DataType::Timestamp(_, there)) => here.is_some() == there.is_some(),
        (from, DataType::Timestamp(_, None)) if is_date(from) => true,
        (from, to) => {
            (from.is_numeric() && to.is_numeric())
                || (is_text(from) && is_text(to))
                || (is_binary(from) && is_binary(to))
                || (is_date(from) && is_date(to))
        }
    }
}

/// Returns whether bounds are kept for columns of the type. Nested types have none.
pub(crate) fn is_plain(data_type: &DataType) -> bool {
    !data_type.is_nested() && !matches!(data_type, DataType::Null | DataType::Interval(_))
}

/// Returns whether bounds of the type are values of the column. Bounds of text may be truncated. Bounds of floats
/// ignore NaN and do not distinguish the two zeros.
pub(crate) fn can_be_exact(data_type: &DataType) -> bool {
    data_type.is_integer()
        || data_type.is_decimal()
        || matches!(data_type, DataType::Boolean | DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _))
}

impl Table {
    /// Returns the statistics of the whole table for the planner. They cover the columns of [`Table::file_schema`],
    /// followed by the partition columns. Column statistics are inexact if the table has deleted rows.
    pub fn planner_statistics(&self) -> Statistics {
        let fields = self.file_schema().fields().iter().cloned().chain(self.partition_fields()).collect::<Vec<_>>();
        let mut all = Statistics::new_unknown(&Schema::new(fields.clone()));
        all.total_byte_size = Precision::Inexact(usize::try_from(self.bytes()).unwrap_or(usize::MAX));
        let Some(known) = &self.statistics else {
            return all;
        };
        let deleted: u64 = self.files.iter().map(crate::DataFile::deleted_rows).sum();
        let Some(rows) = known.row_counts.iter().sum::<Option<u64>>() else {
            return all;
        };
        all.num_rows = Precision::Exact(usize::try_from(rows.saturating_sub(deleted)).unwrap_or(usize::MAX));
        all.column_statistics = fields
            .iter()
            .map(|field| {
                let found = known.columns.get(field.name());
                let column = found.map(|bounds| column_statistics(bounds, &known.row_counts, field.data_type()));
                let column = column.or_else(|| self.partition_statistics(field, &known.row_counts));
                let column = column.unwrap_or_else(ColumnStatistics::new_unknown);
                if deleted == 0 { column } else { column.to_inexact() }
            })
            .collect();
        all
    }

    fn partition_statistics(&self, field: &Field, row_counts: &UInt64Array) -> Option<ColumnStatistics> {
        let index = self.partition_columns.iter().position(|column| column == field.name())?;
        let mut column = ColumnStatistics::new_unknown();
        let mut nulls = 0;
        let (mut min, mut max) = (None, None);
        for (file, rows) in self.files.iter().zip(row_counts.values()).filter(|(_, rows)| **rows > 0) {
            let value = &file.partition_values[index];
            if value.is_null() {
                nulls += rows;
                continue;
            }
            min = Some(min.map_or(value, |known: &ScalarValue| if value < known { value } else { known }));
            max = Some(max.map_or(value, |known: &ScalarValue| if value > known { value } else { known }));
        }
        column.null_count = Precision::Exact(usize::try_from(nulls).ok()?);
        let exact = |value: Option<&ScalarValue>| {
            let typed = value.and_then(|value| value.cast_to(field.data_type()).ok());
            typed.map_or(Precision::Absent, Precision::Exact)
        };
        (column.min_value, column.max_value) = (exact(min), exact(max));
        Some(column)
    }
}

fn column_statistics(bounds: &ColumnBounds, row_counts: &UInt64Array, data_type: &DataType) -> ColumnStatistics {
    let mut column = ColumnStatistics::new_unknown();
    if let Some(nulls) = bounds.null_counts.iter().sum::<Option<u64>>() {
        column.null_count = Precision::Exact(usize::try_from(nulls).unwrap_or(usize::MAX));
    }
    // Files without a non-null value in the column have no bounds.
    let empty = |index: usize| {
        let rows = row_counts.value(index);
        rows == 0 || (bounds.null_counts.is_valid(index) && bounds.null_counts.value(index) == rows)
    };
    let of_values: BooleanArray = (0..row_counts.len()).map(|index| Some(!empty(index))).collect();
    let extreme = |array: &ArrayRef, descending: bool| -> Option<ScalarValue> {
        let array = arrow::compute::filter(array, &of_values).ok()?;
        if array.null_count() > 0 || array.is_empty() {
            return None;
        }
        let order = SortOptions { descending, nulls_first: false };
        let first = sort_to_indices(&array, Some(order), Some(1)).ok()?;
        ScalarValue::try_from_array(&array, first.value(0) as usize).ok()?.cast_to(data_type).ok()
    };
    let said = |value: Option<ScalarValue>| match value {
        Some(value) if bounds.exact => Precision::Exact(value),
        Some(value) => Precision::Inexact(value),
        None => Precision::Absent,
    };
    column.min_value = said(extreme(&bounds.min, false));
    column.max_value = said(extreme(&bounds.max, true));
    column
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn casts_that_keep_order_are_recognized() {
        use DataType::{Boolean, Date32, Dictionary, Float64, Int8, Int64, LargeUtf8, Timestamp, Utf8, Utf8View};
        let second = |zone: Option<&str>| Timestamp(TimeUnit::Second, zone.map(Into::into));
        let texts = Dictionary(Box::new(Int8), Box::new(LargeUtf8));
        for (from, to) in [(Int8, Int64), (Int64, Float64), (texts, Utf8View), (Date32, second(None))] {
            assert!(keeps_order(&from, &to), "{from} to {to}");
        }
        for (from, to) in [(Int64, Utf8), (Utf8, Int64), (Int64, Boolean), (second(Some("+02:00")), second(None))] {
            assert!(!keeps_order(&from, &to), "{from} to {to}");
        }
    }
}
