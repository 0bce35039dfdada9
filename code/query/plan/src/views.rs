//! Views: each view that a statement reads, also through other views, becomes a common table expression at its head.
//!
//! There, the names of a view mean the same as in the view alone: neither a common table expression nor a column of the
//! statement can take their place. The name of the expression, such as `view:daily`, is none that a statement uses.

mod expressions;

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use buzz_protocol::{CatalogEntry, Place, Query as BuzzQuery, QueryBody, QueryError, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Cte, Statement as SqlStatement};

use self::expressions::{PREFIX, Replacing, add, expression_name, expressions, parsed};
use crate::information::{SCHEMA, described_query, normal};
use crate::sql::{check_query, parse_statement};
use crate::visit::visit_mut;

/// Maximum number of views that read each other, from the first to the last.
const DEPTH_MAX: usize = 32;

/// Maximum number of queries that a view may become: the planner copies a view for each reference to it.
const QUERIES_MAX: usize = 2_000;

/// The views that a statement reads. Each comes after those that it reads itself.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: Vec<View>,
}

#[derive(Debug)]
struct View {
    name: String,
    /// The common table expressions of its query, and its query as the last one.
    expressions: Vec<Cte>,
    /// Tables that it reads itself.
    tables: BTreeSet<String>,
    /// Number of queries that the planner makes of it: its own, and those of each view that it reads, each time.
    queries: usize,
}

impl Views {
    /// Returns true if the statement reads none.
    pub(crate) fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Returns for each view its name and a statement for its rows.
    pub(crate) fn statements(&self) -> Result<Vec<(&str, Statement)>> {
        let mut statements = Vec::new();
        for (index, view) in self.views.iter().enumerate() {
            let mut alone = parsed(&format!("SELECT * FROM {}", expression_name(&view.name)))?;
            add(&mut alone, &self.views[..=index])?;
            statements.push((view.name.as_str(), alone));
        }
        Ok(statements)
    }
}

/// Returns `statement`, whose text is `sql`, with its views as common table expressions, and the views. `entries` has the
/// views that exist.
///
/// # Errors
/// `Invalid` if a view is not a query, reads itself, or if views are nested too deeply.
pub(crate) fn expanded(statement: Statement, sql: &str, entries: &[CatalogEntry]) -> Result<(Statement, Views)> {
    if !entries.iter().any(CatalogEntry::is_view) {
        return Ok((statement, Views::default()));
    }
    let mut statement = described(statement, entries)?;
    // Each text gets lines of its own, so that a place in one view is none in another text.
    let mut expanding = Expanding { entries, found: Vec::new(), open: Vec::new(), lines: sql.lines().count() };
    let mut inner = described_query(&statement);
    let names = expanding.replaced(inner.as_mut().unwrap_or(&mut statement))?;
    for name in names {
        expanding.expand(&name)?;
    }
    let views = Views { views: expanding.found };
    if views.is_empty() {
        return Ok((statement, views));
    }
    check_names(inner.as_ref().unwrap_or(&statement), &views.views)?;
    match inner {
        Some(mut query) => {
            add(&mut query, &views.views)?;
            put_described(&mut statement, query);
        }
        None => add(&mut statement, &views.views)?,
    }
    Ok((statement, views))
}

/// Returns the names of the tables that `query` reads, also through views, in lower case; `None` if they are not known
/// before it is planned.
pub fn tables_read(query: &BuzzQuery) -> Option<HashSet<String>> {
    let QueryBody::Sql(sql) = &query.body else { return None };
    let statement = match parse_statement(sql).ok()? {
        Statement::Explain(explain) => *explain.statement,
        statement => statement,
    };
    let (statement, _) = expanded(statement, sql, &query.catalogs).ok()?;
    let mut names = HashSet::new();
    if let Statement::Statement(sql) = &statement {
        let named = match sql.as_ref() {
            SqlStatement::ExplainTable { table_name, .. } => Some(table_name),
            SqlStatement::ShowColumns { show_options, .. } => {
                show_options.show_in.as_ref().and_then(|place| place.parent_name.as_ref())
            }
            _ => None,
        };
        names.extend(named.and_then(|name| name.0.last()?.as_ident()).map(|name| name.value.to_lowercase()));
    }
    let (relations, _) = resolve_table_references(&statement, true).ok()?;
    names.extend(relations.iter().map(|relation| relation.table().to_lowercase()));
    Some(names)
}

