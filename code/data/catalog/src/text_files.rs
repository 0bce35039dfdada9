//! CSV and JSON files: one file, a folder, or a glob. The schema comes from the catalog entry or is inferred from the
//! start of the files.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use buzz_protocol::{
    CatalogEntry, CatalogType, ColumnSpec, CsvFormat, FileFormat, JsonFormat, Place, QueryError, Result,
};
use buzz_storage::text::{Sample, column_names, encoding, sample};
use buzz_storage::{QueryStores, full_path};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use crate::dialect::{Dialect, FirstLine, first_line, sniff_dialect};
use crate::files::{Found, find, some_of};
use crate::hive;
use crate::infer::{Inferred, csv_columns, merged};
use crate::infer_json::json_columns;
use crate::parquet_files::with_partitions;
use crate::spelling::Spellings;
use crate::table::{DataFile, Table};

/// File name extensions of CSV files.
pub(crate) const CSV_ENDS: &[&str] = &["csv", "tsv", "psv", "txt"];

/// File name extensions of files with JSON objects.
pub(crate) const JSON_ENDS: &[&str] = &["jsonl", "ndjson", "json"];

/// Number of files of which more is read to infer types: the first, the last, and some between.
const SAMPLED_FILES: usize = 8;

/// Bytes of text that are read from each of them. Smaller files are read whole, so their types are certain.
const SAMPLE_BYTES: usize = 4 << 20;

/// Bytes of text that are read from the other files, for their columns.
const HEAD_BYTES: usize = 16 << 10;

/// Maximum number of files of which all are read for their columns.
const HEADS_MAX: usize = 1000;

/// Number of files that are read for the columns of a table with more than [`HEADS_MAX`] files.
const HEADS_OF_MANY: usize = 64;

/// Maximum number of files that are read concurrently.
const HEADS_AT_ONCE: usize = 32;

