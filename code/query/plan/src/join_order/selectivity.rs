//! Estimates the share of rows that pass a condition.

use std::collections::HashMap;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use super::estimate::{ColumnFacts, column_of};

/// Estimated share of the rows with one value, if the number of values is not known.
const EQUAL: f64 = 0.1;
/// Estimated share of the rows above or below a value, if the bounds are not known.
const RANGE: f64 = 0.33;
/// Estimated share of the rows that pass a condition of which nothing is known.
const UNKNOWN: f64 = 0.25;

/// Returns the estimated share, above 0 and at most 1, of the rows of `input` that pass `condition`.
pub(super) fn share(condition: &Expr, input: &LogicalPlan) -> f64 {
    let mut passed = 1.0;
    let mut ranges: HashMap<String, Range> = HashMap::new();
    for part in split_conjunction(condition) {
        match comparison(part).and_then(|comparison| range(comparison, input)) {
            Some((column, side)) => ranges.entry(column).or_default().narrow(side),
            None => passed *= share_of_part(part, input),
        }
    }
    let ranges: f64 = ranges.values().map(Range::share).product();
    (passed * ranges).clamp(f64::MIN_POSITIVE, 1.0)
}

fn share_of_part(part: &Expr, input: &LogicalPlan) -> f64 {
    match part {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (left, right) = (share(left, input), share(right, input));
            left + right - left * right
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => share(left, input) * share(right, input),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => one_value(left, right, input),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::NotEq, right }) => 1.0 - one_value(left, right, input),
        Expr::BinaryExpr(BinaryExpr { op: Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq, .. }) => RANGE,
        Expr::Not(inner) => 1.0 - share(inner, input),
        Expr::InList(list) => {
            let each = column_of(input, &list.expr).map_or(EQUAL, |column| equal_share(&column));
            let within = (each * list.list.len() as f64).min(1.0);
            if list.negated { 1.0 - within } else { within }
        }
        Expr::IsNull(inner) => null_share(inner, input).unwrap_or(EQUAL),
        Expr::IsNotNull(inner) => 1.0 - null_share(inner, input).unwrap_or_default(),
        Expr::Like(like) if like.negated => 1.0 - EQUAL,
        Expr::Like(_) => EQUAL,
        _ => UNKNOWN,
    }
}

/// Returns the estimated share of the rows in which `left` equals `right`.
fn one_value(left: &Expr, right: &Expr, input: &LogicalPlan) -> f64 {
    let column = column_of(input, left).or_else(|| column_of(input, right));
    column.map_or(EQUAL, |column| equal_share(&column))
}

fn equal_share(column: &ColumnFacts) -> f64 {
    distinct_values(column).map_or(EQUAL, |distinct| 1.0 / distinct)
}

fn null_share(expression: &Expr, input: &LogicalPlan) -> Option<f64> {
    let column = column_of(input, expression)?;
    Some((*column.statistics.null_count.get_value()? as f64 / column.rows).min(1.0))
}

/// Returns the number of distinct values of a column: as its table knows it, or the whole numbers between its bounds, but
/// at most the rows.
pub(super) fn distinct_values(column: &ColumnFacts) -> Option<f64> {
    let statistics = &column.statistics;
    if let Some(known) = statistics.distinct_count.get_value() {
        return Some((*known as f64).max(1.0));
    }
    let (low, high) = (statistics.min_value.get_value()?, statistics.max_value.get_value()?);
    if !low.data_type().is_integer() && !matches!(low, ScalarValue::Date32(_)) {
        return None;
    }
    Some((number(high)? - number(low)? + 1.0).clamp(1.0, column.rows))
}

/// A column compared with a literal.
struct Comparison<'a> {
    column: &'a Expr,
    /// True if the column is greater than the literal.
    above: bool,
    literal: &'a ScalarValue,
}

fn comparison(part: &Expr) -> Option<Comparison<'_>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else { return None };
    let greater = match op {
        Operator::Gt | Operator::GtEq => true,
        Operator::Lt | Operator::LtEq => false,
        _ => return None,
    };
    match (left.as_ref(), right.as_ref()) {
        (column, Expr::Literal(literal, _)) => Some(Comparison { column, above: greater, literal }),
        (Expr::Literal(literal, _), column) => Some(Comparison { column, above: !greater, literal }),
        _ => None,
    }
}

/// One side of a range, as a share of the way from a column's least value to its greatest.
enum Side {
    Above(f64),
    Below(f64),
}

/// Returns the column of `comparison`, by name, and the side that it cuts off. `None` if the bounds are not known.
fn range(comparison: Comparison<'_>, input: &LogicalPlan) -> Option<(String, Side)> {
    let facts = column_of(input, comparison.column)?;
    let (low, high) = (facts.statistics.min_value.get_value()?, facts.statistics.max_value.get_value()?);
    let (low, high, at) = (number(low)?, number(high)?, number(comparison.literal)?);
    let way = if high > low { ((at - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    let name = comparison.column.to_string();
    Some((name, if comparison.above { Side::Above(way) } else { Side::Below(way) }))
}

/// The part of a column's values that several comparisons leave.
struct Range {
    from: f64,
    to: f64,
}

impl Default for Range {
    fn default() -> Self {
        Self { from: 0.0, to: 1.0 }
    }
}

impl Range {
    fn narrow(&mut self, side: Side) {
        match side {
            Side::Above(from) => self.from = self.from.max(from),
            Side::Below(to) => self.to = self.to.min(to),
        }
    }

    fn share(&self) -> f64 {
        (self.to - self.from).max(LEAST)
    }
}

/// Least estimated share of a range: bounds do not say how many rows lie in a small part of it.
const LEAST: f64 = 0.001;

/// Returns a number that orders as `value` does among values of its type. `None` if the type has none, or for NULL and NaN.
fn number(value: &ScalarValue) -> Option<f64> {
    let number = match value {
        ScalarValue::Int8(value) => f64::from((*value)?),
        ScalarValue::Int16(value) => f64::from((*value)?),
        ScalarValue::Int32(value) | ScalarValue::Date32(value) => f64::from((*value)?),
        ScalarValue::Int64(value)
        | ScalarValue::TimestampSecond(value, _)
        | ScalarValue::TimestampMillisecond(value, _)
        | ScalarValue::TimestampMicrosecond(value, _)
        | ScalarValue::TimestampNanosecond(value, _) => (*value)? as f64,
        ScalarValue::UInt8(value) => f64::from((*value)?),
        ScalarValue::UInt16(value) => f64::from((*value)?),
        ScalarValue::UInt32(value) => f64::from((*value)?),
        ScalarValue::UInt64(value) => (*value)? as f64,
        ScalarValue::Float32(value) => f64::from((*value)?),
        ScalarValue::Float64(value) => (*value)?,
        ScalarValue::Decimal128(value, _, scale) => (*value)? as f64 / 10_f64.powi(i32::from(*scale)),
        _ => return None,
    };
    number.is_finite().then_some(number)
}