/// Finds views and replaces their names.
struct Expanding<'a> {
    entries: &'a [CatalogEntry],
    found: Vec<View>,
    /// The views that are being expanded, each of which reads the next.
    open: Vec<String>,
    /// Lines of the texts so far.
    lines: usize,
}

impl Expanding<'_> {
    /// Adds the view `name` and those that it reads.
    fn expand(&mut self, name: &str) -> Result<()> {
        if self.found.iter().any(|view| view.name == name) {
            return Ok(());
        }
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let circle = self.open[start..].iter().chain([&self.open[start]]).map(|name| format!("`{name}`"));
            let circle = circle.collect::<Vec<_>>().join(", which reads ");
            return Err(QueryError::invalid(format!(
                "view `{name}` reads itself: {circle}; drop or replace one of them"
            )));
        }
        if self.open.len() == DEPTH_MAX {
            return Err(QueryError::limit(format!(
                "view `{}` is more than {DEPTH_MAX} views away from tables; let it read tables",
                self.open[0]
            )));
        }
        let at = |error: QueryError| at_view(error, name);
        let entry = self.entries.iter().find(|entry| entry.name == name);
        let sql = entry.and_then(|entry| entry.sql.as_deref()).unwrap_or_default();
        let mut body = parse_statement(&("\n".repeat(self.lines) + sql)).and_then(check_query).map_err(at)?;
        self.lines += sql.lines().count().max(1);
        self.open.push(name.to_string());
        let reads = self.replaced(&mut body).map_err(at)?;
        for read in &reads {
            self.expand(read)?;
        }
        self.open.pop();
        let queries = 1 + self.queries_of(&reads);
        if queries > QUERIES_MAX {
            return Err(QueryError::limit(format!(
                "view `{name}` contains {queries} queries, since views that it reads are read several times by each other, more \
                 than the maximum of {QUERIES_MAX}; let it read tables"
            )));
        }
        let (relations, _) = resolve_table_references(&body, true)?;
        let is_view = |name: &str| name.starts_with(PREFIX);
        let tables = relations.iter().map(|relation| relation.table().to_string()).filter(|name| !is_view(name));
        let tables = tables.collect();
        let expressions = expressions(name, body).map_err(at)?;
        self.found.push(View { name: name.to_string(), expressions, tables, queries });
        Ok(())
    }

    /// Returns the number of queries that the planner makes of `reads`, references to views.
    fn queries_of(&self, reads: &[String]) -> usize {
        let of = |name: &String| self.found.iter().find(|view| view.name == *name).map_or(0, |view| view.queries);
        reads.iter().map(of).sum()
    }

    /// Replaces the names of views in `statement` by those of their expressions. Returns the names of the views.
    fn replaced(&self, statement: &mut Statement) -> Result<Vec<String>> {
        let Statement::Statement(sql) = statement else { return Ok(Vec::new()) };
        let expression_of = |name: &str| {
            let entry = find(self.entries, name).filter(|entry| entry.is_view());
            entry.map(|entry| entry.name.clone())
        };
        let mut replacing = Replacing {
            expression_of: &expression_of,
            schema: Some(SCHEMA),
            scope: Vec::new(),
            taken: Vec::new(),
            found: Vec::new(),
        };
        match visit_mut(sql, &mut replacing) {
            ControlFlow::Continue(()) => Ok(replacing.found),
            ControlFlow::Break(error) => Err(error),
        }
    }
}

/// Returns the entry that `name` means, as tables are found.
fn find<'a>(entries: &'a [CatalogEntry], name: &str) -> Option<&'a CatalogEntry> {
    let exact = entries.iter().find(|entry| entry.name == name);
    exact.or_else(|| entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)))
}

/// Returns `error` at view `name`.
pub(crate) fn at_view(error: QueryError, name: &str) -> QueryError {
    error.at(Place::Other(format!("view `{name}`")))
}

/// Checks that no common table expression of `statement` has the name of a table of a view: in some plans it would take
/// the table's place.
fn check_names(statement: &Statement, views: &[View]) -> Result<()> {
    let Statement::Statement(sql) = statement else { return Ok(()) };
    let SqlStatement::Query(query) = sql.as_ref() else { return Ok(()) };
    let own = query.with.iter().flat_map(|with| &with.cte_tables).map(|own| normal(&own.alias.name));
    for name in own {
        if let Some(view) = views.iter().find(|view| view.tables.contains(&name)) {
            return Err(QueryError::invalid(format!(
                "the common table expression `{name}` has the name of a table that view `{}` reads; rename it",
                view.name
            )));
        }
    }
    Ok(())
}