/// Opens the CSV or JSON table that `entry` names.
pub(crate) async fn open(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Table> {
    let ends = if entry.kind == CatalogType::Csv { CSV_ENDS } else { JSON_ENDS };
    let label = entry.encoding.as_deref().map(encoding).transpose()?.flatten().map(|known| known.name().to_string());
    let entry = &CatalogEntry { encoding: label, ..entry.clone() };
    let found = find(&entry.uri, ends, base, stores).await?;
    let store = stores.store(&found.root.store)?;
    let partitions = hive::partitions(&found, entry.partition_columns.as_deref())?;
    let opened = match entry.kind {
        CatalogType::Csv => open_csv(entry, &found, &store).await?,
        _ => open_json(entry, &found, &store).await?,
    };
    let (schema, overlaps) = with_partitions(opened.schema, &partitions);
    let count = found.files.len();
    let files = found.files.into_iter().zip(partitions.values);
    let files = files.map(|(object, values)| DataFile::found(object, values)).collect();
    let columns = partitions.fields.into_iter().map(|field| field.name().clone()).collect();
    let mut table = Table::new(entry.uri.clone(), found.root.store, &schema, columns, files)?;
    table.format = opened.format;
    table.warnings.extend(found.warnings);
    table.warnings.extend(opened.warnings);
    table.warnings.extend(partitions.spellings.warnings(&entry.name));
    table.warnings.extend(overlaps);
    if count > HEADS_MAX && entry.schema.is_none() {
        table.warnings.push(format!(
            "table `{}` has {count} files: its columns come from {HEADS_OF_MANY} of them; set `schema` in the catalog entry",
            entry.name
        ));
    }
    Ok(table)
}

/// The format and the columns of the files.
struct Opened {
    format: FileFormat,
    schema: Schema,
    warnings: Vec<String>,
}

/// The start of a file, and its name for messages.
struct Head {
    sample: Sample,
    file: Place,
}

async fn open_csv(entry: &CatalogEntry, found: &Found, store: &Arc<dyn ObjectStore>) -> Result<Opened> {
    let mut csv = entry.csv_format()?;
    let is_complete =
        entry.schema.is_some() && entry.delimiter.is_some() && entry.escape.is_some() && entry.header.is_some();
    let heads = if is_complete { Vec::new() } else { heads(entry, FileFormat::Csv(csv.clone()), found, store).await? };
    if let Some(dialect) = dialect(entry, &csv, &heads)? {
        (csv.delimiter, csv.escape) = (dialect.delimiter, dialect.escape);
    }
    if entry.header.is_none() {
        csv.header = has_header(&csv, &heads)?;
    }
    csv.newlines_in_values |= heads.iter().any(|head| !head.sample.is_plain);
    let mut warnings = Vec::new();
    let schema = match &entry.schema {
        Some(schema) => given(schema)?,
        None => {
            let columns = heads
                .iter()
                .map(|head| csv_columns(&csv, &head.sample.text).map_err(|error| error.at(head.file.clone())));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let spellings = Spellings::of(columns.iter().map(|file| names(file)));
            warnings.extend(spellings.warnings(&entry.name));
            if csv.header {
                warnings.extend(strangers(&entry.name, &heads, &columns, &spellings));
            }
            not_empty(merged(columns, &spellings))?
        }
    };
    Ok(Opened { format: FileFormat::Csv(csv), schema, warnings })
}

async fn open_json(entry: &CatalogEntry, found: &Found, store: &Arc<dyn ObjectStore>) -> Result<Opened> {
    let mut json = JsonFormat {
        newlines_in_values: entry.newlines_in_values.unwrap_or_default(),
        compression: entry.compression,
        encoding: entry.encoding.clone(),
        ..JsonFormat::default()
    };
    let is_complete = entry.schema.is_some() && entry.newlines_in_values.is_some();
    let heads =
        if is_complete { Vec::new() } else { heads(entry, FileFormat::Json(json.clone()), found, store).await? };
    let (mut columns, mut apart) = (Vec::new(), Vec::new());
    for head in &heads {
        let found = json_columns(&head.sample).map_err(|error| error.at(head.file.clone()))?;
        json.newlines_in_values |= !found.is_in_lines && !found.columns.is_empty();
        apart.extend(found.apart);
        columns.push(found.columns);
    }
    if let Some(given_columns) = &entry.schema {
        return Ok(Opened { format: FileFormat::Json(json), schema: given(given_columns)?, warnings: Vec::new() });
    }
    // Spellings of one file are of different objects, except those of `apart`.
    let single = columns.iter().flatten().map(|column| vec![column.name.as_str()]);
    let together = apart.iter().map(|object| object.iter().map(String::as_str).collect());
    let spellings = Spellings::of(single.chain(together));
    json.spellings = spellings.others();
    let warnings = spellings.warnings(&entry.name);
    Ok(Opened { format: FileFormat::Json(json), schema: not_empty(merged(columns, &spellings))?, warnings })
}

fn names(columns: &[Inferred]) -> impl Iterator<Item = &str> {
    columns.iter().map(|column| column.name.as_str())
}

fn not_empty(schema: Schema) -> Result<Schema> {
    if schema.fields().is_empty() {
        return Err(QueryError::data("its files contain no columns; set `schema` in the catalog entry"));
    }
    Ok(schema)
}

/// Returns a warning if a file has no column of the first file: it may have no header.
fn strangers(table: &str, heads: &[Head], columns: &[Vec<Inferred>], spellings: &Spellings) -> Option<String> {
    let mut files = heads.iter().zip(columns).filter(|(_, columns)| !columns.is_empty());
    let (first, known) = files.next()?;
    let is_known = |name: &str| names(known).any(|known| spellings.name(known) == spellings.name(name));
    let (other, _) = files.find(|(_, columns)| !names(columns).any(is_known))?;
    Some(format!(
        "table `{table}`: {} has no column of {}; set `header` in the catalog entry to false if its first line is data",
        other.file, first.file
    ))
}

/// Determines if the files begin with the names of their columns.
///
/// # Errors
/// `Data` if one file begins with names and another one with values.
fn has_header(csv: &CsvFormat, heads: &[Head]) -> Result<bool> {
    let mut known: [Option<&Head>; 2] = [None, None];
    for head in heads {
        match first_line(csv, &head.sample.text) {
            FirstLine::Names => known[0] = known[0].or(Some(head)),
            FirstLine::Values => known[1] = known[1].or(Some(head)),
            FirstLine::Unknown => {}
        }
    }
    match known {
        // The names may be numbers, such as years.
        [Some(named), Some(other)] if !share_a_name(csv, named, other) => Err(QueryError::data(format!(
            "{} begins with a header but {} with data; set `header` in the catalog entry, or make them two tables",
            named.file, other.file
        ))),
        [Some(_), _] | [None, None] => Ok(true),
        [None, Some(_)] => Ok(false),
    }
}

fn share_a_name(csv: &CsvFormat, a: &Head, b: &Head) -> bool {
    let csv = CsvFormat { header: true, ..csv.clone() };
    let [a, b] = [a, b].map(|head| column_names(&csv, &head.sample.text).unwrap_or_default());
    a.iter().any(|name| b.contains(name))
}

/// Detects the dialect of the files that start with `heads`. A delimiter or escape in the entry is kept. Returns `None`
/// if no file shows a dialect.
///
/// # Errors
/// `Data` if two files have different delimiters.
fn dialect(entry: &CatalogEntry, csv: &CsvFormat, heads: &[Head]) -> Result<Option<Dialect>> {
    let given = entry.delimiter.is_some().then_some(csv.delimiter);
    let mut known: Option<(Dialect, &Place)> = None;
    for Head { sample, file } in heads {
        let head = &sample.text;
        let Some(found) = sniff_dialect(csv, given, head) else { continue };
        let Some((all, first)) = &mut known else {
            known = Some((found, file));
            continue;
        };
        // A small file may be consistent with several delimiters.
        let is_divided = || sniff_dialect(csv, Some(all.delimiter), head).is_some();
        if all.delimiter != found.delimiter && !is_divided() {
            let [a, b] = [all.delimiter, found.delimiter].map(|byte| char::from(byte).escape_default());
            return Err(QueryError::data(format!(
                "{first} is delimited by `{a}` but {file} by `{b}`; set `delimiter`, or split the table in two"
            )));
        }
        all.escape = all.escape.or(found.escape);
    }
    Ok(known.map(|(dialect, _)| dialect))
}

/// Converts the column list of an entry to a schema.
///
/// # Errors
/// `Invalid` if a type is unknown.
pub(crate) fn given(schema: &[ColumnSpec]) -> Result<Schema> {
    Ok(Schema::new(schema.iter().map(ColumnSpec::field).collect::<Result<Vec<Field>>>()?))
}

/// Reads the start of the files: of all up to [`HEADS_MAX`] files, otherwise of [`HEADS_OF_MANY`]; with a `schema`, of
/// [`SAMPLED_FILES`].
async fn heads(
    entry: &CatalogEntry,
    format: FileFormat,
    found: &Found,
    store: &Arc<dyn ObjectStore>,
) -> Result<Vec<Head>> {
    let sampled = some_of(&found.files, SAMPLED_FILES);
    let looked_into = match found.files.len() {
        _ if entry.schema.is_some() => sampled.clone(),
        count if count <= HEADS_MAX => found.files.iter().collect(),
        _ => some_of(&found.files, HEADS_OF_MANY),
    };
    let types_wanted = entry.schema.is_none() || entry.kind == CatalogType::Csv;
    let mut reading = Vec::new();
    for object in looked_into {
        let is_sampled = types_wanted && sampled.iter().any(|sampled| sampled.location == object.location);
        let bytes = if is_sampled { SAMPLE_BYTES } else { HEAD_BYTES };
        let file = Place::File { path: full_path(&found.root.store, object.location.as_ref()), table: None };
        let format = &format;
        reading.push(async move {
            match sample(store, object, format, bytes).await {
                Ok(sample) => Ok(Head { sample, file }),
                Err(error) => Err(error.at(file)),
            }
        });
    }
    futures::stream::iter(reading).buffered(HEADS_AT_ONCE).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, text: &str) -> Head {
        let sample = Sample { text: text.as_bytes().to_vec().into(), is_cut: false, is_plain: true };
        Head { sample, file: Place::File { path: name.to_string(), table: None } }
    }

    #[test]
    fn files_with_and_without_a_header_are_not_one_table() {
        let csv = CsvFormat::default();
        let has = |files: &[&str]| {
            let heads: Vec<Head> = files.iter().enumerate().map(|(n, text)| head(&format!("{n}.csv"), text)).collect();
            has_header(&csv, &heads).map_err(|error| error.message)
        };
        assert_eq!(has(&["", "a,b\n", "a,b\n1,2\n"]), Ok(true));
        assert_eq!(has(&["x,-\n", "1,2\n"]), Ok(false));
        assert_eq!(has(&["a,b\nx,y\n"]), Ok(true));
        let error = has(&["a,b\n1,2\n", "3,4\n"]).unwrap_err();
        assert!(error.contains("`0.csv` begins with a header but file `1.csv` with data"), "{error}");
    }
}
