//! The leaf of every plan of a pipeline: rows that each epoch puts in place.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;

/// The rows of one feed in an epoch, by partition.
pub(crate) type Rows = Vec<Vec<RecordBatch>>;

/// A table without rows and without statistics. A scan becomes a [`FeedExec`] that carries the table's name.
#[derive(Debug)]
pub(crate) struct FeedTable {
    pub(crate) name: String,
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for FeedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        // With two partitions or more, the planner splits aggregates into two phases.
        let partitions = state.config().target_partitions().max(2);
        Ok(Arc::new(FeedExec::try_new(self.name.clone(), Arc::clone(&self.schema), projection.cloned(), partitions)?))
    }
}

/// Stands for the rows of a feed in a physical plan. It is replaced before the plan runs.
#[derive(Debug)]
pub(crate) struct FeedExec {
    name: String,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl FeedExec {
    fn try_new(
        name: String,
        schema: SchemaRef,
        projection: Option<Vec<usize>>,
        partitions: usize,
    ) -> DataFusionResult<Self> {
        let projected = match &projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => schema,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(projected),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { name, projection, properties: Arc::new(properties) })
    }
}

impl FeedExec {
    /// Returns the name of the feed, and the column of it that is column `index` here.
    pub(crate) fn column(&self, index: usize) -> Option<(&str, usize)> {
        let column = match &self.projection {
            Some(columns) => *columns.get(index)?,
            None => index,
        };
        Some((&self.name, column))
    }
}

impl DisplayAs for FeedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeedExec: {}", self.name)
    }
}

impl ExecutionPlan for FeedExec {
    fn name(&self) -> &str {
        "FeedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a FeedExec has no children") }
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        internal_err!("the feed {} has no rows", self.name)
    }
}

/// Returns the names of the feeds that `plan` reads.
pub(crate) fn names(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
    let mut names = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let Some(feed) = node.downcast_ref::<FeedExec>() {
            names.push(feed.name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names
}

/// Returns a fresh copy of `plan` that reads `rows` in place of its feeds. Operators keep state while they run, so a copy
/// runs once.
pub(crate) fn with_rows(
    plan: &Arc<dyn ExecutionPlan>,
    rows: &BTreeMap<String, Rows>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced = Arc::clone(plan).transform_up(|node| {
        let Some(feed) = node.downcast_ref::<FeedExec>() else {
            // A node above other leaves, such as VALUES, has state too.
            return Ok(Transformed::yes(node.reset_state()?));
        };
        let partitions =
            rows.get(&feed.name).ok_or_else(|| internal_datafusion_err!("the feed {} is unknown", feed.name))?;
        let count = feed.properties.partitioning.partition_count();
        let mut filled: Rows = vec![Vec::new(); count];
        for (index, batches) in partitions.iter().enumerate() {
            filled[index % count].extend(batches.iter().cloned());
        }
        let schema = match partitions.iter().flatten().next() {
            Some(batch) => batch.schema(),
            None => return empty(feed, &filled),
        };
        let source = MemorySourceConfig::try_new_exec(&filled, schema, feed.projection.clone())?;
        Ok(Transformed::yes(source as Arc<dyn ExecutionPlan>))
    });
    Ok(replaced.data()?)
}

fn empty(feed: &FeedExec, filled: &Rows) -> DataFusionResult<Transformed<Arc<dyn ExecutionPlan>>> {
    let source = MemorySourceConfig::try_new_exec(filled, feed.schema(), None)?;
    Ok(Transformed::yes(source as Arc<dyn ExecutionPlan>))
}

/// Runs all partitions of `plan` at once, each in a task, and returns their batches by partition.
pub(crate) async fn run(plan: Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Rows> {
    let count = plan.properties().partitioning.partition_count();
    let mut tasks = tokio::task::JoinSet::new();
    for partition in 0..count {
        let (plan, context) = (Arc::clone(&plan), Arc::clone(context));
        tasks.spawn(async move {
            let mut stream = plan.execute(partition, context)?;
            let mut batches = Vec::new();
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    batches.push(batch);
                }
            }
            Ok::<_, QueryError>((partition, batches))
        });
    }
    let mut rows: Rows = vec![Vec::new(); count];
    while let Some(done) = tasks.join_next().await {
        let (partition, batches) =
            done.map_err(|error| QueryError::internal(format!("a task of an epoch stopped: {error}")))??;
        rows[partition] = batches;
    }
    Ok(rows)
}
