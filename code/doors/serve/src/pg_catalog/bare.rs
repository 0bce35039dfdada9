//! Finds out whether a statement that reads no table asks about the server. Any other is run by the engine, which computes
//! exactly what it also computes next to a table.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::pg_catalog::{INFORMATION_SCHEMA, PG_CATALOG, Session, functions};
use crate::scan::{self, Kind, Token};

/// Functions of the catalog that engines have too.
const SHARED: [&str; 1] = ["array_to_string"];

/// Functions that are written without parentheses.
const PLAIN: [&str; 6] = ["current_user", "session_user", "user", "current_role", "current_catalog", "current_schema"];

/// Types that only PostgreSQL has.
const TYPES: [&str; 20] = [
    "regclass",
    "regtype",
    "regnamespace",
    "regrole",
    "regproc",
    "regprocedure",
    "regoper",
    "regconfig",
    "oid",
    "xid",
    "cid",
    "name",
    "bpchar",
    "cstring",
    "uuid",
    "inet",
    "json",
    "jsonb",
    "aclitem",
    "pg_node_tree",
];

/// Digits of a number that every type of whole numbers has.
const DIGITS_MAX: usize = 9;

static FUNCTIONS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let all = functions::all(&[], &Session::of_user(""));
    all.iter().map(|function| function.name().to_string()).filter(|name| !SHARED.contains(&name.as_str())).collect()
});

/// Checks if `sql`, which reads no table, is answered without the engine: it asks about the server, or whether it is there.
pub(super) fn is_about_server(sql: &str) -> bool {
    let tokens = scan::tokens(sql);
    let asks = |number: usize| {
        let token = &tokens[number];
        if !matches!(token.kind, Kind::Word | Kind::Quoted) {
            return false;
        }
        let name = token.name(sql);
        let before = number.checked_sub(1).map(|before| &tokens[before]);
        let after = tokens.get(number + 1);
        let follows = |symbol: char| before.is_some_and(|token| token.is_symbol(sql, symbol));
        let precedes = |symbol: char| after.is_some_and(|token| token.is_symbol(sql, symbol));
        let is_after_as = before.is_some_and(|token| token.is_word(sql, "as"));
        let is_called = precedes('(') && (FUNCTIONS.contains(&name) || name.starts_with("pg_"));
        let is_plain = token.kind == Kind::Word && PLAIN.contains(&name.as_str()) && !is_after_as;
        let is_cast = follows(':') || is_after_as && precedes(')');
        let is_schema = precedes('.') && [PG_CATALOG, INFORMATION_SCHEMA].contains(&name.as_str());
        is_called || is_plain || is_schema || is_cast && TYPES.contains(&name.as_str())
    };
    is_ping(sql, &tokens) || (0..tokens.len()).any(asks)
}

/// Checks if a statement selects only short whole numbers, texts, or the time, as pools and tools do to see if a server answers.
fn is_ping(sql: &str, tokens: &[Token]) -> bool {
    let Some((first, values)) = tokens.split_first() else { return false };
    let is_value = |value: &[Token]| match value {
        [one] if one.kind == Kind::Number => {
            one.text(sql).len() <= DIGITS_MAX && one.text(sql).bytes().all(|digit| digit.is_ascii_digit())
        }
        [one] => one.kind == Kind::Text || one.is_word(sql, "current_timestamp"),
        [name, open, close] => name.is_word(sql, "now") && open.is_symbol(sql, '(') && close.is_symbol(sql, ')'),
        _ => false,
    };
    let is_item = |item: &[Token]| match item {
        [value @ .., by, alias] if by.is_word(sql, "as") => {
            matches!(alias.kind, Kind::Word | Kind::Quoted) && is_value(value)
        }
        value => is_value(value),
    };
    first.is_word(sql, "select") && values.split(|token| token.is_symbol(sql, ',')).all(is_item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_about_the_server_stay() {
        let own = [
            "SELECT 1",
            "select 1 as one, 'a', now()",
            "SELECT version()",
            "SELECT pg_catalog.version(), 1.5",
            "select CURRENT_USER",
            "SELECT 'kinds'::regclass",
            "SELECT CAST('kinds' AS regclass)",
            "SELECT pg_unknown()",
            "SELECT array_to_string(current_schemas(true), ',')",
        ];
        for sql in own {
            assert!(is_about_server(sql), "{sql}");
        }
        let others = [
            "SELECT 9223372036854775807 + 1",
            "SELECT 1.5",
            "SELECT 12345678901234567890",
            "SELECT -1",
            "SELECT 'version()', 2 * 2",
            "SELECT 1.5 AS name",
            "SELECT 1.5 AS user",
            "SELECT array_to_string([1.5], ',')",
            "SELECT now() - interval '1 day'",
            "VALUES (1)",
        ];
        for sql in others {
            assert!(!is_about_server(sql), "{sql}");
        }
    }
}
