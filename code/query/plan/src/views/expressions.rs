//! Common table expressions of views: made of their queries, put before a statement, and named where views are read.

use std::collections::HashMap;
use std::ops::ControlFlow;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    Cte, Ident, ObjectName, ObjectNamePart, Query, SetExpr, Statement as SqlStatement, TableAlias, TableFactor,
    VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use super::View;
use crate::information::normal;
use crate::visit::visit_mut;

/// Start of the names of expressions.
pub(super) const PREFIX: &str = "view:";

/// Returns the quoted name of the expression of view `name`.
pub(super) fn expression_name(name: &str) -> Ident {
    Ident::with_quote('"', format!("{PREFIX}{name}"))
}

/// Replaces names of tables outside of the common table expressions that have the same names.
pub(super) struct Replacing<'a> {
    /// Returns the view that a name means.
    pub(super) expression_of: &'a dyn Fn(&str) -> Option<String>,
    /// The schema in which the names are; `None` if they are in none.
    pub(super) schema: Option<&'a str>,
    /// Names of the common table expressions in scope.
    pub(super) scope: Vec<String>,
    /// Common table expressions of the open queries, which are visited already.
    pub(super) taken: Vec<Vec<Cte>>,
    pub(super) found: Vec<String>,
}

impl VisitorMut for Replacing<'_> {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        let mut expressions = Vec::new();
        if let Some(with) = &mut query.with {
            expressions = std::mem::take(&mut with.cte_tables);
            let names = expressions.iter().map(|expression| normal(&expression.alias.name));
            if with.recursive {
                self.scope.extend(names);
                expressions.iter_mut().try_for_each(|expression| visit_mut(expression, self))?;
            } else {
                for (name, expression) in names.collect::<Vec<_>>().into_iter().zip(&mut expressions) {
                    visit_mut(expression, self)?;
                    self.scope.push(name);
                }
            }
        }
        self.taken.push(expressions);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        let expressions = self.taken.pop().unwrap_or_default();
        self.scope.truncate(self.scope.len() - expressions.len());
        if let Some(with) = &mut query.with {
            with.cte_tables = expressions;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return ControlFlow::Continue(()) };
        let parts: Vec<Ident> = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
        let Some(written) = parts.last() else { return ControlFlow::Continue(()) };
        let is_own = match parts.as_slice() {
            [name] => !self.scope.contains(&normal(name)),
            [.., schema, _] => self.schema == Some(normal(schema).as_str()),
            [] => false,
        };
        let Some(view) = is_own.then(|| (self.expression_of)(&normal(written))).flatten() else {
            return ControlFlow::Continue(());
        };
        if alias.is_none() {
            *alias = match alias_of(written) {
                Ok(alias) => alias,
                Err(error) => return ControlFlow::Break(error),
            };
        }
        *name = ObjectName(vec![ObjectNamePart::Identifier(expression_name(&view))]);
        self.found.push(view);
        ControlFlow::Continue(())
    }
}

pub(super) fn parsed(sql: &str) -> Result<Statement> {
    let statement = DFParser::parse_sql_with_dialect(sql, &GenericDialect {})?.pop_front();
    statement.ok_or_else(|| QueryError::internal("a query of a view is empty"))
}

/// Returns the alias `name`.
fn alias_of(name: &Ident) -> Result<Option<TableAlias>> {
    let mut alone = parsed(&format!("SELECT * FROM x AS {name}"))?;
    let select = query_of(&mut alone).and_then(|query| match query.body.as_mut() {
        SetExpr::Select(select) => select.from.pop(),
        _ => None,
    });
    Ok(select.and_then(|from| match from.relation {
        TableFactor::Table { alias, .. } => alias,
        _ => None,
    }))
}

fn query_of(statement: &mut Statement) -> Option<&mut Query> {
    let Statement::Statement(sql) = statement else { return None };
    match sql.as_mut() {
        SqlStatement::Query(query) => Some(query),
        _ => None,
    }
}

