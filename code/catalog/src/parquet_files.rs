//! Parquet files: one, a folder of them, or a glob. The schema is that of all footers together.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use buzz_protocol::{CatalogEntry, QueryError, Result};
use buzz_storage::{Location, Storage, full_path};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};
use parquet::file::metadata::ParquetMetaData;

use crate::files::find;
use crate::hive;
use crate::statistics::FileStatistics;
use crate::table::{DataFile, Table};

/// Endings of Parquet files' names.
pub(crate) const ENDS: &[&str] = &["parquet", "parq", "pq"];

/// Footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 32;

pub(crate) async fn open(entry: &CatalogEntry, base: &Path, storage: &Storage) -> Result<Table> {
    let found = find(&entry.uri, ENDS, base, storage).await?;
    let store = storage.store(&found.root.store)?;
    let reading = found.files.iter().map(|object| read_footer(Arc::clone(&store), &found.root, object.clone()));
    let reading: Vec<_> = reading.collect();
    let footers: Vec<(Schema, Arc<ParquetMetaData>)> =
        futures::stream::iter(reading).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    let partitions = hive::partitions(&found, entry.partition_columns.as_deref())?;
    let paths = found.files.iter().map(|object| full_path(&found.root.store, object.location.as_ref()));
    let schemas: Vec<(String, &Schema)> = paths.zip(footers.iter().map(|(schema, _)| schema)).collect();
    let schema = with_partitions(merge(&schemas)?, &partitions);
    let files = found.files.into_iter().zip(partitions.values);
    let files = files.map(|(object, values)| DataFile::found(object, values)).collect();
    let columns = partitions.fields.into_iter().map(|field| field.name().clone()).collect();
    let mut table = Table::new(entry.uri.clone(), found.root.store, &schema, columns, files)?;
    table.statistics = Some(FileStatistics::of_footers(&table.file_schema(), &footers)?);
    Ok(table)
}

/// `schema` with the partition columns behind it. Where files have a column of that name too, the path's value counts.
pub(crate) fn with_partitions(schema: Schema, partitions: &hive::Partitions) -> Schema {
    let is_partition = |field: &FieldRef| partitions.fields.iter().any(|partition| partition.name() == field.name());
    let in_files = schema.fields().iter().filter(|field| !is_partition(field)).cloned();
    Schema::new(in_files.chain(partitions.fields.iter().cloned().map(Arc::new)).collect::<Vec<_>>())
}

async fn read_footer(
    store: Arc<dyn ObjectStore>,
    root: &Location,
    object: ObjectMeta,
) -> Result<(Schema, Arc<ParquetMetaData>)> {
    let place = |error: QueryError| error.at(format!("file `{}`", full_path(&root.store, object.location.as_ref())));
    let footer = buzz_storage::footer(store.as_ref(), &object, None).await.map_err(place)?;
    Ok((buzz_storage::footer_schema(&footer).map_err(place)?, footer))
}

/// All columns of all files; one that a file lacks is null there.
fn merge(schemas: &[(String, &Schema)]) -> Result<Schema> {
    let mut merged: Vec<(FieldRef, &str)> = Vec::new();
    for (path, schema) in schemas {
        for field in schema.fields() {
            match merged.iter().find(|(known, _)| known.name() == field.name()) {
                None => merged.push((Arc::clone(field), path)),
                Some((known, first)) if known.data_type() != field.data_type() => {
                    return Err(QueryError::data(format!(
                        "column `{}` is {} in `{first}` and {} in `{path}`",
                        field.name(),
                        known.data_type(),
                        field.data_type()
                    )));
                }
                Some(_) => {}
            }
        }
    }
    Ok(Schema::new(merged.into_iter().map(|(field, _)| field).collect::<Vec<_>>()))
}
