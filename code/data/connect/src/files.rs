//! Files as a source: one file, or a folder of files that may be followed.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use buzz_storage::text::{check_capitals, plain_text};
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use crate::decode::{Decoded, Format, csv_names, decode_file, decode_lines, file_schema, foreign_keys};
use crate::listing::{Key, Listing, key};
use crate::names::first_keys;
use crate::partition::{self, own_columns, with_partitions};
use crate::records::{csv_header_end, csv_start, cut, records};
use crate::source::{BadData, BadRow, Source, SourceBatch};

/// Bytes of lines that one task decodes.
const PIECE_BYTES: usize = 1 << 20;

/// Average bytes of a row, from which the number of rows of a read is estimated.
const ROW_BYTES: usize = 128;

/// Reads files that were not read yet, in the order of their last change, then of their names.
#[derive(Debug)]
pub struct FileSource {
    /// The store of the files.
    pub store: Arc<dyn ObjectStore>,
    /// The file, or the folder.
    pub path: Path,
    /// Stands before paths in messages: `/` on this machine.
    pub root: String,
    /// `path` is a folder.
    pub folder: bool,
    /// Waits for new files instead of ending.
    pub follow: bool,
    /// The format of the files.
    pub format: Format,
    /// The columns.
    pub schema: SchemaRef,
    /// Treatment of rows that cannot be decoded.
    pub bad_data: BadData,
    /// The file that was read last.
    pub(crate) last: Option<Key>,
    /// Bytes (of lines) or batches that were read of the current file.
    pub(crate) position: u64,
    pub(crate) current: Option<Current>,
    /// Files of the last listing that are not read yet.
    pub(crate) queue: VecDeque<ObjectMeta>,
    pub(crate) listing: Listing,
}

#[derive(Debug)]
pub(crate) struct Current {
    key: Key,
    /// The file as it was listed.
    file: ObjectMeta,
    /// Bytes before the first row.
    start: u64,
    /// The rest of the lines.
    lines: Bytes,
    names: Vec<String>,
    /// Batches of a binary file, decoded and not returned yet.
    batches: VecDeque<RecordBatch>,
    /// Values of columns that are in the path of the file, by their position.
    partitions: Vec<(usize, ScalarValue)>,
    /// The reason why no record of the file is a row of the table.
    foreign: Option<String>,
}

impl Current {
    /// Returns whether all rows were taken.
    fn is_exhausted(&self) -> bool {
        self.lines.is_empty() && self.batches.is_empty()
    }
}

