//! Columns whose values are in the path of a file, as `day=2024-01-31/part.parquet`.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use buzz_catalog::{partition_folders, partition_type, partition_value};
use buzz_protocol::{QueryError, Result};
use datafusion::scalar::ScalarValue;
use object_store::path::Path;

/// Returns the partition columns in the path of `file` below `folder`. Their types are those of this file's values: they
/// must not depend on files that come later.
pub(crate) fn fields(folder: &Path, file: &Path) -> Result<Vec<Field>> {
    let folders = partition_folders(folder.parts().count(), file)?;
    let field = |(name, text): (String, Option<String>)| {
        let data_type = partition_type(&name, &text.as_deref().into_iter().collect::<Vec<_>>());
        Field::new(name, data_type, true)
    };
    Ok(folders.into_iter().map(field).collect())
}

/// Returns the values of the columns of `schema` that are in the path of `file` below `folder`, by the position of the
/// column.
///
/// # Errors
/// `Data` if a value does not fit the type of its column.
pub(crate) fn values(schema: &Schema, folder: Option<&Path>, file: &str) -> Result<Vec<(usize, ScalarValue)>> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let path = Path::parse(file).map_err(|error| QueryError::internal(format!("`{file}` is not a path: {error}")))?;
    let mut values = Vec::new();
    for (name, text) in partition_folders(folder.parts().count(), &path)? {
        let Ok(index) = schema.index_of(&name) else { continue };
        let value = partition_value(&name, schema.field(index).data_type(), text.as_deref());
        let value = value.map_err(|error| QueryError {
            message: format!("{}; declare the column with another type", error.message),
            ..error
        })?;
        values.push((index, value));
    }
    Ok(values)
}

/// Returns the columns of `schema` that are not in the path of a file.
pub(crate) fn own_columns(schema: &SchemaRef, partitions: &[(usize, ScalarValue)]) -> SchemaRef {
    if partitions.is_empty() {
        return Arc::clone(schema);
    }
    let own = schema.fields().iter().enumerate().filter(|(index, _)| partitions.iter().all(|(at, _)| at != index));
    Arc::new(Schema::new(own.map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>()))
}

/// Adds the values of a file's path to a batch of its own columns. The columns are those of `schema`.
pub(crate) fn with_partitions(
    batch: RecordBatch,
    schema: &SchemaRef,
    partitions: &[(usize, ScalarValue)],
) -> Result<RecordBatch> {
    if partitions.is_empty() {
        return Ok(batch);
    }
    let mut own = batch.columns().iter();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for index in 0..schema.fields().len() {
        let value = partitions.iter().find(|(at, _)| *at == index).map(|(_, value)| value);
        columns.push(match value {
            Some(value) => value.to_array_of_size(batch.num_rows())?,
            None => Arc::clone(own.next().ok_or_else(|| QueryError::internal("a batch lacks columns of its file"))?),
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
