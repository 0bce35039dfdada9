//! Streams of rows that were pushed: their files are the segments that the log names, with the rows of each that count.

use std::collections::VecDeque;
use std::io::Cursor;
use std::path::Path;

use arrow::datatypes::{Field, Schema};
use arrow::ipc::reader::StreamReader;
use buzz_epoch::{Sealed, SourceLog};
use buzz_protocol::{CatalogEntry, ColumnSpec, CsvFormat, ErrorKind, FileFormat, QueryError, Result, SegmentsFormat};
use buzz_storage::text::{RowFormat, Sample};
use buzz_storage::{Location, QueryStores};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;

use crate::infer::{Inferred, csv_columns, merged};
use crate::infer_json::json_columns;
use crate::spelling::Spellings;
use crate::table::{DataFile, Table};
use crate::text_files::given;

/// Segments that are read for the columns of a stream that declares none.
const SAMPLED_SEGMENTS: usize = 64;

/// Segments that are read at once for columns.
const SAMPLES_AT_ONCE: usize = 8;

/// The folder of the streams of a place.
const STREAMS_FOLDER: &str = "sources";

/// Returns the folder of a place of streams, and the name of a stream, of `path`, which is that of the stream's folder.
fn divided(path: &StorePath) -> Option<(StorePath, String)> {
    let mut parts: VecDeque<_> = path.parts().collect();
    let name = parts.pop_back()?.as_ref().to_string();
    let is_stream = parts.pop_back()?.as_ref() == STREAMS_FOLDER;
    is_stream.then(|| (parts.into_iter().collect(), name))
}

