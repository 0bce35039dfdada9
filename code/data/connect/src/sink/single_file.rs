//! One local file as a sink.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use buzz_storage::is_disk_full;
use serde_json::{Value, json};

use super::encode::check_format;
use super::{Sink, WriteFormat, Written, encode_lines};

/// Appends rows to one local file. A file beside it, `.<name>.buzz`, has the pipeline, the last complete epoch and the
/// length of the file after it; what lies behind that length was not completed and is cut off. It is created before the
/// first rows, so a file with rows and without it was not written by a pipeline, and is never changed. Of several
/// processes, one writes at a time.
#[derive(Debug)]
pub struct SingleFile {
    /// The file.
    pub path: PathBuf,
    /// JSON or CSV.
    pub format: WriteFormat,
    /// Identifies the pipeline. A file of another pipeline is not changed.
    pub pipeline: String,
}

/// Time to wait for another process to write an epoch.
const LOCK_TIME_MAX: Duration = Duration::from_secs(10);

/// The content of the file beside the target.
#[derive(Debug, Default, PartialEq)]
struct Progress {
    pipeline: String,
    epoch: u64,
    length: u64,
    /// The columns of a CSV file.
    columns: Option<Vec<String>>,
}

impl Progress {
    fn decode(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let number = |key: &str| value[key].as_u64().ok_or_else(|| format!("it has no number `{key}`"));
        let columns = value["columns"].as_array().map(|columns| {
            columns.iter().map(|name| name.as_str().unwrap_or_default().to_string()).collect::<Vec<_>>()
        });
        let pipeline = value["pipeline"].as_str().ok_or_else(|| "it has no text `pipeline`".to_string())?;
        Ok(Self { pipeline: pipeline.to_string(), epoch: number("epoch")?, length: number("length")?, columns })
    }

    fn encode(&self) -> String {
        let Self { pipeline, epoch, length, columns } = self;
        json!({"pipeline": pipeline, "epoch": epoch, "length": length, "columns": columns}).to_string()
    }
}

