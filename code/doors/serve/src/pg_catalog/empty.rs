//! Finds statements that have no rows because they read a table of the catalog that never has rows. Tools ask for indexes,
//! policies, triggers and the like of each table, with expressions that DataFusion does not have.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, GroupByExpr, JoinOperator, ObjectName, Query, Select, SelectItem, SetExpr,
    SetOperator, Statement, TableFactor, TableWithJoins,
};

use crate::pg_catalog::{INFORMATION_SCHEMA, PG_CATALOG, information, tables};
use crate::scan;

/// Parts of the text of a projection that returns a row without input rows.
const AGGREGATES: [&str; 9] = ["count(", "sum(", "min(", "max(", "avg(", "_agg(", "bool_or(", "bool_and(", "every("];

/// Returns the columns of `statement`, all texts, if it has no rows.
pub(super) fn columns(statement: &Statement) -> Option<SchemaRef> {
    let Statement::Query(query) = statement else { return None };
    if !is_empty(query) {
        return None;
    }
    let names: Option<Vec<String>> = first_select(&query.body)?.projection.iter().map(item_name).collect();
    let fields = names?.into_iter().map(|name| Field::new(name, DataType::Utf8, true));
    Some(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// Checks if `query` certainly has no rows.
pub(super) fn is_empty(query: &Query) -> bool {
    query.with.is_none() && set_is_empty(&query.body)
}

fn set_is_empty(set: &SetExpr) -> bool {
    match set {
        SetExpr::Select(select) => select_is_empty(select),
        SetExpr::Query(query) => is_empty(query),
        SetExpr::SetOperation { left, op, right, .. } => match op {
            SetOperator::Union => set_is_empty(left) && set_is_empty(right),
            SetOperator::Intersect => set_is_empty(left) || set_is_empty(right),
            _ => set_is_empty(left),
        },
        _ => false,
    }
}

/// Checks if `select` is grouped, or aggregates all its rows.
pub(super) fn is_aggregated(select: &Select) -> bool {
    let is_grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
    };
    is_grouped || select.having.is_some() || select.projection.iter().any(has_aggregate)
}

fn has_aggregate(item: &SelectItem) -> bool {
    let text = without_subqueries(&item.to_string()).to_lowercase();
    AGGREGATES.iter().any(|name| text.contains(name))
}

/// Returns `sql` without the parts in parentheses that begin with SELECT: their aggregates are their own.
fn without_subqueries(sql: &str) -> String {
    let tokens = scan::tokens(sql);
    let mut text = String::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_subquery =
            tokens[at].is_symbol(sql, '(') && tokens.get(at + 1).is_some_and(|next| next.is_word(sql, "select"));
        if !is_subquery {
            text.push_str(tokens[at].text(sql));
            at += 1;
            continue;
        }
        let mut depth = 0_usize;
        while at < tokens.len() {
            depth += usize::from(tokens[at].is_symbol(sql, '('));
            depth -= usize::from(tokens[at].is_symbol(sql, ')'));
            at += 1;
            if depth == 0 {
                break;
            }
        }
    }
    text
}

fn select_is_empty(select: &Select) -> bool {
    let is_grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, modifiers) => !expressions.is_empty() && modifiers.is_empty(),
    };
    let has_total = !is_grouped && (select.having.is_some() || select.projection.iter().any(has_aggregate));
    !has_total && select.from.iter().any(joined_is_empty)
}

fn joined_is_empty(joined: &TableWithJoins) -> bool {
    let mut empty = factor_is_empty(&joined.relation);
    for join in &joined.joins {
        let right = factor_is_empty(&join.relation);
        empty = match &join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => empty || right,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => empty,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => right,
            JoinOperator::FullOuter(_) => empty && right,
            _ => return false,
        };
    }
    empty
}

