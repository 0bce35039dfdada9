//! The operators that a fragment can contain. `datafusion-proto` decodes more of them, which Buzz never sends. Decoding
//! those that write files would link the writers of Parquet, CSV and JSON into each program.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{CsvSource, JsonSource, ParquetSource};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::logical_expr::physical_planning_context::ScalarSubqueryResults;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::async_func::AsyncFuncExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::proto::{ExecutionPlanDecode, ExecutionPlanDecodeCtx};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{PhysicalExprNode, PhysicalPlanNode};

use crate::pieces::{Seen, decode_operator, only_decodes};

/// Decodes the operators of one fragment.
#[derive(Default)]
pub(super) struct Operators(Seen);

impl Operators {
    fn operator(&self, node: &PhysicalPlanNode, ctx: &PhysicalPlanDecodeContext<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let below = Below { operators: self, ctx };
        let ctx = ExecutionPlanDecodeCtx::new(&below);
        let Some(operator) = &node.physical_plan_type else {
            return Err(DataFusionError::Internal("an operator has no type".to_owned()));
        };
        match operator {
            PhysicalPlanType::Aggregate(_) => AggregateExec::try_from_proto(node, &ctx),
            PhysicalPlanType::AsyncFunc(_) => AsyncFuncExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Buffer(_) => BufferExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Cooperative(_) => CooperativeExec::try_from_proto(node, &ctx),
            PhysicalPlanType::CrossJoin(_) => CrossJoinExec::try_from_proto(node, &ctx),
            PhysicalPlanType::CsvScan(_) => CsvSource::try_from_proto(node, &ctx),
            PhysicalPlanType::Empty(_) => EmptyExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Filter(_) => FilterExec::try_from_proto(node, &ctx),
            PhysicalPlanType::GenerateSeries(series) => node.try_into_generate_series_physical_plan(series),
            PhysicalPlanType::GlobalLimit(_) => GlobalLimitExec::try_from_proto(node, &ctx),
            PhysicalPlanType::HashJoin(_) => HashJoinExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Interleave(_) => InterleaveExec::try_from_proto(node, &ctx),
            PhysicalPlanType::JsonScan(_) => JsonSource::try_from_proto(node, &ctx),
            PhysicalPlanType::LocalLimit(_) => LocalLimitExec::try_from_proto(node, &ctx),
            PhysicalPlanType::MemoryScan(_) => MemorySourceConfig::try_from_proto(node, &ctx),
            PhysicalPlanType::Merge(_) => CoalescePartitionsExec::try_from_proto(node, &ctx),
            PhysicalPlanType::NestedLoopJoin(_) => NestedLoopJoinExec::try_from_proto(node, &ctx),
            PhysicalPlanType::ParquetScan(_) => ParquetSource::try_from_proto(node, &ctx),
            PhysicalPlanType::PlaceholderRow(_) => PlaceholderRowExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Projection(_) => ProjectionExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Repartition(_) => RepartitionExec::try_from_proto(node, &ctx),
            PhysicalPlanType::ScalarSubquery(_) => ScalarSubqueryExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Sort(_) => SortExec::try_from_proto(node, &ctx),
            PhysicalPlanType::SortMergeJoin(_) => SortMergeJoinExec::try_from_proto(node, &ctx),
            PhysicalPlanType::SortPreservingMerge(_) => SortPreservingMergeExec::try_from_proto(node, &ctx),
            PhysicalPlanType::SymmetricHashJoin(_) => SymmetricHashJoinExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Union(_) => UnionExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Unnest(_) => UnnestExec::try_from_proto(node, &ctx),
            PhysicalPlanType::Window(_) => WindowAggExec::try_from_proto(node, &ctx),
            other => Err(DataFusionError::NotImplemented(format!("a fragment cannot contain {other:?}"))),
        }
    }
}

impl PhysicalProtoConverterExtension for Operators {
    fn proto_to_execution_plan(
        &self,
        node: &PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        decode_operator(node, |node| self.operator(node, ctx))
    }

    fn proto_to_physical_expr(
        &self,
        node: &PhysicalExprNode,
        input: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        self.0.decode(node, input, ctx, self)
    }

    fn execution_plan_to_proto(
        &self,
        _plan: &Arc<dyn ExecutionPlan>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        Err(only_decodes())
    }

    fn physical_expr_to_proto(
        &self,
        _expr: &Arc<dyn PhysicalExpr>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        Err(only_decodes())
    }
}

/// Decodes the inputs, expressions and functions of an operator.
struct Below<'a, 'ctx> {
    operators: &'a Operators,
    ctx: &'a PhysicalPlanDecodeContext<'ctx>,
}

impl ExecutionPlanDecode for Below<'_, '_> {
    fn decode_plan(&self, node: &PhysicalPlanNode) -> Result<Arc<dyn ExecutionPlan>> {
        self.operators.proto_to_execution_plan(node, self.ctx)
    }

    fn decode_plan_with_scalar_subquery_results(
        &self,
        node: &PhysicalPlanNode,
        results: ScalarSubqueryResults,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.operators.proto_to_execution_plan(node, &self.ctx.with_scalar_subquery_results(results))
    }

    fn decode_expr(&self, node: &PhysicalExprNode, input: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        self.operators.proto_to_physical_expr(node, input, self.ctx)
    }

    fn task_ctx(&self) -> &TaskContext {
        self.ctx.task_ctx()
    }

    // Functions are DataFusion's own, so only their names are sent.
    fn decode_udf(&self, name: &str, _payload: Option<&[u8]>) -> Result<Arc<ScalarUDF>> {
        self.task_ctx().udf(name)
    }

    fn decode_udaf(&self, name: &str, _payload: Option<&[u8]>) -> Result<Arc<AggregateUDF>> {
        self.task_ctx().udaf(name)
    }

    fn decode_udwf(&self, name: &str, _payload: Option<&[u8]>) -> Result<Arc<WindowUDF>> {
        self.task_ctx().udwf(name)
    }
}
