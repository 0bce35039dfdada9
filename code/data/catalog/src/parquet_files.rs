//! Parquet files: one file, a folder, or a glob. The schema comes from the catalog entry or is merged from all footers.
//! For more than 1,000 files, it is merged from 64 footers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, IntervalUnit, Schema};
use buzz_protocol::{CatalogEntry, Place, QueryError, Result};
use buzz_storage::{Location, QueryStores, full_path};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};
use parquet::file::metadata::ParquetMetaData;

use crate::files::{find, some_of};
use crate::hive;
use crate::merge::{merge, other_spellings};
use crate::spelling::Spellings;
use crate::statistics::FileStatistics;
use crate::table::{DataFile, Table};
use crate::text_files;

/// File name extensions of Parquet files.
pub(crate) use crate::files::PARQUET_ENDS as ENDS;

/// Maximum number of footers that are read concurrently.
pub(crate) const FOOTERS_AT_ONCE: usize = 32;

/// Maximum number of files for which all footers are read before a query is planned. For more files, reading the
/// footers costs more time and memory than their statistics save.
const FOOTERS_MAX: usize = 1000;

/// Number of files whose footers give the columns of a table with more than [`FOOTERS_MAX`] files.
const FILES_SAMPLED: usize = 64;

/// Opens the Parquet table that `entry` names.
pub(crate) async fn open(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Table> {
    let found = find(&entry.uri, ENDS, base, stores).await?;
    let store = stores.store(&found.root.store)?;
    let all = found.files.len() <= FOOTERS_MAX;
    let given = entry.schema.as_deref().map(text_files::given).transpose()?;
    let looked_into = match &given {
        _ if all => found.files.iter().collect(),
        None => some_of(&found.files, FILES_SAMPLED),
        Some(_) => Vec::new(),
    };
    let reading = looked_into.iter().map(|object| read_footer(Arc::clone(&store), &found.root, (*object).clone()));
    let reading: Vec<_> = reading.collect();
    let footers: Vec<(Schema, Arc<ParquetMetaData>)> =
        futures::stream::iter(reading).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    let partitions = hive::partitions(&found, entry.partition_columns.as_deref())?;
    if let Some(schema) = &given {
        for (object, (footer, _)) in looked_into.iter().zip(&footers) {
            check_texts(schema, footer).map_err(|error| {
                error.at(Place::File { path: full_path(&found.root.store, object.location.as_ref()), table: None })
            })?;
        }
    }
    let (is_given, sampled) = (given.is_some(), looked_into.len());
    let (schema, spellings) = match given {
        Some(schema) => (schema, Spellings::default()),
        None => {
            let paths = looked_into.iter().map(|object| full_path(&found.root.store, object.location.as_ref()));
            let is_read = |name: &str| !partitions.has(name);
            merge(&paths.zip(footers.iter().map(|(schema, _)| schema)).collect::<Vec<_>>(), is_read)?
        }
    };
    let nested = if is_given { Vec::new() } else { nested_spellings(&entry.name, &schema, &spellings, &footers) };
    let (schema, overlaps) = with_partitions(schema, &partitions);
    let files = found.files.into_iter().zip(partitions.values);
    let files = files.map(|(object, values)| DataFile::found(object, values)).collect();
    let spelled = [spellings.warnings(&entry.name), partitions.spellings.warnings(&entry.name), overlaps].concat();
    let columns = partitions.fields.into_iter().map(|field| field.name().clone()).collect();
    let mut table = Table::new(entry.uri.clone(), found.root.store, &schema, columns, files)?;
    table.warnings.extend(found.warnings);
    table.warnings.extend(spelled.into_iter().chain(nested));
    let interval = DataType::Interval(IntervalUnit::DayTime);
    table.warnings.extend(schema.fields().iter().filter(|field| *field.data_type() == interval).map(|field| {
        let name = &entry.name;
        format!(
            "table `{name}`: the months of intervals in column `{}` are ignored; only days and milliseconds are read",
            field.name()
        )
    }));
    if all {
        table.statistics = Some(FileStatistics::of_footers(&table.file_schema(), &footers)?);
    } else if !is_given {
        table.warnings.push(format!(
            "table `{}` has {} files: its columns come from {sampled} of them, and statistics prune no file; \
             set `schema` in the catalog entry, or use a Delta Lake table",
            entry.name,
            table.files.len()
        ));
    }
    Ok(table)
}

/// Returns a warning for each field of a struct that some files spell in another case than the `schema` of table `name`.
fn nested_spellings(
    name: &str,
    schema: &Schema,
    spellings: &Spellings,
    footers: &[(Schema, Arc<ParquetMetaData>)],
) -> Vec<String> {
    let mut found = BTreeSet::new();
    for field in footers.iter().flat_map(|(file, _)| file.fields()).filter(|field| field.data_type().is_nested()) {
        let column = spellings.name(field.name());
        if let Ok(wanted) = schema.field_with_name(column) {
            other_spellings(column, field.data_type(), wanted.data_type(), &mut found);
        }
    }
    let warning = |(path, other): (String, String)| {
        format!("table `{name}`: some files spell field `{path}` as `{other}`; it is read as one field")
    };
    found.into_iter().map(warning).collect()
}

/// Checks that no text of the given `schema` is binary in a file. The reader would take its bytes for UTF-8 unchecked.
fn check_texts(schema: &Schema, file: &Schema) -> Result<()> {
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    for field in schema.fields().iter().filter(|field| is_text(field.data_type())) {
        let Ok(found) = file.field_with_name(field.name()) else { continue };
        if matches!(found.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView) {
            return Err(QueryError::data(format!(
                "column `{}` is {}, which `schema` cannot turn into text; give it the type Binary, and use CAST in the \
                 statement",
                field.name(),
                found.data_type()
            )));
        }
    }
    Ok(())
}

/// Appends the partition columns to `schema`. If files have a column of the same name, the value in the path takes
/// precedence. Returns warnings about columns of files whose names differ from that of a partition column just in case.
pub(crate) fn with_partitions(schema: Schema, partitions: &hive::Partitions) -> (Schema, Vec<String>) {
    let (hidden, in_files): (Vec<FieldRef>, Vec<FieldRef>) =
        schema.fields().iter().cloned().partition(|field| partitions.has(field.name()));
    let is_same = |field: &&FieldRef| partitions.fields.iter().any(|partition| partition.name() == field.name());
    let warnings = hidden.iter().filter(|field| !is_same(field)).map(|field| {
        format!("column `{}` of the files is not read: the folders in the paths have its values", field.name())
    });
    let warnings = warnings.collect();
    let columns = in_files.into_iter().chain(partitions.fields.iter().cloned().map(Arc::new));
    (Schema::new(columns.collect::<Vec<_>>()), warnings)
}

pub(crate) async fn read_footer(
    store: Arc<dyn ObjectStore>,
    root: &Location,
    object: ObjectMeta,
) -> Result<(Schema, Arc<ParquetMetaData>)> {
    let place = |error: QueryError| {
        error.at(Place::File { path: full_path(&root.store, object.location.as_ref()), table: None })
    };
    let footer = buzz_storage::footer(store.as_ref(), &object, None).await.map_err(place)?;
    Ok((buzz_storage::footer_schema(&footer).map_err(place)?, footer))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use buzz_protocol::CatalogType;
    use buzz_testkit::{Asked, DistantStore};
    use parquet::arrow::ArrowWriter;
    use serde_json::json;

    use buzz_storage::Stores;

    use super::*;

    #[tokio::test]
    async fn footers_of_many_files_are_sampled() {
        let dir = tempfile::tempdir().unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let batch = RecordBatch::try_from_iter([("id", column)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        let file = |number: usize| dir.path().join(format!("part-{number:04}.parquet"));
        let asked = Arc::new(Asked::default());
        let counted = Arc::clone(&asked);
        let stores =
            Stores::with_wrapper(move |store| Arc::new(DistantStore::new(store, Duration::ZERO, Arc::clone(&counted))));
        let stores = Arc::new(stores).for_query();
        let mut entry = CatalogEntry::new("t", CatalogType::Parquet, dir.path().to_string_lossy());
        for number in 0..FOOTERS_MAX {
            std::fs::write(file(number), &bytes).unwrap();
        }
        let table = open(&entry, dir.path(), &stores).await.unwrap();
        assert_eq!((table.statistics.is_some(), table.warnings.len()), (true, 0));

        std::fs::write(file(FOOTERS_MAX), &bytes).unwrap();
        let before = asked.requests();
        let table = open(&entry, dir.path(), &stores).await.unwrap();
        assert!(asked.requests() - before < 4 * FILES_SAMPLED, "{} requests", asked.requests() - before);
        assert_eq!((table.files.len(), table.file_schema().fields().len()), (FOOTERS_MAX + 1, 1));
        assert!(table.statistics.is_none());
        assert!(table.warnings[0].contains("has 1001 files: its columns come from 64 of them"), "{:?}", table.warnings);

        entry.schema = serde_json::from_value(json!([{"name": "id", "type": "Int32"}])).unwrap();
        let before = asked.requests();
        let table = open(&entry, dir.path(), &stores).await.unwrap();
        // One of them looks for a Delta table in each folder above.
        assert!(asked.requests() - before < 12, "{} requests", asked.requests() - before);
        assert_eq!((table.schema.field(0).data_type().to_string(), table.warnings.len()), ("Int32".to_string(), 0));
    }
}
