//! The functions by which types are received. Npgsql, and with it Power BI, learns the types of the server from their names; all other
//! questions about functions are answered with none, because the server does not list any.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Statement, TableAlias, TableFactor, VisitMut, VisitorMut};

use crate::pg_catalog::PG_CATALOG;
use crate::pg_catalog::tables::{V, t};
use crate::postgres::types;
use crate::scan;

/// The table that stands for `pg_proc` in such a statement, and its columns.
pub(super) const TABLE: &str = "buzz_receivers";
pub(super) const COLUMNS: &str = "oid:o proname:t";

/// OIDs of the functions of all arrays.
pub(super) const ARRAY_IN: u32 = 750;
pub(super) const ARRAY_RECV: u32 = 2400;

/// First OIDs of the functions of other types; that of the type is added.
const OTHERS_IN: u32 = 100_000;
const OTHERS_RECV: u32 = 200_000;

/// Returns the OIDs of the functions by which texts and bytes of type `oid` are received.
pub(super) fn of_type(oid: u32, is_array: bool) -> (u32, u32) {
    if is_array { (ARRAY_IN, ARRAY_RECV) } else { (OTHERS_IN + oid, OTHERS_RECV + oid) }
}

/// Returns the OID of the function `name`, with or without its schema; 0 if it is not known.
pub(super) fn oid_of(name: &str) -> u32 {
    match name.trim_start_matches(PG_CATALOG).trim_start_matches('.') {
        "array_in" => ARRAY_IN,
        "array_recv" => ARRAY_RECV,
        _ => 0,
    }
}

/// Returns the rows of the table.
pub(super) fn rows() -> Vec<Vec<V>> {
    let of_types = types::all().map(|(oid, _, _, name)| vec![V::Oid(OTHERS_RECV + oid), t(&format!("{name}recv"))]);
    std::iter::once(vec![V::Oid(ARRAY_RECV), t("array_recv")]).chain(of_types).collect()
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
