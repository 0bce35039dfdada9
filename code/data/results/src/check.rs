//! Checks that columns can be written in a format, before the query runs.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use buzz_engine::Batches;
use buzz_protocol::{Format, QueryError, Result, identifier};

use crate::format::{WriteError, write_batches};
use crate::table::Layout;

/// Checks that a result with `schema` can be written as `format`, before the query runs.
///
/// # Errors
/// `Invalid` if the format has no form for the type of a column, or if two columns have the same name and the format
/// requires different names.
pub fn check(schema: &Schema, format: Format) -> Result<()> {
    match format {
        Format::Json | Format::Ndjson => {
            unique(schema.fields(), "which a JSON object cannot contain; rename one: \"SELECT … AS other_name\"")?;
            schema.fields().iter().try_for_each(|field| unique_within(field, field.data_type()))?;
        }
        Format::Parquet => {
            unique(schema.fields(), "which most readers of Parquet reject; rename one: \"SELECT … AS other_name\"")?
        }
        Format::Table | Format::Csv | Format::Arrow => {}
    }
    schema.fields().iter().try_for_each(|field| has_form(field, format))
}

fn unique(fields: &Fields, remedy: &str) -> Result<()> {
    let mut names = HashSet::new();
    match fields.iter().find(|field| !names.insert(field.name())) {
        Some(twice) => Err(QueryError::invalid(format!("two columns are called `{}`, {remedy}", twice.name()))),
        None => Ok(()),
    }
}

/// Checks the names within the structs of `column`.
fn unique_within(column: &Field, data_type: &DataType) -> Result<()> {
    match data_type {
        DataType::Struct(fields) => {
            let mut names = HashSet::new();
            if let Some(twice) = fields.iter().find(|field| !names.insert(field.name())) {
                return Err(QueryError::invalid(format!(
                    "column `{}` has a struct with two fields `{}`, which a JSON object cannot contain; rename one",
                    column.name(),
                    twice.name()
                )));
            }
            fields.iter().try_for_each(|field| unique_within(column, field.data_type()))
        }
        // The entries of a map are a struct of two fields, whose names are not written.
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) => pair.iter().try_for_each(|field| unique_within(column, field.data_type())),
            _ => Ok(()),
        },
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => unique_within(column, item.data_type()),
        DataType::Dictionary(_, values) => unique_within(column, values),
        DataType::RunEndEncoded(_, values) => unique_within(column, values.data_type()),
        _ => Ok(()),
    }
}

/// Writes a null of the type of `column` to nowhere: the writers themselves report the types that they do not support.
fn has_form(column: &Field, format: Format) -> Result<()> {
    let field = Field::new(column.name(), column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![new_null_array(column.data_type(), 1)])?;
    let read = || -> Result<Batches> { Ok(Box::new(std::iter::once(Ok(batch.clone())))) };
    match write_batches(&schema, &read, format, &Layout::default(), &mut io::sink()) {
        Ok(_) => Ok(()),
        Err(WriteError::Io(error)) => Err(QueryError::internal(format!("a trial of the format failed: {error}"))),
        Err(WriteError::Rows(_)) => Err(QueryError::invalid(format!(
            "column `{}` has the type {}, which cannot be written as {format}; choose another format, or convert the \
             column, for example CAST({} AS VARCHAR)",
            column.name(),
            column.data_type(),
            identifier(column.name()),
        ))),
    }
}
