//! Tables that are looked up: joins find their rows as of the newest read. They are read whole, before an epoch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use buzz_connect::{BadData, OpenSource, Place, Source, open_source, parse_duration};
use buzz_protocol::{CHANGES, ErrorKind, QueryError, Result};
use buzz_stream::{SourceInput, TableDefinition, declared_columns};
use serde_json::{Value, json};

use crate::plan::read_columns;
use crate::runner::{Runner, position};

/// The value of the option `type` of a table that is looked up.
pub(crate) const LOOKUP: &str = "lookup";

/// Connectors of tables that can be looked up: those that have an end.
const BOUNDED: [&str; 6] = ["single_file", "filesystem", "parquet", "json", "csv", "delta"];

/// The option of the time after which a table is read again.
const REFRESH: &str = "lookup_refresh";

/// The option of the bytes that a table may have.
const MAX_BYTES: &str = "lookup_max_bytes";

/// Bytes that a table may have if [`MAX_BYTES`] is not set.
const MAX_BYTES_DEFAULT: usize = 256 << 20;

/// Rows that are read at once.
const ROWS_AT_ONCE: usize = 100_000;

/// A table that is looked up.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The time after which it is read again; `None`: only a start reads it.
    refresh: Option<Duration>,
    /// Bytes in memory that its rows may have.
    max_bytes: usize,
    /// Treatment of rows that cannot be decoded, or do not fit.
    bad_data: BadData,
    /// The last read, if there was one since the state was loaded.
    read: Option<Instant>,
    /// The last read as records have it.
    note: Value,
}

impl Lookup {
    /// Opens `table` without reading its rows. Returns its columns too.
    ///
    /// # Errors
    /// `Invalid` if the connector cannot be looked up or an option is wrong; errors of the store.
    pub(crate) async fn open(table: &TableDefinition, place: &Place) -> Result<(Self, SourceInput)> {
        let connector = table.option("connector").unwrap_or_default();
        if !BOUNDED.contains(&connector) {
            return Err(QueryError::invalid(format!(
                "connector `{connector}` cannot be looked up, since its rows have no end; use one of {}",
                BOUNDED.join(", ")
            )));
        }
        if ["late", "idle_timeout", "max_drift"].iter().any(|option| table.option(option).is_some())
            || table.option("bad_data") == Some("side")
        {
            return Err(QueryError::invalid(
                "options late, idle_timeout and max_drift, and bad_data = 'side', are for streams; remove them from a table \
                 with type = 'lookup'",
            ));
        }
        let wrong = |option: &str, required: &str| {
            let given = table.option(option).unwrap_or_default();
            QueryError::invalid(format!("option `{option}` is `{given}`; {required} is required"))
        };
        let refresh = match table.option(REFRESH) {
            None | Some("start") => None,
            Some(text) => {
                let nanos = parse_duration(text).filter(|nanos| *nanos > 0);
                let nanos = nanos.ok_or_else(|| wrong(REFRESH, "start, or a time such as 1 minute,"))?;
                Some(Duration::from_nanos(nanos.unsigned_abs()))
            }
        };
        let max_bytes = match table.option(MAX_BYTES) {
            None => MAX_BYTES_DEFAULT,
            Some(text) => text.trim().parse().map_err(|_| wrong(MAX_BYTES, "a number of bytes"))?,
        };
        let opened = opened(table, place).await?;
        if opened.source.schema().metadata().contains_key(CHANGES) {
            return Err(QueryError::invalid(
                "rows that change cannot be looked up, since the rows before each change would be found too; remove \
                 type = 'lookup', or look up a table that has each row once",
            ));
        }
        let input = SourceInput {
            schema: opened.source.schema(),
            time_column: None,
            delay: 0,
            late_side: false,
            bad_side: false,
            is_lookup: true,
        };
        Ok((Self { refresh, max_bytes, bad_data: opened.bad_data, read: None, note: Value::Null }, input))
    }

    /// Returns true if the table must be read before the next epoch.
    fn is_due(&self) -> bool {
        self.read.is_none_or(|read| self.refresh.is_some_and(|refresh| read.elapsed() >= refresh))
    }

    /// Forgets that the table was read.
    pub(crate) fn forget(&mut self) {
        self.read = None;
    }

    /// Reads all rows of `table`. `now` is the time in nanoseconds since 1970.
    async fn read(&mut self, table: &TableDefinition, place: &Place, now: i64) -> Result<Found> {
        let mut source = opened(table, place).await?.source;
        let found = rows_of(source.as_mut(), self.max_bytes, now).await?;
        let count: usize = found.rows.iter().map(RecordBatch::num_rows).sum();
        self.note = json!({"rows": count, "at_ms": now / 1_000_000, "position": position(&source.offset())});
        self.read = Some(Instant::now());
        Ok(found)
    }
}

