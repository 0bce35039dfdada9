//! Formats of times that lack a part.
//!
//! DataFusion reads the date alone if the parts of the time do not make one: `to_timestamp('01/02/2024 10 PM', '%d/%m/%Y %I %p')`
//! is midnight, as the minute is missing.

use arrow::datatypes::DataType;
use buzz_protocol::QueryError;
use chrono::format::{Fixed, Item, Numeric, StrftimeItems};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, binary_expr, lit};

const PARSERS: [&str; 6] = [
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
    "to_unixtime",
];

/// Checks the format of `to_char`, which is that of strftime: the letters of other engines, as in `YYYY-MM`, would be the result.
///
/// # Errors
/// `Invalid` if the format of a date or time has letters and no `%`.
pub(super) fn check_printed(expression: &Expr, schema: &DFSchema) -> Result<()> {
    let Expr::ScalarFunction(call) = expression else { return Ok(()) };
    let [value, format] = call.args.as_slice() else { return Ok(()) };
    if call.name() != "to_char" || !value.get_type(schema)?.is_temporal() {
        return Ok(());
    }
    let is_of_durations = matches!(value.get_type(schema)?, DataType::Duration(_) | DataType::Interval(_));
    match literal(format) {
        Some(text)
            if !is_of_durations && !text.contains('%') && text.contains(|letter: char| letter.is_alphabetic()) =>
        {
            let error =
                format!("the format `{text}` has no `%`; write formats as in strftime, such as `%Y-%m-%d %H:%M`");
            Err(QueryError::invalid(error).into_datafusion())
        }
        _ => Ok(()),
    }
}

/// Reads the minute 0 if a format has an hour but no minute. Formats that are not literals stay as they are.
///
/// # Errors
/// `Invalid` if a format has parts of a time but no hour that they belong to.
pub(super) fn complete(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expression else { return Ok(Transformed::no(expression)) };
    let formats: Option<Vec<&str>> = call.args.iter().skip(1).map(literal).collect();
    let formats = formats.filter(|formats| PARSERS.contains(&call.name()) && !formats.is_empty());
    let Some(formats) = formats else { return Ok(Transformed::no(Expr::ScalarFunction(call))) };
    if !call.args[0].get_type(schema)?.is_string() {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    }
    let lacking = formats.iter().map(|format| lacks_minute(format)).collect::<Result<Vec<_>>>()?;
    if !lacking.contains(&true) {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    }
    // All formats read the same text, so those that have a minute skip the added one.
    let texts = formats.iter().zip(lacking).map(
        |(format, lacks)| {
            if lacks { format!("%M {format}") } else { format!("00 {format}") }
        },
    );
    let texts: Vec<Expr> = texts.map(lit).collect();
    let text = binary_expr(lit("00 "), Operator::StringConcat, call.args.swap_remove(0));
    call.args = std::iter::once(text).chain(texts).collect();
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

fn literal(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Literal(value, _) => ScalarValue::try_as_str(value).flatten(),
        _ => None,
    }
}

/// Checks if `format` has an hour and no minute.
fn lacks_minute(format: &str) -> Result<bool> {
    let (mut hour, mut short_hour, mut half, mut minute, mut second, mut fraction) = Default::default();
    for item in StrftimeItems::new(format) {
        match item {
            Item::Numeric(Numeric::Hour, _) => hour = true,
            Item::Numeric(Numeric::Hour12, _) => short_hour = true,
            Item::Numeric(Numeric::Minute, _) => minute = true,
            Item::Numeric(Numeric::Second, _) => second = true,
            Item::Fixed(Fixed::LowerAmPm | Fixed::UpperAmPm) => half = true,
            Item::Numeric(Numeric::Nanosecond, _)
            | Item::Fixed(Fixed::Nanosecond | Fixed::Nanosecond3 | Fixed::Nanosecond6 | Fixed::Nanosecond9) => {
                fraction = true;
            }
            // These have all parts. DataFusion reports a format that cannot be read.
            Item::Numeric(Numeric::Timestamp, _) | Item::Fixed(Fixed::RFC2822 | Fixed::RFC3339) | Item::Error => {
                return Ok(false);
            }
            _ => {}
        }
    }
    let invalid = |reason: &str| -> Result<bool> {
        let error = format!("the format `{format}` {reason}; otherwise the time would be midnight");
        Err(QueryError::invalid(error).into_datafusion())
    };
    match (hour || short_hour && half, short_hour) {
        (false, true) => invalid("has an hour of 12 (`%I`) without its half of the day; add `%p`, or use `%H`"),
        (false, false) if half || minute || second || fraction => {
            invalid("has parts of a time without an hour; add `%H`")
        }
        (true, _) if fraction && !second => invalid("has a fraction of a second without the second; add `%S`"),
        (has_hour, _) => Ok(has_hour && !minute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_of_other_engines_is_an_error() {
        let schema = DFSchema::empty();
        let printed = |value: ScalarValue, format: &str| {
            let call = datafusion::functions::datetime::to_char().call(vec![lit(value), lit(format)]);
            check_printed(&call, &schema).map_err(|error| error.to_string())
        };
        let error = printed(ScalarValue::Date32(Some(0)), "YYYY-MM").unwrap_err();
        assert!(error.contains("the format `YYYY-MM` has no `%`"), "{error}");
        for (value, format) in [
            (ScalarValue::Date32(Some(0)), "%Y-%m"),
            (ScalarValue::Date32(Some(0)), "--"),
            (ScalarValue::DurationSecond(Some(1)), "pretty"),
        ] {
            printed(value, format).unwrap();
        }
    }

    #[test]
    fn only_hours_without_minutes_lack_one() {
        for format in ["%d/%m/%Y %I %p", "%Y-%m-%d %H", "%Y-%m-%dT%Hh %z", "%Y%m%d%k"] {
            assert!(lacks_minute(format).unwrap(), "{format}");
        }
        for format in ["%Y-%m-%d", "%c", "%+", "%s", "%FT%T%.f", "%D %R", "%D %r", "%Q"] {
            assert!(!lacks_minute(format).unwrap(), "{format}");
        }
    }

    #[test]
    fn times_without_an_hour_are_errors() {
        for (format, reason) in [
            ("%d/%m/%Y %I:%M", "add `%p`"),
            ("%d/%m/%Y %p", "add `%H`"),
            ("%Y-%m-%d %M:%S", "add `%H`"),
            ("%Y-%m-%d %H:%M%.f", "add `%S`"),
        ] {
            let error = lacks_minute(format).unwrap_err().to_string();
            assert!(error.contains(reason), "{format}: {error}");
        }
    }
}
