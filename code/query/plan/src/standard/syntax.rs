//! Statements of the standard that the planner does not accept, in a form that it accepts.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Fetch, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, JoinConstraint, LimitClause, ObjectName, Query, Select, SelectItem, SetExpr,
    TableAlias, TableFactor, TableWithJoins, Value, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::using::{Sides, ambiguous_columns, constraint};
use super::{clauses, distinct, frames, named_windows, names, numbers, ordered, precedence, shadowing};
use crate::visit::visit_mut;

/// Rewrites `statement`. Most statements stay as they are.
///
/// # Errors
/// `Invalid`, naming a clause that cannot be rewritten.
pub(crate) fn rewritten(mut statement: Statement) -> Result<Statement> {
    let mut inner = &mut statement;
    while let Statement::Explain(explain) = inner {
        inner = explain.statement.as_mut();
    }
    let Statement::Statement(sql) = inner else { return Ok(statement) };
    let mut syntax =
        Syntax { sides: Sides::of(sql), derived: 0, orders: Vec::new(), shadowing: shadowing::Names::default() };
    match visit_mut(sql, &mut syntax) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(statement),
    }
}

/// Rewrites an expression that stands alone, as [`rewritten`] rewrites those of a statement.
///
/// # Errors
/// As [`rewritten`].
pub(crate) fn rewritten_expression(mut expression: Expr) -> Result<Expr> {
    let mut syntax =
        Syntax { sides: Sides::default(), derived: 0, orders: Vec::new(), shadowing: shadowing::Names::default() };
    match visit_mut(&mut expression, &mut syntax) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(expression),
    }
}

/// Checks if an expression has several columns.
pub(super) fn is_unnest(expression: &Expr) -> bool {
    matches!(expression, Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("unnest"))
}

struct Syntax {
    sides: Sides,
    /// Number of relations that were named.
    derived: usize,
    /// The names in the ORDER BY of each query that is open.
    orders: Vec<BTreeSet<String>>,
    shadowing: shadowing::Names,
}

