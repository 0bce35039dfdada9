//! Rewrites the parts of a plan that its encoding would lose on the way to a comb.
//!
//! The encoding of physical plans silently drops the `FILTER` of a window's aggregate and the `IGNORE NULLS` of a
//! window function, so the result would be wrong. It decodes a literal of type Float16 as Float32. A plan that cannot
//! be rewritten is not sent: Fuse reduces it itself. Every encoded plan is decoded once and compared, so that other
//! losses are found before anything runs.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use buzz_exchange::InboxCodec;
use buzz_kernel::{
    aggregates, decode_fragment, decode_plan, encode_fragment, encode_plan, lost_on_the_wire, scalar_functions,
};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Case, Cast, Expr, LogicalPlan, WindowFunctionDefinition};
use datafusion::physical_expr::window::{StandardWindowExpr, WindowExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

use crate::trees::{PlanTree, Tree};

/// Aggregates that ignore nulls, so that a filtered row can be replaced by a null.
const SKIP_NULLS: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
];

/// Rewrites `sum(x) FILTER (WHERE p) OVER w` in `plan` to `sum(CASE WHEN p THEN x END) OVER w`.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub(crate) fn sendable(plan: LogicalPlan) -> Result<LogicalPlan> {
    let sendable = plan.rewrite_all_up(&mut |node| {
        let names = NamePreserver::new(&node);
        let rewritten = node.rewrite_expressions(&mut |expression| {
            let name = names.save(&expression);
            Ok(expression.rewrite_up(&mut window)?.update_data(|expression| name.restore(expression)))
        })?;
        if rewritten.transformed { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
    })?;
    Ok(sendable.data)
}

/// Replaces each literal of type Float16 in the optimized `plan` by a cast of a Float32 literal.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub(crate) fn sendable_literals(plan: LogicalPlan) -> Result<LogicalPlan> {
    let sendable = plan.rewrite_all_up(&mut |node| {
        let names = NamePreserver::new(&node);
        node.rewrite_expressions(&mut |expression| {
            let name = names.save(&expression);
            Ok(expression.rewrite_up(&mut float16)?.update_data(|expression| name.restore(expression)))
        })
    })?;
    Ok(sendable.data)
}

fn float16(expression: Expr) -> DataFusionResult<Transformed<Expr>> {
    let Expr::Literal(ScalarValue::Float16(value), metadata) = expression else {
        return Ok(Transformed::no(expression));
    };
    let value = ScalarValue::Float32(value.map(f32::from));
    let cast = Cast::new(Box::new(Expr::Literal(value, metadata)), DataType::Float16);
    Ok(Transformed::yes(Expr::Cast(cast)))
}

/// Encodes `plan` as a fragment.
///
/// # Errors
/// `Invalid`, naming an operator that has no encoding or whose encoding loses something.
pub(crate) fn encoded(plan: Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    let bytes = encode_fragment(Arc::clone(&plan))?;
    let lost = match decode_fragment(&bytes, decoding()) {
        Ok(decoded) => lost_on_the_wire(&plan, &decoded),
        Err(error) => Some(undecodable(&error)),
    };
    match lost {
        Some(lost) => Err(QueryError::invalid(format!("a part of this SQL cannot be sent to HBees: {lost}"))),
        None => Ok(bytes),
    }
}

/// Describes why `plan`, a reduce plan, cannot be sent to combs. `None` if it can.
pub(crate) fn unsendable_plan(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    if let Some(lost) = unsendable_operator(plan) {
        return Some(lost);
    }
    let Ok(bytes) = encode_plan(Arc::clone(plan), &InboxCodec) else {
        return Some("one of its operators cannot be sent to combs".to_string());
    };
    match decode_plan(&bytes, decoding(), &InboxCodec) {
        Ok(decoded) => lost_on_the_wire(plan, &decoded).map(|lost| format!("it cannot be sent to combs ({lost})")),
        Err(error) => Some(format!("it cannot be sent to combs ({})", undecodable(&error.into()))),
    }
}