impl FileSource {
    /// Opens a file or a folder.
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, format: Format, schema: SchemaRef) -> Self {
        Self {
            store,
            path,
            root: String::new(),
            folder: false,
            follow: false,
            format,
            schema,
            bad_data: BadData::Fail,
            last: None,
            position: 0,
            current: None,
            queue: VecDeque::new(),
            listing: Listing::default(),
        }
    }

    /// Resumes from an offset.
    ///
    /// # Errors
    /// `Data` if the offset is not one of files.
    pub fn resume(&mut self, offset: &Value) -> Result<()> {
        let broken = || QueryError::data(format!("offset {offset} is not one of files"));
        self.position = offset.get("position").and_then(Value::as_u64).ok_or_else(broken)?;
        self.last = match (offset.get("time").and_then(Value::as_i64), offset.get("file").and_then(Value::as_str)) {
            (Some(time), Some(file)) => Some((time, file.to_string())),
            _ => None,
        };
        self.listing.resume(offset, self.last.as_ref(), self.position > 0).ok_or_else(broken)
    }

    async fn listed(&self) -> Result<Vec<ObjectMeta>> {
        if !self.folder {
            return match self.store.head(&self.path).await {
                Ok(meta) => Ok(vec![meta]),
                Err(object_store::Error::NotFound { .. }) if self.follow => Ok(Vec::new()),
                Err(object_store::Error::NotFound { .. }) => {
                    Err(QueryError::data(format!("file `{}{}` does not exist", self.root, self.path)))
                }
                Err(error) => Err(error.into()),
            };
        }
        let mut files: Vec<ObjectMeta> = self.store.list(Some(&self.path)).try_collect().await?;
        // As in a table of files: a folder such as `_year=2024` is not hidden.
        let depth = self.path.parts().count();
        let hidden = |part: &str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
        files.retain(|file| !file.location.parts().skip(depth).any(|part| hidden(part.as_ref())) && file.size > 0);
        files.sort_by_key(key);
        Ok(files)
    }

    /// Returns what the source waits for.
    fn waiting(&self) -> String {
        let place = format!("{}{}", self.root, self.path);
        let exists = self.root == "/" && std::path::Path::new(&place).exists();
        format!("`{place}` {} yet; waiting for it", if exists { "has no files" } else { "does not exist" })
    }

    /// Opens the next file. Returns false if there is none.
    async fn open_next(&mut self, now: i64, notes: &mut Vec<String>) -> Result<bool> {
        if self.queue.is_empty() {
            let listed = self.listed().await?;
            if listed.is_empty() && self.last.is_none() && self.follow {
                notes.push(self.waiting());
            }
            let now_ms = now / 1_000_000;
            let (mut unread, told) = self.listing.unread(&listed, now_ms, &self.root)?;
            notes.extend(told);
            unread.retain(|file| !self.follow || self.listing.is_settled(file, now_ms));
            self.queue = unread.into();
            if self.position > 0 {
                self.reopen(&listed)?;
            }
        }
        let Some(file) = self.queue.pop_front() else { return Ok(false) };
        let mut bytes = self.store.get(&file.location).await?.bytes().await?;
        if self.format.has_lines() {
            // Positions are those of the text.
            let text = plain_text(bytes).await;
            bytes = text.map_err(|error| error.at(format!("{}{}", self.root, file.location)))?;
        }
        self.current = Some(self.opened(file, bytes)?);
        Ok(true)
    }

    /// Puts the file that was read in part before the others.
    fn reopen(&mut self, listed: &[ObjectMeta]) -> Result<()> {
        let Some(file) = listed.iter().find(|file| Some(key(file)) == self.last) else {
            let file = self.last.as_ref().map(|last| last.1.as_str()).unwrap_or_default();
            return Err(QueryError::data(format!(
                "file `{}{file}` was read in part and has changed or disappeared since; restore it, or start again without \
                 --state",
                self.root
            )));
        };
        self.queue.retain(|other| other.location != file.location);
        self.queue.push_front(file.clone());
        Ok(())
    }

    fn opened(&self, file: ObjectMeta, bytes: Bytes) -> Result<Current> {
        let key = key(&file);
        let partitions = partition::values(&self.schema, self.folder.then_some(&self.path), &key.1)
            .map_err(|error| error.at(format!("{}{}", self.root, key.1)))?;
        let mut current = Current {
            key,
            file,
            start: 0,
            lines: Bytes::new(),
            names: Vec::new(),
            batches: VecDeque::new(),
            partitions,
            foreign: None,
        };
        // The columns that the file itself must have.
        let own = own_columns(&self.schema, &current.partitions);
        if !self.format.has_lines() {
            let decoded = decode_file(&self.format, &own, bytes)
                .map_err(|error| error.at(format!("{}{}", self.root, current.key.1)))?;
            current.batches = decoded.into_iter().skip(self.position as usize).collect();
            return Ok(current);
        }
        let is_json = self.format == (Format::Json { unstructured: false });
        if is_json {
            check_capitals(&own, first_keys(&bytes).iter().map(String::as_str))
                .map_err(|error| error.at(format!("{}{}", self.root, current.key.1)))?;
        }
        if is_json && let Some(keys) = foreign_keys(&own, &bytes) {
            let reason = format!("has none of the table's columns; it has {keys}");
            if self.bad_data == BadData::Fail {
                return Err(QueryError::data(format!(
                    "no row of file `{}{}` {reason}; correct the columns of the table or the path, or set \
                     bad_data = 'drop'",
                    self.root, current.key.1
                )));
            }
            current.foreign = Some(format!("the file {reason}"));
        }
        let mut start = 0;
        if let Format::Csv { header, delimiter } = self.format {
            if header {
                start = csv_header_end(&bytes, delimiter).map_err(|reason| {
                    let error = QueryError::data(format!("the header is not readable: {reason}; correct the file"));
                    error.at(format!("{}{}", self.root, current.key.1))
                })?;
                current.names = csv_names(&bytes[..start], delimiter);
                self.check_names(&current.key.1, &current.names, &own)?;
            } else {
                start = csv_start(&bytes);
                current.names = own.fields().iter().map(|field| field.name().clone()).collect();
            }
        }
        current.start = start as u64;
        let position = (self.position as usize).max(start);
        if position > bytes.len() {
            return Err(QueryError::data(format!("file `{}` is shorter than what was read of it", current.key.1)));
        }
        current.lines = bytes.slice(position..);
        Ok(current)
    }

    /// Checks that the first line of a CSV file names a column of the table: otherwise it is a row, and every value of the file
    /// would be null. Checks that it names none with other capital letters.
    fn check_names(&self, file: &str, names: &[String], own: &Schema) -> Result<()> {
        check_capitals(own, names.iter().map(String::as_str))
            .map_err(|error| error.at(format!("{}{file}", self.root)))?;
        let fits = own.fields().is_empty() || names.iter().any(|name| own.field_with_name(name).is_ok());
        if names.is_empty() || fits {
            return Ok(());
        }
        let first: String = names.join(",").chars().take(200).collect();
        Err(QueryError::data(format!(
            "the first line of file `{}{file}`, `{first}`, has none of the table's columns; if the files have no header, set \
             header = 'false', and else give the columns the names of the header",
            self.root
        )))
    }

    /// Takes up to `rows` rows of the current file. Returns None if it has no more.
    async fn take(&mut self, rows: usize) -> Result<Option<Decoded>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        if !self.format.has_lines() {
            let mut decoded = Decoded::default();
            let mut count = 0;
            while count < rows
                && let Some(batch) = current.batches.pop_front()
            {
                count += batch.num_rows();
                self.position += 1;
                decoded.batches.push(with_partitions(batch, &self.schema, &current.partitions)?);
            }
            return Ok((!decoded.batches.is_empty()).then_some(decoded));
        }
        if current.lines.is_empty() {
            return Ok(None);
        }
        let wanted = rows.saturating_mul(ROW_BYTES).clamp(1, 256 << 20);
        if let Some(reason) = &current.foreign {
            let taken = cut(&self.format, &current.lines, wanted);
            let bad = records(&self.format, &current.lines[..taken]);
            let bad = bad.map(|record| BadRow { text: record.row(), reason: reason.clone() }).collect();
            current.lines = current.lines.slice(taken..);
            self.position = self.position.max(current.start) + taken as u64;
            return Ok(Some(Decoded { batches: Vec::new(), bad }));
        }
        let own = own_columns(&self.schema, &current.partitions);
        let piece_bytes = PIECE_BYTES.min(wanted.div_ceil(2));
        let (mut tasks, mut taken) = (Vec::new(), 0);
        while taken < wanted.min(current.lines.len()) {
            let size = cut(&self.format, &current.lines[taken..], piece_bytes.min(wanted - taken));
            let piece = current.lines.slice(taken..taken + size);
            taken += size;
            let (format, schema, names) = (self.format.clone(), Arc::clone(&own), current.names.clone());
            let bad_data = self.bad_data;
            tasks.push(tokio::task::spawn_blocking(move || decode_lines(&format, &schema, &names, &piece, bad_data)));
        }
        let mut decoded = Decoded::default();
        for task in tasks {
            let part = task.await.map_err(|error| QueryError::internal(format!("a decoder stopped: {error}")))?;
            let part = part.map_err(|error| error.at(format!("{}{}", self.root, current.key.1)))?;
            for batch in part.batches {
                decoded.batches.push(with_partitions(batch, &self.schema, &current.partitions)?);
            }
            decoded.bad.extend(part.bad);
        }
        current.lines = current.lines.slice(taken..);
        self.position = self.position.max(current.start) + taken as u64;
        Ok(Some(decoded))
    }

    /// Notes that the current file was read to its end.
    fn finish(&mut self) {
        if let Some(current) = self.current.take() {
            self.listing.finish(&current.file);
            self.last = Some(current.key);
        }
        self.position = 0;
    }
}

