//! Comparisons of times, dates and texts without a conversion that overflows or takes another time zone.
//!
//! The planner reads the literals of timestamps in nanoseconds and converts the other side to nanoseconds too, which end in
//! 2262: `9999-12-31`, the usual end of time, fails. It reads a text beside a column with a time zone in the zone of the
//! column, not in that of the session, and refuses to compare times of day of different units.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, Operator};

/// Converts the operands of a comparison, of IN, BETWEEN, CASE and COALESCE so that they can be compared. `zone` is the time
/// zone of the session.
pub(super) fn comparable(expression: Expr, schema: &DFSchema, zone: Option<&str>) -> Result<Transformed<Expr>> {
    let operands = |mut operands: Vec<Expr>| -> Result<Option<Vec<Expr>>> {
        Ok(converted(&mut operands, schema, zone)?.then_some(operands))
    };
    match expression {
        Expr::Cast(cast) => Ok(wide_literal(&cast).map_or_else(|| Transformed::no(Expr::Cast(cast)), Transformed::yes)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
            Ok(match operands(vec![*left.clone(), *right.clone()])?.map(<[Expr; 2]>::try_from) {
                Some(Ok([left, right])) => {
                    Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
                }
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr::new(left, op, right))),
            })
        }
        Expr::Between(between) => {
            let parts = vec![*between.expr.clone(), *between.low.clone(), *between.high.clone()];
            Ok(match operands(parts)?.map(<[Expr; 3]>::try_from) {
                Some(Ok([value, low, high])) => {
                    let between = Between::new(Box::new(value), between.negated, Box::new(low), Box::new(high));
                    Transformed::yes(Expr::Between(between))
                }
                _ => Transformed::no(Expr::Between(between)),
            })
        }
        Expr::InList(InList { expr, list, negated }) => {
            let all = std::iter::once(*expr.clone()).chain(list.iter().cloned()).collect();
            Ok(match operands(all)? {
                Some(mut list) => {
                    let value = list.remove(0);
                    Transformed::yes(Expr::InList(InList::new(Box::new(value), list, negated)))
                }
                None => Transformed::no(Expr::InList(InList { expr, list, negated })),
            })
        }
        Expr::Case(case) => {
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref().clone());
            let results: Vec<Expr> = results.chain(case.else_expr.as_deref().cloned()).collect();
            Ok(match operands(results)? {
                Some(results) => Transformed::yes(Expr::Case(with_results(case, results))),
                None => Transformed::no(Expr::Case(case)),
            })
        }
        Expr::ScalarFunction(mut function)
            if ["coalesce", "nullif", "greatest", "least", "nvl", "ifnull"].contains(&function.name()) =>
        {
            Ok(match operands(function.args.clone())? {
                Some(args) => {
                    function.args = args;
                    Transformed::yes(Expr::ScalarFunction(function))
                }
                None => Transformed::no(Expr::ScalarFunction(function)),
            })
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Checks if `op` compares two values.
pub(super) fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn with_results(case: Case, results: Vec<Expr>) -> Case {
    let mut results = results.into_iter().map(Box::new);
    let conditions = case.when_then_expr.into_iter().map(|(when, _)| when);
    let when_then_expr = conditions.zip(results.by_ref()).collect();
    Case { expr: case.expr, when_then_expr, else_expr: results.next() }
}

/// Returns a literal in microseconds if its text does not fit nanoseconds.
fn wide_literal(cast: &Cast) -> Option<Expr> {
    let DataType::Timestamp(TimeUnit::Nanosecond, zone) = cast.field.data_type() else { return None };
    let text = text(&cast.expr)?;
    let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    if text.cast_to(cast.field.data_type()).is_ok() {
        return None;
    }
    Some(Expr::Literal(text.cast_to(&micros).ok()?, None))
}

fn text(expression: &Expr) -> Option<&ScalarValue> {
    match expression {
        Expr::Literal(
            text @ (ScalarValue::Utf8(Some(_)) | ScalarValue::Utf8View(Some(_)) | ScalarValue::LargeUtf8(Some(_))),
            _,
        ) => Some(text),
        _ => None,
    }
}

/// Converts `operands`, which are compared with each other. Returns false if they can stay as they are.
fn converted(operands: &mut [Expr], schema: &DFSchema, zone: Option<&str>) -> Result<bool> {
    let mut types = Vec::new();
    for operand in operands.iter() {
        types.push(operand.get_type(schema)?);
    }
    if types.iter().any(|data_type| matches!(data_type, DataType::Time32(_) | DataType::Time64(_))) {
        return Ok(times_of_day(operands, &types));
    }
    let Some((unit, column_zone)) = operands.iter().zip(&types).find_map(|(operand, data_type)| match data_type {
        DataType::Timestamp(unit, zone) if literal_value(operand).is_none() => Some((*unit, zone.clone())),
        _ => None,
    }) else {
        return Ok(false);
    };
    // A literal that nanoseconds cannot hold is compared in microseconds; a value in nanoseconds is rounded down, which
    // keeps its order relative to a value beyond all nanoseconds.
    let is_beyond = |operand: &Expr| literal_value(operand).is_some_and(|value| beyond_nanoseconds(&value));
    let narrow = unit != TimeUnit::Nanosecond || operands.iter().any(is_beyond);
    let wanted = DataType::Timestamp(TimeUnit::Microsecond, column_zone.clone());
    let mut changed = false;
    for (operand, data_type) in operands.iter_mut().zip(&types) {
        let text = text(operand).cloned();
        let new = match (text, data_type) {
            (Some(text), _) => text_as_time(&text, &wanted, zone, narrow),
            (None, DataType::Date32 | DataType::Date64) if narrow => Some(cast(operand, &wanted)),
            (None, DataType::Timestamp(TimeUnit::Nanosecond, _)) if narrow => match literal_value(operand) {
                Some(value) if in_microseconds(&value) => {
                    let own = DataType::Timestamp(TimeUnit::Microsecond, zone_of(&value));
                    value.cast_to(&own).ok().map(|value| Expr::Literal(value, None))
                }
                Some(_) => None,
                None => (unit == TimeUnit::Nanosecond).then(|| cast(operand, &wanted)),
            },
            _ => None,
        };
        if let Some(new) = new {
            *operand = new;
            changed = true;
        }
    }
    Ok(changed)
}

fn cast(operand: &Expr, to: &DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(operand.clone()), to.clone()))
}

