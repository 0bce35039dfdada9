//! Clauses that the parser accepts and the planner does not read.
//!
//! Without these checks, `SELECT … FROM t TABLESAMPLE (1 ROWS)`, `PREWHERE`, `CONNECT BY`, `GROUP BY a WITH ROLLUP` or
//! `abs(a) FILTER (WHERE …)` would return the rows of the statement without that clause. Those with an equivalent are
//! rewritten, the others are errors.

use std::fmt::Display;
use std::ops::ControlFlow;

use buzz_protocol::{QueryError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, GroupByWithModifier, Join, JoinConstraint,
    JoinOperator, Query, Select, SelectFlavor, SelectItem, SetExpr, TableFactor, TableSampleKind, Value, Visitor,
    WildcardAdditionalOptions,
};

use crate::visit::visit;

/// Checks the clauses after the SELECTs of `query`.
///
/// # Errors
/// `Invalid`, naming a clause that is not read. The same holds for the other functions of this module.
pub(super) fn check_query(query: &Query) -> Result<()> {
    if let Some(lock) = query.locks.first() {
        return refused(lock, "Buzz only reads, and locks nothing; remove it");
    }
    if let Some(clause) = &query.for_clause {
        return refused(clause, "choose the output format outside of the SQL, such as `--format json`");
    }
    if let Some(clause) = &query.format_clause {
        return refused(clause, "choose the output format outside of the SQL, such as `--format json`");
    }
    if query.settings.is_some() {
        return refused("SETTINGS", "set options outside of the SQL, such as `--set tasks=4`");
    }
    Ok(())
}

/// Checks the clauses of `select`, writes `GROUP BY a, b WITH ROLLUP` as `GROUP BY ROLLUP (a, b)`, and `FROM t` alone as
/// `SELECT * FROM t`.
pub(super) fn check_select(select: &mut Select) -> Result<()> {
    if select.flavor == SelectFlavor::FromFirstNoSelect {
        select.flavor = SelectFlavor::Standard;
        select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
    }
    if let Some(condition) = &select.prewhere {
        return refused(format!("PREWHERE {condition}"), "write the condition in WHERE");
    }
    if let Some(clause) = select.connect_by.first() {
        return refused(clause, "write WITH RECURSIVE");
    }
    if let Some(exclude) = &select.exclude {
        return refused(exclude, "write `* EXCLUDE (…)`");
    }
    if let Some(mode) = &select.value_table_mode {
        return refused(mode, "write `struct(…)`");
    }
    for item in &select.projection {
        if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
            check_wildcard(options)?;
        }
    }
    for join in select.from.iter_mut().flat_map(|table| &mut table.joins) {
        check_join(join)?;
    }
    grouped(&mut select.group_by)
}

fn check_wildcard(options: &WildcardAdditionalOptions) -> Result<()> {
    match &options.opt_ilike {
        Some(pattern) => refused(pattern, "name the columns"),
        None => Ok(()),
    }
}

/// Checks a join, and writes `SEMI JOIN` and `ANTI JOIN` with their side, the left one.
fn check_join(join: &mut Join) -> Result<()> {
    if join.global {
        return refused("GLOBAL JOIN", "remove GLOBAL");
    }
    join.join_operator = match std::mem::replace(&mut join.join_operator, JoinOperator::CrossJoin(JoinConstraint::None))
    {
        JoinOperator::Semi(constraint) => JoinOperator::LeftSemi(constraint),
        JoinOperator::Anti(constraint) => JoinOperator::LeftAnti(constraint),
        other => other,
    };
    Ok(())
}

/// Removes a collation that compares byte by byte, as Buzz does.
pub(super) fn collated(expression: &mut Expr) -> Result<()> {
    let Expr::Collate { expr, collation } = expression else { return Ok(()) };
    let name = collation.0.last().map(|part| part.to_string().trim_matches('"').to_lowercase()).unwrap_or_default();
    if !["c", "posix", "ucs_basic", "binary"].contains(&name.as_str()) {
        return refused(
            format!("COLLATE {collation}"),
            "texts are compared byte by byte; remove it, or compare `lower(…)` of them",
        );
    }
    *expression = std::mem::replace(expr.as_mut(), Expr::value(Value::Null));
    Ok(())
}

