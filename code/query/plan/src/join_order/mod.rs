//! Orders the inner joins of a statement by estimated rows, not by the order in which the statement names its tables.
//!
//! Small tables that filter a large one are joined to it first. The cut then finds these joins directly above the large
//! table's scan, and tasks deliver the rows that remain. Estimates only choose between plans with the same rows.
//!
//! Read in this order: this file (finding and rebuilding joins), `model` (choosing), `estimate` and `selectivity`
//! (numbers).

mod estimate;
mod model;
mod selectivity;

use std::sync::Arc;

use buzz_protocol::{JoinOrder, Options, Result};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, Join, JoinConstraint, LogicalPlan, Operator, Projection};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;

pub(crate) use self::estimate::{distinct_of_key, rows, stored_rows};
use self::model::{Condition, Graph, RELATIONS_MAX, Relation, Shape};
use crate::standard::{can_fail, conjunction};
use crate::trees::Tree;

/// The factor by which the rows of all joins must shrink before joins leave the order of the statement.
const GAIN: f64 = 1.5;

/// Orders the inner joins of `plan`, which is optimized, unless the option `join_order` keeps them as written.
///
/// # Errors
/// `Internal` if the plan cannot be rebuilt.
pub(crate) fn joins_ordered(state: &SessionState, plan: LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    if options.join_order == JoinOrder::Written {
        return Ok(plan);
    }
    let ordered = ordered(plan)?;
    if !ordered.transformed {
        return Ok(ordered.data);
    }
    // The columns that each join keeps belong to the old order.
    let projections = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    Ok(projections.optimize(ordered.data, state, |_, _| {})?)
}

