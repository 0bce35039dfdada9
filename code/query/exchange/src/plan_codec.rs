//! Encodes reduce plans: the leaves that read inboxes, and whole plans of any depth.

use std::fmt;
use std::sync::{Arc, LazyLock};

use buzz_kernel::{decode_plan, encode_plan};
use buzz_protocol::QueryToken;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_distributed::{DistributedCodec, MaybeEncoded, SetPlanRequest};
use datafusion_proto::physical_plan::to_proto::serialize_partitioning;
use datafusion_proto::physical_plan::{
    ComposedPhysicalExtensionCodec, DeduplicatingProtoConverter, PhysicalExtensionCodec,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::Partitioning;
use prost::Message;
use uuid::Uuid;

use crate::exchanged::{ExchangeId, Exchanges};
use crate::inbox::Inboxes;
use crate::inbox_exec::{InboxExec, InboxProto};

/// Encodes and decodes [`InboxExec`] within a plan, and whole plans in pieces ([`encode_plan`]).
#[derive(Debug)]
pub struct InboxCodec;

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(oneof = "Node", tags = "1, 2")]
    node: Option<Node>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Node {
    #[prost(message, tag = "1")]
    Inbox(InboxProto),
    #[prost(message, tag = "2")]
    Whole(WholeProto),
}

/// The plan of one task.
#[derive(Clone, PartialEq, Message)]
struct WholeProto {
    /// The plan, in the encoding of [`encode_plan`].
    #[prost(bytes, tag = "1")]
    plan: Vec<u8>,
    /// The exchange to which the task sends its rows: 16 bytes of the id of the divided plan, and the number of the stage.
    #[prost(bytes, tag = "2")]
    divided: Vec<u8>,
    #[prost(uint64, tag = "3")]
    stage: u64,
}

impl PhysicalExtensionCodec for InboxCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let broken = || internal_datafusion_err!("an encoded operator of Buzz cannot be decoded");
        match NodeProto::decode(buf).map_err(|_| broken())?.node.ok_or_else(broken)? {
            Node::Inbox(inbox) => Ok(Arc::new(InboxExec::from_proto(inbox)?)),
            Node::Whole(whole) => {
                let plan = decode_plan(&whole.plan, ctx, &*CODECS)?;
                let divided = Uuid::from_slice(&whole.divided).map_err(|_| broken())?;
                let stage = usize::try_from(whole.stage).map_err(|_| broken())?;
                match exchanges_of(ctx) {
                    Some(exchanges) => exchanges.counted(plan, ExchangeId { plan: divided, stage }),
                    None => Ok(plan),
                }
            }
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let node = if let Some(inbox) = node.downcast_ref::<InboxExec>() {
            Node::Inbox(inbox.to_proto()?)
        } else if let Some(WholePlan { plan, exchange }) = node.downcast_ref::<WholePlan>() {
            Node::Whole(WholeProto {
                plan: encode_plan(Arc::clone(plan), &*CODECS)?.to_vec(),
                divided: exchange.plan.as_bytes().to_vec(),
                stage: exchange.stage as u64,
            })
        } else {
            return internal_err!("{} cannot be encoded", node.name());
        };
        NodeProto { node: Some(node) }.encode(buf).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

/// Returns the counts of the query to which the session `ctx` of a comb belongs.
fn exchanges_of(ctx: &TaskContext) -> Option<Arc<Exchanges>> {
    let config = ctx.session_config();
    config.get_extension::<Inboxes>()?.exchanges(config.get_extension::<QueryToken>()?.as_ref())
}

/// The codecs of a reduce plan: those of the exchanges between combs, and ours.
static CODECS: LazyLock<ComposedPhysicalExtensionCodec> =
    LazyLock::new(|| ComposedPhysicalExtensionCodec::new(vec![Arc::new(DistributedCodec), Arc::new(InboxCodec)]));

/// Encodes the plan of `request`. The encoding of `datafusion-distributed` would limit its depth.
///
/// # Errors
/// If an operator has no encoding.
pub(crate) fn encode_request(request: SetPlanRequest, ctx: &Arc<TaskContext>) -> Result<SetPlanRequest> {
    let plan = match request.plan {
        MaybeEncoded::Decoded(plan) => {
            let exchange = ExchangeId::from(&request.task_key);
            MaybeEncoded::Decoded(Arc::new(WholePlan { plan, exchange }) as _)
        }
        encoded => encoded,
    };
    Ok(SetPlanRequest { plan: MaybeEncoded::Encoded(plan.encode(ctx)?), ..request })
}

/// Checks if `datafusion-distributed` can send the keys of all exchanges of `plan`. It encodes them itself, which limits how
/// deeply they are nested.
pub fn keys_can_be_sent(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let too_deep = |node: &Arc<dyn ExecutionPlan>| {
        let Some(exchange) = node.downcast_ref::<RepartitionExec>() else { return Ok(false) };
        let encoded = serialize_partitioning(exchange.partitioning(), &*CODECS, &DeduplicatingProtoConverter {})?;
        Ok(Partitioning::decode(encoded.encode_to_vec().as_slice()).is_err())
    };
    !plan.exists(too_deep).unwrap_or(true)
}

/// Contains a plan that is being encoded. It is decoded as the plan itself.
#[derive(Debug)]
struct WholePlan {
    plan: Arc<dyn ExecutionPlan>,
    exchange: ExchangeId,
}

impl DisplayAs for WholePlan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WholePlan")
    }
}

impl ExecutionPlan for WholePlan {
    fn name(&self) -> &str {
        "WholePlan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    // The plan is encoded with it, not as its input.
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
        if children.is_empty() { Ok(self) } else { internal_err!("a WholePlan has no children") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.plan.execute(partition, context)
    }
}
