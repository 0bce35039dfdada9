//! The leaf of every reduce plan, which reads accepted deliveries from an inbox.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use buzz_kernel::may_end_before;
use buzz_protocol::{QueryId, QueryToken, StageId};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use datafusion_distributed::DistributedLeafExec;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf;
use futures::TryStreamExt;
use prost::Message;

use crate::inbox::Inboxes;

/// Reads partitions of a stage from the [`Inboxes`] that the session has as an extension. Its output partition `i` is
/// the stage's partition `partitions.start + i`, in the numbering of all combs.
#[derive(Debug, Clone)]
pub struct InboxExec {
    query: QueryId,
    stage: StageId,
    /// The step's name, for display.
    step: String,
    partitions: Range<usize>,
    /// The columns by which the stage is hash-partitioned; empty for round-robin.
    keys: Vec<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl InboxExec {
    /// Creates a leaf over `partitions` of a stage whose batches have `schema` and are divided round-robin.
    pub fn new(query: QueryId, stage: StageId, step: String, partitions: Range<usize>, schema: SchemaRef) -> Self {
        Self::divided_by(Vec::new(), query, stage, step, partitions, schema)
    }

    /// Creates a leaf over `partitions` of a stage whose batches have `schema` and are hash-partitioned by `keys`.
    pub fn divided_by(
        keys: Vec<usize>,
        query: QueryId,
        stage: StageId,
        step: String,
        partitions: Range<usize>,
        schema: SchemaRef,
    ) -> Self {
        let key = |&index: &usize| Arc::new(Column::new(schema.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
        let partitioning = match keys.as_slice() {
            [] => Partitioning::UnknownPartitioning(partitions.len()),
            keys => Partitioning::Hash(keys.iter().map(key).collect(), partitions.len()),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            partitioning,
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let properties = Arc::new(properties);
        Self { query, stage, step, partitions, keys, properties, metrics: Default::default() }
    }

    /// Returns the same leaf over other partitions of the stage.
    #[must_use]
    pub fn over(&self, partitions: Range<usize>) -> Self {
        let keys = self.keys.clone();
        Self::divided_by(keys, self.query, self.stage, self.step.clone(), partitions, self.schema())
    }

    /// Encodes the leaf.
    ///
    /// # Errors
    /// If a column's type has no encoding.
    pub(crate) fn to_proto(&self) -> Result<InboxProto> {
        Ok(InboxProto {
            query: self.query.to_string(),
            stage: self.stage.0,
            step: self.step.clone(),
            start: self.partitions.start as u64,
            end: self.partitions.end as u64,
            schema: Some(self.schema().try_into()?),
            keys: self.keys.iter().map(|&key| key as u64).collect(),
        })
    }

    /// Decodes a leaf.
    ///
    /// # Errors
    /// If a field is not as [`Self::to_proto`] writes it.
    pub(crate) fn from_proto(proto: InboxProto) -> Result<Self> {
        let broken = |what: &str| internal_datafusion_err!("an encoded InboxExec has an invalid {what}");
        let query = QueryId(proto.query.parse().map_err(|_| broken("query id"))?);
        let schema: Schema = proto.schema.as_ref().ok_or_else(|| broken("schema"))?.try_into()?;
        let index = |value: u64| usize::try_from(value).map_err(|_| broken("partition"));
        let partitions = index(proto.start)?..index(proto.end)?;
        let keys = proto.keys.iter().map(|&key| index(key)).collect::<Result<Vec<_>>>()?;
        if keys.iter().any(|&key| key >= schema.fields().len()) {
            return Err(broken("key"));
        }
        Ok(Self::divided_by(keys, query, StageId(proto.stage), proto.step, partitions, Arc::new(schema)))
    }

    /// Returns the stage that the leaf reads.
    pub fn stage(&self) -> StageId {
        self.stage
    }

    /// Returns the name of the step that delivers the stage.
    pub fn step(&self) -> &str {
        &self.step
    }

    /// Returns the columns by which the stage is hash-partitioned; empty for round-robin.
    pub fn keys(&self) -> &[usize] {
        &self.keys
    }

    /// Returns the partitions that the leaf reads.
    pub fn partitions(&self) -> Range<usize> {
        self.partitions.clone()
    }
}

/// Returns the stages of which `plan` may leave rows unread: those below a limit, on the probe side of a join, or in a
/// recursion.
pub fn unread_stages(plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<StageId> {
    let recursive = plan.exists(|node| Ok(node.downcast_ref::<RecursiveQueryExec>().is_some())).unwrap_or(false);
    let mut unread = BTreeSet::new();
    add_unread(plan, recursive, &mut unread);
    unread
}

/// Adds the stages of `plan` that may be left unread. `above` is true if an operator above `plan` may end before it.
fn add_unread(plan: &Arc<dyn ExecutionPlan>, above: bool, unread: &mut BTreeSet<StageId>) {
    let leaf = plan.downcast_ref::<DistributedLeafExec>().map_or(plan, DistributedLeafExec::original);
    if let Some(inbox) = leaf.downcast_ref::<InboxExec>() {
        unread.extend(above.then(|| inbox.stage()));
        return;
    }
    for (index, child) in plan.children().into_iter().enumerate() {
        add_unread(child, above || may_end_before(plan, index), unread);
    }
}

/// Encodes and decodes the [`InboxExec`] leaves of a plan for an HBee, which has no other operators than DataFusion's.
#[derive(Debug)]
pub struct LeafCodec;

impl PhysicalExtensionCodec for LeafCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let proto =
            InboxProto::decode(buf).map_err(|_| internal_datafusion_err!("an encoded inbox cannot be decoded"))?;
        Ok(Arc::new(InboxExec::from_proto(proto)?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(inbox) = node.downcast_ref::<InboxExec>() else {
            return internal_err!("{} cannot be encoded", node.name());
        };
        inbox.to_proto()?.encode(buf).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

impl DisplayAs for InboxExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboxExec: step={}, partitions={}..{}", self.step, self.partitions.start, self.partitions.end)?;
        match self.properties.partitioning {
            Partitioning::Hash(_, _) => write!(f, ", {}", self.properties.partitioning),
            _ => Ok(()),
        }
    }
}

impl ExecutionPlan for InboxExec {
    fn name(&self) -> &str {
        "InboxExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("an InboxExec has no children") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inboxes = context
            .session_config()
            .get_extension::<Inboxes>()
            .ok_or_else(|| internal_datafusion_err!("the session of a reduce plan has no inboxes"))?;
        // A session that a remote call created has the token of the caller.
        if let Some(token) = context.session_config().get_extension::<QueryToken>() {
            inboxes.check(self.query, &token).map_err(buzz_protocol::QueryError::into_datafusion)?;
        }
        let batches = inboxes
            .read(self.query, self.stage, self.partitions.start + partition)
            .map_err(buzz_protocol::QueryError::into_datafusion)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = batches.map_err(buzz_protocol::QueryError::into_datafusion).inspect_ok(move |batch| {
            metrics.record_output(batch.num_rows());
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The encoded form of an [`InboxExec`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InboxProto {
    #[prost(string, tag = "1")]
    query: String,
    #[prost(uint32, tag = "2")]
    stage: u32,
    #[prost(string, tag = "3")]
    step: String,
    #[prost(uint64, tag = "4")]
    start: u64,
    #[prost(uint64, tag = "5")]
    end: u64,
    #[prost(message, optional, tag = "6")]
    schema: Option<protobuf::Schema>,
    #[prost(uint64, repeated, tag = "7")]
    keys: Vec<u64>,
}