/// Returns the expression `name`, whose query is `query`.
fn expression(name: &Ident, query: Query) -> Result<Cte> {
    let mut alone = parsed(&format!("WITH {name} AS (SELECT 1) SELECT 1"))?;
    let expression = query_of(&mut alone).and_then(|query| query.with.as_mut()?.cte_tables.pop());
    let expression = expression.ok_or_else(|| QueryError::internal("a query of a view has no expression"))?;
    Ok(Cte { query: Box::new(query), ..expression })
}

/// Returns the expressions of view `name` with the query `body`. The expressions of its own WITH become separate ones, so
/// that they are computed once if they must be. Those below stay where they are.
pub(super) fn expressions(name: &str, mut body: Statement) -> Result<Vec<Cte>> {
    let Some(query) = query_of(&mut body) else {
        return Err(QueryError::internal("a view has no query"));
    };
    let mut expressions = Vec::new();
    if with_count(query) == 1
        && let Some(with) = query.with.take_if(|with| !with.recursive)
    {
        let own: HashMap<String, String> = with.cte_tables.iter().map(|own| own_name(name, own)).collect();
        let mut seen: Vec<String> = Vec::new();
        for mut own_expression in with.cte_tables {
            rename(own_expression.query.as_mut(), &own, &seen)?;
            let written = normal(&own_expression.alias.name);
            let (_, renamed) = own_name(name, &own_expression);
            let columns = std::mem::take(&mut own_expression.alias.columns);
            let mut separate =
                expression(&Ident::with_quote('"', format!("{PREFIX}{renamed}")), *own_expression.query)?;
            separate.alias.columns = columns;
            separate.materialized = own_expression.materialized;
            expressions.push(separate);
            seen.push(written);
        }
        rename(query, &own, &seen)?;
    }
    expressions.push(expression(&expression_name(name), query.clone())?);
    Ok(expressions)
}

/// Returns the name of the expression `own` of view `view`, and its name outside of the view.
fn own_name(view: &str, own: &Cte) -> (String, String) {
    let name = normal(&own.alias.name);
    let renamed = format!("{view}:{name}");
    (name, renamed)
}

/// Replaces the names of those of the expressions `own` that are `seen`.
fn rename(query: &mut Query, own: &HashMap<String, String>, seen: &[String]) -> Result<()> {
    let expression_of = |name: &str| seen.iter().any(|seen| seen == name).then(|| own.get(name).cloned()).flatten();
    let mut replacing = Replacing {
        expression_of: &expression_of,
        schema: None,
        scope: Vec::new(),
        taken: Vec::new(),
        found: Vec::new(),
    };
    match visit_mut(query, &mut replacing) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Returns the number of WITH in `query`, also in its subqueries.
fn with_count(query: &mut Query) -> usize {
    struct Counting(usize);
    impl VisitorMut for Counting {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            self.0 += usize::from(query.with.is_some());
            ControlFlow::Continue(())
        }
    }
    let mut counting = Counting(0);
    let _: ControlFlow<()> = visit_mut(query, &mut counting);
    counting.0
}

/// Puts the expressions of `views` before those of `statement`.
pub(super) fn add(statement: &mut Statement, views: &[View]) -> Result<()> {
    let expressions = views.iter().flat_map(|view| view.expressions.iter().cloned());
    let Some(query) = query_of(statement) else {
        return Err(QueryError::internal("a statement that reads views is not a query"));
    };
    match &mut query.with {
        Some(with) => {
            let own = std::mem::take(&mut with.cte_tables);
            with.cte_tables = expressions.chain(own).collect();
        }
        None => {
            let mut alone = parsed("WITH x AS (SELECT 1) SELECT 1")?;
            let with = query_of(&mut alone).and_then(|query| query.with.take());
            query.with = with.map(|mut with| {
                with.cte_tables = expressions.collect();
                with
            });
        }
    }
    Ok(())
}
