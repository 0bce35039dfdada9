//! `ORDER BY` of a `SELECT DISTINCT` by an expression of its list: `SELECT DISTINCT upper(s) FROM t ORDER BY upper(s)`.
//!
//! The planner looks for the columns in the expression, which the rows no longer have, and refuses it. It accepts the position of the
//! expression in the list.

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, OrderBy, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, Value,
};

use super::syntax::is_unnest;

/// Orders `query`, if it is a SELECT DISTINCT, by the positions of the expressions that both lists have.
pub(super) fn ordered_by_position(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderBy { kind: OrderByKind::Expressions(order), .. }) = &mut query.order_by else { return };
    if !matches!(select.distinct, Some(Distinct::Distinct)) {
        return;
    }
    for OrderByExpr { expr, .. } in order {
        if let Some(position) = position(expr, &select.projection) {
            *expr = Expr::value(Value::Number(position.to_string(), false));
        }
    }
}

/// Returns the position, from 1, of the column of `list` that is computed as `ordered` is. `None` if there is none, if columns before it
/// cannot be counted, or if the planner finds it by its name.
pub(super) fn position(ordered: &Expr, list: &[SelectItem]) -> Option<usize> {
    if matches!(ordered, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
        return None;
    }
    let text = ordered.to_string();
    let counted = list.iter().take_while(|item| expression(item).is_some_and(|output| !is_unnest(output)));
    let index = counted.filter_map(expression).position(|output| is_same(&output.to_string(), &text));
    index.map(|index| index + 1)
}

fn expression(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(output) | SelectItem::ExprWithAlias { expr: output, .. } => Some(output),
        _ => None,
    }
}

/// Checks if two texts are the same expression: in any case, if nothing in them is quoted.
fn is_same(left: &str, right: &str) -> bool {
    left == right || !left.contains(['\'', '"', '`', '$']) && left.eq_ignore_ascii_case(right)
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;
    use crate::standard::rewritten;

    #[test]
    fn expressions_of_the_list_become_positions() {
        for (sql, order) in [
            ("SELECT DISTINCT g, upper(s) AS u FROM t ORDER BY UPPER(s) DESC, g", "ORDER BY 2 DESC, g"),
            ("SELECT DISTINCT a + 1 FROM t ORDER BY a + 1 NULLS FIRST LIMIT 2", "ORDER BY 1 NULLS FIRST LIMIT 2"),
            ("SELECT DISTINCT s AS x, a AS s FROM t ORDER BY s", "ORDER BY s"),
            ("SELECT DISTINCT upper(a) AS a FROM t ORDER BY upper(a)", "ORDER BY 1"),
            ("SELECT DISTINCT s LIKE 'a' FROM t ORDER BY s LIKE 'A'", "ORDER BY s LIKE 'A'"),
            ("SELECT DISTINCT *, a + 1 FROM t ORDER BY a + 1", "ORDER BY a + 1"),
            ("SELECT DISTINCT s = $$a$$, s = $$A$$ FROM t ORDER BY s = $$A$$", "ORDER BY 2"),
            ("SELECT DISTINCT a + 1 FROM t ORDER BY a + 2", "ORDER BY a + 2"),
            ("SELECT a + 1 FROM t ORDER BY a + 1", "ORDER BY a + 1"),
        ] {
            let statement = rewritten(parse_statement(sql).unwrap()).unwrap().to_string();
            assert!(statement.ends_with(order), "{statement}");
        }
    }
}
