//! Frames of windows and limits that are longer than any table.
//!
//! DataFusion adds the bound of a frame to the number of a row, and the rows of an OFFSET to those of a LIMIT, which overflows beyond
//! the largest BIGINT. No table has that many rows, so a larger bound means the same as that number, and such a limit none.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, LimitClause, Query, Value, ValueWithSpan, WindowFrameBound, WindowFrameUnits, WindowSpec,
    WindowType,
};

/// Removes the LIMIT of `query` if it is longer than any table, together with the rows of its OFFSET.
pub(super) fn without_endless_limit(query: &mut Query) {
    let literal = |rows: &mut Expr| count_of(rows).and_then(|count| count.parse::<u128>().ok());
    match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, limit_by: _ }) => {
            let skipped = offset.as_mut().and_then(|offset| literal(&mut offset.value)).unwrap_or(0);
            if limit.as_mut().and_then(literal).is_some_and(|rows| is_endless(rows, skipped)) {
                *limit = None;
            }
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
            let skipped = literal(offset).unwrap_or(0);
            if let Expr::Value(ValueWithSpan { value: Value::Number(rows, _), .. }) = limit
                && rows.parse::<u128>().is_ok_and(|rows| is_endless(rows, skipped))
            {
                *rows = i64::MAX.unsigned_abs().saturating_sub(u64::try_from(skipped).unwrap_or(u64::MAX)).to_string();
            }
        }
        None => {}
    }
}

fn is_endless(rows: u128, skipped: u128) -> bool {
    rows.saturating_add(skipped) >= i64::MAX.unsigned_abs().into()
}

/// Bounds the frame of `expression` if it is a window function whose frame counts rows or groups.
pub(super) fn bounded(expression: &mut Expr) {
    let Expr::Function(Function { over: Some(WindowType::WindowSpec(window)), .. }) = expression else { return };
    let WindowSpec { window_frame: Some(frame), .. } = window else { return };
    if frame.units == WindowFrameUnits::Range {
        return;
    }
    for bound in std::iter::once(&mut frame.start_bound).chain(&mut frame.end_bound) {
        if let WindowFrameBound::Preceding(Some(rows)) | WindowFrameBound::Following(Some(rows)) = bound
            && let Some(count) = count_of(rows)
            && is_beyond(count)
        {
            *count = i64::MAX.to_string();
        }
    }
}

/// Returns the literal in `rows`, such as `1` or `'1'`. The parser reads the latter as an interval.
fn count_of(rows: &mut Expr) -> Option<&mut String> {
    match rows {
        Expr::Value(ValueWithSpan { value: Value::Number(count, _) | Value::SingleQuotedString(count), .. }) => {
            Some(count)
        }
        Expr::Interval(interval) => count_of(&mut interval.value),
        _ => None,
    }
}

fn is_beyond(count: &str) -> bool {
    !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit()) && count.parse::<i64>().is_err()
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;

    #[test]
    fn limits_beyond_the_largest_bigint_are_none() {
        for (limit, expected) in [
            ("LIMIT 9223372036854775807 OFFSET 2", "OFFSET 2"),
            ("LIMIT 18446744073709551615 OFFSET 1", "OFFSET 1"),
            ("FETCH FIRST 9223372036854775807 ROWS ONLY", ""),
            ("LIMIT 9223372036854775800 OFFSET 2", "LIMIT 9223372036854775800 OFFSET 2"),
            ("LIMIT 3, 18446744073709551615", "LIMIT 3, 9223372036854775804"),
        ] {
            let sql = |limit: &str| format!("SELECT a FROM t ORDER BY a {limit}").trim_end().to_string();
            assert_eq!(parse_statement(&sql(limit)).unwrap().to_string().trim_end(), sql(expected));
        }
    }

    #[test]
    fn bounds_beyond_the_largest_bigint_are_that_number() {
        for (frame, expected) in [
            ("ROWS 9223372036854775808 PRECEDING", "ROWS 9223372036854775807 PRECEDING"),
            (
                "GROUPS BETWEEN 18446744073709551616 FOLLOWING AND 99999999999999999999999999 FOLLOWING",
                "GROUPS BETWEEN 9223372036854775807 FOLLOWING AND 9223372036854775807 FOLLOWING",
            ),
            ("ROWS BETWEEN 7 PRECEDING AND CURRENT ROW", "ROWS BETWEEN 7 PRECEDING AND CURRENT ROW"),
            ("RANGE 18446744073709551615 PRECEDING", "RANGE 18446744073709551615 PRECEDING"),
        ] {
            let sql = |frame: &str| format!("SELECT sum(a) OVER (ORDER BY a {frame}) FROM t");
            assert_eq!(parse_statement(&sql(frame)).unwrap().to_string(), sql(expected));
            let named = format!("SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY a {frame})");
            assert_eq!(parse_statement(&named).unwrap().to_string(), sql(expected));
        }
    }
}