/// Makes all of `operands` times of day in nanoseconds.
fn times_of_day(operands: &mut [Expr], types: &[DataType]) -> bool {
    let is_time = |data_type: &&DataType| matches!(data_type, DataType::Time32(_) | DataType::Time64(_));
    let mut times = types.iter().filter(is_time);
    let first = times.next();
    if times.all(|time| Some(time) == first) {
        return false;
    }
    for (operand, data_type) in operands.iter_mut().zip(types) {
        if is_time(&data_type) && *data_type != DataType::Time64(TimeUnit::Nanosecond) {
            *operand = cast(operand, &DataType::Time64(TimeUnit::Nanosecond));
        }
    }
    true
}

/// Returns the value of a literal, or of a text that is cast to a time or a date.
fn literal_value(operand: &Expr) -> Option<ScalarValue> {
    match operand {
        Expr::Literal(value, _) if !value.is_null() => Some(value.clone()),
        Expr::Cast(cast) => text(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        _ => None,
    }
}

fn zone_of(value: &ScalarValue) -> Option<std::sync::Arc<str>> {
    match value.data_type() {
        DataType::Timestamp(_, zone) => zone,
        _ => None,
    }
}

fn beyond_nanoseconds(value: &ScalarValue) -> bool {
    let nanoseconds = match value.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => return false,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone),
        DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
            let of = |unit| value.cast_to(&DataType::Timestamp(unit, None));
            return of(TimeUnit::Nanosecond).is_err() && of(TimeUnit::Microsecond).is_ok();
        }
        _ => return false,
    };
    value.cast_to(&nanoseconds).is_err()
}

/// Checks if a timestamp in nanoseconds has no fraction of a microsecond.
fn in_microseconds(value: &ScalarValue) -> bool {
    matches!(value, ScalarValue::TimestampNanosecond(Some(nanoseconds), _) if nanoseconds % 1000 == 0)
}

/// Returns a text as a literal of the type `wanted`. `None` if the planner reads the text in the same way.
fn text_as_time(text: &ScalarValue, wanted: &DataType, zone: Option<&str>, narrow: bool) -> Option<Expr> {
    let DataType::Timestamp(_, column_zone) = wanted else { return None };
    let read_in = match (zone, column_zone) {
        (Some(zone), Some(_)) => Some(std::sync::Arc::from(zone)),
        _ => column_zone.clone(),
    };
    let other_zone = read_in != *column_zone;
    if !narrow && !other_zone {
        return None;
    }
    let nanoseconds = text.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, read_in.clone()));
    let exact = nanoseconds.as_ref().is_ok_and(|value| !in_microseconds(value));
    let value = match nanoseconds {
        Ok(value) if exact || !narrow => value,
        _ => text.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, read_in)).ok()?,
    };
    let unit = match value.data_type() {
        DataType::Timestamp(unit, _) => unit,
        _ => return None,
    };
    let value = value.cast_to(&DataType::Timestamp(unit, column_zone.clone())).ok()?;
    Some(Expr::Literal(value, None))
}
