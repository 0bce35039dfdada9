//! Encodes plans of any depth.
//!
//! The protobuf decoder rejects messages that are nested more than 100 deep, and an operator takes two to six levels. The
//! encoding therefore divides a deep plan: an operator or expression whose message would be too high becomes a *piece*,
//! the bytes of a message of its own, in which the depth starts again at 0.
//!
//! A piece takes the place of an extension, with no inputs and bytes that begin with [`PIECE`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr_with_converter;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::physical_expr_node::ExprType;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{
    PhysicalExprNode, PhysicalExtensionExprNode, PhysicalExtensionNode, PhysicalPlanNode,
};
use prost::Message;

/// The first byte of a piece. No protobuf message begins with it, since a field's number is above 0.
const PIECE: u8 = 0;

/// Levels of messages between an operator or expression and the operators and expressions directly below it; at most.
/// The longest way is from a scan to its projected expressions.
const LEVELS: usize = 6;

/// Maximum height of a message that is not divided. The other half of the 100 levels is left for the types of columns,
/// which may be nested too.
const HEIGHT_MAX: usize = 48;

/// Bytes of stack below which a recursion continues on a new one, and the size of that one.
const STACK_LEFT_MIN: usize = 256 << 10;
const STACK_BYTES: usize = 4 << 20;

/// Runs `recursion` with enough stack for one more operator. An unoptimized build takes more than 10 KiB for each.
fn with_stack<T>(recursion: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_LEFT_MIN, STACK_BYTES, recursion)
}

/// Encodes one plan, in pieces.
#[derive(Default)]
pub(super) struct Encoder {
    /// The height of the highest message below each operator and expression that is being encoded, the innermost last.
    below: RefCell<Vec<usize>>,
}

impl Encoder {
    /// Makes the message of an operator or expression. If it is too high, `piece` replaces it by its bytes.
    fn message<M: Message>(&self, make: impl FnOnce() -> Result<M>, piece: impl FnOnce(Vec<u8>) -> M) -> Result<M> {
        self.below.borrow_mut().push(0);
        let made = with_stack(make);
        let below = self.below.borrow_mut().pop().unwrap_or_default();
        let (mut message, mut height) = (made?, below + LEVELS);
        if height > HEIGHT_MAX {
            let mut bytes = vec![PIECE];
            message.encode(&mut bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
            (message, height) = (piece(bytes), LEVELS);
        }
        if let Some(parent) = self.below.borrow_mut().last_mut() {
            *parent = height.max(*parent);
        }
        Ok(message)
    }
}

impl PhysicalProtoConverterExtension for Encoder {
    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        let piece = |node| PhysicalPlanNode {
            physical_plan_type: Some(PhysicalPlanType::Extension(PhysicalExtensionNode { node, inputs: Vec::new() })),
        };
        let plan = Arc::clone(plan);
        self.message(|| PhysicalPlanNode::try_from_physical_plan_with_converter(plan, codec, self), piece)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        let piece = |expr| PhysicalExprNode {
            expr_id: None,
            expr_type: Some(ExprType::Extension(PhysicalExtensionExprNode { expr, inputs: Vec::new() })),
        };
        self.message(|| serialize_physical_expr_with_converter(expr, codec, self), piece)
    }

    fn proto_to_execution_plan(
        &self,
        _node: &PhysicalPlanNode,
        _ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("an encoder does not decode operators".to_owned()))
    }

    fn proto_to_physical_expr(
        &self,
        _node: &PhysicalExprNode,
        _input: &Schema,
        _ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Err(DataFusionError::Internal("an encoder does not decode expressions".to_owned()))
    }
}

/// Decodes the operator `node` with `decode`. If it is a piece, decodes the operator in it.
pub(super) fn decode_operator(
    node: &PhysicalPlanNode,
    decode: impl FnOnce(&PhysicalPlanNode) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match &node.physical_plan_type {
        Some(PhysicalPlanType::Extension(PhysicalExtensionNode { node: bytes, .. }))
            if bytes.first() == Some(&PIECE) =>
        {
            let inner = PhysicalPlanNode::decode(&bytes[1..]).map_err(broken)?;
            with_stack(|| decode(&inner))
        }
        _ => with_stack(|| decode(node)),
    }
}

/// The expressions of a plan that have an id, by id. An expression that occurs several times stays shared, such as a
/// dynamic filter in the operator that fills it and in the scan that uses it.
#[derive(Default)]
pub(super) struct Seen(RefCell<HashMap<u64, Arc<dyn PhysicalExpr>>>);