fn factor_is_empty(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => name_is_empty(name),
        // Options of tables and columns are null, so that a list made of them has no elements.
        TableFactor::Table { args: Some(args), .. } => match args.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)))] => {
                parts.last().is_some_and(|column| ["reloptions", "attfdwoptions"].contains(&column.value.as_str()))
            }
            _ => false,
        },
        TableFactor::Derived { subquery, .. } => is_empty(subquery),
        TableFactor::NestedJoin { table_with_joins, .. } => joined_is_empty(table_with_joins),
        _ => false,
    }
}

fn name_is_empty(name: &ObjectName) -> bool {
    let parts: Option<Vec<String>> =
        name.0.iter().map(|part| part.as_ident().map(|ident| ident.value.to_lowercase())).collect();
    match parts.as_deref() {
        Some([table]) => tables::is_empty(table),
        Some([.., schema, table]) if schema == PG_CATALOG => tables::is_empty(table),
        Some([.., schema, table]) if schema == INFORMATION_SCHEMA => information::is_empty(table),
        _ => false,
    }
}

fn first_select(set: &SetExpr) -> Option<&Select> {
    match set {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        SelectItem::UnnamedExpr(expression) => Some(name(expression)),
        _ => None,
    }
}

/// Returns the name that PostgreSQL gives to the column of `expression`.
pub(super) fn name(expression: &Expr) -> String {
    match expression {
        Expr::Identifier(ident) => ident.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map(|part| part.value.clone()).unwrap_or_default(),
        Expr::Function(function) => {
            let last = function.name.0.last().and_then(|part| part.as_ident());
            last.map(|ident| ident.value.to_lowercase()).unwrap_or_default()
        }
        Expr::Cast { expr, data_type, .. } => match name(expr) {
            unnamed if unnamed == "?column?" => data_type.to_string().to_lowercase(),
            named => named,
        },
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => name(inner),
        Expr::Case { .. } => "case".to_string(),
        Expr::Exists { .. } => "exists".to_string(),
        Expr::Array(_) => "array".to_string(),
        Expr::Subquery(query) => {
            let item = first_select(&query.body).and_then(|select| select.projection.first());
            item.and_then(item_name).unwrap_or_else(|| "?column?".to_string())
        }
        _ => "?column?".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sql: &str) -> Option<Vec<String>> {
        let schema = columns(&crate::pg_catalog::parse(sql).unwrap())?;
        Some(schema.fields().iter().map(|field| field.name().clone()).collect())
    }

    #[test]
    fn joins_with_an_empty_table_have_no_rows() {
        let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>());
        assert_eq!(
            names("SELECT pol.polname, (SELECT 1), oid::regclass, x[1] AS y FROM pg_catalog.pg_policy pol"),
            some(&["polname", "?column?", "oid", "y"])
        );
        assert_eq!(names("SELECT relname FROM pg_class c, pg_inherits i WHERE true"), some(&["relname"]));
        assert_eq!(names("SELECT relname FROM pg_class c JOIN pg_index i ON true"), some(&["relname"]));
        assert_eq!(names("SELECT a FROM pg_index UNION SELECT b FROM pg_policy"), some(&["a"]));
        assert_eq!(names("SELECT 'a' || x AS y FROM pg_catalog.unnest(tc.reloptions) x"), some(&["y"]));
        assert_eq!(names("SELECT (SELECT string_agg(x, ', ') FROM y) AS a FROM pg_publication"), some(&["a"]));
        for full in [
            "SELECT relname FROM pg_class c LEFT JOIN pg_index i ON true",
            "SELECT count(*) FROM pg_index",
            "SELECT a FROM pg_index UNION SELECT relname FROM pg_class",
            "SELECT a FROM pg_index i RIGHT JOIN pg_class c ON true",
            "WITH pg_index AS (SELECT 1) SELECT 1 FROM pg_index",
            "SELECT * FROM public.pg_index",
            "SELECT x FROM unnest(ARRAY['a']) x",
            "SELECT 1",
        ] {
            assert_eq!(names(full), None, "{full}");
        }
    }
}
