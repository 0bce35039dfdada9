//! Casts of dates and of times without a zone to times with one: `ts AT TIME ZONE 'America/New_York'`.
//!
//! DataFusion fails at a time that the clock of the zone shows twice or skips. Beside a literal, its optimizer drops the cast and
//! compares the local time as if it were one in UTC.

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, TimeUnit};
use buzz_kernel::in_zone as function;
use buzz_protocol::QueryError;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{Cast, Expr, TryCast};

use super::overflow::type_of;

/// Replaces `expression`, if it is such a cast to another zone than UTC, by the function that reads the time in the zone.
pub(super) fn in_zone(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (or_null, inner, field) = match &expression {
        Expr::Cast(Cast { expr, field }) => (false, expr, field),
        Expr::TryCast(TryCast { expr, field }) => (true, expr, field),
        _ => return Ok(Transformed::no(expression)),
    };
    let to = field.data_type();
    let DataType::Timestamp(_, Some(zone)) = to else { return Ok(Transformed::no(expression)) };
    if is_utc(zone)
        || !matches!(type_of(inner, schema)?, DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64)
    {
        return Ok(Transformed::no(expression));
    }
    if zone.parse::<Tz>().is_err() {
        let text = format!("time zone `{zone}` does not exist; use a zone such as Europe/Paris or +02:00");
        return Err(QueryError::invalid(text).into_datafusion());
    }
    let like = Expr::Literal(ScalarValue::try_from(to)?, None);
    let or_null = Expr::Literal(ScalarValue::Boolean(Some(or_null)), None);
    // Literals of two zones are equal for the optimizer.
    let name = Expr::Literal(ScalarValue::Utf8(Some(zone.to_string())), None);
    Ok(Transformed::yes(function().call(vec![inner.as_ref().clone(), like, or_null, name])))
}

/// Gives a cast of `expression` to a zone the unit of the time, or microseconds for a date: `AT TIME ZONE` makes nanoseconds, which end in
/// 2262, and the type of rows with the year 9999 would not hold them.
pub(super) fn of_own_unit(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::Cast(cast) = &expression else { return Ok(Transformed::no(expression)) };
    let DataType::Timestamp(TimeUnit::Nanosecond, Some(zone)) = cast.field.data_type() else {
        return Ok(Transformed::no(expression));
    };
    let unit = match type_of(&cast.expr, schema)? {
        _ if is_utc(zone) => TimeUnit::Nanosecond,
        DataType::Timestamp(unit, _) => unit,
        DataType::Date32 | DataType::Date64 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    };
    if unit == TimeUnit::Nanosecond {
        return Ok(Transformed::no(expression));
    }
    let to = DataType::Timestamp(unit, Some(zone.clone()));
    Ok(Transformed::yes(Expr::Cast(Cast::new(cast.expr.clone(), to))))
}

/// Checks if `zone` is a name of UTC, in which a local time has the number of its instant.
pub(super) fn is_utc(zone: &str) -> bool {
    matches!(zone, "+00:00" | "-00:00" | "+0000" | "+00" | "Z")
        || ["UTC", "Etc/UTC", "GMT", "Etc/GMT"].iter().any(|name| name.eq_ignore_ascii_case(zone))
}