fn grouped(group_by: &mut GroupByExpr) -> Result<()> {
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &*group_by;
    let [modifier] = modifiers.as_slice() else {
        return match modifiers.first() {
            Some(modifier) => refused(modifier, "write one of ROLLUP (…), CUBE (…) and GROUPING SETS (…)"),
            None => Ok(()),
        };
    };
    let GroupByExpr::Expressions(groups, _) = &*group_by else {
        return refused(modifier, "beside GROUP BY ALL; name the groups");
    };
    let each = || groups.iter().map(|group| vec![group.clone()]).collect();
    let sets = match modifier {
        GroupByWithModifier::Rollup => Expr::Rollup(each()),
        GroupByWithModifier::Cube => Expr::Cube(each()),
        GroupByWithModifier::GroupingSets(sets) => sets.clone(),
        GroupByWithModifier::Totals => return refused(modifier, "write GROUP BY GROUPING SETS ((…), ())"),
    };
    *group_by = GroupByExpr::Expressions(vec![sets], Vec::new());
    Ok(())
}

/// Checks what follows the name of a table.
pub(super) fn check_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table { sample: Some(sample), .. } | TableFactor::Derived { sample: Some(sample), .. } => {
            let (TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = sample;
            let sample = sample.to_string();
            refused(sample.trim(), "filter by `random() < 0.01`, or write LIMIT")
        }
        TableFactor::Table { with_ordinality: true, .. } => {
            refused("WITH ORDINALITY", "number the rows by `row_number() OVER (…)`")
        }
        TableFactor::Table { version: Some(version), .. } => {
            refused(version, "give the version of a Delta Lake table with its place")
        }
        TableFactor::Table { partitions, .. } if !partitions.is_empty() => {
            refused("PARTITION (…)", "filter by the partition column in WHERE")
        }
        TableFactor::Table { json_path: Some(path), .. } => refused(path, "write `unnest(…)`"),
        TableFactor::Table { with_hints, .. } if !with_hints.is_empty() => refused("WITH (…)", "remove the hints"),
        TableFactor::Table { index_hints, .. } if !index_hints.is_empty() => {
            refused(&index_hints[0], "Buzz has no indexes; remove it")
        }
        _ => Ok(()),
    }
}

fn refused(clause: impl Display, advice: &str) -> Result<()> {
    Err(QueryError::invalid(format!("`{clause}` is not supported; {advice}")))
}

/// Checks that only aggregate and window functions have the clauses that belong to these, as in PostgreSQL.
pub(crate) fn check_functions(state: &SessionState, statement: &Statement) -> Result<()> {
    let Statement::Statement(sql) = statement else { return Ok(()) };
    match visit(sql.as_ref(), &mut Functions(state)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Functions<'a>(&'a SessionState);

impl Visitor for Functions<'_> {
    type Break = QueryError;

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<QueryError> {
        let Expr::Function(function) = expression else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        let is_scalar = self.0.udf(&name).is_ok() && self.0.udaf(&name).is_err() && self.0.udwf(&name).is_err();
        match aggregate_clause(function).filter(|_| is_scalar) {
            Some(clause) => ControlFlow::Break(QueryError::invalid(format!(
                "{clause} is only for aggregate and window functions; `{name}` is neither"
            ))),
            None => ControlFlow::Continue(()),
        }
    }
}

/// Returns the first clause of a call that a scalar function has no use for.
fn aggregate_clause(function: &Function) -> Option<&'static str> {
    let list = match &function.args {
        FunctionArguments::List(list) => Some(list),
        _ => None,
    };
    let has = |wanted: fn(&FunctionArgumentClause) -> bool| list.is_some_and(|list| list.clauses.iter().any(wanted));
    if list.is_some_and(|list| list.duplicate_treatment.is_some()) {
        Some("DISTINCT or ALL")
    } else if has(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_))) {
        Some("ORDER BY")
    } else if function.filter.is_some() {
        Some("FILTER")
    } else if !function.within_group.is_empty() {
        Some("WITHIN GROUP")
    } else if function.null_treatment.is_some() || has(|c| matches!(c, FunctionArgumentClause::IgnoreOrRespectNulls(_)))
    {
        Some("IGNORE NULLS or RESPECT NULLS")
    } else {
        None
    }
}