/// Opens `table` as a source that ends.
async fn opened(table: &TableDefinition, place: &Place) -> Result<OpenSource> {
    let columns = declared_columns(table).await?.map(|schema| read_columns(table, &schema));
    let mut options = table.options.clone();
    options.remove(REFRESH);
    options.remove(MAX_BYTES);
    let place = Place { until_end: true, ..place.clone() };
    open_source(&table.name, &options, columns, &place, None).await
}

/// The rows of a table, and those that could not be decoded: the text and the reason.
struct Found {
    rows: Vec<RecordBatch>,
    bad: Vec<(String, String)>,
}

/// Reads the rows of `source` to its end.
///
/// # Errors
/// `Limit` if they have more than `max_bytes`, `Data` if the table does not exist; errors of the source.
async fn rows_of(source: &mut dyn Source, max_bytes: usize, now: i64) -> Result<Found> {
    let (mut rows, mut bad, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
    loop {
        let read = source.read(ROWS_AT_ONCE, now).await?;
        let before = rows.len();
        bad.extend(read.bad.into_iter().map(|row| (row.text, row.reason)));
        for batch in read.partitions.into_iter().flat_map(|(_, batches)| batches) {
            for column in batch.columns() {
                bytes = bytes.saturating_add(column.to_data().get_slice_memory_size()?);
                let views = match column.data_type() {
                    DataType::Utf8View => column.as_string_view().views(),
                    DataType::BinaryView => column.as_binary_view().views(),
                    _ => continue,
                };
                // The length is in the low half of a view; up to 12 bytes are in the view itself.
                let lengths = views.iter().map(|view| (*view & 0xffff_ffff) as usize).filter(|length| *length > 12);
                bytes = bytes.saturating_add(lengths.sum());
            }
            rows.push(batch);
        }
        if bytes > max_bytes {
            return Err(QueryError::limit(format!(
                "its rows have more than {max_bytes} bytes in memory, where they are kept; set {MAX_BYTES} to a higher number of \
                 bytes, or leave out columns"
            )));
        }
        let is_over = read.ended || (!read.more && rows.len() == before);
        // A folder or a table that is missing: all rows would be without a match.
        if let Some(note) = read.notes.first().filter(|_| is_over && rows.is_empty()) {
            return Err(QueryError::data(format!("it has no rows: {note}; write the table, or correct its path")));
        }
        if is_over {
            return Ok(Found { rows, bad });
        }
    }
}

impl Runner {
    /// Reads the tables that are looked up and that have not been read since the start or for as long as they say.
    ///
    /// # Errors
    /// Errors of the tables. An error names the table.
    pub(crate) async fn look_up(&mut self, now: i64) -> Result<()> {
        let planned = &mut self.planned;
        for (name, lookup) in planned.lookups.iter_mut().filter(|(_, lookup)| lookup.is_due()) {
            let Some(table) = planned.script.table(name) else { continue };
            let place = format!("lookup table {name}");
            let found = lookup.read(table, &planned.process.place, now).await;
            let found = match found {
                Ok(found) => found,
                Err(error)
                    if lookup.read.is_some() && matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Data) =>
                {
                    // The next read may succeed.
                    lookup.read = Some(Instant::now());
                    planned.process.notes.warn(&format!("{place}: the rows of the read before are used: {error}"));
                    continue;
                }
                Err(error) => return Err(error.at(place.as_str())),
            };
            let Found { rows, mut bad } = found;
            let unfit = planned.pipeline.look_up(&mut self.state, name, rows, now);
            bad.extend(unfit.map_err(|error| error.at(place.as_str()))?);
            let Some((text, reason)) = bad.first() else { continue };
            if lookup.bad_data == BadData::Fail {
                return Err(QueryError::data(format!(
                    "a row is bad: {reason}; repair it, or set bad_data = 'drop': {text}"
                ))
                .at(place));
            }
            let count = bad.len();
            planned.process.notes.note(&format!("{place}: {count} bad rows are left out, such as {text}: {reason}"));
        }
        Ok(())
    }

    /// Returns the last read of each table that is looked up: rows, time and position.
    pub(crate) fn looked_up(&self) -> BTreeMap<&str, &Value> {
        self.planned.lookups.iter().map(|(name, lookup)| (name.as_str(), &lookup.note)).collect()
    }
}
