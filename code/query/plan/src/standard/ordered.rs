//! Scalar subqueries in ORDER BY.
//!
//! The planner replaces what has the name of an expression of the list by its column, and the name of a subquery is that of its
//! column: `SELECT max(b) FROM t ORDER BY max(b) - (SELECT max(b) FROM u)` would order by 0.

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Ident, OrderByKind, Query, SelectItem, SetExpr};

use crate::visit::each_expression_mut;

/// Gives the column of each subquery in the ORDER BY of `query` a name that no other has.
pub(super) fn named_apart(query: &mut Query) {
    let Some(OrderByKind::Expressions(orders)) = query.order_by.as_mut().map(|order| &mut order.kind) else { return };
    let mut count = 0;
    for order in orders {
        each_expression_mut(&mut order.expr, &mut |expression| {
            if let Expr::Subquery(inner) = expression {
                count += 1;
                rename(inner, &format!("buzz_order_{count}"));
            }
        });
    }
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