/// Describes why a plan cannot be decoded.
fn undecodable(error: &QueryError) -> String {
    // The rest of the message is a list of 100 names of messages.
    if error.message.contains("recursion limit") {
        return "its operators or expressions are nested too deeply; divide it into steps".to_string();
    }
    error.message.clone()
}

/// Returns the context in which plans are decoded to compare them. It has every function that a plan may call.
fn decoding() -> &'static TaskContext {
    static CONTEXT: LazyLock<TaskContext> = LazyLock::new(|| {
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(AnyStore)).build_arc();
        let runtime = runtime.expect("a runtime that runs nothing has what it needs");
        let builder = SessionStateBuilder::new().with_default_features().with_runtime_env(runtime);
        let mut state = builder.build();
        for function in scalar_functions() {
            state.register_udf(function).expect("a session accepts every function");
        }
        for function in aggregates() {
            state.register_udaf(function).expect("a session accepts every function");
        }
        TaskContext::from(&state)
    });
    &CONTEXT
}

/// Has a store for every place, without objects: scans are decoded and not run.
#[derive(Debug)]
struct AnyStore;

impl ObjectStoreRegistry for AnyStore {
    fn register_store(&self, _place: &Url, _store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _place: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        Ok(Arc::new(InMemory::new()))
    }
}

/// Describes a part of `plan` that its encoding would lose, for messages. `None` if there is none.
pub(crate) fn unsendable(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let visited = plan.each_node(&mut |node| {
        node.each_expression(&mut |expression| {
            expression.each(&mut |expression| {
                if let Expr::WindowFunction(window) = expression {
                    found = found.take().or_else(|| lost(window));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    visited.ok().and(found)
}

/// Returns the reason why the physical `plan` would change if it was sent. `None` if it survives.
pub(crate) fn unsendable_operator(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let mut found = None;
    let visited = plan.each(&mut |node| {
        let windows = node
            .downcast_ref::<WindowAggExec>()
            .map(WindowAggExec::window_expr)
            .or_else(|| node.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::window_expr));
        let reversed = windows.unwrap_or_default().iter().find(|window| is_reversed(window));
        found = reversed.map(|window| format!("`{}` over a window in reverse order cannot be sent", window.name()));
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    visited.ok().and(found)
}

/// Checks if a window function is evaluated in reverse order, because the planner reads the window backwards. That flag
/// has no encoding: `LAG` would be sent and evaluated as `LEAD`. Only the debug text of the expression shows it; an
/// argument with the same text makes Fuse reduce the query, which is harmless.
fn is_reversed(window: &Arc<dyn WindowExpr>) -> bool {
    let function = window.as_any().downcast_ref::<StandardWindowExpr>();
    function.is_some_and(|window| format!("{:?}", window.get_standard_func_expr()).contains("is_reversed: true"))
}

fn lost(window: &WindowFunction) -> Option<String> {
    let of_nulls = matches!(window.fun, WindowFunctionDefinition::WindowUDF(_))
        && window.params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let what = match window.params.filter {
        _ if of_nulls => "IGNORE NULLS",
        Some(_) => "FILTER",
        None => return None,
    };
    Some(format!("{what} of `{}` over a window cannot be sent", window.fun.name()))
}

fn window(expression: Expr) -> DataFusionResult<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expression else {
        return Ok(Transformed::no(expression));
    };
    if !SKIP_NULLS.contains(&window.fun.name()) {
        return Ok(Transformed::no(Expr::WindowFunction(window)));
    }
    let Some(filter) = window.params.filter.take() else {
        return Ok(Transformed::no(Expr::WindowFunction(window)));
    };
    #[expect(deprecated, reason = "the form of `count(*)` before analysis")]
    let value = match window.params.args.first_mut() {
        Some(Expr::Wildcard { .. }) | None => Expr::Literal(ScalarValue::Int64(Some(1)), None),
        Some(value) => std::mem::take(value),
    };
    let kept = Expr::Case(Case::new(None, vec![(filter, Box::new(value))], None));
    match window.params.args.first_mut() {
        Some(first) => *first = kept,
        None => window.params.args.push(kept),
    }
    Ok(Transformed::yes(Expr::WindowFunction(window)))
}
