//! Makes statements mean what the SQL standard says, where DataFusion 55 understands something else or nothing.
//!
//! [`reassociated`] and [`rewritten`] rewrite the parsed statement, [`planned`] the logical plan that DataFusion makes of it.
//! [`session`] adds the rules that need to run in between DataFusion's own. [`guarded`] rewrites the optimized plan and
//! [`without_unordered_limits`] the physical one. Each module says what DataFusion does, and why that is wrong.

mod casts;
mod clauses;
mod correlated;
mod decimals;
mod distinct;
mod doubles;
mod equalities;
mod fields;
mod formats;
mod frames;
mod guards;
mod instants;
mod intervals;
mod keyed;
mod lifted;
mod limits;
mod named_windows;
mod names;
mod natural;
mod numbers;
mod operands;
mod operators;
mod ordered;
mod overflow;
mod patterns;
mod precedence;
mod separable;
mod sets;
mod shadowing;
mod simplified;
mod subqueries;
mod syntax;
mod times;
mod unnest;
mod using;
mod windows;
mod zones;

use std::cell::Cell;
use std::sync::Arc;

use buzz_protocol::{Options, Overflow, Result};
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::SessionConfig;

pub(crate) use self::clauses::check_functions;
pub(crate) use self::guards::{can_fail, conjunction, guarded};
pub(crate) use self::limits::without_unordered_limits;
pub(crate) use self::names::with_names;
pub(crate) use self::natural::{Named, natural_selects, with_names_of};
pub(crate) use self::precedence::reassociated;
pub(crate) use self::syntax::{rewritten, rewritten_expression};
use crate::trees::{PlanTree, Tree};

/// Creates a session with `tables` only, in which `now()` is `start`, and whose rules include those of this module.
///
/// # Errors
/// As [`buzz_kernel::session`].
pub(crate) fn session<'a>(
    config: SessionConfig,
    options: &Options,
    start: DateTime<Utc>,
    tables: impl IntoIterator<Item = (&'a str, Arc<dyn TableProvider>)>,
) -> Result<SessionState> {
    let state = buzz_kernel::session(config, start, tables)?;
    let mut analyzer = state.analyzer().rules.clone();
    analyzer.push(overflow::rule(options.overflow == Overflow::Wrap));
    let mut physical = state.physical_optimizers().to_vec();
    let place = physical.iter().position(|rule| rule.name() == "EnsureRequirements").unwrap_or(0);
    physical.insert(place, Arc::new(limits::LimitsAboveSorts));
    let mut planners = state.expr_planners().to_vec();
    planners.insert(0, Arc::new(operators::Intervals));
    planners.insert(0, Arc::new(intervals::Texts));
    let optimizer = equalities::kept_apart(state.optimizers());
    let builder = SessionStateBuilder::new_from_existing(state)
        .with_analyzer_rules(analyzer)
        .with_optimizer_rules(optimizer)
        .with_physical_optimizer_rules(physical)
        .with_expr_planners(planners);
    let mut state = builder.build();
    state.register_udf(using::mark())?;
    Ok(state)
}

/// Rewrites `plan`, which the planner has just made of a statement.
///
/// # Errors
/// `Invalid` if an expression has no type.
pub(crate) fn planned(plan: LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    let plan = using::merged(plan)?;
    let plan = unnest::joined(plan)?;
    let plan = sets::counted(plan)?;
    let plan = subqueries::rewritten(plan)?;
    let plan = correlated::joined(plan)?;
    Ok(expressions(plan, options)?)
}

/// Rewrites `expression`, which the planner has just made, over the columns of `schema`.
///
/// # Errors
/// `Invalid` if the expression has no type.
pub(crate) fn planned_expression(expression: Expr, schema: &DFSchema, options: &Options) -> Result<Expr> {
    let zone = options.time_zone.as_deref();
    Ok(expression.rewrite_up(&mut |inner| one(inner, schema, zone))?.data)
}

/// Rewrites the expressions of `plan`, each with the types of its columns.
fn expressions(plan: LogicalPlan, options: &Options) -> DataFusionResult<LogicalPlan> {
    let zone = options.time_zone.as_deref();
    let changed = Cell::new(false);
    let plan = plan.rewrite_all_up(&mut |node| {
        let schema = match node.inputs().as_slice() {
            [] => node.schema().as_ref().clone(),
            inputs => merge_schema(inputs),
        };
        let names = NamePreserver::new(&node);
        let node = node.rewrite_expressions(&mut |expression| {
            overflow::with_names(expression, &names, &|inner| one(inner, &schema, zone))
        })?;
        let node = node.transform_data(keyed::rows)?;
        // The type of a rewritten expression may be another one, and so may those of the nodes above.
        changed.set(changed.get() || node.transformed);
        if changed.get() { node.map_data(LogicalPlan::recompute_schema) } else { Ok(node) }
    })?;
    Ok(plan.data)
}

/// Rewrites one expression, whose parts are rewritten.
fn one(expression: Expr, schema: &DFSchema, zone: Option<&str>) -> DataFusionResult<Transformed<Expr>> {
    let sibling = |result: Transformed<Expr>, next: &dyn Fn(Expr) -> DataFusionResult<Transformed<Expr>>| {
        let changed = result.transformed;
        let result = next(result.data)?;
        Ok(Transformed::new(result.data, changed || result.transformed, TreeNodeRecursion::Continue))
    };
    let mut result = sibling(simplified::flat(expression), &|inner| patterns::translated(inner, schema))?;
    result = sibling(result, &|inner| intervals::by_length(inner, schema))?;
    formats::check_printed(&result.data, schema)?;
    result = sibling(result, &|inner| formats::complete(inner, schema))?;
    result = sibling(result, &|inner| windows::within(inner, &|window| windows::in_groups(window, schema)))?;
    result = sibling(result, &|inner| decimals::comparable(inner, schema))?;
    result = sibling(result, &|inner| zones::of_own_unit(inner, schema))?;
    result = sibling(result, &|inner| times::comparable(inner, schema, zone))?;
    result = sibling(result, &|inner| instants::exact(inner, schema))?;
    result = sibling(result, &|inner| windows::within(inner, &|window| doubles::by_value(window, schema)))?;
    result = sibling(result, &|inner| simplified::with_nulls(inner, schema))?;
    result = sibling(result, &operators::supported)?;
    result = sibling(result, &|inner| operators::of_dates(inner, schema))?;
    result = sibling(result, &|inner| operators::zoned_bins(inner, schema))?;
    result = sibling(result, &|inner| operators::wide_average(inner, schema))?;
    // Last, as it makes two windows of one.
    sibling(result, &|inner| windows::within(inner, &|window| windows::with_null_peers(window, schema)))
}
