//! CSV and JSON files: one file, a folder, or a glob. The schema comes from the catalog entry or is inferred from the
//! start of the files.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use buzz_protocol::{CatalogEntry, CatalogType, ColumnSpec, CsvFormat, FileFormat, Place, QueryError, Result};
use buzz_storage::text::sample;
use buzz_storage::{QueryStores, full_path};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use crate::dialect::{Dialect, sniff_dialect, sniff_header};
use crate::files::{find, some_of};
use crate::hive;
use crate::infer::{Inferred, csv_columns, merged};
use crate::infer_json::json_columns;
use crate::parquet_files::with_partitions;
use crate::table::{DataFile, Table};

/// File name extensions of CSV files.
pub(crate) const CSV_ENDS: &[&str] = &["csv", "tsv", "psv", "txt"];

/// File name extensions of files with one JSON object per line.
pub(crate) const JSON_ENDS: &[&str] = &["jsonl", "ndjson", "json"];

/// Maximum number of files from which the schema is inferred: the first, the last, and some between.
const SAMPLED_FILES: usize = 8;

/// Maximum bytes of text that are read from each of them. Smaller files are read whole, so their types are certain.
const SAMPLE_BYTES: usize = 4 << 20;

/// Opens the CSV or JSON table that `entry` names.
pub(crate) async fn open(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Table> {
    let ends = if entry.kind == CatalogType::Csv { CSV_ENDS } else { JSON_ENDS };
    let found = find(&entry.uri, ends, base, stores).await?;
    let store = stores.store(&found.root.store)?;
    let partitions = hive::partitions(&found, entry.partition_columns.as_deref())?;
    let place =
        |object: &ObjectMeta| Place::File { path: full_path(&found.root.store, object.location.as_ref()), table: None };

    let (format, schema) = if entry.kind == CatalogType::Csv {
        let mut csv = entry.csv_format()?;
        let heads =
            if looks_into_files(entry) { heads(entry, &csv, &found.files, &store, place).await? } else { vec![] };
        if let Some(dialect) = dialect(entry, &csv, &heads)? {
            (csv.delimiter, csv.escape) = (dialect.delimiter, dialect.escape);
        }
        // Skip empty files: they do not reveal whether the others have a header.
        if entry.header.is_none()
            && let Some((head, _)) = heads.iter().find(|(head, _)| !head.trim_ascii().is_empty())
        {
            csv.header = sniff_header(&csv, head);
        }
        let schema = match &entry.schema {
            Some(schema) => given(schema)?,
            None => inferred(&heads, |head| csv_columns(&csv, head))?,
        };
        (FileFormat::Csv(csv), schema)
    } else {
        let format = FileFormat::Json { compression: entry.compression };
        let schema = match &entry.schema {
            Some(schema) => given(schema)?,
            None => {
                let heads = heads(entry, &CsvFormat::default(), &found.files, &store, place).await?;
                inferred(&heads, json_columns)?
            }
        };
        (format, schema)
    };

    let schema = with_partitions(schema, &partitions);
    let files = found.files.into_iter().zip(partitions.values);
    let files = files.map(|(object, values)| DataFile::found(object, values)).collect();
    let columns = partitions.fields.into_iter().map(|field| field.name().clone()).collect();
    let mut table = Table::new(entry.uri.clone(), found.root.store, &schema, columns, files)?;
    table.format = format;
    Ok(table)
}

/// Detects the dialect of the files that start with `heads`. A delimiter or escape in the entry is kept. Returns `None`
/// if no file shows a dialect.
///
/// # Errors
/// `Data` if two files have different delimiters.
fn dialect(entry: &CatalogEntry, csv: &CsvFormat, heads: &[(Bytes, Place)]) -> Result<Option<Dialect>> {
    let given = entry.delimiter.is_some().then_some(csv.delimiter);
    let mut known: Option<(Dialect, &Place)> = None;
    for (head, name) in heads {
        let Some(found) = sniff_dialect(csv, given, head) else { continue };
        let Some((all, first)) = &mut known else {
            known = Some((found, name));
            continue;
        };
        // A small file may be consistent with several delimiters.
        let is_divided = || sniff_dialect(csv, Some(all.delimiter), head).is_some();
        if all.delimiter != found.delimiter && !is_divided() {
            let [a, b] = [all.delimiter, found.delimiter].map(|byte| char::from(byte).escape_default());
            return Err(QueryError::data(format!(
                "{first} is delimited by `{a}` but {name} by `{b}`; set `delimiter`, or split the table in two"
            )));
        }
        all.escape = all.escape.or(found.escape);
    }
    Ok(known.map(|(dialect, _)| dialect))
}

/// Returns whether the entry lacks an option that must be detected from the files.
fn looks_into_files(entry: &CatalogEntry) -> bool {
    entry.schema.is_none() || entry.delimiter.is_none() || entry.escape.is_none() || entry.header.is_none()
}

/// Converts the column list of an entry to a schema.
///
/// # Errors
/// `Invalid` if a type is unknown.
pub(crate) fn given(schema: &[ColumnSpec]) -> Result<Schema> {
    Ok(Schema::new(schema.iter().map(ColumnSpec::field).collect::<Result<Vec<Field>>>()?))
}

/// Reads the start of some of the files. Returns it with the file's name for messages.
async fn heads(
    entry: &CatalogEntry,
    csv: &CsvFormat,
    files: &[ObjectMeta],
    store: &Arc<dyn ObjectStore>,
    place: impl Fn(&ObjectMeta) -> Place,
) -> Result<Vec<(Bytes, Place)>> {
    let format = match entry.kind {
        CatalogType::Csv => FileFormat::Csv(csv.clone()),
        _ => FileFormat::Json { compression: entry.compression },
    };
    let mut reading = Vec::new();
    for object in some_of(files, SAMPLED_FILES) {
        let (format, name) = (&format, place(object));
        reading.push(async move {
            match sample(store, object, format, SAMPLE_BYTES).await {
                Ok(head) => Ok((head, name)),
                Err(error) => Err(error.at(name)),
            }
        });
    }
    futures::stream::iter(reading).buffered(SAMPLED_FILES).try_collect().await
}

fn inferred(heads: &[(Bytes, Place)], columns: impl Fn(&[u8]) -> Result<Vec<Inferred>>) -> Result<Schema> {
    let mut all = Vec::new();
    for (head, name) in heads {
        all.push(columns(head).map_err(|error| error.at(name.clone()))?);
    }
    let schema = merged(all);
    if schema.fields().is_empty() {
        return Err(QueryError::data("its files contain no columns; set `schema` in the catalog entry"));
    }
    Ok(schema)
}