/// Returns true if `place` is the folder of a stream.
pub(crate) async fn is_stream(place: &Location, stores: &QueryStores) -> Result<bool> {
    let Some((root, name)) = divided(&place.path) else { return Ok(false) };
    match SourceLog::existing(stores.store(&place.store)?, root, &name).await {
        Ok(found) => Ok(found.is_some()),
        // The folder has a name that no stream can have.
        Err(error) if error.kind == ErrorKind::Invalid => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens the stream that `entry` names, as its log is now. Rows that are kept and not sealed yet are not in it.
pub(crate) async fn open(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Table> {
    let place = Location::parse(&entry.uri, base)?;
    let store = stores.store(&place.store)?;
    let (root, name) = divided(&place.path).ok_or_else(|| {
        QueryError::invalid(format!(
            "`{}` names no stream; write PLACE/{STREAMS_FOLDER}/NAME, with the PLACE of `buzz serve --streams PLACE`",
            entry.uri
        ))
    })?;
    let log = SourceLog::existing(store, root, &name).await?;
    let log = log.ok_or_else(|| {
        QueryError::data(format!("stream `{}` does not exist; push rows to it, or correct the place", entry.uri))
    })?;
    let (head, sealed) = segments(&log).await?;
    let file = |sealed: &Sealed| {
        let runs: Vec<_> = sealed.runs().collect();
        let size = runs.iter().map(|run| run.bytes).sum();
        DataFile { size, runs: runs.into(), ..DataFile::named(log.path_of(sealed).to_string()) }
    };
    let files = sealed.iter().map(file).collect();
    let mut warnings = Vec::new();
    let declared = &log.spec().columns;
    let schema = if let Some(columns) = &entry.schema {
        given(columns)?
    } else if declared.is_empty() {
        if sealed.len() > SAMPLED_SEGMENTS {
            warnings.push(format!(
                "table `{}` is a stream that declares no columns: they come from {SAMPLED_SEGMENTS} of its {} segments; \
                 declare them, or set `schema` in the catalog entry",
                entry.name,
                sealed.len()
            ));
        }
        inferred(&log, &sealed).await?
    } else {
        let spec = |column: &buzz_epoch::SourceColumn| {
            ColumnSpec { name: column.name.clone(), data_type: column.data_type.clone() }.field()
        };
        Schema::new(declared.iter().map(spec).collect::<Result<Vec<Field>>>()?)
    };
    let mut table = Table::new(entry.uri.clone(), place.store, &schema, Vec::new(), files)?;
    let leaves_out_bad = matches!(log.spec().options.get("bad_data").map(String::as_str), Some("drop" | "side"));
    table.format = FileFormat::Segments(SegmentsFormat { leaves_out_bad });
    table.version = Some(head);
    table.warnings = warnings;
    Ok(table)
}

/// Returns the number of the newest entry, and the segments with rows that count, in the order of the log.
async fn segments(log: &SourceLog) -> Result<(u64, Vec<Sealed>)> {
    let entries = log.entries().await?;
    let head = entries.last().map_or(0, |entry| entry.n);
    let segments = entries.into_iter().flat_map(|entry| entry.segments);
    Ok((head, segments.filter(|segment| segment.runs().next().is_some()).collect()))
}

/// Infers the columns from segments at equal distances.
async fn inferred(log: &SourceLog, sealed: &[Sealed]) -> Result<Schema> {
    let count = sealed.len().min(SAMPLED_SEGMENTS);
    let chosen = (0..count).map(|number| &sealed[number * sealed.len() / count]);
    let read = |sealed: &'_ Sealed| {
        let sealed = sealed.clone();
        async move {
            columns(&log.segment(&sealed).await?.counted(&sealed)?)
                .map_err(|error| error.at(log.path_of(&sealed).to_string()))
        }
    };
    let reads: Vec<_> = chosen.map(read).collect();
    let found: Vec<Vec<Rows>> = futures::stream::iter(reads).buffered(SAMPLES_AT_ONCE).try_collect().await?;
    let (mut texts, mut schemas) = (Vec::new(), Vec::new());
    for rows in found.into_iter().flatten() {
        match rows {
            Rows::Text(columns) => texts.push(columns),
            Rows::Arrow(schema) => schemas.push(schema),
        }
    }
    let unknown = |reason: &str| {
        QueryError::data(format!(
            "the stream declares no columns, and {reason}; set `schema` in the catalog entry, or declare new streams with PUT \
             /v1/streams/NAME"
        ))
    };
    match (texts.is_empty(), schemas.is_empty()) {
        (true, true) => Err(unknown("has no rows yet")),
        (true, false) => {
            Schema::try_merge(schemas).map_err(|error| unknown(&format!("its requests do not agree: {error}")))
        }
        (false, true) => Ok(merged(texts, &Spellings::of(std::iter::empty::<Vec<&str>>()))),
        (false, false) => Err(unknown("its rows came both as text and as Arrow")),
    }
}

/// The columns of a request.
enum Rows {
    Text(Vec<Inferred>),
    Arrow(Schema),
}

/// Returns the columns of the requests of a segment.
fn columns(parts: &[(&buzz_epoch::Part, Bytes)]) -> Result<Vec<Rows>> {
    let mut found = Vec::new();
    for (part, bytes) in parts.iter().filter(|(part, _)| part.rows > 0) {
        found.push(match RowFormat::of(part.format.as_deref())? {
            RowFormat::Json => {
                let sample = Sample { text: bytes.clone(), is_cut: false, is_plain: true };
                Rows::Text(json_columns(&sample)?.columns)
            }
            RowFormat::Csv { header } => Rows::Text(csv_columns(&CsvFormat { header, ..CsvFormat::default() }, bytes)?),
            RowFormat::Arrow => {
                let reader = StreamReader::try_new(Cursor::new(bytes.clone()), None)?;
                Rows::Arrow(reader.schema().as_ref().clone())
            }
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_streams_are_recognised() {
        let divided = |path: &str| divided(&StorePath::from(path)).map(|(root, name)| (root.to_string(), name));
        assert_eq!(divided("data/streams/sources/clicks"), Some(("data/streams".into(), "clicks".into())));
        assert_eq!(divided("sources/clicks"), Some((String::new(), "clicks".into())));
        assert_eq!(divided("data/clicks"), None);
        assert_eq!(divided("sources"), None);
    }
}