impl VisitorMut for Syntax {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        flow(clauses::check_query(query))?;
        self.shadowing.begin(query);
        if let SetExpr::Select(select) = query.body.as_mut() {
            flow(named_windows::resolved(select, query.order_by.as_mut()))?;
        }
        self.orders.push(names::in_order_by(query));
        if let Some(fetch) = query.fetch.take() {
            flow(limited(query, fetch))?;
        }
        frames::without_endless_limit(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        self.orders.pop();
        names::ordered_by_output(query);
        ordered::named_apart(query);
        distinct::ordered_by_position(query);
        self.shadowing.end(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<QueryError> {
        flow(clauses::check_select(select))?;
        // In a set operation; that of a query alone is resolved together with its ORDER BY.
        flow(named_windows::resolved(select, None))?;
        if is_total(&select.group_by) {
            flow(grouped_as_one(select))?;
        }
        if select.from.iter().any(merges_columns) {
            for table in &mut select.from {
                self.name_derived(table);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<QueryError> {
        ambiguous_columns(select);
        names::distinguish(select, self.orders.last());
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        flow(clauses::check_factor(factor))?;
        flow(with_numbers(factor))
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<QueryError> {
        // Expressions that stand alone are not balanced, which does this for those of statements.
        flow(clauses::check_scalar(expression))?;
        precedence::reassociated(expression);
        frames::bounded(expression);
        flow(named_windows::check(expression))
    }

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<QueryError> {
        flow(clauses::collated(expression))?;
        self.sides.mark(expression);
        numbers::exact(expression);
        flow(compared_by_part(expression))
    }
}

fn flow(result: Result<()>) -> ControlFlow<QueryError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

/// Writes `FETCH FIRST n ROWS ONLY` as `LIMIT n`.
fn limited(query: &mut Query, fetch: Fetch) -> Result<()> {
    if fetch.with_ties || fetch.percent {
        return Err(QueryError::invalid(format!(
            "`{fetch}` is not supported; write FETCH FIRST n ROWS ONLY, or filter by `rank() OVER (ORDER BY …)`"
        )));
    }
    let rows = fetch.quantity.unwrap_or_else(|| Expr::value(Value::Number("1".to_string(), false)));
    match &mut query.limit_clause {
        None => {
            query.limit_clause =
                Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: Vec::new() });
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(rows),
        Some(_) => return Err(QueryError::invalid("LIMIT and FETCH limit the same query; write one of them")),
    }
    Ok(())
}

/// Checks if all rows are one group: `GROUP BY ()` or `GROUP BY GROUPING SETS (())`.
fn is_total(group_by: &GroupByExpr) -> bool {
    let GroupByExpr::Expressions(groups, modifiers) = group_by else { return false };
    let [group] = groups.as_slice() else { return false };
    modifiers.is_empty()
        && match group {
            Expr::Tuple(parts) => parts.is_empty(),
            Expr::GroupingSets(sets) => matches!(sets.as_slice(), [set] if set.is_empty()),
            _ => false,
        }
}

/// Replaces a GROUP BY of all rows by a HAVING: a query with one aggregates, also without an aggregate of its own.
fn grouped_as_one(select: &mut Select) -> Result<()> {
    select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    let one = expression("count(*) >= 0")?;
    select.having = Some(match select.having.take() {
        None => one,
        Some(having) => binary(Expr::Nested(Box::new(having)), BinaryOperator::And, one),
    });
    Ok(())
}

fn merges_columns(table: &TableWithJoins) -> bool {
    let merges = |constraint: &JoinConstraint| matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural);
    table.joins.iter().any(|join| constraint(&join.join_operator).is_some_and(merges))
}

impl Syntax {
    /// Names the subqueries in `table` that have no alias: a column without a relation would be ambiguous beside one of
    /// the same name with a relation.
    fn name_derived(&mut self, table: &mut TableWithJoins) {
        let joined = table.joins.iter_mut().map(|join| &mut join.relation);
        for factor in std::iter::once(&mut table.relation).chain(joined) {
            if let TableFactor::Derived { alias: alias @ None, .. } = factor {
                self.derived += 1;
                let name = Ident::new(format!("derived_{}", self.derived));
                *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
            }
        }
    }
}

/// Writes `UNNEST(list) WITH ORDINALITY` as `UNNEST(list, numbers)`.
fn with_numbers(factor: &mut TableFactor) -> Result<()> {
    let TableFactor::UNNEST { array_exprs, with_ordinality: ordinality @ true, .. } = factor else { return Ok(()) };
    let [list] = array_exprs.as_slice() else {
        return Err(QueryError::invalid("UNNEST of several lists WITH ORDINALITY is not supported; unnest one"));
    };
    let numbers = expression(&format!("generate_series(1, CAST(coalesce(array_length({list}), 0) AS BIGINT))"))?;
    array_exprs.push(numbers);
    *ordinality = false;
    Ok(())
}

/// Rewrites tests of row values by their parts: `(a, b) = (1, 2)`, `(a, b) < (1, 2)`, `(a, b) BETWEEN (1, 2) AND (3, 4)`,
/// `(a, b) IN ((1, 2))`, `(a, b) IN (SELECT …)` and `(a, b) IS [NOT] NULL`, which tests all of them.
fn compared_by_part(row: &mut Expr) -> Result<()> {
    match row {
        Expr::BinaryOp { left, op, right } => {
            if let (Some(left), Some(right)) = (row_parts(left), row_parts(right))
                && let Some(compared) = compared_parts(left, op, right)
            {
                *row = compared;
            }
        }
        Expr::Between { expr, negated: is_negated, low, high } => {
            let (Some(parts), Some(low), Some(high)) = (row_parts(expr), row_parts(low), row_parts(high)) else {
                return Ok(());
            };
            let from = compared_parts(parts, &BinaryOperator::GtEq, low);
            let to = compared_parts(parts, &BinaryOperator::LtEq, high);
            if let (Some(from), Some(to)) = (from, to) {
                let both = Expr::Nested(Box::new(binary(from, BinaryOperator::And, to)));
                *row = if *is_negated { negated(both) } else { both };
            }
        }
        Expr::InList { expr, list, negated: is_negated } => {
            let Some(left) = row_parts(expr) else { return Ok(()) };
            let equal = list.iter().map(|right| row_parts(right).and_then(|right| equal_parts(left, right)));
            let Some(equal) = equal.collect::<Option<Vec<_>>>() else { return Ok(()) };
            let any = equal.into_iter().reduce(|left, right| binary(left, BinaryOperator::Or, right));
            if let Some(any) = any {
                let any = Expr::Nested(Box::new(any));
                *row = if *is_negated { negated(any) } else { any };
            }
        }
        Expr::InSubquery { expr, subquery, .. } => {
            let Some(parts) = row_parts(expr).map(<[Expr]>::to_vec) else { return Ok(()) };
            let count = parts.len();
            **expr = call("struct", parts);
            as_one_column(subquery, count)?;
        }
        Expr::IsNull(inner) => {
            if let Some(all) = each_part(inner, Expr::IsNull) {
                *row = all;
            }
        }
        Expr::IsNotNull(inner) => {
            if let Some(all) = each_part(inner, Expr::IsNotNull) {
                *row = all;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Returns the condition that `test` holds for each part of a row value. `None` if `row` is none, or has no parts.
fn each_part(row: &Expr, test: fn(Box<Expr>) -> Expr) -> Option<Expr> {
    let parts = match row_parts(row) {
        Some(parts) => parts.to_vec(),
        None => row_arguments(row)?,
    };
    let tests = parts.into_iter().map(|part| match part {
        part @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_)) => test(Box::new(part)),
        part => test(Box::new(Expr::Nested(Box::new(part)))),
    });
    let all = tests.reduce(|left, right| binary(left, BinaryOperator::And, right))?;
    Some(Expr::Nested(Box::new(all)))
}

/// Returns the arguments of `ROW(…)`, which is a row value with its name.
fn row_arguments(expression: &Expr) -> Option<Vec<Expr>> {
    let mut inner = expression;
    while let Expr::Nested(nested) = inner {
        inner = nested;
    }
    let Expr::Function(Function { name, args: FunctionArguments::List(list), over: None, .. }) = inner else {
        return None;
    };
    if !name.to_string().eq_ignore_ascii_case("row") {
        return None;
    }
    let parts = list.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(part)) => Some(part.clone()),
        _ => None,
    });
    parts.collect()
}

/// Returns the parts of a row value.
fn row_parts(expression: &Expr) -> Option<&[Expr]> {
    match expression {
        Expr::Tuple(parts) => Some(parts),
        Expr::Nested(inner) => row_parts(inner),
        _ => None,
    }
}

fn compared_parts(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    match op {
        BinaryOperator::Eq => equal_parts(left, right),
        BinaryOperator::NotEq => equal_parts(left, right).map(negated),
        BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq
            if left.len() == right.len() =>
        {
            ordered_parts(left, op, right)
        }
        _ => None,
    }
}

fn equal_parts(left: &[Expr], right: &[Expr]) -> Option<Expr> {
    if left.len() != right.len() {
        return None;
    }
    let equal = left.iter().zip(right).map(|(left, right)| binary(left.clone(), BinaryOperator::Eq, right.clone()));
    let all = equal.reduce(|left, right| binary(left, BinaryOperator::And, right))?;
    Some(Expr::Nested(Box::new(all)))
}

/// Writes `(a, b) <= (c, d)` as `a < c OR (a = c AND b <= d)`. `None` if there are no parts.
fn ordered_parts(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    let ((first, lefts), (other, rights)) = (left.split_first()?, right.split_first()?);
    let part = |op: BinaryOperator| binary(first.clone(), op, other.clone());
    let Some(rest) = ordered_parts(lefts, op, rights) else { return Some(part(op.clone())) };
    let strict = match op {
        BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::Gt,
        other => other.clone(),
    };
    let equal = binary(part(BinaryOperator::Eq), BinaryOperator::And, rest);
    Some(Expr::Nested(Box::new(binary(part(strict), BinaryOperator::Or, Expr::Nested(Box::new(equal))))))
}

/// Makes the columns of `query` one struct.
fn as_one_column(query: &mut Query, columns: usize) -> Result<()> {
    if let Some(parts) = unseen_list(query, columns)
        && let SetExpr::Select(select) = query.body.as_mut()
    {
        select.projection = vec![SelectItem::UnnamedExpr(call("struct", parts))];
        return Ok(());
    }
    let names: Vec<String> = (0..columns).map(|index| format!("value_{index}")).collect();
    let names = names.join(", ");
    let sql = format!("SELECT struct({names}) FROM (SELECT 1) AS buzz_rows({names})");
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(&sql).map_err(|error| syntax_error(&error))?;
    let mut outer = parser.parse_query().map_err(|error| syntax_error(&error))?;
    let SetExpr::Select(select) = outer.body.as_mut() else { return Err(syntax_error(&sql)) };
    let Some(TableWithJoins { relation: TableFactor::Derived { subquery, .. }, .. }) = select.from.first_mut() else {
        return Err(syntax_error(&sql));
    };
    std::mem::swap(subquery.as_mut(), query);
    *query = *outer;
    Ok(())
}

/// Returns the SELECT list of `query` if it has `columns` columns and no clause refers to them, by alias or by position.
///
/// Such a list can be replaced in place. That matters for subqueries that refer to the outer query: DataFusion does not find
/// their columns below another name.
fn unseen_list(query: &Query, columns: usize) -> Option<Vec<Expr>> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let groups = match &select.group_by {
        GroupByExpr::Expressions(groups, modifiers) if modifiers.is_empty() => groups,
        _ => return None,
    };
    let is_distinct_on = matches!(select.distinct, Some(Distinct::On(_)));
    if select.projection.len() != columns || is_distinct_on || query.order_by.is_some() || !select.sort_by.is_empty() {
        return None;
    }
    let is_column = |group: &Expr| matches!(group, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    let has_alias = select.projection.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { .. }));
    let is_plain = groups.is_empty() && select.having.is_none() && select.qualify.is_none();
    if !is_plain && (has_alias || !groups.iter().all(is_column)) {
        return None;
    }
    let parts = select.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } if !is_unnest(expr) => {
            Some(expr.clone())
        }
        _ => None,
    });
    parts.collect()
}

