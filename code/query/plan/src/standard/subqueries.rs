//! `IN`, `EXISTS`, `ANY` and `ALL` with the three values of the standard, in every place.
//!
//! DataFusion turns them to joins only within a filter, and the joins know two values: under `OR`, `NOT`, `IS NULL` or
//! `CASE`, unknown became false. There, `x IN (q)` becomes a `CASE` over `EXISTS`. Outside of filters, `EXISTS` becomes a
//! count. A subquery that aggregates without `GROUP BY` has one row whatever it reads.

use std::cell::Cell;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, ScalarValue, Spans};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_aggregate::count::count;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, not,
    when,
};

use super::separable::{check_names, check_separable, single_row, with_having};
use crate::trees::{PlanTree, Tree};

/// Rewrites the subqueries in the expressions of `plan`, and in its subqueries.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn rewritten(plan: LogicalPlan) -> Result<LogicalPlan> {
    let next = Cell::new(0);
    let plan = plan.rewrite_all_up(&mut |node| match node {
        LogicalPlan::Filter(filter) if has_subquery(&filter.predicate)? => {
            let rewriter = Rewriter { schema: filter.input.schema(), next: &next };
            let predicate = rewriter.of(filter.predicate.clone(), Place::Condition)?;
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, Arc::clone(&filter.input))?)))
        }
        node => values(node, &next),
    })?;
    Ok(plan.data)
}

fn has_subquery(expression: &Expr) -> Result<bool> {
    expression.any(&mut |inner| Ok(matches!(inner, Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_))))
}

/// Rewrites the subqueries of a node that is not a filter.
fn values(node: LogicalPlan, next: &Cell<usize>) -> Result<Transformed<LogicalPlan>> {
    let (mut found, mut scalar) = (false, false);
    node.each_expression(&mut |expression| {
        found |= has_subquery(expression)?;
        scalar |= expression.any(&mut |inner| Ok(matches!(inner, Expr::ScalarSubquery(_))))?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    let elsewhere = matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Sort(_) | LogicalPlan::Window(_));
    let schema = match node.inputs().as_slice() {
        [input] if found || (scalar && elsewhere) => Arc::clone(input.schema()),
        _ => return Ok(Transformed::no(node)),
    };
    let names = NamePreserver::new(&node);
    let rewriter = Rewriter { schema: &schema, next };
    let counted = node.rewrite_expressions(&mut |expression| {
        named(expression, &names, &mut |whole| {
            let value = rewriter.of(whole, Place::Value)?;
            let counted = value.rewrite_up(&mut |inner| match inner {
                Expr::Exists(exists) => counted(exists).map(Transformed::yes),
                other => Ok(Transformed::no(other)),
            })?;
            Ok(Transformed::yes(counted.data))
        })
    })?;
    if elsewhere { computed_below(counted.data, next).map(Transformed::yes) } else { Ok(counted) }
}

/// Computes the scalar subqueries of `node` in a projection below it: DataFusion plans them in filters and projections.
fn computed_below(node: LogicalPlan, next: &Cell<usize>) -> Result<LogicalPlan> {
    let mut found: Vec<(Expr, Expr)> = Vec::new();
    let names = NamePreserver::new(&node);
    let node = node.rewrite_expressions(&mut |expression| {
        named(expression, &names, &mut |whole| {
            whole.rewrite_down(&mut |inner| {
                if !matches!(inner, Expr::ScalarSubquery(_)) {
                    return Ok(Transformed::no(inner));
                }
                let known = found.iter().find(|(subquery, _)| *subquery == inner).map(|(_, column)| column.clone());
                let column = known.unwrap_or_else(|| {
                    let number = next.replace(next.get() + 1);
                    let column = Expr::Column(Column::new_unqualified(format!("buzz_value_{number}")));
                    found.push((inner, column.clone()));
                    column
                });
                Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
            })
        })
    })?;
    let node = node.data;
    let inputs = node.inputs();
    let [input] = inputs.as_slice() else { return Ok(node) };
    if found.is_empty() {
        return Ok(node);
    }
    let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let computed = found.into_iter().map(|(subquery, column)| subquery.alias(column.schema_name().to_string()));
    let below = LogicalPlanBuilder::from((*input).clone());
    let below = below.project(columns.iter().cloned().chain(computed).collect::<Vec<_>>())?.build()?;
    let above = node.with_new_exprs(node.expressions(), vec![below])?;
    match above {
        LogicalPlan::Sort(_) => LogicalPlanBuilder::from(above).project(columns)?.build(),
        other => Ok(other),
    }
}

/// Rewrites a whole `expression` with `rewrite`, and keeps its name. The expressions of a grouping set are rewritten one by
/// one and keep one name each: a set with a name would be one expression for the planner.
pub(super) fn named(
    expression: Expr,
    names: &NamePreserver,
    rewrite: &mut dyn FnMut(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<Expr>> {
    if matches!(expression, Expr::GroupingSet(_)) {
        return expression.map_children(|part| named(part, names, rewrite));
    }
    let name = names.save(&expression);
    Ok(rewrite(expression)?.update_data(|rewritten| name.restore(rewritten)))
}

/// Returns whether a subquery has rows as a comparison of their number.
fn counted(exists: Exists) -> Result<Expr> {
    let Exists { subquery, negated } = exists;
    let rows = number_of_rows(subquery)?;
    Ok(if negated { rows.eq(lit(0_i64)) } else { rows.gt(lit(0_i64)) })
}

/// Returns the number of rows of a subquery.
fn number_of_rows(subquery: Subquery) -> Result<Expr> {
    let rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    let rows = rows.aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64)).alias("rows")])?.build()?;
    Ok(Expr::ScalarSubquery(Subquery { subquery: rows.into(), ..subquery }))
}

