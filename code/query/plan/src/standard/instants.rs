//! Comparisons of dates and timestamps of different units.
//!
//! DataFusion converts both sides to the finer unit, or a date to nanoseconds: these end in 2262, and `9999-12-31` is the usual end
//! of time. Beside a literal it then moves the conversion to the literal, which loses its digits: a column of seconds was equal to
//! a literal with half a second. Here a column stays as it is, so that files are pruned by it, and a constant is rounded to its unit
//! in the direction that keeps the comparison. What cannot be rounded is compared as a number of nanoseconds.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use buzz_kernel::{instant, instant_in, null_if, round_time, rounded_time, unit_nanoseconds};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList, InSubquery, ScalarFunction};
use datafusion::logical_expr::{
    BinaryExpr, Case, Cast, Expr, LogicalPlan, LogicalPlanBuilder, Operator, lit, not, when,
};

use super::operands::{is_comparison, is_constant, literal_value, type_of};

/// Makes the comparisons in `expression` exact if they are of dates or timestamps of different units.
pub(super) fn exact(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let exact = match &expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => compared(left, *op, right, schema)?,
        Expr::Between(range) => between(range, schema)?,
        Expr::InList(list) => listed(list, schema)?,
        Expr::Case(case) => chosen(case, schema)?,
        Expr::ScalarFunction(call) if call.name() == "nullif" => nullif(call, schema)?,
        Expr::InSubquery(membership) => of_subquery(membership, schema)?,
        _ => None,
    };
    Ok(exact.map_or_else(|| Transformed::no(expression), Transformed::yes))
}

/// Returns what to join instead of `left = right`, expressions of the given types, if these are times of different units.
pub(super) fn keys(left: (&Expr, &DataType), right: (&Expr, &DataType)) -> Option<(Expr, Expr)> {
    let (first, second) = (Time::of(left.0, left.1.clone())?, Time::of(right.0, right.1.clone())?);
    let operands = [first, second];
    if are_alike(&operands) || fit_the_finer(&operands) {
        return None;
    }
    let zone = common_zone(&operands);
    let [first, second] = operands;
    Some((first.instant(zone.as_ref()), second.instant(zone.as_ref())))
}

/// An operand that is a date or a timestamp.
struct Time {
    expr: Expr,
    data_type: DataType,
    /// Nanoseconds per unit.
    unit: i64,
    /// The operand has the same value for all rows.
    is_constant: bool,
    /// Its value, if it is a literal.
    literal: Option<ScalarValue>,
    /// The operand was converted to a finer unit, which its comparison does not need.
    was_widened: bool,
}

impl Time {
    fn of(expr: &Expr, data_type: DataType) -> Option<Self> {
        let unit = unit_nanoseconds(&data_type)?;
        let (is_constant, literal) = (is_constant(expr), literal_value(expr));
        Some(Self { expr: expr.clone(), data_type, unit, is_constant, literal, was_widened: false })
    }

    /// Returns `expr` as an operand. `None` if it is not a date or timestamp.
    fn operand(expr: &Expr, schema: &DFSchema) -> Result<Option<Self>> {
        let Some(mut time) = Self::of(expr, type_of(expr, schema)?) else { return Ok(None) };
        while !time.is_constant
            && let Expr::Cast(Cast { expr: inner, .. }) = &time.expr
            && let Some(inner) = Self::of(inner, type_of(inner, schema)?)
            && inner.unit >= time.unit
            && inner.zone() == time.zone()
        {
            time = Self { was_widened: true, ..inner };
        }
        Ok(Some(time))
    }

    fn zone(&self) -> Option<&Arc<str>> {
        match &self.data_type {
            DataType::Timestamp(_, zone) => zone.as_ref(),
            _ => None,
        }
    }

    /// Returns the operand as nanoseconds since 1970. Without a time zone, it is a time in `zone`.
    fn instant(&self, zone: Option<&Arc<str>>) -> Expr {
        match zone {
            Some(zone) if self.zone().is_none() => instant_in().call(vec![self.expr.clone(), lit(zone.as_ref())]),
            _ => instant().call(vec![self.expr.clone()]),
        }
    }

    /// Returns the operand, which has no time zone, as a time in `zone`.
    fn placed(&self, zone: &Arc<str>) -> Expr {
        Expr::Cast(Cast::new(Box::new(self.expr.clone()), self.placed_type(zone)))
    }

    fn placed_type(&self, zone: &Arc<str>) -> DataType {
        let unit = match self.data_type {
            DataType::Timestamp(unit, _) => unit,
            _ => TimeUnit::Microsecond,
        };
        DataType::Timestamp(unit, Some(Arc::clone(zone)))
    }

