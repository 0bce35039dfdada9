//! Conditions after `IS [NOT] DISTINCT FROM`.
//!
//! The parser reads the right operand of `IS [NOT] DISTINCT FROM` up to the end of the whole expression, so
//! `a IS DISTINCT FROM b AND c` becomes `a IS DISTINCT FROM (b AND c)`. Here, the operators in that operand which bind no
//! closer than IS are put above it again. Then they may stand in the right operand of an operator that binds closer, such
//! as an OR below an AND, and are put above that as well.

use std::mem;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};

const OR: u8 = 5;
const AND: u8 = 10;
const NOT: u8 = 15;
const IS: u8 = 17;
/// Stands for all operators that bind closer than IS, and for what is in parentheses.
const CLOSER: u8 = u8::MAX;

/// Puts the operators after `IS [NOT] DISTINCT FROM` in `expression` where they belong. Visitors must call it before they
/// visit the parts of `expression`.
///
/// The operators are on its right edge: what follows `DISTINCT FROM` is read to the end. Chains of AND and OR are deep on the
/// left edge only, which is passed without recursion; the parser limits the depth of the right one.
pub(crate) fn reassociated(expression: &mut Expr) {
    let _: bool = settled(expression);
}

/// Does the same, and returns true if `expression` has become another one.
///
/// A right operand with AND is not a fault by itself: chains of AND are balanced after this.
fn settled(expression: &mut Expr) -> bool {
    let Some(limit) = limit(expression) else { return false };
    let is_distinct = matches!(expression, Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..));
    let Some(right) = right_operand(expression) else { return false };
    let is_changed = settled(right);
    let is_open = is_changed || is_distinct;
    if !is_open || binding(right) > limit {
        return is_changed;
    }
    rotate(expression, limit);
    true
}

/// Puts `expression` in place of the leftmost part of its right operand that binds closer than `limit`, and that part in
/// place of the operand.
fn rotate(expression: &mut Expr, limit: u8) {
    let Some(right) = right_operand(expression) else { return };
    let mut first = taken(right);
    let mut above = Vec::new();
    while binding(&first) <= limit
        && let Some(left) = left_operand(&mut first)
    {
        let left = taken(left);
        above.push(mem::replace(&mut first, left));
    }
    *right = first;
    let mut whole = taken(expression);
    while let Some(mut operator) = above.pop() {
        if let Some(left) = left_operand(&mut operator) {
            *left = whole;
        }
        whole = operator;
    }
    *expression = whole;
}

fn taken(expression: &mut Expr) -> Expr {
    mem::replace(expression, Expr::value(Value::Null))
}

/// Returns how close the operator of `expression` binds its left operand. The numbers are those of the parser.
fn binding(expression: &Expr) -> u8 {
    match expression {
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => OR,
        Expr::BinaryOp { op: BinaryOperator::And, .. } => AND,
        Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsNormalized { .. }
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..) => IS,
        _ => CLOSER,
    }
}

/// Returns the number that the operators in the right operand of `expression` must exceed. `None` if it has none.
fn limit(expression: &Expr) -> Option<u8> {
    match expression {
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => Some(OR),
        // Other operators bind closer than AND.
        Expr::BinaryOp { .. } => Some(AND),
        Expr::UnaryOp { op: UnaryOperator::Not, .. } => Some(NOT),
        Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => Some(IS),
        _ => None,
    }
}

fn right_operand(expression: &mut Expr) -> Option<&mut Expr> {
    match expression {
        Expr::BinaryOp { right: operand, .. }
        | Expr::UnaryOp { op: UnaryOperator::Not, expr: operand }
        | Expr::IsDistinctFrom(_, operand)
        | Expr::IsNotDistinctFrom(_, operand) => Some(operand.as_mut()),
        _ => None,
    }
}

