//! Comparisons and parts of intervals. [`super::keyed`] sorts, joins and groups by them.
//!
//! DataFusion compares intervals by months, then by days, then by nanoseconds, and the difference of two timestamps with an
//! interval in the same way: `36 hours` is less than `1 day`, and `1 day` is not `24 hours`. Here they are compared by their
//! length, with days of 24 hours and months of 30 days, as in PostgreSQL. `date_part` of them is wrong in Arrow.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalUnit};
use buzz_kernel::{interval_key, interval_length, interval_of_key, interval_part, null_if};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{
    AggregateFunction, Between, InList, InSubquery, ScalarFunction, Sort as SortExpr, WindowFunction,
};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::operands::{self, type_of};
use super::{doubles, windows};

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// Plans a comparison of an interval with a text, which is read as an interval.
#[derive(Debug)]
pub(super) struct Texts;

impl ExprPlanner for Texts {
    fn plan_binary_op(&self, mut raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        if !matches!(raw.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) {
            return Ok(PlannerResult::Original(raw));
        }
        let (left, right) = (type_of(&raw.left, schema), type_of(&raw.right, schema));
        let (Ok(left), Ok(right)) = (left, right) else { return Ok(PlannerResult::Original(raw)) };
        match (Kind::of(&left), Kind::of(&right)) {
            (Kind::Interval | Kind::Duration, Kind::Text) => raw.right = as_interval(raw.right),
            (Kind::Text, Kind::Interval | Kind::Duration) => raw.left = as_interval(raw.left),
            _ => {}
        }
        Ok(PlannerResult::Original(raw))
    }
}

/// The kinds of types that matter for a comparison of lengths.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Interval,
    Duration,
    Text,
    Null,
    Other,
}

impl Kind {
    pub(super) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Interval(_) => Self::Interval,
            DataType::Duration(_) => Self::Duration,
            DataType::Null => Self::Null,
            DataType::Dictionary(_, values) if values.is_string() => Self::Text,
            other if other.is_string() => Self::Text,
            _ => Self::Other,
        }
    }
}

fn as_interval(text: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(text), INTERVAL))
}

pub(super) fn length(value: Expr) -> Expr {
    interval_length().call(vec![value])
}

/// Replaces `operands`, which are compared with each other, by their lengths. Returns false if none is an interval. Two
/// durations are compared rightly.
fn lengths(operands: &mut [&mut Expr], schema: &DFSchema) -> Result<bool> {
    let mut kinds = Vec::with_capacity(operands.len());
    for operand in operands.iter() {
        kinds.push(Kind::of(&type_of(operand, schema)?));
    }
    if !have_lengths(&kinds) {
        return Ok(false);
    }
    for (operand, kind) in operands.iter_mut().zip(kinds) {
        replace(operand, |value| match kind {
            Kind::Text => length(as_interval(value)),
            Kind::Interval | Kind::Duration => length(value),
            Kind::Null | Kind::Other => value,
        });
    }
    Ok(true)
}

pub(super) fn have_lengths(kinds: &[Kind]) -> bool {
    let has = |kind| kinds.contains(&kind);
    !has(Kind::Other) && (has(Kind::Interval) || has(Kind::Duration) && has(Kind::Text))
}

pub(super) fn replace(expression: &mut Expr, with: impl FnOnce(Expr) -> Expr) {
    let null = Expr::Literal(ScalarValue::Null, None);
    *expression = with(std::mem::replace(expression, null));
}

/// Replaces `value` by its length if it is an interval.
pub(super) fn key(value: &mut Expr, schema: &DFSchema) -> Result<bool> {
    let is_interval = is_interval(value, schema)?;
    if is_interval {
        replace(value, length);
    }
    Ok(is_interval)
}

pub(super) fn is_interval(value: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(matches!(type_of(value, schema)?, DataType::Interval(_)))
}

pub(super) fn ordered(order: &mut [SortExpr], schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    for sort in order {
        changed |= key(&mut sort.expr, schema)?;
    }
    Ok(changed)
}

/// Compares the intervals in `expression` by their lengths.
pub(super) fn by_length(mut expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &mut expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if operands::is_comparison(*op) => {
            lengths(&mut [left.as_mut(), right.as_mut()], schema)?
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            lengths(&mut [expr.as_mut(), low.as_mut(), high.as_mut()], schema)?
        }
        Expr::InList(InList { expr, list, .. }) => {
            let mut operands: Vec<&mut Expr> = std::iter::once(expr.as_mut()).chain(list).collect();
            lengths(&mut operands, schema)?
        }
        Expr::Case(Case { expr: Some(value), when_then_expr, .. }) => {
            let whens = when_then_expr.iter_mut().map(|(when, _)| when.as_mut());
            let mut operands: Vec<&mut Expr> = std::iter::once(value.as_mut()).chain(whens).collect();
            lengths(&mut operands, schema)?
        }
        Expr::InSubquery(membership) => of_subquery(membership, schema)?,
        Expr::AggregateFunction(aggregate) => {
            let is_extreme = is_extreme(aggregate.func.name()) && keyed_args(&mut aggregate.params.args, schema)?;
            let changed = of_aggregate(aggregate, schema)? || is_extreme;
            if is_extreme {
                replace(&mut expression, |extreme| interval_of_key().call(vec![extreme]));
            }
            changed
        }
        Expr::WindowFunction(window) => {
            let is_extreme = is_extreme(window.fun.name()) && keyed_args(&mut window.params.args, schema)?;
            let changed = of_window(window, schema)? || is_extreme;
            if is_extreme {
                replace(&mut expression, |extreme| interval_of_key().call(vec![extreme]));
            }
            changed
        }
        Expr::ScalarFunction(call) => match of_call(call, schema)? {
            Some(replaced) => {
                expression = replaced;
                true
            }
            None => false,
        },
        _ => false,
    };
    Ok(Transformed::new_transformed(expression, changed))
}

