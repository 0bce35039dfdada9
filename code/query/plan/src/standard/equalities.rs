//! Joins by `=` next to joins by `IS NOT DISTINCT FROM`.
//!
//! A join of DataFusion has one answer to whether nulls are equal, for all of its keys. Two of its rules add keys without looking at it:
//! one regards inner joins that follow each other as one join and gives each part the answer of the last, the other makes keys of
//! equalities that were pushed into a join. Rows with null in `a` then passed `a = b`, or rows were lost.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::trees::PlanTree;

/// A rule of the optimizer.
type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// Returns `rules` with those that mix both kinds of equality kept from doing so.
pub(super) fn kept_apart(rules: &[Rule]) -> Vec<Rule> {
    let kept = rules.iter().map(|rule| match rule.name() {
        "eliminate_cross_join" => Arc::new(Clusters(Arc::clone(rule))) as Rule,
        "extract_equijoin_predicate" => Arc::new(Keys(Arc::clone(rule))) as Rule,
        _ => Arc::clone(rule),
    });
    kept.collect()
}

/// The rule that orders inner joins, for joins of one kind of equality at a time.
#[derive(Debug)]
struct Clusters(Rule);

impl OptimizerRule for Clusters {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let divided = plan.rewrite_all_up(&mut |node| divided(node))?;
        let ordered = self.0.rewrite(divided.data, config)?;
        Ok(Transformed::new_transformed(ordered.data, ordered.transformed || divided.transformed))
    }
}

/// The rule that makes keys of equalities, for joins whose nulls are not equal, or that have no keys yet.
#[derive(Debug)]
struct Keys(Rule);

impl OptimizerRule for Keys {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Join(join) if are_nulls_equal(join) && !join.on.is_empty() => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

/// Puts projections, which change nothing, between `node` and the joins below it of which the other kind of equality must stay apart. A
/// later rule removes them.
fn divided(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Join(mut join) if join.join_type == JoinType::Inner => {
            let all = are_nulls_equal(&join);
            let (left, of_left) = apart(join.left, all)?;
            let (right, of_right) = apart(join.right, all)?;
            (join.left, join.right) = (left, right);
            Ok(Transformed::new_transformed(LogicalPlan::Join(join), of_left || of_right))
        }
        // Its equalities would become keys.
        LogicalPlan::Filter(mut filter) => {
            let (input, changed) = apart(filter.input, false)?;
            filter.input = input;
            Ok(Transformed::new_transformed(LogicalPlan::Filter(filter), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Returns `input` below a projection, and true, if it is an inner join and its nulls are equal, or if `all` inner joins must stay apart.
fn apart(input: Arc<LogicalPlan>, all: bool) -> Result<(Arc<LogicalPlan>, bool)> {
    match input.as_ref() {
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner && (all || are_nulls_equal(join)) => {
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let schema = Arc::clone(input.schema());
            let projection = Projection::try_new_with_schema(columns, input, schema)?;
            Ok((Arc::new(LogicalPlan::Projection(projection)), true))
        }
        _ => Ok((input, false)),
    }
}

fn are_nulls_equal(join: &Join) -> bool {
    join.null_equality == NullEquality::NullEqualsNull
}
