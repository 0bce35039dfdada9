//! Rows of an answer on their way to a client, of which some may have been sent.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use buzz_engine::{Batches, Summary};
use buzz_protocol::QueryError;

use crate::desk::Answered;
use crate::planner::plain_schema;
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

    fn load(&mut self, batch: &RecordBatch) -> Result<(), PgError> {
        // A value that does not fit is an error instead of a null.
        let exact = CastOptions { safe: false, ..Default::default() };
        let fields = self.schema.fields().iter();
        let columns = fields.zip(batch.columns()).map(|(field, column)| {
            if column.data_type() == field.data_type() {
                return Ok(Arc::clone(column));
            }
            cast_with_options(column, field.data_type(), &exact).map_err(|error| {
                PgError::from(QueryError::invalid(format!("column `{}` has changed its type: {error}", field.name())))
            })
        });
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

/// Checks that `array` is null at `row`. A column of type Null has no bits that say so.
pub(super) fn is_null(array: &dyn Array, row: usize) -> bool {
    array.is_null(row) || array.data_type().is_null()
}
