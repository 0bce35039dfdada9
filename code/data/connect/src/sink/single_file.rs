//! One local file as a sink.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use serde_json::{Value, json};

use super::{Sink, WriteFormat, Written, encode_lines};

/// Appends rows to one local file. A file beside it, `.<name>.buzz`, has the last complete epoch and the length of the
/// file after it; what lies behind that length was not completed and is cut off. Of several processes, one writes at a
/// time.
#[derive(Debug)]
pub struct SingleFile {
    /// The file.
    pub path: PathBuf,
    /// JSON or CSV.
    pub format: WriteFormat,
    /// Identifies the pipeline. A file of another pipeline is replaced.
    pub pipeline: String,
}

/// Time to wait for another process to write an epoch.
const LOCK_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Progress {
    epoch: u64,
    length: u64,
}

impl SingleFile {
    /// Returns the path of a file beside the target, which is not a row of it.
    fn beside(&self, extension: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.{extension}"))
    }

    fn progress(&self) -> Result<Option<Progress>> {
        let path = self.beside("buzz");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| QueryError::data(format!("`{}` is not readable: {error}; restore it", path.display())))?;
        if value["pipeline"] != json!(self.pipeline) {
            return Ok(None);
        }
        let number = |key: &str| {
            value[key].as_u64().ok_or_else(|| {
                QueryError::data(format!("`{}` is not readable: it has no number `{key}`; restore it", path.display()))
            })
        };
        Ok(Some(Progress { epoch: number("epoch")?, length: number("length")? }))
    }

    fn failed(&self, error: &io::Error) -> QueryError {
        QueryError::data(format!("file `{}` is not writable: {error}", self.path.display()))
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
        let before = self.progress()?.unwrap_or_default();
        if before.epoch >= epoch {
            return Ok(());
        }
        let bytes = encode_lines(self.format, before.length == 0, rows)?;
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() < before.length {
            return Err(QueryError::data(format!(
                "file `{}` is shorter than the {} bytes that this pipeline has written; restore it, or delete it and `{}` \
                 to write the next rows only",
                self.path.display(),
                before.length,
                self.beside("buzz").display()
            )));
        }
        file.set_len(before.length).map_err(failed)?;
        file.seek(SeekFrom::Start(before.length)).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        let length = before.length + bytes.len() as u64;
        let marker = json!({"pipeline": self.pipeline, "epoch": epoch, "length": length}).to_string();
        // The new marker takes the place of the old one in one step, and only when it is on the disk.
        let staged = self.beside("buzz.tmp");
        let mut file = File::create(&staged).map_err(failed)?;
        file.write_all(marker.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)?;
        std::fs::rename(&staged, self.beside("buzz")).map_err(failed)
    }
}

#[async_trait]
impl Sink for SingleFile {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(self.progress()?.map(|progress| progress.epoch))
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        self.append(epoch, rows)?;
        Ok(Written::Done)
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
        assert_eq!(first.progress().expect("it is readable").map(|progress| progress.epoch), Some(2));
        let other = sink(&folder, WriteFormat::Json, "q");
        other.append(1, &[row(7)]).expect("it is writable");
        assert_eq!(text(&other), "{\"n\":7}\n");
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
        let folder = tempfile::tempdir().expect("a folder");
        for (header, expected) in [(true, "n\n1\n2\n"), (false, "1\n2\n")] {
            let sink = sink(&folder, WriteFormat::Csv { header }, &format!("p{header}"));
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