fn ordered(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    plan.rewrite_down(&mut |node| {
        let Some((mut cluster, written)) = Cluster::of(&node)? else { return Ok(Transformed::no(node)) };
        let mut changed = false;
        for relation in &mut cluster.relations {
            let below = ordered(relation.clone())?;
            changed |= below.transformed;
            *relation = below.data;
        }
        let better = cluster.better(&written);
        if better.is_none() && !changed {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        Ok(match cluster.joined(better.as_ref().unwrap_or(&written), &node) {
            Some(joined) => Transformed::new(joined?, true, TreeNodeRecursion::Jump),
            None => Transformed::no(node),
        })
    })
}

/// Inner joins without other operators between them, and the relations that they join.
struct Cluster {
    relations: Vec<LogicalPlan>,
    predicates: Vec<Predicate>,
    /// Conditions that can fail. They are evaluated for the rows that pass all others, as no order may add an error.
    last: Vec<Expr>,
}

/// A condition of a join.
#[derive(Clone)]
enum Predicate {
    /// Two expressions are equal; each is of one relation.
    Equal { left: (Expr, usize), right: (Expr, usize) },
    /// Any other condition, and the set of its relations.
    Other(Expr, u64),
}

impl Predicate {
    fn relations(&self) -> u64 {
        match self {
            Predicate::Equal { left, right } => (1 << left.1) | (1 << right.1),
            Predicate::Other(_, relations) => *relations,
        }
    }
}

impl Cluster {
    /// Returns the joins from `node` downwards, and their order. `None` if there are less than two, or if one of them has a
    /// condition that must stay where it is.
    fn of(node: &LogicalPlan) -> DataFusionResult<Option<(Cluster, Shape)>> {
        let mut joins = Vec::new();
        let mut relations = Vec::new();
        let Some(written) = shape(node, &mut joins, &mut relations) else { return Ok(None) };
        if relations.len() < 3 {
            return Ok(None);
        }
        let mut cluster = Cluster { relations, predicates: Vec::new(), last: Vec::new() };
        for join in joins {
            if !cluster.add_conditions(join)? {
                return Ok(None);
            }
        }
        Ok(Some((cluster, written)))
    }

    /// Adds the conditions of `join`. Returns false if one of them cannot be moved.
    fn add_conditions(&mut self, join: &Join) -> DataFusionResult<bool> {
        for (left, right) in &join.on {
            let (Some(l), Some(r)) = (self.relations_of(left), self.relations_of(right)) else { return Ok(false) };
            if l.count_ones() != 1 || r.count_ones() != 1 || l == r || may_fail(left, join)? || may_fail(right, join)? {
                return Ok(false);
            }
            let side = |expression: &Expr, relation: u64| (expression.clone(), relation.trailing_zeros() as usize);
            self.predicates.push(Predicate::Equal { left: side(left, l), right: side(right, r) });
        }
        for condition in join.filter.iter().cloned().flat_map(split_conjunction_owned) {
            if condition.is_volatile() {
                return Ok(false);
            }
            match self.relations_of(&condition) {
                _ if may_fail(&condition, join)? => self.last.push(condition),
                Some(relations) if relations != 0 => self.predicates.push(Predicate::Other(condition, relations)),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Returns the set of relations that `expression` reads. `None` if a column is not of exactly one.
    fn relations_of(&self, expression: &Expr) -> Option<u64> {
        let mut set = 0;
        for column in expression.column_refs() {
            let mut holding = (0..self.relations.len()).filter(|relation| has(&self.relations[*relation], column));
            let (relation, None) = (holding.next()?, holding.next()) else { return None };
            set |= 1 << relation;
        }
        Some(set)
    }

    /// Returns an order of these joins whose results have clearly fewer rows than in the order `written`.
    fn better(&self, written: &Shape) -> Option<Shape> {
        let relations: Option<Vec<_>> = self.relations.iter().map(relation).collect();
        let relations = relations?;
        let condition = |predicate: &Predicate| match predicate {
            Predicate::Equal { left, right } => {
                let distinct = |(key, relation): &(Expr, usize)| {
                    distinct_of_key(&self.relations[*relation], key).unwrap_or(relations[*relation].stored)
                };
                Condition::equal(predicate.relations(), distinct(left).max(distinct(right)))
            }
            Predicate::Other(..) => Condition::other(predicate.relations()),
        };
        let graph = Graph::new(relations.clone(), self.predicates.iter().map(condition).collect());
        let best = graph.greedy();
        (graph.cost(&best) * GAIN <= graph.cost(written)).then_some(best)
    }

    /// Returns the joins in the order `shape`, with the columns of `node`. `None` if names would be ambiguous.
    fn joined(&self, shape: &Shape, node: &LogicalPlan) -> Option<DataFusionResult<LogicalPlan>> {
        let mut predicates: Vec<_> = self.predicates.iter().cloned().map(Some).collect();
        let (mut plan, _) = self.built(shape, &mut predicates)?;
        if let Some(last) = conjunction(self.last.clone()) {
            plan = LogicalPlan::Filter(Filter::try_new(last, Arc::new(plan)).ok()?);
        }
        let columns = node.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
        let projected = Projection::try_new_with_schema(columns, Arc::new(plan), Arc::clone(node.schema()));
        Some(projected.map(LogicalPlan::Projection))
    }

    /// Builds the joins of `shape`. Each of `predicates` is taken by the lowest join that has all of its relations.
    fn built(&self, shape: &Shape, predicates: &mut [Option<Predicate>]) -> Option<(LogicalPlan, u64)> {
        let (left, right) = match shape {
            Shape::Relation(relation) => return Some((self.relations[*relation].clone(), 1 << *relation)),
            Shape::Join(left, right) => (left, right),
        };
        let (left, left_set) = self.built(left, predicates)?;
        let (right, right_set) = self.built(right, predicates)?;
        let (mut on, mut others) = (Vec::new(), Vec::new());
        for predicate in predicates {
            if predicate.as_ref().is_none_or(|predicate| predicate.relations() & !(left_set | right_set) != 0) {
                continue;
            }
            match predicate.take()? {
                Predicate::Equal { left, right } if left_set & (1 << left.1) != 0 => on.push((left.0, right.0)),
                Predicate::Equal { left, right } => on.push((right.0, left.0)),
                Predicate::Other(condition, _) => others.push(condition),
            }
        }
        let (kind, constraint) = (JoinType::Inner, JoinConstraint::On);
        let (left, right, filter) = (Arc::new(left), Arc::new(right), conjunction(others));
        // Columns of one name that the old order never had side by side are an error here.
        let join =
            Join::try_new(left, right, on, filter, kind, constraint, NullEquality::NullEqualsNothing, false).ok()?;
        Some((LogicalPlan::Join(join), left_set | right_set))
    }
}

/// Returns the order of the inner joins from `node` downwards. Appends them to `joins` and what they join to `relations`.
/// `None` if `node` is another operator, or if there are too many.
fn shape<'a>(node: &'a LogicalPlan, joins: &mut Vec<&'a Join>, relations: &mut Vec<LogicalPlan>) -> Option<Shape> {
    let join = inner_join(node)?;
    joins.push(join);
    let mut side = |input: &'a LogicalPlan| {
        if inner_join(input).is_some() {
            return shape(input, joins, relations);
        }
        relations.push(input.clone());
        (relations.len() <= RELATIONS_MAX).then(|| Shape::Relation(relations.len() - 1))
    };
    Some(Shape::Join(Box::new(side(&join.left)?), Box::new(side(&join.right)?)))
}

/// Returns the inner join that `node` is, also below projections that only choose columns.
fn inner_join(mut node: &LogicalPlan) -> Option<&Join> {
    while let LogicalPlan::Projection(projection) = node {
        if !projection.expr.iter().all(|expression| matches!(expression, Expr::Column(_))) {
            return None;
        }
        node = &projection.input;
    }
    let LogicalPlan::Join(join) = node else { return None };
    let equal = join.null_equality == NullEquality::NullEqualsNothing;
    (join.join_type == JoinType::Inner && equal && !join.null_aware).then_some(join)
}

fn has(relation: &LogicalPlan, column: &Column) -> bool {
    relation.schema().maybe_index_of_column(column).is_some()
}

fn relation(plan: &LogicalPlan) -> Option<Relation> {
    Some(Relation { rows: rows(plan)?, stored: stored_rows(plan)? })
}

/// Checks if `condition` of `join` can fail for a value, or computes anything that could.
fn may_fail(condition: &Expr, join: &Join) -> DataFusionResult<bool> {
    use Operator::{Divide, Minus, Modulo, Multiply, Plus};
    let computes = condition.any(&mut |inner| {
        Ok(match inner {
            Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(op, Divide | Minus | Modulo | Multiply | Plus),
            Expr::ScalarFunction(_) => true,
            _ => false,
        })
    })?;
    Ok(computes || can_fail(condition, &join.left.schema().join(join.right.schema())?)?)
}
