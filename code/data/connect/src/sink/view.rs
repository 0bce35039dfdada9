//! Materialized views: the state of their pipeline keeps their rows, so nothing is written elsewhere.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};

use super::{Sink, TakesChanges, Written};

/// Stands for a materialized view among the sinks of a script. The record of an epoch makes its rows visible.
#[derive(Debug)]
pub struct ViewSink {
    /// The pipeline has a state, which keeps the rows.
    pub has_state: bool,
}

#[async_trait]
impl Sink for ViewSink {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: u64, _: &[RecordBatch]) -> Result<Written> {
        Ok(Written::Done)
    }

    async fn check_target(&self, _: &Schema) -> Result<()> {
        if self.has_state {
            return Ok(());
        }
        Err(QueryError::invalid(
            "the rows of a materialized view are kept in the state of the pipeline, and it has none; add --state URI, or write to a \
             table with a connector",
        ))
    }

    fn takes_changes(&self) -> TakesChanges {
        TakesChanges::Too
    }
}