impl SingleFile {
    /// Checks that the file can be created: its folder exists, it is not a folder itself, and its rows, if it has some, are
    /// those of a pipeline.
    ///
    /// # Errors
    /// `Invalid`, with the path.
    pub fn check_path(&self) -> Result<()> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        if !folder.is_dir() {
            return Err(QueryError::invalid(format!(
                "folder `{}` of file `{}` does not exist; create it, or name another path",
                folder.display(),
                self.path.display()
            )));
        }
        if self.path.is_dir() {
            return Err(QueryError::invalid(format!(
                "`{}` is a folder; name a file, or use connector = 'json' or 'csv' to write files into it",
                self.path.display()
            )));
        }
        let length = self.length()?;
        if self.found()?.is_none() { self.check_free(length, None) } else { Ok(()) }
    }

    /// Returns the path of a file beside the target, which is not a row of it.
    fn beside(&self, extension: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.{extension}"))
    }

    /// Reads the file beside the target, of this pipeline or another one.
    fn found(&self) -> Result<Option<Progress>> {
        let path = self.beside("buzz");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        let unreadable =
            |why: String| QueryError::data(format!("`{}` is not readable: {why}; restore it", path.display()));
        Progress::decode(&text).map(Some).map_err(unreadable)
    }

    /// Returns the progress of this pipeline; `None` if it has written nothing.
    ///
    /// # Errors
    /// `Invalid` if the file has rows that this pipeline did not write.
    fn own(&self) -> Result<Option<Progress>> {
        // Before the record, since another process may create that and then write rows.
        let length = self.length()?;
        match self.found()? {
            Some(progress) if progress.pipeline == self.pipeline => Ok(Some(progress)),
            other => self.check_free(length, other.as_ref()).map(|()| None),
        }
    }

    /// Fails if `length`, that of the file, is not 0. `other` is the pipeline that wrote it, if it is known.
    fn check_free(&self, length: u64, other: Option<&Progress>) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let (path, record) = (self.path.display(), self.beside("buzz"));
        let record = record.display();
        Err(QueryError::invalid(match other {
            Some(other) => format!(
                "file `{path}` has {length} bytes of another run, `{}`; move it away together with `{record}`, or name \
                 another path",
                other.pipeline
            ),
            None => format!(
                "file `{path}` has {length} bytes, and `{record}` does not exist, which has a pipeline's position in it; \
                 move the file away, name another path, or restore `{record}`"
            ),
        }))
    }

    /// Returns the length of the file; 0 if it does not exist.
    fn length(&self) -> Result<u64> {
        match std::fs::metadata(&self.path) {
            Ok(file) => Ok(file.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Returns the names that a file of CSV has for the columns.
    fn names(&self, columns: &Schema) -> Option<Vec<String>> {
        let is_csv = matches!(self.format, WriteFormat::Csv { .. });
        is_csv.then(|| columns.fields().iter().map(|field| field.name().clone()).collect())
    }

    /// Fails if the file has other columns than `names`.
    fn check_names(&self, before: &Progress, names: Option<&Vec<String>>) -> Result<()> {
        match (&before.columns, names) {
            (Some(before_names), Some(names)) if before.length > 0 && before_names != names => {
                Err(QueryError::invalid(format!(
                    "file `{}` has the columns {}, but the rows have the columns {}; name another path",
                    self.path.display(),
                    before_names.join(", "),
                    names.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &io::Error) -> QueryError {
        let text = format!("file `{}` is not writable: {error}", self.path.display());
        // The next try cuts off the bytes of this one.
        if is_disk_full(error) { QueryError::unavailable(text) } else { QueryError::data(text) }
    }

    /// Replaces the file beside the target in one step, and only when the new one is on the disk.
    fn record(&self, progress: &Progress) -> Result<()> {
        let failed = |error: io::Error| self.failed(&error);
        let staged = self.beside("buzz.tmp");
        let mut file = File::create(&staged).map_err(failed)?;
        file.write_all(progress.encode().as_bytes()).and_then(|()| file.sync_data()).map_err(failed)?;
        std::fs::rename(&staged, self.beside("buzz")).map_err(failed)?;
        // Without it, the old file could come back with the power.
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Waits until no other process writes the file, at most [`LOCK_TIME_MAX`]. The lock ends with the returned file, also
    /// if the process dies.
    ///
    /// Without it, a process that was stopped between reading the marker and writing could cut off rows that another one
    /// has written meanwhile.
    fn lock(&self) -> Result<File> {
        let path = self.beside("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| self.failed(&error))?;
        let started = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(self.failed(&error)),
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_TIME_MAX => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(QueryError::unavailable(format!(
                        "file `{}` is locked by another process, which writes it; stop that one",
                        self.path.display()
                    )));
                }
            }
        }
    }

    fn append(&self, epoch: u64, rows: &[RecordBatch]) -> Result<()> {
        let failed = |error: io::Error| self.failed(&error);
        let _lock = self.lock()?;
        let mut progress = match self.own()? {
            Some(progress) => progress,
            None => {
                // From here on the file is this pipeline's, also if the process dies while it writes the first rows.
                let progress = Progress { pipeline: self.pipeline.clone(), ..Progress::default() };
                self.record(&progress)?;
                progress
            }
        };
        if progress.epoch >= epoch {
            return Ok(());
        }
        let names = rows.first().and_then(|rows| self.names(&rows.schema()));
        self.check_names(&progress, names.as_ref())?;
        let bytes = encode_lines(self.format, progress.length == 0, rows)?;
        if self.length()? < progress.length {
            return Err(QueryError::data(format!(
                "file `{}` is shorter than the {} bytes that this pipeline has written; restore it, or delete it and `{}` \
                 to write the next rows only",
                self.path.display(),
                progress.length,
                self.beside("buzz").display()
            )));
        }
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path).map_err(failed)?;
        file.set_len(progress.length).map_err(failed)?;
        file.seek(SeekFrom::Start(progress.length)).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        progress.epoch = epoch;
        progress.length += bytes.len() as u64;
        progress.columns = names.or(progress.columns);
        self.record(&progress)
    }
}

#[async_trait]
impl Sink for SingleFile {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(self.found()?.filter(|found| found.pipeline == self.pipeline).map(|found| found.epoch))
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        self.append(epoch, rows)?;
        Ok(Written::Done)
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        check_format(self.format, columns)
    }

    async fn check_target(&self, columns: &Schema) -> Result<()> {
        match self.own()? {
            Some(progress) => self.check_names(&progress, self.names(columns).as_ref()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn row(value: i64) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![value])) as _)]).expect("one column")
    }

    fn sink(folder: &tempfile::TempDir, format: WriteFormat, pipeline: &str) -> SingleFile {
        SingleFile { path: folder.path().join("out"), format, pipeline: pipeline.into() }
    }

    fn text(sink: &SingleFile) -> String {
        std::fs::read_to_string(&sink.path).expect("it is readable")
    }

    #[test]
    fn repeated_epoch_is_appended_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = sink(&folder, WriteFormat::Json, "p");
        first.append(1, &[row(1)]).expect("it is writable");
        // A crash after the rows and before the marker.
        let mut file = OpenOptions::new().append(true).open(&first.path).expect("the file exists");
        file.write_all(b"{\"n\":").expect("it is writable");
        for (epoch, value) in [(2, 2), (2, 2), (1, 1)] {
            first.append(epoch, &[row(value)]).expect("it is writable");
        }
        assert_eq!(text(&first), "{\"n\":1}\n{\"n\":2}\n");
        assert_eq!(first.own().expect("it is readable").map(|progress| progress.epoch), Some(2));
    }

    #[test]
    fn process_that_dies_in_the_first_epoch_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let sink = sink(&folder, WriteFormat::Json, "p");
        // The record, and a part of the rows.
        sink.record(&Progress { pipeline: "p".into(), ..Progress::default() }).expect("it is writable");
        std::fs::write(&sink.path, "{\"n\":").expect("it is writable");
        sink.check_path().expect("the file is of this pipeline");
        for _ in 0..2 {
            sink.append(1, &[row(1)]).expect("it is writable");
        }
        assert_eq!(text(&sink), "{\"n\":1}\n");
    }

    #[tokio::test]
    async fn file_that_the_pipeline_did_not_write_is_not_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = sink(&folder, WriteFormat::Json, "p");
        let columns = row(1).schema();
        std::fs::write(&first.path, "precious").expect("it is writable");
        let errors = [
            first.check_path().expect_err("it has text"),
            first.check_target(&columns).await.expect_err("it has text"),
            first.append(1, &[row(1)]).expect_err("it has text"),
        ];
        for error in errors {
            let message = "has 8 bytes, and `";
            assert!(error.message.contains(message) && error.message.contains("move the file away"), "{error}");
        }
        assert_eq!(text(&first), "precious");
        std::fs::write(&first.path, "").expect("it is writable");
        first.append(1, &[row(1)]).expect("the file is empty");
        // Another pipeline.
        let other = sink(&folder, WriteFormat::Json, "q");
        for error in [
            other.check_target(&columns).await.expect_err("it has rows"),
            other.append(1, &[row(7)]).expect_err("it has rows"),
        ] {
            assert!(error.message.contains("has 8 bytes of another run, `p`; move it away together with"), "{error}");
        }
        first.append(2, &[row(2)]).expect("the file is as before");
        assert_eq!(text(&first), "{\"n\":1}\n{\"n\":2}\n");
        // Without its record, the pipeline does not know the file either.
        std::fs::remove_file(first.beside("buzz")).expect("it exists");
        first.append(3, &[row(3)]).expect_err("the record is missing");
        assert_eq!(text(&first), "{\"n\":1}\n{\"n\":2}\n");
        // A file that was moved away makes place.
        std::fs::remove_file(&first.path).expect("it exists");
        other.append(1, &[row(7)]).expect("the file is free");
        assert_eq!(text(&other), "{\"n\":7}\n");
    }

    #[test]
    fn missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |path: &str| SingleFile {
            path: folder.path().join(path),
            format: WriteFormat::Json,
            pipeline: "p".to_string(),
        };
        let error = file("none/out.json").check_path().expect_err("the folder is missing");
        assert!(error.message.contains("none` of file `") && error.message.contains("create it"), "{error}");
        let error = file("").check_path().expect_err("it is a folder");
        assert!(error.message.contains("is a folder; name a file"), "{error}");
    }

    #[tokio::test]
    async fn csv_file_keeps_its_columns() {
        let folder = tempfile::tempdir().expect("a folder");
        let sink = sink(&folder, WriteFormat::Csv { header: true }, "p");
        sink.append(1, &[row(1)]).expect("it is writable");
        let other = RecordBatch::try_from_iter([("m", Arc::new(Int64Array::from(vec![2])) as _)]).expect("one column");
        for error in [
            sink.check_target(&other.schema()).await.expect_err("the column has another name"),
            sink.append(2, &[other]).expect_err("the column has another name"),
        ] {
            assert!(error.message.contains("has the columns n, but the rows have the columns m"), "{error}");
        }
        assert_eq!(text(&sink), "n\n1\n");
    }

    #[test]
    fn shortened_file_or_broken_marker_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let sink = sink(&folder, WriteFormat::Json, "p");
        sink.append(1, &[row(1)]).expect("it is writable");
        std::fs::write(&sink.path, "").expect("it is writable");
        let error = sink.append(2, &[row(2)]).expect_err("rows are missing");
        assert!(error.message.contains("is shorter than the 8 bytes that this pipeline has written"), "{error}");
        assert_eq!(text(&sink), "");
        for marker in ["", "{", r#"{"pipeline": "p", "epoch": "1", "length": 8}"#] {
            std::fs::write(sink.beside("buzz"), marker).expect("it is writable");
            let error = sink.append(2, &[row(2)]).expect_err("the marker is broken");
            assert!(error.message.contains("is not readable"), "{marker}: {error}");
        }
    }

    #[test]
    fn csv_has_one_header() {
        for (header, expected) in [(true, "n\n1\n2\n"), (false, "1\n2\n")] {
            let folder = tempfile::tempdir().expect("a folder");
            let sink = sink(&folder, WriteFormat::Csv { header }, "p");
            for epoch in [1, 2] {
                sink.append(epoch, &[row(epoch as i64)]).expect("it is writable");
            }
            assert_eq!(text(&sink), expected);
        }
    }

    #[test]
    fn late_writer_of_an_old_epoch_cuts_off_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (slow, fast) = (sink(&folder, WriteFormat::Json, "p"), sink(&folder, WriteFormat::Json, "p"));
        let held = fast.lock().expect("it is free");
        let late = std::thread::spawn(move || slow.append(1, &[row(1)]));
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(held);
        for epoch in [1, 2, 3] {
            fast.append(epoch, &[row(epoch as i64)]).expect("it is writable");
        }
        late.join().expect("it ends").expect("it is writable");
        assert_eq!(text(&fast), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    }
}