/// The place of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// One of the conditions that AND combines in a filter: DataFusion computes an anti join that knows nulls.
    Condition,
    /// Below AND and OR of a filter, where unknown counts as false.
    Predicate,
    /// Anywhere else: unknown must stay unknown.
    Value,
}

struct Rewriter<'a> {
    /// Schema of the rows for which the expressions are evaluated.
    schema: &'a DFSchema,
    /// Number of the next relation that is named.
    next: &'a Cell<usize>,
}

impl Rewriter<'_> {
    fn of(&self, expression: Expr, place: Place) -> Result<Expr> {
        if !has_subquery(&expression)? {
            return Ok(expression);
        }
        match expression {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(op, Operator::And | Operator::Or) && place != Place::Value =>
            {
                let place = if op == Operator::Or { Place::Predicate } else { place };
                let (left, right) = (self.of(*left, place)?, self.of(*right, place)?);
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
            }
            Expr::Not(inner) => match *inner {
                Expr::InSubquery(found) => self.is_in(InSubquery { negated: !found.negated, ..found }, place),
                Expr::Exists(found) => exists(Exists { negated: !found.negated, ..found }),
                Expr::SetComparison(found) => self.quantified(found, true, place),
                other => Ok(not(self.of(other, Place::Value)?)),
            },
            Expr::SetComparison(found) => self.quantified(found, false, place),
            Expr::InSubquery(found) => self.is_in(found, place),
            Expr::Exists(found) => exists(found),
            other => {
                let changed = other.map_children(|child| Ok(Transformed::yes(self.of(child, Place::Value)?)))?;
                Ok(changed.data)
            }
        }
    }

    fn is_in(&self, found: InSubquery, place: Place) -> Result<Expr> {
        let InSubquery { expr, subquery, negated } = found;
        let expr = self.of(*expr, Place::Value)?;
        if let Some((row, passes)) = with_having(&subquery)? {
            let value = when(passes, self.equal(&expr, row)?).otherwise(lit(false))?;
            return Ok(if negated { not(value) } else { value });
        }
        if let Some(None) = single_row(&subquery.subquery) {
            let equal = self.equal(&expr, subquery)?;
            return Ok(if negated { not(equal) } else { equal });
        }
        check_separable(&subquery)?;
        let single = !matches!(expr.get_type(self.schema)?, DataType::Struct(_));
        let varies = expr.any_column_refs();
        let as_planned = match (place, negated) {
            (Place::Condition, true) => single && varies && subquery.outer_ref_columns.is_empty(),
            (Place::Condition | Place::Predicate, false) => single,
            _ => false,
        };
        // A reference to a query two levels above cannot be moved into the subquery.
        if as_planned || expr.contains_outer() {
            return Ok(Expr::InSubquery(InSubquery { expr: Box::new(expr), subquery, negated }));
        }
        self.compared(&expr, Operator::Eq, subquery)?.any(negated, place)
    }

    /// Rewrites `x < ANY (q)` and `x < ALL (q)`, or their negations.
    fn quantified(&self, found: SetComparison, negated: bool, place: Place) -> Result<Expr> {
        // A comparison holds for all rows if its opposite holds for none.
        let (op, negated) = match (found.quantifier, found.op.negate()) {
            (SetQuantifier::All, Some(opposite)) => (opposite, !negated),
            (SetQuantifier::Any, Some(_)) => (found.op, negated),
            (_, None) => {
                let unchanged = Expr::SetComparison(found);
                return Ok(if negated { not(unchanged) } else { unchanged });
            }
        };
        if op == Operator::Eq {
            return self.is_in(InSubquery::new(found.expr, found.subquery, negated), place);
        }
        let expr = self.of(*found.expr, Place::Value)?;
        // A reference to a query two levels above cannot be moved into the subquery.
        if expr.contains_outer() {
            let opposite = op.negate().filter(|_| found.quantifier == SetQuantifier::All);
            let (op, is_negated) = opposite.map_or((op, negated), |op| (op, !negated));
            let unchanged = SetComparison::new(Box::new(expr), found.subquery, op, found.quantifier);
            let unchanged = Expr::SetComparison(unchanged);
            return Ok(if is_negated { not(unchanged) } else { unchanged });
        }
        if let Some((row, passes)) = with_having(&found.subquery)? {
            let holds = BinaryExpr::new(Box::new(expr), op, Box::new(Expr::ScalarSubquery(row)));
            let value = when(passes, Expr::BinaryExpr(holds)).otherwise(lit(false))?;
            return Ok(if negated { not(value) } else { value });
        }
        if let Some(None) = single_row(&found.subquery.subquery) {
            let holds = BinaryExpr::new(Box::new(expr), op, Box::new(Expr::ScalarSubquery(found.subquery)));
            let holds = Expr::BinaryExpr(holds);
            return Ok(if negated { not(holds) } else { holds });
        }
        check_separable(&found.subquery)?;
        self.compared(&expr, op, found.subquery)?.any(negated, place)
    }

    /// Compares `expr` with the one row of `subquery`. Row values are compared part by part, since a comparison of structs
    /// is never unknown for a null part.
    fn equal(&self, expr: &Expr, subquery: Subquery) -> Result<Expr> {
        let data_type = subquery.subquery.schema().field(0).data_type().clone();
        let pairs = self.paired(expr, &Expr::ScalarSubquery(subquery), &data_type)?;
        Ok(conjunction(pairs.into_iter().map(|(part, value)| part.eq(value))).unwrap_or_else(|| lit(true)))
    }

    /// Pairs the parts of two row values, of which the right one has the type `data_type`; other values are one part.
    fn paired(&self, left: &Expr, right: &Expr, data_type: &DataType) -> Result<Vec<(Expr, Expr)>> {
        let of = |row: &Expr, name: &str| get_field(row.clone(), name);
        Ok(match (left.get_type(self.schema)?, data_type) {
            (DataType::Struct(fields), DataType::Struct(others)) if fields.len() == others.len() => {
                let both = fields.iter().zip(others.iter());
                both.map(|(field, other)| (of(left, field.name()), of(right, other.name()))).collect()
            }
            _ => vec![(left.clone(), right.clone())],
        })
    }

    /// Names the columns of a subquery, and pairs them with the parts of `expr`, which `op` compares with them.
    fn compared(&self, expr: &Expr, op: Operator, subquery: Subquery) -> Result<Compared> {
        let (qualifier, field) = subquery.subquery.schema().qualified_field(0);
        let column = Expr::from((qualifier, field));
        // Rows are in the order of their first parts that differ, so they are compared as they are.
        let pairs = match op {
            Operator::Eq | Operator::NotEq => self.paired(expr, &column, field.data_type())?,
            _ => vec![(expr.clone(), column)],
        };
        let (parts, columns): (Vec<Expr>, Vec<Expr>) = pairs.into_iter().unzip();
        let parts: Vec<Expr> = parts.into_iter().map(|part: Expr| self.outer(part)).collect::<Result<_>>()?;
        let correlated = !subquery.outer_ref_columns.is_empty();
        if correlated {
            check_names(expr, &subquery)?;
        }
        let plan = subquery.subquery.as_ref().clone();
        let (plan, columns): (LogicalPlan, Vec<Expr>) = if correlated {
            // DataFusion does not find columns of a correlated subquery below another name, nor conditions below a projection.
            below_projections(plan, columns)?
        } else {
            let named = columns.into_iter().enumerate();
            let named = named.map(|(index, column): (usize, Expr)| column.alias(format!("value_{index}")));
            let relation = format!("buzz_in_{}", self.next.replace(self.next.get() + 1));
            let plan = LogicalPlanBuilder::from(plan).project(named.collect::<Vec<_>>())?.alias(relation)?.build()?;
            let columns = plan.schema().columns().into_iter().map(Expr::Column).collect();
            (plan, columns)
        };
        let pairs = columns.into_iter().zip(parts).collect();
        Ok(Compared { plan, pairs, op, correlated, expr: expr.clone() })
    }

    /// Replaces the columns of `expression` by references to the outer query.
    fn outer(&self, expression: Expr) -> Result<Expr> {
        let replaced = expression.rewrite_up(&mut |inner| match inner {
            Expr::Column(column) => {
                let field = Arc::clone(self.schema.field_from_column(&column)?);
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(replaced.data)
    }
}

/// Returns the plan below the projections on top of `plan`, and `columns` of `plan` as expressions over it. Projections that change
/// the number of rows or have subqueries stay.
fn below_projections(mut plan: LogicalPlan, mut columns: Vec<Expr>) -> Result<(LogicalPlan, Vec<Expr>)> {
    while let LogicalPlan::Distinct(Distinct::All(input)) = &plan {
        plan = input.as_ref().clone();
    }
    while let LogicalPlan::Projection(projection) = &plan {
        let stays = |inner: &Expr| matches!(inner, Expr::Unnest(_) | Expr::ScalarSubquery(_));
        let stay =
            projection.expr.iter().map(|part| Ok(has_subquery(part)? || part.any(&mut |inner| Ok(stays(inner)))?));
        if stay.collect::<Result<Vec<bool>>>()?.contains(&true) {
            break;
        }
        let replaced = columns.into_iter().map(|column| {
            let below = column.rewrite_up(&mut |inner| {
                let Expr::Column(column) = &inner else { return Ok(Transformed::no(inner)) };
                let part = &projection.expr[projection.schema.index_of_column(column)?];
                Ok(Transformed::yes(part.clone().unalias()))
            })?;
            Ok(below.data)
        });
        columns = replaced.collect::<Result<_>>()?;
        plan = projection.input.as_ref().clone();
    }
    Ok((plan, columns))
}

/// A subquery whose columns are compared with expressions of the outer query.
struct Compared {
    plan: LogicalPlan,
    /// Each column and the expression that it is compared with.
    pairs: Vec<(Expr, Expr)>,
    /// Compares the expression of the outer query, on the left, with the column.
    op: Operator,
    /// The subquery refers to the outer query.
    correlated: bool,
    /// The expression before IN.
    expr: Expr,
}

impl Compared {
    /// Returns whether the comparison holds for any row, or the negation of that.
    fn any(&self, negated: bool, place: Place) -> Result<Expr> {
        if place == Place::Condition && negated {
            return self.exists_where(true, Expr::is_not_false);
        }
        let found = self.exists_where(false, |holds| holds)?;
        if place != Place::Value && !negated {
            return Ok(found);
        }
        let unknown = self.unknown()?;
        let value = when(found, lit(true)).when(unknown, lit(ScalarValue::Boolean(None))).otherwise(lit(false))?;
        Ok(if negated { not(value) } else { value })
    }

    /// Returns whether the subquery has a row for which `condition` of each comparison is true.
    fn exists_where(&self, negated: bool, condition: impl Fn(Expr) -> Expr) -> Result<Expr> {
        let conditions = self.pairs.iter().map(|(column, part)| {
            let compared = BinaryExpr::new(Box::new(part.clone()), self.op, Box::new(column.clone()));
            condition(Expr::BinaryExpr(compared))
        });
        // Rows differ if any of their parts do.
        let condition = if self.op == Operator::NotEq { disjunction(conditions) } else { conjunction(conditions) };
        let Some(condition) = condition else { return Ok(lit(false)) };
        let (plan, condition) = match &self.plan {
            LogicalPlan::Filter(filter) if self.correlated => {
                (filter.input.as_ref().clone(), filter.predicate.clone().and(condition))
            }
            plan => (plan.clone(), condition),
        };
        let plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
        Ok(Expr::Exists(Exists { subquery: self.subquery(plan), negated }))
    }

    fn subquery(&self, plan: LogicalPlan) -> Subquery {
        let outer_ref_columns = plan.all_out_ref_exprs();
        Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: Spans::new() }
    }

    /// Returns whether a comparison is unknown for a row of the subquery, provided that none holds.
    fn unknown(&self) -> Result<Expr> {
        let [(column, _)] = self.pairs.as_slice() else {
            return self.exists_where(false, Expr::is_not_false);
        };
        if self.correlated {
            return self.exists_where(false, Expr::is_not_false);
        }
        // Counts do not depend on the row of the outer query, so they are computed once.
        let nulls = LogicalPlanBuilder::from(self.plan.clone()).filter(column.clone().is_null())?.build()?;
        let nulls = number_of_rows(self.subquery(nulls))?.gt(lit(0_i64));
        let rows = number_of_rows(self.subquery(self.plan.clone()))?.gt(lit(0_i64));
        Ok(nulls.or(self.expr.clone().is_null().and(rows)))
    }
}

/// Replaces `EXISTS` over an aggregate without GROUP BY, which has one row, or the one that passes HAVING.
fn exists(found: Exists) -> Result<Expr> {
    match single_row(&found.subquery.subquery) {
        None => {
            check_separable(&found.subquery)?;
            Ok(Expr::Exists(found))
        }
        Some(None) => Ok(lit(!found.negated)),
        Some(Some(having)) => {
            let Exists { subquery, negated } = found;
            let plan = LogicalPlanBuilder::from(having.input.as_ref().clone());
            let plan = plan.project(vec![having.predicate.alias("passes")])?.build()?;
            let passes = Expr::ScalarSubquery(Subquery { subquery: plan.into(), ..subquery });
            Ok(if negated { passes.is_not_true() } else { passes.is_true() })
        }
    }
}