fn is_extreme(name: &str) -> bool {
    matches!(name, "min" | "max")
}

/// Replaces the arguments of `min` or `max` by numbers with the order of lengths. Returns false if they are not intervals.
fn keyed_args(args: &mut [Expr], schema: &DFSchema) -> Result<bool> {
    let [arg] = args else { return Ok(false) };
    // Other types of intervals have months or days only, and are in their order.
    let is_interval = type_of(arg, schema)? == INTERVAL;
    if is_interval {
        replace(arg, |arg| interval_key().call(vec![arg]));
    }
    Ok(is_interval)
}

/// Returns a call of `greatest` or `least` of intervals over numbers with the order of lengths. `None` if it has no interval.
fn extreme_of_values(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    let mut types = Vec::with_capacity(call.args.len());
    for arg in &call.args {
        types.push(type_of(arg, schema)?);
    }
    if !have_lengths(&types.iter().map(Kind::of).collect::<Vec<_>>()) {
        return Ok(None);
    }
    let args = call.args.iter().zip(types).map(|(arg, data_type)| {
        let arg = if data_type == INTERVAL { arg.clone() } else { as_interval(arg.clone()) };
        interval_key().call(vec![arg])
    });
    let extreme = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&call.func), args.collect()));
    Ok(Some(interval_of_key().call(vec![extreme])))
}

fn of_subquery(membership: &mut InSubquery, schema: &DFSchema) -> Result<bool> {
    let plan = Arc::clone(&membership.subquery.subquery);
    let columns = plan.schema().columns();
    let [column] = columns.as_slice() else { return Ok(false) };
    let item = Expr::Column(column.clone());
    let kind = Kind::of(&item.get_type(plan.schema().as_ref())?);
    // Texts of a subquery are left as they are: one that is not an interval would fail the query.
    if kind == Kind::Text || !have_lengths(&[Kind::of(&membership.expr.get_type(schema)?), kind]) {
        return Ok(false);
    }
    if kind != Kind::Null {
        let plan = LogicalPlanBuilder::from(plan.as_ref().clone()).project(vec![length(item)])?.build()?;
        membership.subquery = membership.subquery.with_plan(Arc::new(plan));
    }
    replace(&mut membership.expr, length);
    Ok(true)
}

fn of_aggregate(aggregate: &mut AggregateFunction, schema: &DFSchema) -> Result<bool> {
    let params = &mut aggregate.params;
    match (params.distinct, params.args.as_mut_slice()) {
        (true, [counted]) if aggregate.func.name() == "count" => {
            Ok(key(counted, schema)? || doubles::formed(counted, schema)?)
        }
        // The planner requires that DISTINCT values are ordered by themselves.
        (true, _) => Ok(false),
        (false, _) => ordered(&mut params.order_by, schema),
    }
}

fn of_window(window: &mut WindowFunction, schema: &DFSchema) -> Result<bool> {
    let params = &mut window.params;
    let mut changed = false;
    for value in &mut params.partition_by {
        changed |= key(value, schema)?;
    }
    if !windows::is_range_by_distance(&params.window_frame) {
        changed |= ordered(&mut params.order_by, schema)?;
    }
    Ok(changed)
}

/// Returns what replaces a call of `date_part`, `nullif`, `greatest` or `least`.
fn of_call(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    if matches!(call.name(), "greatest" | "least") {
        return extreme_of_values(call, schema);
    }
    let [first, second] = call.args.as_slice() else { return Ok(None) };
    match call.name() {
        "date_part" => {
            let has_parts = matches!(Kind::of(&second.get_type(schema)?), Kind::Interval | Kind::Duration);
            Ok(has_parts.then(|| interval_part().call(call.args.clone())))
        }
        // The result of a comparison in CASE would have the first value twice, and that of nested calls many times.
        "nullif" => {
            let kinds = [Kind::of(&type_of(first, schema)?), Kind::of(&type_of(second, schema)?)];
            if !have_lengths(&kinds) || kinds.contains(&Kind::Null) {
                return Ok(None);
            }
            let args = call.args.iter().zip(kinds);
            let args = args.map(|(arg, kind)| if kind == Kind::Text { as_interval(arg.clone()) } else { arg.clone() });
            Ok(Some(null_if().call(args.collect())))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Schema, TimeUnit};
    use datafusion::logical_expr::{Operator, binary_expr};
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn only_comparisons_with_an_interval_are_of_lengths() {
        let duration = DataType::Duration(TimeUnit::Microsecond);
        let fields = [("i", INTERVAL), ("d", duration), ("n", DataType::Int64)];
        let fields: Vec<Field> = fields.into_iter().map(|(name, of)| Field::new(name, of, true)).collect();
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        let text = |left, right| by_length(binary_expr(left, Operator::Lt, right), &schema).unwrap().data.to_string();
        assert_eq!(text(col("d"), col("i")), "buzz_interval_length(d) < buzz_interval_length(i)");
        assert_eq!(text(col("i"), Expr::Literal(ScalarValue::Null, None)), "buzz_interval_length(i) < NULL");
        assert!(text(lit("1 day"), col("d")).ends_with("< buzz_interval_length(d)"));
        assert_eq!(text(col("d"), col("d")), "d < d");
        assert_eq!(text(col("n"), col("n")), "n < n");
        assert_eq!(text(col("i"), col("n")), "i < n");
    }
}