    /// Returns the values of the type of `self` that are next to `constant`. `None` if the type cannot have them.
    fn around(&self, constant: &Self) -> Result<Option<Around>> {
        let in_zone = match (self.zone(), constant.zone(), &self.data_type) {
            (_, _, DataType::Date64) | (None, Some(_), _) => return Ok(None),
            (Some(zone), None, _) => Some(zone),
            _ => None,
        };
        let to = &self.data_type;
        let Some(value) = &constant.literal else {
            let expr = in_zone.map_or_else(|| constant.expr.clone(), |zone| constant.placed(zone));
            if constant.unit >= self.unit {
                return Ok(Some(Around::On(Expr::Cast(Cast::new(Box::new(expr), to.clone())))));
            }
            let like = Expr::Literal(ScalarValue::try_from(to)?, None);
            let round = |up: bool| rounded_time().call(vec![expr.clone(), like.clone(), lit(up)]);
            return Ok(Some(Around::Unknown(round(false), round(true))));
        };
        let placed = in_zone.map(|zone| value.cast_to(&constant.placed_type(zone)));
        let Ok(value) = placed.unwrap_or_else(|| Ok(value.clone())) else { return Ok(None) };
        let (Ok(before), Ok(after)) = (round_time(&value, to, false), round_time(&value, to, true)) else {
            return Ok(None);
        };
        let literal = |value| Expr::Literal(value, None);
        Ok(Some(if before == after {
            Around::On(literal(before))
        } else {
            Around::Between(literal(before), literal(after))
        }))
    }

    /// Returns the condition of `op` for a constant that no value equals.
    fn unequal(&self, op: Operator) -> Expr {
        let unknown = Expr::Literal(ScalarValue::Boolean(None), None);
        match op {
            Operator::NotEq => self.expr.clone().is_not_null().or(unknown),
            Operator::IsDistinctFrom => lit(true),
            Operator::IsNotDistinctFrom => lit(false),
            _ => self.expr.clone().is_null().and(unknown),
        }
    }
}

/// The place of a constant among the values of a coarser or equal unit.
enum Around {
    /// It is one of them.
    On(Expr),
    /// It is between two of them, which follow each other.
    Between(Expr, Expr),
    /// Both of the two are the same if the constant is one of the values.
    Unknown(Expr, Expr),
}

impl Around {
    /// Returns the next value from the constant on if `up`, otherwise the last one up to it.
    fn next(self, up: bool) -> Expr {
        match self {
            Self::On(value) => value,
            Self::Between(before, after) | Self::Unknown(before, after) => {
                if up {
                    after
                } else {
                    before
                }
            }
        }
    }
}

fn common_zone(times: &[Time]) -> Option<Arc<str>> {
    times.iter().find_map(Time::zone).cloned()
}

/// Checks if `times` can be compared as they are.
fn are_alike(times: &[Time]) -> bool {
    times.iter().all(|time| time.unit == times[0].unit && !time.was_widened)
}

