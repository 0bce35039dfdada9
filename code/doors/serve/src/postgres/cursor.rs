//! Rows of an answer on their way to a client, of which some may have been sent.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, SchemaRef};
use buzz_engine::{Batches, Summary};

use crate::desk::Answered;
use crate::planner::{keeps_values, plain_schema};
use crate::postgres::error::PgError;
use crate::postgres::types::{Base, PgType};

/// A column as it is announced to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(super) name: String,
    pub(super) kind: PgType,
}

/// Rows, and the place of the next one.
pub(crate) struct Cursor {
    /// The announced columns.
    pub(crate) columns: Vec<Column>,
    schema: SchemaRef,
    batches: Batches,
    batch: Vec<ArrayRef>,
    row: usize,
    row_count: usize,
    /// Warnings that were not sent yet.
    pub(super) warnings: Vec<String>,
    /// Work of the query.
    pub(super) summary: Option<Summary>,
    /// Keeps the rows.
    answered: Option<Answered>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// Returns the columns in which rows of `schema` are announced. `is_catalog` is true for rows of the catalog, whose unsigned
/// numbers are OIDs.
pub(super) fn columns(schema: &SchemaRef, is_catalog: bool) -> Result<Vec<Column>, PgError> {
    // The number of columns has 16 bits.
    if schema.fields().len() > 32_767 {
        return Err(PgError::new(
            "54011",
            format!("the result has {} columns; at most 32767 can be sent", schema.fields().len()),
        ));
    }
    let column = |name: &str, kind: PgType| Column { name: name.replace('\0', ""), kind };
    let fields = plain_schema(schema);
    Ok(fields
        .fields()
        .iter()
        .map(|field| {
            let kind = PgType::of(field.data_type());
            let is_oid = is_catalog && *field.data_type() == arrow::datatypes::DataType::UInt32;
            column(field.name(), if is_oid { PgType::of_base(Base::Oid) } else { kind })
        })
        .collect())
}

impl Cursor {
    /// Makes the cursor of an answer. `announced` are its columns if the client knows them already.
    pub(super) fn of_answer(mut answered: Answered, announced: Option<SchemaRef>) -> Result<Self, PgError> {
        let warnings = std::mem::take(&mut answered.warnings);
        let summary = Some(answered.summary.clone());
        let (schema, batches) = (answered.rows.schema(), answered.rows.batches()?);
        let cursor = Self::new(schema, batches, announced, false)?;
        Ok(Self { warnings, summary, answered: Some(answered), ..cursor })
    }

    /// Makes the cursor of rows in memory, which are rows of the catalog.
    pub(crate) fn of_batches(
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
        announced: Option<SchemaRef>,
    ) -> Result<Self, PgError> {
        Self::new(schema, Box::new(batches.into_iter().map(Ok)), announced, true)
    }

    fn new(
        schema: SchemaRef,
        batches: Batches,
        announced: Option<SchemaRef>,
        is_catalog: bool,
    ) -> Result<Self, PgError> {
        let schema = match announced {
            Some(announced) if announced.fields().len() == schema.fields().len() => announced,
            Some(announced) => {
                return Err(PgError::unsupported(format!(
                    "the statement was described with {} columns and now has {}; prepare it again",
                    announced.fields().len(),
                    schema.fields().len()
                )));
            }
            None => plain_schema(&schema),
        };
        Ok(Self {
            columns: columns(&schema, is_catalog)?,
            schema,
            batches,
            batch: Vec::new(),
            row: 0,
            row_count: 0,
            warnings: Vec::new(),
            summary: None,
            answered: None,
        })
    }

    /// Returns the columns and the place of the next row, or None after the last one.
    ///
    /// # Errors
    /// If the rows cannot be read, or do not have the announced types.
    pub(super) fn next(&mut self) -> Result<Option<(&[ArrayRef], usize)>, PgError> {
        while self.row >= self.row_count {
            let Some(batch) = self.batches.next() else {
                // The rows are not needed any more, although the cursor may stay open.
                self.batches = Box::new(std::iter::empty());
                self.batch.clear();
                self.answered = None;
                return Ok(None);
            };
            self.load(&batch?)?;
        }
        self.row += 1;
        Ok(Some((&self.batch, self.row - 1)))
    }