/// Returns the left operand of an operator that binds no closer than IS.
fn left_operand(expression: &mut Expr) -> Option<&mut Expr> {
    match expression {
        Expr::BinaryOp { left: operand, .. }
        | Expr::IsNull(operand)
        | Expr::IsNotNull(operand)
        | Expr::IsTrue(operand)
        | Expr::IsNotTrue(operand)
        | Expr::IsFalse(operand)
        | Expr::IsNotFalse(operand)
        | Expr::IsUnknown(operand)
        | Expr::IsNotUnknown(operand)
        | Expr::IsNormalized { expr: operand, .. }
        | Expr::IsDistinctFrom(operand, _)
        | Expr::IsNotDistinctFrom(operand, _) => Some(operand.as_mut()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::visit::any_expression;
    use datafusion::sql::parser::Statement;
    use datafusion::sql::sqlparser::ast::{SelectItem, SetExpr, Statement as SqlStatement};

    use super::*;
    use crate::sql::parse_statement;

    /// Parses `SELECT sql`.
    fn parsed(sql: &str) -> Expr {
        let statement = parse_statement(&format!("SELECT {sql}")).unwrap();
        let Statement::Statement(statement) = statement else { panic!("{sql}") };
        let SqlStatement::Query(query) = *statement else { panic!("{sql}") };
        let body = query.body;
        let SetExpr::Select(select) = *body else { panic!("{sql}") };
        match select.projection.into_iter().next() {
            Some(SelectItem::UnnamedExpr(expression)) => expression,
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// Returns `expression` with parentheses around each operation.
    fn grouped(expression: &Expr) -> String {
        match expression {
            Expr::Nested(inner) => grouped(inner),
            Expr::BinaryOp { left, op, right } => format!("({} {op} {})", grouped(left), grouped(right)),
            Expr::UnaryOp { op, expr } => format!("({op} {})", grouped(expr)),
            Expr::IsDistinctFrom(left, right) => format!("({} IS DISTINCT FROM {})", grouped(left), grouped(right)),
            Expr::IsNotDistinctFrom(left, right) => {
                format!("({} IS NOT DISTINCT FROM {})", grouped(left), grouped(right))
            }
            Expr::IsNull(inner) => format!("({} IS NULL)", grouped(inner)),
            other => other.to_string(),
        }
    }

    #[test]
    fn conditions_beside_is_distinct_from_are_read_as_with_parentheses() {
        let ops = ["AND", "OR"];
        let mut count = 0;
        for comparison in ["a IS DISTINCT FROM b", "a IS NOT DISTINCT FROM b", "a + 1 IS DISTINCT FROM b = e"] {
            for not in ["", "NOT "] {
                for before in ops.map(|op| format!("x {op} ")).into_iter().chain([String::new()]) {
                    for (second, third) in [("AND", "AND"), ("AND", "OR"), ("OR", "AND"), ("OR", "OR")] {
                        for after in [
                            String::new(),
                            format!(" {second} c"),
                            format!(" {second} c {third} d"),
                            format!(" {second} NOT c {third} d IS NOT DISTINCT FROM y {second} z"),
                        ] {
                            let bare = format!("{before}{not}{comparison}{after}");
                            let last = after.replace("d IS NOT DISTINCT FROM y", "(d IS NOT DISTINCT FROM y)");
                            let nested = format!("{before}{not}({comparison}){last}");
                            assert_eq!(grouped(&parsed(&bare)), grouped(&parsed(&nested)), "{bare}");
                            count += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(count, 3 * 2 * 3 * 4 * 4);
    }

    #[test]
    fn operands_of_is_distinct_from_are_those_that_bind_closer() {
        for (sql, expected) in [
            ("a IS DISTINCT FROM (b AND c)", "(a IS DISTINCT FROM (b AND c))"),
            ("a IS DISTINCT FROM b IS NULL", "((a IS DISTINCT FROM b) IS NULL)"),
            ("a IS DISTINCT FROM b IS NULL AND c", "(((a IS DISTINCT FROM b) IS NULL) AND c)"),
            ("a IS DISTINCT FROM b IS DISTINCT FROM c", "((a IS DISTINCT FROM b) IS DISTINCT FROM c)"),
            ("a IS DISTINCT FROM b XOR c OR d", "((a IS DISTINCT FROM (b XOR c)) OR d)"),
            ("a IS DISTINCT FROM NOT b AND c", "((a IS DISTINCT FROM (NOT b)) AND c)"),
            ("NOT NOT a IS DISTINCT FROM b OR c", "((NOT (NOT (a IS DISTINCT FROM b))) OR c)"),
            ("(x AND a IS DISTINCT FROM b OR c) AND d", "(((x AND (a IS DISTINCT FROM b)) OR c) AND d)"),
        ] {
            assert_eq!(grouped(&parsed(sql)), expected, "{sql}");
        }
        let case = parsed("CASE WHEN a IS DISTINCT FROM b AND c THEN f(a IS DISTINCT FROM b OR c) END");
        let mut found = Vec::new();
        any_expression(&case, &mut |inner| {
            if matches!(inner, Expr::BinaryOp { .. }) {
                found.push(grouped(inner));
            }
            false
        });
        assert_eq!(found, ["((a IS DISTINCT FROM b) AND c)", "((a IS DISTINCT FROM b) OR c)"]);
    }

    #[test]
    fn long_chains_beside_is_distinct_from_do_not_exhaust_the_stack() {
        let long = |op: &str| vec!["x = 1"; 3000].join(op);
        for op in [" AND ", " OR "] {
            let (long, many) = (long(op), ["a IS NOT DISTINCT FROM b"; 10].join(op));
            let expression = parsed(&format!("{many}{op}{long}"));
            assert!(matches!(expression, Expr::BinaryOp { .. }), "{op}");
            // No term is lost, and all are in order.
            assert_eq!(expression.to_string(), format!("{many}{op}{long}"));
            assert!(depth(&expression) < 100, "{}", depth(&expression));
        }
    }

    fn depth(expression: &Expr) -> usize {
        match expression {
            Expr::BinaryOp { left, right, .. } => 1 + depth(left).max(depth(right)),
            Expr::IsNotDistinctFrom(left, right) => 1 + depth(left).max(depth(right)),
            _ => 0,
        }
    }
}
