//! Common table expressions whose name is that of one in an outer WITH.
//!
//! In the standard the inner one hides the outer one. DataFusion refuses the name, so the inner one gets another.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Ident, ObjectNamePart, Query, TableAlias, TableFactor, VisitorMut};

use super::syntax::normal;
use crate::visit::visit_mut;

/// The names in the WITH of each query that is open.
#[derive(Default)]
pub(super) struct Names {
    open: Vec<Vec<String>>,
    /// Number of names that were given.
    given: usize,
}

impl Names {
    /// Begins `query`.
    pub(super) fn begin(&mut self, query: &Query) {
        let names = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normal(&cte.alias.name));
        self.open.push(names.collect());
    }

    /// Ends `query`, whose inner queries have ended: gives another name to each expression of its WITH whose name an outer query has.
    pub(super) fn end(&mut self, query: &mut Query) {
        let own = self.open.pop().unwrap_or_default();
        for (index, name) in own.iter().enumerate() {
            if self.open.iter().flatten().any(|outer| outer == name) {
                self.given += 1;
                rename(query, index, name, &format!("buzz_{name}_{}", self.given));
            }
        }
    }
}

/// Gives the expression at `index` of the WITH of `query` the name `to`, and reads it by that name where it can be read.
fn rename(query: &mut Query, index: usize, from: &str, to: &str) {
    let Some(mut with) = query.with.take() else { return };
    let mut renaming = Renaming { from, to };
    let _: ControlFlow<()> = visit_mut(query, &mut renaming);
    for (number, cte) in with.cte_tables.iter_mut().enumerate() {
        if number == index {
            cte.alias.name = Ident::with_quote('"', to);
        }
        // An expression can read those before it, and itself if it is recursive.
        if number > index || with.recursive && number == index {
            let _: ControlFlow<()> = visit_mut(cte.query.as_mut(), &mut renaming);
        }
    }
    query.with = Some(with);
}

/// Reads a table by another name. Its columns can be named by the old one.
struct Renaming<'a> {
    from: &'a str,
    to: &'a str,
}

impl VisitorMut for Renaming<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return ControlFlow::Continue(()) };
        if let [ObjectNamePart::Identifier(table)] = name.0.as_mut_slice()
            && normal(table) == self.from
        {
            let old = std::mem::replace(table, Ident::with_quote('"', self.to));
            if alias.is_none() {
                *alias = Some(TableAlias { explicit: true, name: old, columns: Vec::new(), at: None });
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;

    #[test]
    fn inner_names_hide_outer_ones() {
        for (sql, expected) in [
            (
                "WITH x AS (SELECT 1 AS a) SELECT x.a FROM (WITH x AS (SELECT 2 AS a) SELECT x.a FROM x) AS y, x",
                "WITH x AS (SELECT 1 AS a) SELECT x.a FROM (WITH \"buzz_x_1\" AS (SELECT 2 AS a) SELECT x.a FROM \"buzz_x_1\" AS x) AS y, x",
            ),
            (
                "WITH x AS (SELECT 1 AS a) SELECT * FROM (WITH x AS (SELECT a + 1 AS a FROM x), z AS (SELECT * FROM x AS v) SELECT * FROM z) AS y",
                "WITH x AS (SELECT 1 AS a) SELECT * FROM (WITH \"buzz_x_1\" AS (SELECT a + 1 AS a FROM x), z AS (SELECT * FROM \"buzz_x_1\" AS v) SELECT * FROM z) AS y",
            ),
            (
                "WITH x AS (SELECT 1 AS a) SELECT * FROM (WITH y AS (SELECT 2 AS a) SELECT * FROM y, x) AS z",
                "WITH x AS (SELECT 1 AS a) SELECT * FROM (WITH y AS (SELECT 2 AS a) SELECT * FROM y, x) AS z",
            ),
        ] {
            assert_eq!(parse_statement(sql).unwrap().to_string(), expected);
        }
    }
}