    /// Returns the first value of the next row, if it is a text.
    ///
    /// # Errors
    /// As [`Cursor::next`].
    pub(super) fn next_text(&mut self) -> Result<Option<String>, PgError> {
        let Some((columns, row)) = self.next()? else { return Ok(None) };
        let texts = columns.first().and_then(|column| column.as_string_opt::<i32>());
        Ok(texts.map(|texts| texts.value(row).to_string()))
    }

    fn load(&mut self, batch: &RecordBatch) -> Result<(), PgError> {
        let fields = self.schema.fields().iter().zip(&self.columns);
        let columns =
            fields.zip(batch.columns()).map(|((field, announced), column)| as_announced(field, announced.kind, column));
        self.batch = columns.collect::<Result<_, _>>()?;
        (self.row, self.row_count) = (0, batch.num_rows());
        Ok(())
    }

    /// Makes the error of a value of column `index` that cannot be sent.
    pub(super) fn misfit(columns: &[Column], index: usize, reason: &str) -> PgError {
        let name = columns.get(index).map_or("?", |column| column.name.as_str());
        PgError::new("22000", format!("column `{name}`: {reason}"))
    }
}

/// Returns `column` as it was announced: with the type of `field`, or with another that is sent as the same type of PostgreSQL.
///
/// # Errors
/// If that would change a value.
fn as_announced(field: &Field, kind: PgType, column: &ArrayRef) -> Result<ArrayRef, PgError> {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Ok(Arc::clone(column));
    }
    if keeps_values(from, to) {
        // A value that does not fit is an error instead of a null.
        let exact = CastOptions { safe: false, ..Default::default() };
        let cast = cast_with_options(column, to, &exact);
        return cast.map_err(|error| PgError::new("22000", format!("column `{}`: {error}", field.name())));
    }
    // A numeric with another number of digits is sent with its own digits.
    if PgType::of(from).oid() == kind.oid() {
        return Ok(Arc::clone(column));
    }
    Err(PgError::new(
        "42804",
        format!(
            "column `{}` was described with the type {to} and has the type {from}, which could change its values; write a \
             CAST of it in the statement, such as CAST(… AS DOUBLE)",
            field.name()
        ),
    ))
}

/// Checks that `array` is null at `row`. A column of type Null has no bits that say so.
pub(super) fn is_null(array: &dyn Array, row: usize) -> bool {
    array.is_null(row) || array.data_type().is_null()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array, Int32Array, NullArray, UInt32Array};
    use arrow::datatypes::DataType;

    use super::*;

    fn announced(to: DataType, column: ArrayRef) -> Result<DataType, PgError> {
        let field = Field::new("x", to, true);
        as_announced(&field, PgType::of(field.data_type()), &column).map(|column| column.data_type().clone())
    }

    #[test]
    fn rows_keep_their_values_or_are_refused() {
        let decimal = |scale| -> ArrayRef {
            Arc::new(Decimal128Array::from(vec![123]).with_precision_and_scale(10, scale).unwrap())
        };
        let int: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        assert_eq!(announced(DataType::Int64, Arc::clone(&int)), Ok(DataType::Int64));
        assert_eq!(announced(DataType::Utf8, Arc::new(NullArray::new(1))), Ok(DataType::Utf8));
        assert_eq!(announced(DataType::Decimal128(20, 5), decimal(2)), Ok(DataType::Decimal128(20, 5)));
        // Fewer decimals would round it.
        assert_eq!(announced(DataType::Decimal128(10, 1), decimal(2)), Ok(DataType::Decimal128(10, 2)));
        let unsigned: ArrayRef = Arc::new(UInt32Array::from(vec![1]));
        assert_eq!(announced(DataType::Int64, Arc::clone(&unsigned)), Ok(DataType::Int64));
        let float: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
        for (to, column) in [(DataType::Float64, decimal(2)), (DataType::Int32, unsigned), (DataType::Int64, float)] {
            let error = announced(to, column).unwrap_err();
            assert!(error.message.starts_with("column `x` was described with the type "), "{}", error.message);
            assert!(error.message.contains("CAST"), "{}", error.message);
        }
    }
}
