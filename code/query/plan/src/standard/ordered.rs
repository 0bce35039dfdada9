//! Scalar subqueries in ORDER BY.
//!
//! The planner replaces what has the name of an expression of the list by its column, and the name of a subquery is that of its
//! column: `SELECT max(b) FROM t ORDER BY max(b) - (SELECT max(b) FROM u)` would order by 0.

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, Value,
};

use super::distinct::position;
use crate::visit::{any_expression, each_own_expression_mut};

/// Gives the column of each subquery in the ORDER BY of `query` a name that no other has. What the list has, too, becomes its
/// position.
pub(super) fn named_apart(query: &mut Query) {
    let Some(OrderByKind::Expressions(orders)) = query.order_by.as_mut().map(|order| &mut order.kind) else { return };
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => Some(select.as_ref()),
        _ => None,
    };
    let mut count = 0;
    for order in orders {
        if !any_expression(&order.expr, &mut |inner| matches!(inner, Expr::Subquery(_))) {
            continue;
        }
        if let Some(select) = select {
            if is_key(&order.expr, select) {
                continue;
            }
            if let Some(number) = position(&order.expr, &select.projection) {
                order.expr = Expr::value(Value::Number(number.to_string(), false));
                continue;
            }
        }
        each_own_expression_mut(&mut order.expr, &mut |expression| {
            if let Expr::Subquery(inner) = expression {
                count += 1;
                rename(inner, &format!("buzz_order_{count}"));
            }
        });
    }
}

/// Checks if the planner must find `ordered` among the keys of GROUP BY or of DISTINCT ON.
fn is_key(ordered: &Expr, select: &Select) -> bool {
    let keys = match &select.group_by {
        GroupByExpr::Expressions(keys, _) => keys.as_slice(),
        GroupByExpr::All(_) => &[],
    };
    let on = match &select.distinct {
        Some(Distinct::On(on)) => on.as_slice(),
        _ => &[],
    };
    let text = ordered.to_string();
    keys.iter().chain(on).any(|key| key.to_string() == text)
}

fn rename(query: &mut Query, name: &str) {
    let is_ordered = query.order_by.is_some();
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    // Other clauses may use the alias.
    let is_used = is_ordered || is_grouped || select.having.is_some() || select.qualify.is_some();
    if is_ordered && select.distinct.is_some() {
        return;
    }
    let [item] = select.projection.as_mut_slice() else { return };
    let expr = match item {
        SelectItem::UnnamedExpr(expr) => expr.clone(),
        SelectItem::ExprWithAlias { expr, .. } if !is_used => expr.clone(),
        _ => return,
    };
    *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
}
