//! Operators that watch the execution of another one: a join's build side that is read twice, and panics.
//!
//! Apply them to a decoded plan, right before it runs: a guarded operator has no encoding of its own.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use buzz_protocol::{QueryError, Result, panic_message};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;
use parking_lot::Mutex;

/// Makes the streams of a guarded operator.
pub trait Guard: fmt::Debug + Send + Sync {
    /// Executes one partition of `inner`.
    ///
    /// # Errors
    /// As `inner`, or an error of the guard.
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream>;

    /// Returns a guard for a copy of the operator that has not been executed.
    fn fresh(&self) -> Arc<dyn Guard>;
}

/// Puts `guard` around `inner`. The result has the properties, children and metrics of `inner`, and downcasts to it: the
/// shape of the plan does not change.
pub fn guarded(inner: Arc<dyn ExecutionPlan>, guard: Arc<dyn Guard>) -> Arc<dyn ExecutionPlan> {
    Arc::new(Guarded { inner, guard })
}

/// Makes the nested loop joins of `plan` fail with `Limit` if their build side exceeds memory.
///
/// Beyond the memory pool, `NestedLoopJoinExec` executes its build side again and continues in chunks, which gives wrong
/// rows for RIGHT, FULL, SEMI and ANTI joins (DataFusion 55.2).
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub fn guarded_joins(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    guarded_joins_above(plan, |_| false)
}

/// Does the same as [`guarded_joins`] for the joins above the operators that `is_end` selects.
///
/// # Errors
/// As [`guarded_joins`].
pub fn guarded_joins_above(
    plan: Arc<dyn ExecutionPlan>,
    is_end: impl Fn(&Arc<dyn ExecutionPlan>) -> bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    let once = |node: Arc<dyn ExecutionPlan>| {
        if is_end(&node) {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else {
            return Ok(Transformed::no(node));
        };
        let build = guarded(Arc::clone(join.left()), Arc::new(ReadOnce::default()));
        let children = vec![build, Arc::clone(join.right())];
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        Ok(Transformed::yes(node.replace_children(children, options)?))
    };
    Ok(plan.transform_down(once).data()?)
}

/// Makes the partitions of `plan` fail with `Internal` if an operator panics. Without it, a panic would end the stream
/// like its last row, because the task that reads the stream is not awaited.
pub fn unpanicked_rows(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    guarded(plan, Arc::new(Unpanicked))
}

/// Rejects the second execution of a partition.
#[derive(Debug, Default)]
struct ReadOnce {
    executed: Mutex<HashSet<usize>>,
}

impl Guard for ReadOnce {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        if !self.executed.lock().insert(partition) {
            let error = QueryError::limit(
                "a join without equality conditions ran out of memory while it read its smaller side; raise \
                 `memory_bytes`, join by equal columns, or join fewer rows",
            );
            return Err(error.into_datafusion());
        }
        inner.execute(partition, ctx)
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(Self::default())
    }
}

/// Converts panics to errors.
#[derive(Debug)]
struct Unpanicked;

impl Guard for Unpanicked {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let batches = catch_unwind(AssertUnwindSafe(|| inner.execute(partition, ctx)));
        let batches = batches.unwrap_or_else(|panic| Err(panicked(panic.as_ref()).into_datafusion()))?;
        let schema = batches.schema();
        let caught = AssertUnwindSafe(batches).catch_unwind();
        let caught = caught.map(|batch| batch.unwrap_or_else(|panic| Err(panicked(panic.as_ref()).into_datafusion())));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, caught)))
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(Self)
    }
}

fn panicked(panic: &(dyn Any + Send)) -> QueryError {
    tracing::error!(panic = panic_message(panic), "an operator panicked");
    QueryError::panicked(panic)
}

#[derive(Debug)]
struct Guarded {
    inner: Arc<dyn ExecutionPlan>,
    guard: Arc<dyn Guard>,
}

impl Guarded {
    fn around(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        guarded(inner, self.guard.fresh())
    }
}

impl DisplayAs for Guarded {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(kind, f)
    }
}

impl ExecutionPlan for Guarded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.inner.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self.around(Arc::clone(&self.inner).replace_children(children, options)?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn reset_state(self: Arc<Self>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self.around(Arc::clone(&self.inner).reset_state()?))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.around(self.inner.with_new_state(state)?))
    }

    fn execute(&self, partition: usize, ctx: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        self.guard.execute(&self.inner, partition, ctx)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }
}
