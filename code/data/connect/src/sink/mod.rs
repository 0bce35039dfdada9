//! Sinks: where rows go. Each takes the rows of an epoch, and takes them again with the same result.

mod changes;
mod delta;
mod encode;
mod folder;
mod single_file;
mod stdout;
mod view;
mod webhook;

use std::fmt;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use buzz_protocol::{CHANGES, QueryError, Result};

pub use self::changes::Changes;
pub use self::delta::DeltaSink;
pub use self::encode::{WriteFormat, encode_lines};
pub use self::folder::{Files, Folder};
pub use self::single_file::SingleFile;
pub use self::stdout::Stdout;
pub use self::view::ViewSink;
pub use self::webhook::Webhook;

/// Takes the rows of epochs.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    /// Returns the last epoch that is complete in the target, or `None` if the target has no marker.
    ///
    /// # Errors
    /// Errors of the target.
    async fn marker(&self) -> Result<Option<u64>>;

    /// Adds the rows of `epoch`. A repetition with the same rows changes nothing, except for standard output.
    ///
    /// # Errors
    /// Errors of the target. The rows may have been added nevertheless.
    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written>;

    /// Checks that rows with `columns` can be written, without reading the target.
    ///
    /// # Errors
    /// `Invalid` if an option does not fit the columns, or the format has no representation of one.
    fn check(&self, _columns: &Schema) -> Result<()> {
        Ok(())
    }

    /// Checks that this pipeline may add rows with `columns` to the target. Called at the start of a run, and changes
    /// nothing.
    ///
    /// # Errors
    /// `Invalid` if the target has rows that are not of this pipeline, or have other columns.
    async fn check_target(&self, _columns: &Schema) -> Result<()> {
        Ok(())
    }

    /// Checks that the values of `rows` can be written. Called before their epoch counts, since it cannot be taken back.
    ///
    /// # Errors
    /// `Data` if the target has no representation of a value.
    fn check_rows(&self, _rows: &RecordBatch) -> Result<()> {
        Ok(())
    }

    /// Returns the length of the spans of time whose epochs are written together; `None` if each epoch is written alone.
    fn roll(&self) -> Option<Duration> {
        None
    }

    /// Returns which rows the sink takes: final ones, those that change earlier ones, or both.
    fn takes_changes(&self) -> TakesChanges {
        TakesChanges::No
    }
}

/// Checks that no column of `partition_by` has an empty text, which readers of partitions take as NULL.
///
/// # Errors
/// `Data`, which names the column.
fn check_partitions(rows: &RecordBatch, partition_by: &[String]) -> Result<()> {
    for name in partition_by {
        let Some(column) = rows.column_by_name(name) else { continue };
        let is_text = match column.data_type() {
            DataType::Dictionary(_, value) => value.is_string(),
            other => other.is_string(),
        };
        if is_text && cast(column, &DataType::Utf8)?.as_string::<i32>().iter().any(|text| text == Some("")) {
            return Err(QueryError::data(format!(
                "column `{name}` of option `partition_by` has an empty text, which is read as NULL; replace it, as by \
                 nullif({name}, '')"
            )));
        }
    }
    Ok(())
}

/// The rows that a sink takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesChanges {
    /// Rows that are final.
    No,
    /// Both.
    Too,
    /// Rows that change earlier ones.
    Only,
}

/// Checks that `sink` can take rows with `columns`.
///
/// # Errors
/// `Invalid` if two columns have one name, the rows change and the sink takes final ones, or the other way round, and as
/// [`Sink::check`].
pub fn check_columns(sink: &dyn Sink, columns: &Schema) -> Result<()> {
    match (columns.metadata().contains_key(CHANGES), sink.takes_changes()) {
        (true, TakesChanges::No) => {
            return Err(QueryError::invalid(
                "the rows change, since an aggregate, a join, DISTINCT or OVER without a window is never final; add the \
                 same tumble(interval '10 seconds'), hop(…) or session(…) to GROUP BY, ON or PARTITION BY, or write the \
                 changes to a table with format = 'debezium_json' and connector stdout, single_file, filesystem, json, \
                 kafka or webhook",
            ));
        }
        (false, TakesChanges::Only) => {
            return Err(QueryError::invalid(
                "format debezium_json is for rows that change, and these are final; use format = 'json'",
            ));
        }
        _ => {}
    }
    let fields = columns.fields();
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|before| before.name() == field.name()) {
            return Err(QueryError::invalid(format!(
                "two columns are named `{0}`; give one of them another name by AS, as in r.{0} AS {0}_2",
                field.name()
            )));
        }
    }
    sink.check(columns)
}

/// The result of [`Sink::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The target has the rows.
    Done,
    /// The reader of the target has ended.
    Closed,
}

/// Discards rows.
#[derive(Debug)]
pub struct Blackhole;

#[async_trait]
impl Sink for Blackhole {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: u64, _: &[RecordBatch]) -> Result<Written> {
        Ok(Written::Done)
    }

    fn takes_changes(&self) -> TakesChanges {
        TakesChanges::Too
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn rows_that_change_and_final_rows_have_their_own_sinks() {
        let last = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        let changes = last.clone().with_metadata([(CHANGES.to_string(), "true".to_string())].into());
        let stdout = || Arc::new(Stdout::new(WriteFormat::Json)) as Arc<dyn Sink>;
        for columns in [&last, &changes] {
            check_columns(stdout().as_ref(), columns).expect("it prints all rows");
            check_columns(&Blackhole, columns).expect("it discards all rows");
        }
        check_columns(&Changes(stdout()), &changes).expect("it is for changes");
        let error = check_columns(&Changes(stdout()), &last).expect_err("the rows are final");
        assert!(error.message.contains("use format = 'json'"), "{error}");
        let path = std::path::PathBuf::from("/t/out.json");
        let file = SingleFile { path, format: WriteFormat::Json, pipeline: "p".to_string() };
        let error = check_columns(&file, &changes).expect_err("the rows change");
        assert!(error.message.contains("without a window") && error.message.contains("debezium_json"), "{error}");
    }

    #[test]
    fn columns_of_one_name_are_refused() {
        let columns =
            |names: [&str; 2]| Schema::new(names.map(|name| Field::new(name, DataType::Int64, true)).to_vec());
        check_columns(&Blackhole, &columns(["a", "b"])).expect("the names differ");
        let error = check_columns(&Blackhole, &columns(["a", "a"])).expect_err("the names are the same");
        assert!(error.message.contains("two columns are named `a`; give one of them another name by AS"), "{error}");
    }
}
