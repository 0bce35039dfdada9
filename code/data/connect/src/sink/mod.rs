//! Sinks: where rows go. Each takes the rows of an epoch, and takes them again with the same result.

mod delta;
mod encode;
mod folder;
mod single_file;
mod stdout;

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};

pub use self::delta::DeltaSink;
pub use self::encode::{WriteFormat, encode_lines};
pub use self::folder::{Files, Folder};
pub use self::single_file::SingleFile;
pub use self::stdout::Stdout;

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

    /// Returns the length of the spans of time whose epochs are written together; `None` if each epoch is written alone.
    fn roll(&self) -> Option<Duration> {
        None
    }
}

/// Checks that `sink` can take rows with `columns`.
///
/// # Errors
/// `Invalid` if two columns have one name, and as [`Sink::check`].
pub fn check_columns(sink: &dyn Sink, columns: &Schema) -> Result<()> {
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
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn columns_of_one_name_are_refused() {
        let columns =
            |names: [&str; 2]| Schema::new(names.map(|name| Field::new(name, DataType::Int64, true)).to_vec());
        check_columns(&Blackhole, &columns(["a", "b"])).expect("the names differ");
        let error = check_columns(&Blackhole, &columns(["a", "a"])).expect_err("the names are the same");
        assert!(error.message.contains("two columns are named `a`; give one of them another name by AS"), "{error}");
    }
}