/// Checks if the planner can convert `times` to the finest of their units: only nanoseconds end early, to which it also converts
/// dates.
fn fit_the_finer(times: &[Time]) -> bool {
    times.iter().all(|time| time.unit > 1 && matches!(time.data_type, DataType::Timestamp(..)))
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn compared(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let (Some(left), Some(right)) = (Time::operand(left, schema)?, Time::operand(right, schema)?) else {
        return Ok(None);
    };
    let times = [left, right];
    if are_alike(&times) {
        return Ok(None);
    }
    let (zone, fits) = (common_zone(&times), fit_the_finer(&times));
    let [left, right] = times;
    let beside = match (left.is_constant, right.is_constant) {
        (false, true) => Some((&left, op, &right)),
        (true, false) => op.swap().map(|op| (&right, op, &left)),
        _ => None,
    };
    if let Some((value, op, constant)) = beside
        && let Some(around) = value.around(constant)?
    {
        return beside_constant(value, op, around).map(Some);
    }
    if fits && !left.is_constant && !right.is_constant {
        return Ok(None);
    }
    Ok(Some(binary(left.instant(zone.as_ref()), op, right.instant(zone.as_ref()))))
}

/// Compares `value` with the constant that is described by `around`.
fn beside_constant(value: &Time, op: Operator, around: Around) -> Result<Expr> {
    let expr = value.expr.clone();
    let up = match op {
        Operator::Lt | Operator::GtEq => true,
        Operator::LtEq | Operator::Gt => false,
        _ => {
            return match around {
                Around::On(constant) => Ok(binary(expr, op, constant)),
                Around::Between(..) => Ok(value.unequal(op)),
                Around::Unknown(before, after) => {
                    let is_between = before.clone().not_eq(after);
                    when(is_between, value.unequal(op)).otherwise(binary(expr, op, before))
                }
            };
        }
    };
    Ok(binary(expr, op, around.next(up)))
}

fn between(range: &Between, schema: &DFSchema) -> Result<Option<Expr>> {
    let mut times = Vec::new();
    for operand in [&range.expr, &range.low, &range.high] {
        let Some(time) = Time::operand(operand, schema)? else { return Ok(None) };
        times.push(time);
    }
    if are_alike(&times) {
        return Ok(None);
    }
    let zone = common_zone(&times);
    let Ok([value, low, high]) = <[Time; 3]>::try_from(times) else { return Ok(None) };
    if value.is_constant {
        let part = |op, bound: &Expr| {
            let exact = compared(&range.expr, op, bound, schema)?;
            Ok::<_, datafusion::error::DataFusionError>(
                exact.unwrap_or_else(|| binary((*range.expr).clone(), op, bound.clone())),
            )
        };
        let both = part(Operator::GtEq, &range.low)?.and(part(Operator::LtEq, &range.high)?);
        return Ok(Some(if range.negated { not(both) } else { both }));
    }
    let bound = |bound: &Time, up: bool| -> Result<Option<Expr>> {
        if bound.is_constant {
            return Ok(value.around(bound)?.map(|around| around.next(up)));
        }
        Ok((bound.unit == value.unit).then(|| bound.expr.clone()))
    };
    let (expr, low, high) = match (bound(&low, true)?, bound(&high, false)?) {
        (Some(low), Some(high)) => (value.expr.clone(), low, high),
        _ => (value.instant(zone.as_ref()), low.instant(zone.as_ref()), high.instant(zone.as_ref())),
    };
    Ok(Some(Expr::Between(Between::new(Box::new(expr), range.negated, Box::new(low), Box::new(high)))))
}

/// Returns `items`, which are compared with `value` one by one, as values of its type. Those that no value equals are left out.
/// Returns nanoseconds instead of all operands if that is not possible, and `None` if nothing has to change.
fn aligned(value: &Expr, items: &[Expr], schema: &DFSchema, keep_all: bool) -> Result<Option<(Time, Expr, Vec<Expr>)>> {
    let Some(value) = Time::operand(value, schema)? else { return Ok(None) };
    let mut times = Vec::with_capacity(items.len());
    for item in items {
        match Time::operand(item, schema)? {
            Some(time) => times.push(Some(time)),
            None if type_of(item, schema)?.is_null() => times.push(None),
            None => return Ok(None),
        }
    }
    let is_alike = |time: &Time| time.unit == value.unit && !time.was_widened;
    if !value.was_widened && times.iter().flatten().all(is_alike) {
        return Ok(None);
    }
    let mut rounded = Some(Vec::new());
    for (time, item) in times.iter().zip(items) {
        let Some(list) = &mut rounded else { break };
        let around = match time {
            None => Some(Around::On(item.clone())),
            Some(time) if time.literal.is_some() && !value.is_constant => value.around(time)?,
            Some(time) => (time.unit == value.unit).then(|| Around::On(time.expr.clone())),
        };
        match around {
            Some(Around::On(item)) => list.push(item),
            Some(Around::Between(..)) if !keep_all => {}
            _ => rounded = None,
        }
    }
    if let Some(items) = rounded {
        let expr = value.expr.clone();
        return Ok(Some((value, expr, items)));
    }
    let zone = value.zone().or_else(|| times.iter().flatten().find_map(Time::zone)).cloned();
    let items = times.iter().zip(items);
    let items =
        items.map(|(time, item)| time.as_ref().map_or_else(|| item.clone(), |time| time.instant(zone.as_ref())));
    let (items, expr) = (items.collect(), value.instant(zone.as_ref()));
    Ok(Some((value, expr, items)))
}

fn listed(list: &InList, schema: &DFSchema) -> Result<Option<Expr>> {
    let Some((value, expr, items)) = aligned(&list.expr, &list.list, schema, false)? else { return Ok(None) };
    if items.is_empty() {
        return Ok(Some(value.unequal(if list.negated { Operator::NotEq } else { Operator::Eq })));
    }
    Ok(Some(Expr::InList(InList::new(Box::new(expr), items, list.negated))))
}

fn chosen(case: &Case, schema: &DFSchema) -> Result<Option<Expr>> {
    let Some(value) = &case.expr else { return Ok(None) };
    let whens: Vec<Expr> = case.when_then_expr.iter().map(|(when, _)| when.as_ref().clone()).collect();
    let Some((_, expr, whens)) = aligned(value, &whens, schema, true)? else { return Ok(None) };
    let thens = case.when_then_expr.iter().map(|(_, then)| then.clone());
    let when_then_expr = whens.into_iter().map(Box::new).zip(thens).collect();
    Ok(Some(Expr::Case(Case { expr: Some(Box::new(expr)), when_then_expr, else_expr: case.else_expr.clone() })))
}

fn nullif(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    let [first, second] = call.args.as_slice() else { return Ok(None) };
    let (Some(first), Some(second)) = (Time::operand(first, schema)?, Time::operand(second, schema)?) else {
        return Ok(None);
    };
    let times = [first, second];
    if are_alike(&times) || fit_the_finer(&times) || times[0].zone().is_some() != times[1].zone().is_some() {
        return Ok(None);
    }
    Ok(Some(null_if().call(call.args.clone())))
}

fn of_subquery(membership: &InSubquery, schema: &DFSchema) -> Result<Option<Expr>> {
    let plan = &membership.subquery.subquery;
    let columns = plan.schema().columns();
    let [column] = columns.as_slice() else { return Ok(None) };
    let item = Expr::Column(column.clone());
    let item_type = type_of(&item, plan.schema())?;
    let value_type = type_of(&membership.expr, schema)?;
    let Some((value, item)) = keys((&membership.expr, &value_type), (&item, &item_type)) else { return Ok(None) };
    let plan: LogicalPlan = LogicalPlanBuilder::from(plan.as_ref().clone()).project(vec![item])?.build()?;
    let subquery = membership.subquery.with_plan(Arc::new(plan));
    Ok(Some(Expr::InSubquery(InSubquery::new(Box::new(value), subquery, membership.negated))))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::functions::datetime::expr_fn::now;
    use datafusion::prelude::{col, in_list};

    use super::*;

    fn schema() -> DFSchema {
        let of = |unit| DataType::Timestamp(unit, None);
        let fields = [
            ("s", of(TimeUnit::Second)),
            ("us", of(TimeUnit::Microsecond)),
            ("ns", of(TimeUnit::Nanosecond)),
            ("day", DataType::Date32),
            ("n", DataType::Int64),
        ];
        let fields: Vec<Field> = fields.into_iter().map(|(name, of)| Field::new(name, of, true)).collect();
        DFSchema::try_from(Schema::new(fields)).unwrap()
    }

    fn text(expression: Expr) -> String {
        exact(expression, &schema()).unwrap().data.to_string()
    }

    /// Returns a literal of `milliseconds` in nanoseconds.
    fn millis(milliseconds: i64) -> Expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(Some(milliseconds * 1_000_000), None), None)
    }

    #[test]
    fn literals_are_rounded_in_the_direction_of_the_comparison() {
        let (before, after) = ("TimestampSecond(1, None)", "TimestampSecond(2, None)");
        assert_eq!(text(col("s").lt(millis(1500))), format!("s < {after}"));
        assert_eq!(text(col("s").gt_eq(millis(1500))), format!("s >= {after}"));
        assert_eq!(text(col("s").lt_eq(millis(1500))), format!("s <= {before}"));
        assert_eq!(text(millis(1500).lt(col("s"))), format!("s > {before}"));
        assert_eq!(text(col("s").lt(millis(1000))), format!("s < {before}"));
        assert_eq!(text(col("s").eq(millis(1500))), "s IS NULL AND Boolean(NULL)");
        assert_eq!(text(col("s").not_eq(millis(1500))), "s IS NOT NULL OR Boolean(NULL)");
        assert_eq!(text(binary(col("s"), Operator::IsDistinctFrom, millis(1500))), "Boolean(true)");
        assert_eq!(text(col("s").between(millis(500), millis(2500))), format!("s BETWEEN {before} AND {after}"));
        assert_eq!(text(in_list(col("s"), vec![millis(1000), millis(1500)], false)), format!("s IN ([{before}])"));
        assert_eq!(text(in_list(col("s"), vec![millis(1500)], true)), "s IS NOT NULL OR Boolean(NULL)");
        assert_eq!(text(col("n").lt(millis(1500))), format!("n < {}", millis(1500)));
    }

    #[test]
    fn a_column_in_a_finer_unit_is_the_column() {
        let finer = Expr::Cast(Cast::new(Box::new(col("s")), DataType::Timestamp(TimeUnit::Nanosecond, None)));
        assert_eq!(text(finer.lt(millis(1500))), "s < TimestampSecond(2, None)");
        assert_eq!(text(col("day").gt(millis(1))), "day > Date32(\"1970-01-01\")");
        assert!(text(col("day").gt(now())).starts_with("day > buzz_round_time(now(), "));
    }

    #[test]
    fn columns_are_compared_as_nanoseconds() {
        assert_eq!(text(col("us").eq(col("ns"))), "buzz_instant(us) = buzz_instant(ns)");
        assert_eq!(text(col("day").lt(col("us"))), "buzz_instant(day) < buzz_instant(us)");
        assert_eq!(text(col("us").lt(col("us"))), "us < us");
        let end = Expr::Literal(ScalarValue::TimestampSecond(Some(253_402_214_400), None), None);
        assert!(text(col("ns").lt(end)).starts_with("buzz_instant(ns) < buzz_instant("));
    }
}