/// Returns the columns of the first file, for formats that contain them.
///
/// # Errors
/// `Invalid` if the columns are not known.
pub(crate) async fn first_schema(source: &FileSource, table: &str) -> Result<SchemaRef> {
    let declare = || {
        QueryError::invalid(format!("table `{table}` has no columns, and no file contains them; declare its columns"))
    };
    if source.format.has_lines() {
        return Err(declare());
    }
    let file = source.listed().await?.into_iter().next().ok_or_else(declare)?;
    let bytes = source.store.get(&file.location).await?.bytes().await?;
    let mut fields: Vec<_> = file_schema(&source.format, bytes)?.fields().iter().cloned().collect();
    if source.folder {
        for field in partition::fields(&source.path, &file.location)? {
            match fields.iter_mut().find(|known| known.name() == field.name()) {
                Some(known) => *known = Arc::new(field),
                None => fields.push(Arc::new(field)),
            }
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

#[async_trait]
impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn read(&mut self, rows: usize, now: i64) -> Result<SourceBatch> {
        let mut read = SourceBatch::default();
        let (mut batches, mut count) = (Vec::new(), 0);
        while count < rows {
            if self.current.is_none() && !self.open_next(now, &mut read.notes).await? {
                if !self.follow && self.last.is_none() {
                    return Err(QueryError::data(format!(
                        "`{}{}` has no files; check the option `path`, or follow the folder: without --until-end, and not as a lookup table",
                        self.root, self.path
                    )));
                }
                read.ended = !self.follow;
                break;
            }
            let before = self.position;
            match self.take(rows - count).await? {
                Some(decoded) => {
                    read.bytes += if self.format.has_lines() { self.position - before } else { 0 };
                    self.last = self.current.as_ref().map(|current| current.key.clone());
                    if self.current.as_ref().is_some_and(Current::is_exhausted) {
                        // The file is no longer needed; an offset within it would require it.
                        self.finish();
                    }
                    count += decoded.batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>();
                    batches.extend(decoded.batches);
                    read.bad.extend(decoded.bad);
                }
                None => self.finish(),
            }
        }
        read.more = count >= rows;
        read.partitions = vec![("0".to_string(), batches)];
        Ok(read)
    }

    fn offset(&self) -> Value {
        let (time, file) = match &self.last {
            Some((time, file)) => (json!(time), json!(file)),
            None => (Value::Null, Value::Null),
        };
        let (floor, read) = self.listing.offset();
        json!({"time": time, "file": file, "position": self.position, "floor": floor, "read": read})
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use object_store::memory::InMemory;

    use super::*;

    fn source(store: &Arc<InMemory>, format: Format) -> FileSource {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let mut source = FileSource::new(Arc::clone(store) as _, Path::from("in"), format, schema);
        source.folder = true;
        source
    }

    async fn put(store: &InMemory, name: &str, text: &str) {
        store.put(&Path::from(format!("in/{name}")), text.to_string().into()).await.expect("it is writable");
    }

    fn rows(read: &SourceBatch) -> usize {
        read.partitions.iter().flat_map(|(_, batches)| batches).map(RecordBatch::num_rows).sum()
    }

    #[tokio::test]
    async fn first_line_ends_with_any_line_break() {
        for text in ["n\n1\n2\n", "n\r\n1\r\n2\r\n", "n\r1\r2\r", "n\r1\r2"] {
            let store = Arc::new(InMemory::new());
            put(&store, "a.csv", text).await;
            let mut source = source(&store, Format::Csv { header: true, delimiter: b',' });
            let read = source.read(100, 0).await.expect("it is readable");
            assert_eq!(rows(&read), 2, "{text:?}");
        }
    }

    #[tokio::test]
    async fn compressed_file_is_read_as_its_text() {
        // `n\n1\n2\n`
        let file: &[u8] =
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\xe3\x32\xe4\x32\xe2\x02\x00\x55\x70\x29\x81\x06\x00\x00\x00";
        let store = Arc::new(InMemory::new());
        let place = Path::from("in/a.csv.gz");
        store.put(&place, Bytes::from_static(file).into()).await.expect("it is writable");
        let format = Format::Csv { header: true, delimiter: b',' };
        let read = source(&store, format.clone()).read(100, 0).await.expect("it is readable");
        assert_eq!(rows(&read), 2);
        store.put(&place, Bytes::from_static(&file[..14]).into()).await.expect("it is writable");
        let error = source(&store, format).read(100, 0).await.expect_err("the file is truncated");
        let text = error.to_string();
        assert!(text.contains("in/a.csv.gz") && text.contains("not readable gzip"), "{text}");
    }

    #[tokio::test]
    async fn file_that_was_read_in_part_must_still_be_there() {
        let store = Arc::new(InMemory::new());
        let lines: String = (0..1000).map(|n| format!("{{\"n\": {n}}}\n")).collect();
        put(&store, "a.json", &lines).await;
        let format = Format::Json { unstructured: false };
        let mut first = source(&store, format.clone());
        let read = rows(&first.read(10, 0).await.expect("it is readable"));
        assert!(0 < read && read < 1000, "{read} rows");
        let offset = first.offset();

        let mut again = source(&store, format.clone());
        again.resume(&offset).expect("the offset is one of files");
        assert_eq!(rows(&again.read(10_000, 0).await.expect("it is readable")), 1000 - read);

        store.delete(&Path::from("in/a.json")).await.expect("it exists");
        let mut gone = source(&store, format);
        gone.resume(&offset).expect("the offset is one of files");
        let error = gone.read(10_000, 0).await.expect_err("rows are missing");
        assert!(error.message.contains("was read in part and has changed or disappeared"), "{error}");
    }

    #[tokio::test]
    async fn file_that_was_read_completely_may_disappear() {
        let store = Arc::new(InMemory::new());
        put(&store, "a.json", "{\"n\": 1}\n").await;
        let format = Format::Json { unstructured: false };
        let mut first = source(&store, format.clone());
        assert_eq!(rows(&first.read(1, 0).await.expect("it is readable")), 1);
        let offset = first.offset();
        store.delete(&Path::from("in/a.json")).await.expect("it exists");
        put(&store, "b.json", "{\"n\": 2}\n").await;
        let mut again = source(&store, format);
        again.resume(&offset).expect("the offset is one of files");
        assert_eq!(rows(&again.read(10, 0).await.expect("it is readable")), 1);
    }

    #[tokio::test]
    async fn csv_rows_with_line_breaks_are_the_same_in_any_steps() {
        let store = Arc::new(InMemory::new());
        let rows_of = |number: usize| format!("{number},\"first line {number}\nsecond \"\"line\"\"\n\nfourth\"\r\n");
        put(&store, "a.csv", &format!("n,\"t\nu\"\n{}", (0..300).map(rows_of).collect::<String>())).await;
        let format = Format::Csv { header: true, delimiter: b',' };
        for (step, bad_data) in [(1, BadData::Fail), (7, BadData::Drop), (1_000, BadData::Fail)] {
            let (mut offset, mut found) = (None, 0);
            loop {
                let mut source = source(&store, format.clone());
                source.bad_data = bad_data;
                if let Some(offset) = &offset {
                    source.resume(offset).expect("the offset is one of files");
                }
                let read = source.read(step, 0).await.expect("each row is good");
                assert!(read.bad.is_empty());
                found += rows(&read);
                offset = Some(source.offset());
                if read.ended {
                    break;
                }
            }
            assert_eq!(found, 300, "steps of {step} rows");
        }
    }

    #[tokio::test]
    async fn file_with_an_older_time_is_read_after_a_restart() {
        let store = Arc::new(InMemory::new());
        let format = Format::Json { unstructured: false };
        put(&store, "a.json", "{\"n\": 1}\n").await;
        let mut first = source(&store, format.clone());
        first.read(10, 0).await.expect("it is readable");
        let mut offset = first.offset();
        // The last file that was read is one of the future.
        offset["time"] = json!(i64::MAX);
        put(&store, "b.json", "{\"n\": 2}\n{\"n\": 3}\n").await;
        let mut again = source(&store, format.clone());
        again.resume(&offset).expect("the offset is one of files");
        assert_eq!(rows(&again.read(10, 0).await.expect("it is readable")), 2);
        put(&store, "a.json", "{\"n\": 1}\n{\"n\": 4}\n").await;
        for _ in 0..2 {
            let mut changed = source(&store, format.clone());
            changed.resume(&again.offset()).expect("the offset is one of files");
            let error = changed.read(10, 0).await.expect_err("its first row would be read again");
            assert!(error.message.contains("in/a.json` was read and has changed since"), "{error}");
        }
    }
}