impl Seen {
    /// Decodes an expression, which may be a piece. `converter` decodes the expressions below it.
    pub(super) fn decode(
        &self,
        node: &PhysicalExprNode,
        input: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let inner;
        let mut node = node;
        if let Some(ExprType::Extension(PhysicalExtensionExprNode { expr: bytes, .. })) = &node.expr_type
            && bytes.first() == Some(&PIECE)
        {
            inner = PhysicalExprNode::decode(&bytes[1..]).map_err(broken)?;
            // A piece is never another piece.
            node = &inner;
        }
        let made = with_stack(|| parse_physical_expr_with_converter(node, input, ctx, converter))?;
        let Some(id) = node.expr_id else { return Ok(made) };
        let first = self.0.borrow().get(&id).cloned();
        let Some(first) = first else {
            self.0.borrow_mut().insert(id, Arc::clone(&made));
            return Ok(made);
        };
        // Each occurrence has its own children, but shares the state.
        let children = made.children().into_iter().cloned().collect();
        first.with_new_children(children)
    }
}

fn broken(error: prost::DecodeError) -> DataFusionError {
    DataFusionError::Internal(format!("a piece of a plan cannot be decoded: {error}"))
}

/// Decodes one plan with all operators of DataFusion.
#[derive(Default)]
pub(super) struct Decoder(Seen);

impl PhysicalProtoConverterExtension for Decoder {
    fn proto_to_execution_plan(
        &self,
        node: &PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        decode_operator(node, |node| node.try_into_physical_plan_with_context(ctx, self))
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

/// Returns the error of a converter that only decodes.
pub(super) fn only_decodes() -> DataFusionError {
    DataFusionError::Internal("this converter decodes operators, it does not encode them".to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use datafusion::execution::TaskContext;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::filter::FilterExec;

    use super::*;
    use crate::{decode_fragment, decode_plan, encode_fragment, encode_plan, lost_on_the_wire};

    /// Makes a chain of alternating operators, which the encoding cannot write as a list.
    fn alternating(column: Arc<dyn PhysicalExpr>, depth: i64) -> Arc<dyn PhysicalExpr> {
        let operators = [Operator::Plus, Operator::Multiply].into_iter().cycle();
        (0..depth).zip(operators).fold(column, |left, (value, operator)| {
            Arc::new(BinaryExpr::new(left, operator, lit(value))) as Arc<dyn PhysicalExpr>
        })
    }

    fn deep_plan(operators: i64, operations: i64) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let value = alternating(col("a", &schema).unwrap(), operations);
        let deep = Arc::new(BinaryExpr::new(value, Operator::Gt, lit(7_i64)));
        let bottom: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(schema));
        (0..operators).fold(bottom, |input, _| {
            Arc::new(FilterExec::try_new(Arc::clone(&deep) as _, input).unwrap()) as Arc<dyn ExecutionPlan>
        })
    }

    #[test]
    fn deep_plans_survive_the_wire() {
        let ctx = TaskContext::default();
        let codec = datafusion_proto::physical_plan::DefaultPhysicalExtensionCodec {};
        for (operators, operations) in [(1, 1), (3, 20), (120, 2), (2, 300)] {
            let plan = deep_plan(operators, operations);
            let fragment = decode_fragment(&encode_fragment(Arc::clone(&plan)).unwrap(), &ctx).unwrap();
            let decoded = decode_plan(&encode_plan(Arc::clone(&plan), &codec).unwrap(), &ctx, &codec).unwrap();
            for received in [fragment, decoded] {
                assert_eq!(lost_on_the_wire(&plan, &received), None, "{operators} operators, {operations} operations");
                let text = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
                assert_eq!(text(&plan), text(&received));
            }
        }
    }

    #[test]
    fn broken_piece_is_an_error() {
        let node = |bytes: &[u8]| PhysicalPlanNode {
            physical_plan_type: Some(PhysicalPlanType::Extension(PhysicalExtensionNode {
                node: bytes.to_vec(),
                inputs: Vec::new(),
            })),
        };
        for bytes in [&[PIECE][..], &[PIECE, 255, 255], &[PIECE, PIECE]] {
            decode_fragment(&node(bytes).encode_to_vec(), &TaskContext::default()).unwrap_err();
        }
    }
}
