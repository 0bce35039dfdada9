//! A delivery to an inbox in the same process.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use buzz_protocol::{DeliveryId, Result, TaskIndex};

use super::stage::Stage;
use crate::service::{DeliveryHeader, DeliverySink};

/// A delivery to an inbox in the same process.
#[derive(Debug)]
pub(super) struct HeldDelivery {
    stage: Arc<Stage>,
    key: (TaskIndex, DeliveryId),
    whole: bool,
}

impl HeldDelivery {
    /// Begins a delivery to `stage`.
    ///
    /// # Errors
    /// As [`crate::InboxService::deliver`].
    pub(super) fn begin(stage: Arc<Stage>, header: &DeliveryHeader, schema: &Schema) -> Result<Self> {
        stage.begin(header, schema)?;
        Ok(Self { stage, key: (header.task, header.delivery), whole: false })
    }
}

#[async_trait]
impl DeliverySink for HeldDelivery {
    async fn send(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        self.stage.append(self.key, partition, batch).await
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.stage.finish(self.key)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for HeldDelivery {
    fn drop(&mut self) {
        if !self.whole {
            self.stage.discard(self.key);
        }
    }
}
