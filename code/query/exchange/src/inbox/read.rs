//! Reads accepted deliveries, and holds those whose rows are in objects.

use std::sync::Arc;

use arrow::array::RecordBatch;
use buzz_protocol::{QueryError, QueryId, Result, Segment, StageId};
use futures::{Stream, StreamExt, TryStreamExt};

use super::Inboxes;
use crate::objects::ObjectOfDelivery;
use crate::service::DeliveryHeader;

/// Segments of objects that a reader of one partition fetches at the same time.
pub(super) const READ_AHEAD: usize = 4;

impl Inboxes {
    /// Returns the accepted batches of one partition of a stage, as they are accepted and in no particular order. The
    /// partition is in the numbering of all combs. The stream ends when the stage is complete; it fails when the query
    /// is aborted or closed.
    ///
    /// # Errors
    /// `Unavailable` when the query is not open on this comb, `Internal` when another comb owns the partition.
    pub fn read(
        &self,
        query: QueryId,
        stage: StageId,
        partition: usize,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + use<>> {
        let stage = self.stage(query, stage)?;
        let index = stage.local(partition)?;
        let (changed, ahead) = (stage.changes(), stage.ahead());
        let taken = Arc::clone(&stage);
        let chunks = futures::stream::try_unfold((taken, changed, 0), move |(stage, mut changed, cursor)| async move {
            let next = stage.next(index, cursor, &mut changed).await?;
            Ok::<_, QueryError>(next.map(|chunk| (chunk, (stage, changed, cursor + 1))))
        });
        let reading = Arc::clone(&stage);
        let batches = chunks.map(move |chunk| {
            let stage = Arc::clone(&reading);
            async move { stage.batches(chunk?.as_ref()).await }
        });
        let batches = Box::pin(batches.buffered(ahead));
        // The partition counts as read only once the reader has taken the last batch, not when it was read ahead.
        let counted = futures::stream::try_unfold((batches, stage), move |(mut batches, stage)| async move {
            let next = batches.try_next().await?;
            if next.is_none() {
                stage.reader_finished(index);
            }
            let read = |read: Vec<RecordBatch>| futures::stream::iter(read.into_iter().map(Ok::<_, QueryError>));
            Ok::<_, QueryError>(next.map(|batches_read| (read(batches_read), (batches, stage))))
        });
        Ok(counted.try_flatten())
    }

    /// Holds the object of a delivery, whose rows are `segments`, until [`commit`](crate::InboxService::commit). The object is read only
    /// when its rows are.
    ///
    /// # Errors
    /// As [`deliver`](crate::InboxService::deliver).
    pub fn hold_object(&self, header: &DeliveryHeader, object: &ObjectOfDelivery, segments: &[Segment]) -> Result<()> {
        self.stage(header.query, header.stage)?.hold_object(header, object, segments)
    }
}