/// Checks that a scalar subquery has a column.
pub(super) fn check_scalar(expression: &Expr) -> Result<()> {
    let Expr::Subquery(query) = expression else { return Ok(()) };
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(inner) => body = inner.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return Ok(()),
        }
    };
    if select.projection.is_empty() && select.flavor != SelectFlavor::FromFirstNoSelect {
        return Err(QueryError::invalid(format!("the subquery `{query}` has no column; write one after its SELECT")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;

    #[test]
    fn clauses_that_are_not_read_are_errors() {
        for (sql, clause) in [
            ("SELECT * FROM t PREWHERE n > 2", "PREWHERE n > 2"),
            ("SELECT * FROM t TABLESAMPLE (1 ROWS)", "TABLESAMPLE (1 ROWS)"),
            ("SELECT * FROM u, LATERAL (SELECT 1) AS t TABLESAMPLE (10 PERCENT)", "TABLESAMPLE (10 PERCENT)"),
            ("SELECT * FROM t SAMPLE 0.1", "SAMPLE 0.1"),
            ("SELECT * FROM t PARTITION (p0)", "PARTITION (…)"),
            ("SELECT * FROM t WITH ORDINALITY", "WITH ORDINALITY"),
            ("SELECT * FROM t WITH (NOLOCK)", "WITH (…)"),
            ("SELECT n FROM t CONNECT BY n > 3", "CONNECT BY n > 3"),
            ("SELECT * FROM (SELECT * FROM t FOR UPDATE)", "FOR UPDATE"),
            ("SELECT * FROM t FOR JSON AUTO", "FOR JSON AUTO"),
            ("SELECT * FROM t FORMAT JSON", "FORMAT JSON"),
            ("SELECT * FROM t SETTINGS a = 1", "SETTINGS"),
            ("SELECT n FROM t GLOBAL JOIN u USING (n)", "GLOBAL JOIN"),
            ("SELECT n, sum(n) FROM t GROUP BY n WITH TOTALS", "WITH TOTALS"),
            ("SELECT * ILIKE '%n%' FROM t", "ILIKE '%n%'"),
            ("SELECT n FROM t ORDER BY n COLLATE \"de_DE\"", "COLLATE \"de_DE\""),
        ] {
            let message = parse_statement(sql).map(|parsed| parsed.to_string()).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{clause}` is not supported; ")), "{sql}: {message}");
        }
    }

    #[test]
    fn joins_without_a_side_and_collations_of_bytes_are_read() {
        for (sql, expected) in [
            ("SELECT n FROM t SEMI JOIN u ON t.n = u.n", "SELECT n FROM t LEFT SEMI JOIN u ON t.n = u.n"),
            ("SELECT n FROM t ANTI JOIN u USING (n)", "SELECT n FROM t LEFT ANTI JOIN u USING(n)"),
            ("SELECT n COLLATE \"C\" FROM t ORDER BY m COLLATE POSIX", "SELECT n FROM t ORDER BY m"),
        ] {
            assert_eq!(parse_statement(sql).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn modifiers_of_groups_are_grouping_sets() {
        let rewritten = |sql: &str| parse_statement(sql).unwrap().to_string();
        let sql = "SELECT a, b FROM t GROUP BY a, b WITH ROLLUP";
        assert_eq!(rewritten(sql), "SELECT a, b FROM t GROUP BY ROLLUP (a, b)");
        assert_eq!(rewritten("SELECT a FROM t GROUP BY a WITH CUBE"), "SELECT a FROM t GROUP BY CUBE (a)");
        let sql = "SELECT a FROM t GROUP BY a, b GROUPING SETS ((a), (b))";
        assert_eq!(rewritten(sql), "SELECT a FROM t GROUP BY GROUPING SETS ((a), (b))");
    }
}
