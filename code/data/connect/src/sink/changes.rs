//! Changes of rows as Debezium writes them: JSON objects with `before`, `after` and `op`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use buzz_protocol::Result;

use super::{Sink, TakesChanges, Written};

/// A sink of JSON lines that takes rows that change, and no others.
#[derive(Debug)]
pub struct Changes(pub Arc<dyn Sink>);

#[async_trait]
impl Sink for Changes {
    async fn marker(&self) -> Result<Option<u64>> {
        self.0.marker().await
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        self.0.write(epoch, rows).await
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        self.0.check(columns)
    }

    async fn check_target(&self, columns: &Schema) -> Result<()> {
        self.0.check_target(columns).await
    }

    fn roll(&self) -> Option<Duration> {
        self.0.roll()
    }

    fn check_rows(&self, rows: &RecordBatch) -> Result<()> {
        self.0.check_rows(rows)
    }

    fn takes_changes(&self) -> TakesChanges {
        TakesChanges::Only
    }
}
