//! CSV and JSON files: one, a folder of them, or a glob. Their schema is given, or inferred from what they begin with.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use buzz_protocol::{CatalogEntry, CatalogType, ColumnSpec, CsvFormat, FileFormat, QueryError, Result};
use buzz_storage::text::sample;
use buzz_storage::{Storage, full_path};
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

/// Endings of CSV files' names.
pub(crate) const CSV_ENDS: &[&str] = &["csv", "tsv", "psv", "txt"];

/// Endings of the names of files with one JSON object a line.
pub(crate) const JSON_ENDS: &[&str] = &["jsonl", "ndjson", "json"];

/// Files that are looked into for the schema: the first, the last, and some between.
const SAMPLED_FILES: usize = 8;

/// Bytes of text that are looked at in each of them. Smaller files are seen whole, so their types are certain.
const SAMPLE_BYTES: usize = 4 << 20;

pub(crate) async fn open(entry: &CatalogEntry, base: &Path, storage: &Storage) -> Result<Table> {
    let ends = if entry.kind == CatalogType::Csv { CSV_ENDS } else { JSON_ENDS };
    let found = find(&entry.uri, ends, base, storage).await?;
    let store = storage.store(&found.root.store)?;
    let partitions = hive::partitions(&found, entry.partition_columns.as_deref())?;
    let place = |object: &ObjectMeta| format!("file `{}`", full_path(&found.root.store, object.location.as_ref()));

    let (format, schema) = if entry.kind == CatalogType::Csv {
        let mut csv = entry.csv_format()?;
        let heads =
            if looks_into_files(entry) { heads(entry, &csv, &found.files, &store, place).await? } else { vec![] };
        if let Some(dialect) = dialect(entry, &csv, &heads)? {
            (csv.delimiter, csv.escape) = (dialect.delimiter, dialect.escape);
        }
        // An empty file says nothing of the others.
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

/// The dialect of the files that begin with `heads`, where the entry leaves it open and one of them says it.
///
/// # Errors
/// `Data` when two files say different things.
fn dialect(entry: &CatalogEntry, csv: &CsvFormat, heads: &[(Bytes, String)]) -> Result<Option<Dialect>> {
    let given = entry.delimiter.is_some().then_some(csv.delimiter);
    let mut known: Option<(Dialect, &str)> = None;
    for (head, name) in heads {
        let Some(found) = sniff_dialect(csv, given, head) else { continue };
        let Some((all, first)) = &mut known else {
            known = Some((found, name));
            continue;
        };
        // A small file may look as if something else divided it too.
        let is_divided = || sniff_dialect(csv, Some(all.delimiter), head).is_some();
        if all.delimiter != found.delimiter && !is_divided() {
            let [a, b] = [all.delimiter, found.delimiter].map(|byte| char::from(byte).escape_default());
            return Err(QueryError::data(format!(
                "{first} is divided by `{a}` and {name} by `{b}`: say which with `delimiter`, or make it two tables"
            )));
        }
        all.escape = all.escape.or(found.escape);
    }
    Ok(known.map(|(dialect, _)| dialect))
}

/// Whether the entry leaves something open that only the files can say.
fn looks_into_files(entry: &CatalogEntry) -> bool {
    entry.schema.is_none() || entry.delimiter.is_none() || entry.escape.is_none() || entry.header.is_none()
}

/// The columns that an entry says are in the files.
///
/// # Errors
/// `Invalid` when a type is none.
pub(crate) fn given(schema: &[ColumnSpec]) -> Result<Schema> {
    Ok(Schema::new(schema.iter().map(ColumnSpec::field).collect::<Result<Vec<Field>>>()?))
}

/// What some of the files begin with, and their names for messages.
async fn heads(
    entry: &CatalogEntry,
    csv: &CsvFormat,
    files: &[ObjectMeta],
    store: &Arc<dyn ObjectStore>,
    place: impl Fn(&ObjectMeta) -> String,
) -> Result<Vec<(Bytes, String)>> {
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

fn inferred(heads: &[(Bytes, String)], columns: impl Fn(&[u8]) -> Result<Vec<Inferred>>) -> Result<Schema> {
    let mut all = Vec::new();
    for (head, name) in heads {
        all.push(columns(head).map_err(|error| error.at(name))?);
    }
    let schema = merged(all);
    if schema.fields().is_empty() {
        return Err(QueryError::data("no column is in its files; give the catalog a `schema`"));
    }
    Ok(schema)
}
