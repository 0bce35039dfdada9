//! The spans of reduce plans: one for each partition that is read.

use std::sync::Arc;

use buzz_kernel::{Guard, guarded};
use buzz_telemetry::{continued, span};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use tracing::Span;
use tracing::field::Empty;

/// Gives each partition of `plan` a span below the one whose `traceparent` is given, until its rows are read or dropped.
/// Without one, returns `plan`.
pub(crate) fn traced_rows(plan: Arc<dyn ExecutionPlan>, traceparent: Option<&str>) -> Arc<dyn ExecutionPlan> {
    match traceparent {
        Some(traceparent) => guarded(plan, Arc::new(Traced { traceparent: traceparent.to_string() })),
        None => plan,
    }
}

#[derive(Debug, Clone)]
struct Traced {
    traceparent: String,
}

impl Guard for Traced {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let make = || span!("comb", otel.kind = "server", partition, rows = Empty);
        let mut read = Read { span: continued(Some(&self.traceparent), make), rows: 0 };
        let batches = inner.execute(partition, ctx)?;
        let schema = batches.schema();
        let counted = batches.inspect(move |batch| match batch {
            Ok(batch) => read.rows += batch.num_rows() as u64,
            // The kind of the error is on the spans of Fuse, where it is known.
            Err(_) => drop(read.span.record("otel.status_code", "ERROR")),
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(self.clone())
    }
}

/// The rows that were read within a span, which ends with them.
struct Read {
    span: Span,
    rows: u64,
}

impl Drop for Read {
    fn drop(&mut self) {
        self.span.record("rows", self.rows);
    }
}