/// Returns `DESCRIBE SELECT * FROM v` for `DESCRIBE v` if `v` is a view, whose columns are those of its query.
fn described(statement: Statement, entries: &[CatalogEntry]) -> Result<Statement> {
    let Statement::Statement(sql) = &statement else { return Ok(statement) };
    let SqlStatement::ExplainTable { table_name, .. } = sql.as_ref() else { return Ok(statement) };
    let name = table_name.0.last().and_then(|part| part.as_ident()).map(normal);
    match name.and_then(|name| find(entries, &name)).filter(|entry| entry.is_view()) {
        Some(_) => parsed(&format!("DESCRIBE SELECT * FROM {table_name}")),
        None => Ok(statement),
    }
}

fn put_described(statement: &mut Statement, query: Statement) {
    if let (Statement::Statement(outer), Statement::Statement(query)) = (statement, query)
        && let SqlStatement::Explain { statement, .. } = outer.as_mut()
    {
        *statement = query;
    }
}

/// Checks that the steps of a query read no view.
///
/// # Errors
/// `Invalid`, naming the view.
pub(crate) fn check_no_views(query: &BuzzQuery) -> Result<()> {
    match query.catalogs.iter().find(|entry| entry.is_view()) {
        Some(view) => Err(QueryError::invalid(format!(
            "`{}` is a view, and steps read tables only; ask one statement with `sql`, or name the tables of the view",
            view.name
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::CatalogType;

    use super::*;

    fn entries(views: &[(&str, &str)]) -> Vec<CatalogEntry> {
        let views = views.iter().map(|(name, sql)| CatalogEntry::view(*name, *sql));
        views.chain([CatalogEntry::new("t", CatalogType::Parquet, "t")]).collect()
    }

    /// Returns the SQL of `sql` with its views.
    fn text(sql: &str, views: &[(&str, &str)]) -> String {
        match expanded(parse_statement(sql).unwrap(), sql, &entries(views)) {
            Ok((statement, _)) => statement.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn view_becomes_an_expression_before_those_of_the_statement() {
        let views = [("v", "SELECT a FROM t"), ("w", "SELECT a FROM v")];
        assert_eq!(text("SELECT 1 FROM t", &views), "SELECT 1 FROM t");
        assert_eq!(
            text("SELECT V.a FROM V", &views),
            "WITH \"view:v\" AS (SELECT a FROM t) SELECT V.a FROM \"view:v\" AS V"
        );
        assert_eq!(
            text("WITH x AS (SELECT * FROM public.w AS q) SELECT * FROM x WHERE a IN (SELECT a FROM v)", &views),
            "WITH \"view:v\" AS (SELECT a FROM t), \"view:w\" AS (SELECT a FROM \"view:v\" AS v), \
             x AS (SELECT * FROM \"view:w\" AS q) SELECT * FROM x WHERE a IN (SELECT a FROM \"view:v\" AS v)"
        );
        assert_eq!(
            text("DESCRIBE v", &views),
            "DESCRIBE WITH \"view:v\" AS (SELECT a FROM t) SELECT * FROM \"view:v\" AS v"
        );
    }

    #[test]
    fn expression_of_a_statement_hides_a_view_where_it_is_in_scope() {
        let views = [("v", "SELECT a FROM t")];
        let own = "WITH v AS (SELECT 1 AS a) SELECT * FROM v";
        assert_eq!(text(own, &views), parse_statement(own).unwrap().to_string());
        assert_eq!(
            text("WITH v AS (SELECT * FROM v) SELECT * FROM v", &views),
            "WITH \"view:v\" AS (SELECT a FROM t), v AS (SELECT * FROM \"view:v\" AS v) SELECT * FROM v"
        );
        assert_eq!(
            text("SELECT * FROM (WITH v AS (SELECT 1) SELECT * FROM v) AS s, v", &views),
            "WITH \"view:v\" AS (SELECT a FROM t) SELECT * FROM (WITH v AS (SELECT 1) SELECT * FROM v) AS s, \
             \"view:v\" AS v"
        );
        let recursive = "WITH RECURSIVE v AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM v WHERE n < 3) SELECT * FROM v";
        assert_eq!(text(recursive, &views), parse_statement(recursive).unwrap().to_string());
    }

    #[test]
    fn expressions_of_a_view_get_names_of_their_own() {
        let views = [("v", "WITH x AS (SELECT a FROM t), t AS (SELECT a FROM x) SELECT t.a FROM t JOIN x USING (a)")];
        assert_eq!(
            text("WITH x AS (SELECT 1) SELECT * FROM v, x", &views),
            "WITH \"view:v:x\" AS (SELECT a FROM t), \"view:v:t\" AS (SELECT a FROM \"view:v:x\" AS x), \
             \"view:v\" AS (SELECT t.a FROM \"view:v:t\" AS t JOIN \"view:v:x\" AS x USING(a)), \
             x AS (SELECT 1) SELECT * FROM \"view:v\" AS v, x"
        );
    }

    #[test]
    fn circles_and_wrong_views_are_named() {
        let views =
            [("a", "SELECT * FROM b"), ("b", "SELECT * FROM t, a"), ("self", "SELECT * FROM self"), ("bad", "SELEC")];
        assert_eq!(
            text("SELECT * FROM a", &views),
            "view `b`: view `a` reads itself: `a`, which reads `b`, which reads `a`; drop or replace one of them"
                .trim_start_matches("view `b`: ")
        );
        assert!(text("SELECT * FROM self", &views).starts_with("view `self` reads itself: `self`, which reads `self`"));
        assert!(text("SELECT * FROM bad", &views).starts_with("view `bad`: "), "{}", text("SELECT * FROM bad", &views));
        let drop = text("SELECT * FROM x", &[("x", "DROP TABLE t")]);
        assert!(drop.starts_with("view `x`: DROP is not a query"), "{drop}");
        let chain: Vec<(String, String)> =
            (0..40).map(|number| (format!("v{number}"), format!("SELECT * FROM v{}", number + 1))).collect();
        let chain: Vec<(&str, &str)> = chain.iter().map(|(name, sql)| (name.as_str(), sql.as_str())).collect();
        assert!(text("SELECT * FROM v0", &chain).contains("`v0` is more than 32 views away from tables"));
        let hidden = text("WITH t AS (SELECT 1 AS a) SELECT * FROM v, t", &[("v", "SELECT a FROM t")]);
        assert!(hidden.contains("`t` has the name of a table that view `v` reads; rename it"), "{hidden}");
    }

    #[test]
    fn views_that_double_at_each_level_are_refused() {
        let mut views = vec![("v0".to_string(), "SELECT a FROM t".to_string())];
        for level in 1..=12 {
            let below = level - 1;
            views.push((format!("v{level}"), format!("SELECT x.a FROM v{below} x, v{below} y")));
        }
        let views: Vec<(&str, &str)> = views.iter().map(|(name, sql)| (name.as_str(), sql.as_str())).collect();
        assert!(text("SELECT 1 FROM v9", &views).starts_with("WITH"));
        let refused = text("SELECT 1 FROM v12", &views);
        assert!(refused.contains("view `v10` contains 2047 queries"), "{refused}");
    }

    #[test]
    fn tables_are_known_through_views() {
        let read = |sql: &str, views: &[(&str, &str)]| {
            let body = QueryBody::Sql(sql.to_string());
            let query = BuzzQuery { body, zones: 1, catalogs: entries(views), params: Default::default() };
            let mut names: Vec<String> = tables_read(&query)?.into_iter().collect();
            names.sort();
            Some(names)
        };
        let views = [("v", "SELECT a FROM T JOIN \"Other\" USING (a)")];
        assert_eq!(read("SELECT * FROM v", &views).unwrap(), ["other", "t"]);
        assert_eq!(read("EXPLAIN ANALYZE SELECT * FROM u", &views).unwrap(), ["u"]);
        assert_eq!(read("DESCRIBE T", &views).unwrap(), ["t"]);
        assert!(read("SHOW COLUMNS FROM t", &[]).unwrap().contains(&"t".to_string()));
        assert_eq!(read("SELECT * FROM information_schema.tables", &[]).unwrap(), ["tables"]);
        assert_eq!(read("SELEC", &[]), None);
    }
}
