//! The functions by which types are received. Npgsql, and with it Power BI, learns the types of the server from their names; all other
//! questions about functions are answered with none, because the server does not list any.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Statement, TableAlias, TableFactor, VisitMut, VisitorMut};

use crate::pg_catalog::tables::{V, t};
use crate::postgres::types;
use crate::scan;

/// The table that stands for `pg_proc` in such a statement, and its columns. A function has its name for an OID, as columns of
/// `pg_type` refer to it.
pub(super) const TABLE: &str = "buzz_receivers";
pub(super) const COLUMNS: &str = "oid:t proname:t";

/// Columns of `pg_type` that refer to functions.
const REFERRING: [&str; 4] = ["typinput", "typoutput", "typreceive", "typsend"];

/// Checks if `column` refers to a function.
pub(super) fn is_reference(column: &str) -> bool {
    REFERRING.contains(&column)
}

/// Returns the function of all arrays that `name` is, with or without its schema.
pub(super) fn array_function(name: &str) -> Option<&str> {
    let bare = name.strip_prefix("pg_catalog.").unwrap_or(name);
    ["array_in", "array_out", "array_recv", "array_send"].contains(&bare).then_some(bare)
}

/// Returns the rows of the table.
pub(super) fn rows() -> Vec<Vec<V>> {
    let of_types = types::all().map(|(_, _, _, name)| format!("{name}recv"));
    let names = std::iter::once("array_recv".to_string()).chain(of_types);
    names.map(|name| vec![t(&name), t(&name)]).collect()
}

/// Lets `statement`, whose text is `sql`, read the table if it asks how types are received.
pub(super) fn rewrite(statement: &mut Statement, sql: &str) {
    if scan::tokens(sql).iter().any(|token| token.is_word(sql, "typreceive")) {
        _ = statement.visit(&mut Renamer);
    }
}

struct Renamer;

impl VisitorMut for Renamer {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, args: None, .. } = factor
            && let Some(last) = name.0.last_mut().and_then(|part| part.as_ident().cloned())
            && last.value.eq_ignore_ascii_case("pg_proc")
        {
            *name = ObjectName::from(vec![Ident::new(TABLE)]);
            alias.get_or_insert_with(|| TableAlias { explicit: true, name: last, columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }
}