fn expression(sql: &str) -> Result<Expr> {
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(sql).map_err(|error| syntax_error(&error))?;
    parser.parse_expr().map_err(|error| syntax_error(&error))
}

fn syntax_error(error: &impl std::fmt::Display) -> QueryError {
    QueryError::internal(format!("a rewritten part of the SQL cannot be parsed: {error}"))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn negated(expression: Expr) -> Expr {
    Expr::UnaryOp {
        op: datafusion::sql::sqlparser::ast::UnaryOperator::Not,
        expr: Box::new(Expr::Nested(Box::new(expression))),
    }
}

/// Makes the call of a function.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Returns a name as DataFusion compares it.
pub(super) fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;

    fn rewritten(sql: &str) -> String {
        parse_statement(sql).unwrap().to_string()
    }

    #[test]
    fn clauses_of_the_standard_become_those_of_the_planner() {
        for (sql, expected) in [
            ("SELECT a FROM t ORDER BY a FETCH FIRST 7 ROWS ONLY", "SELECT a FROM t ORDER BY a LIMIT 7"),
            ("SELECT a FROM t OFFSET 2 ROWS FETCH NEXT ROW ONLY", "SELECT a FROM t LIMIT 1 OFFSET 2 ROWS"),
            (
                "SELECT a, A, count(*), count(*) FROM t",
                "SELECT a, A AS \"a_1\", count(*), count(*) AS \"count(*)_1\" FROM t",
            ),
            ("SELECT t.a, u.a, t.a FROM t, u", "SELECT t.a, u.a, t.a AS \"a_1\" FROM t, u"),
            ("SELECT 1 FROM t GROUP BY GROUPING SETS (())", "SELECT 1 FROM t HAVING count(*) >= 0"),
            ("SELECT (a, b) = (1, 2)", "SELECT (a = 1 AND b = 2)"),
            ("SELECT (a, b) < (1, 2)", "SELECT (a < 1 OR (a = 1 AND b < 2))"),
            ("SELECT (a, b, c) >= (1, 2, 3)", "SELECT (a > 1 OR (a = 1 AND (b > 2 OR (b = 2 AND c >= 3))))"),
            (
                "SELECT (a, b) BETWEEN (1, 2) AND (3, 4)",
                "SELECT ((a > 1 OR (a = 1 AND b >= 2)) AND (a < 3 OR (a = 3 AND b <= 4)))",
            ),
            (
                "SELECT (a, b) IS NULL, NOT ((a, b)) IS NOT NULL",
                "SELECT (a IS NULL AND b IS NULL), NOT (a IS NOT NULL AND b IS NOT NULL)",
            ),
            (
                "SELECT ROW(a, b OR c) IS NULL, row(a) IS NOT NULL",
                "SELECT (a IS NULL AND (b OR c) IS NULL), (a IS NOT NULL)",
            ),
            ("SELECT (a + b) IS NULL, f(a, b) IS NULL", "SELECT (a + b) IS NULL, f(a, b) IS NULL"),
            ("SELECT a, a, a_1 FROM t", "SELECT a, a AS \"a_2\", a_1 FROM t"),
            ("SELECT a, a, b AS A_1 FROM t", "SELECT a, a AS \"a_2\", b AS A_1 FROM t"),
            ("SELECT a, a FROM t ORDER BY a_1", "SELECT a, a AS \"a_2\" FROM t ORDER BY a_1"),
            ("SELECT u.*, a, a FROM t, u", "SELECT u.*, a, a AS \"a (1)\" FROM t, u"),
            ("SELECT (a, b) NOT IN ((1, 2), (3, 4))", "SELECT NOT (((a = 1 AND b = 2) OR (a = 3 AND b = 4)))"),
            ("SELECT (a, b) IN (SELECT x, y FROM u)", "SELECT struct(a, b) IN (SELECT struct(x, y) FROM u)"),
            ("SELECT 0.1 + 0.2, 1.5 * a, 2 + 3", "SELECT 0.3, 1.5 * a, 2 + 3"),
            ("SELECT 12345678901234567.89", "SELECT CAST('12345678901234567.89' AS DECIMAL(19,2))"),
            (
                "SELECT x.k, y.k, k FROM x FULL JOIN y USING (k)",
                "SELECT buzz_own_column(x.k) AS \"k\", buzz_own_column(y.k) AS \"k_1\", k AS \"k_2\" FROM x FULL JOIN y USING(k)",
            ),
            (
                "SELECT DISTINCT x.k FROM x FULL JOIN y USING (k) ORDER BY x.k DESC",
                "SELECT DISTINCT buzz_own_column(x.k) AS \"k\" FROM x FULL JOIN y USING(k) ORDER BY \"k\" DESC",
            ),
            ("SELECT y.k FROM x LEFT JOIN y USING (k)", "SELECT y.k FROM x LEFT JOIN y USING(k)"),
        ] {
            assert_eq!(rewritten(sql), expected, "{sql}");
        }
        assert!(parse_statement("SELECT a FROM t FETCH FIRST 7 ROWS WITH TIES").is_err());
    }
}
