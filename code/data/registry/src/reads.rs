//! Finds the tables that a statement names.

use buzz_protocol::{QueryError, Result, SqlLength};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Statement as SqlStatement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// The schema of all names.
const SCHEMA: &str = "public";
const INFORMATION_SCHEMA: &str = "information_schema";

/// Table functions, whose names do not have to be tables.
const FUNCTIONS: [&str; 2] = ["generate_series", "range"];

/// The tables that a statement names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Names of tables, as the statement means them.
    pub(crate) names: Vec<String>,
    /// True if all names are tables. Otherwise they are words of a statement that is too long to be parsed.
    pub(crate) are_tables: bool,
    /// The list of tables that it reads, if any.
    pub(crate) lists: Lists,
}

/// A list of tables.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lists {
    /// None.
    #[default]
    Nothing,
    /// Names of tables, without columns.
    Names,
    /// Tables and their columns.
    Columns,
}

/// Returns the tables that `sql` names, or nothing if it cannot be parsed: its engine reports why.
pub(crate) fn reads(sql: &str) -> Reads {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Reads::default() };
    let length = SqlLength::of(&tokens);
    if length.check().is_err() || length.operators > SqlLength::OPERATORS_MAX {
        return words(&tokens);
    }
    statement(sql).ok().and_then(|statement| of_statement(&statement).ok()).unwrap_or_default()
}

/// Parses one statement, whose length was checked.
///
/// # Errors
/// `Invalid` if it is none or several.
pub(crate) fn statement(sql: &str) -> Result<Statement> {
    let sql = sql.trim_start_matches('\u{feff}');
    let mut statements = DFParser::parse_sql_with_dialect(sql, &GenericDialect {})?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (None, _) => Err(QueryError::invalid("the SQL is empty")),
        (Some(_), false) => Err(QueryError::invalid("the SQL contains several statements; send one at a time")),
    }
}

/// Returns all words as names.
fn words(tokens: &[Token]) -> Reads {
    let mut reads = Reads::default();
    for token in tokens {
        if let Token::Word(word) = token {
            let name = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
            if name == INFORMATION_SCHEMA {
                reads.lists = Lists::Columns;
            }
            reads.names.push(name);
        }
    }
    reads.names.sort();
    reads.names.dedup();
    reads
}

fn of_statement(statement: &Statement) -> Result<Reads> {
    let mut reads = Reads { are_tables: true, ..Reads::default() };
    if let Statement::Explain(explain) = statement {
        return of_statement(&explain.statement);
    }
    if let Statement::Statement(sql) = statement {
        match sql.as_ref() {
            SqlStatement::ExplainTable { table_name, .. } => {
                reads.names.extend(own_name(table_name));
                return Ok(reads);
            }
            SqlStatement::ShowColumns { show_options, .. } => {
                let name = show_options.show_in.as_ref().and_then(|place| place.parent_name.as_ref());
                reads.names.extend(name.and_then(own_name));
                return Ok(reads);
            }
            SqlStatement::ShowTables { .. } => {
                reads.lists = Lists::Names;
                return Ok(reads);
            }
            SqlStatement::Query(_) | SqlStatement::Explain { .. } => {}
            _ => return Ok(reads),
        }
    }
    let (relations, _) = resolve_table_references(statement, true)?;
    for relation in relations {
        match relation.schema() {
            Some(INFORMATION_SCHEMA) if relation.table() == "tables" => {
                reads.lists = reads.lists.max(Lists::Names);
            }
            Some(INFORMATION_SCHEMA) => reads.lists = Lists::Columns,
            None | Some(SCHEMA) if !FUNCTIONS.contains(&relation.table()) => {
                reads.names.push(relation.table().to_string());
            }
            _ => {}
        }
    }
    Ok(reads)
}

/// Returns the last part of `name` if it is in the schema of all names.
pub(crate) fn own_name(name: &ObjectName) -> Option<String> {
    let parts: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    match parts.as_slice() {
        [name] => Some(normal(name)),
        [.., schema, name] if normal(schema) == SCHEMA => Some(normal(name)),
        _ => None,
    }
}

/// Returns a name as statements mean it.
fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sql: &str) -> Vec<String> {
        reads(sql).names
    }

    #[test]
    fn tables_are_found_wherever_a_statement_names_them() {
        assert_eq!(names("SELECT * FROM a JOIN public.b USING (x) WHERE x IN (SELECT x FROM \"C\")"), ["C", "a", "b"]);
        assert_eq!(names("WITH a AS (SELECT * FROM a) SELECT * FROM a, generate_series(1, 3)"), ["a"]);
        assert_eq!(names("WITH w AS (SELECT 1) SELECT * FROM w"), [""; 0]);
        assert_eq!(names("EXPLAIN SELECT * FROM Trips"), ["trips"]);
        assert_eq!(names("DESCRIBE trips"), ["trips"]);
        assert_eq!(names("DESCRIBE SELECT * FROM trips"), ["trips"]);
        assert_eq!(names("SHOW COLUMNS FROM trips"), ["trips"]);
        assert_eq!(names("SELECT * FROM other.t"), [""; 0]);
        assert_eq!(names("SELEC * FROM t"), [""; 0]);
        assert_eq!(names(""), [""; 0]);
    }

    #[test]
    fn statements_about_tables_read_lists() {
        assert_eq!(reads("SHOW TABLES").lists, Lists::Names);
        assert_eq!(reads("SELECT table_name FROM information_schema.tables").lists, Lists::Names);
        let both = "SELECT 1 FROM information_schema.columns c, information_schema.tables t, own";
        assert_eq!((reads(both).lists, names(both)), (Lists::Columns, vec!["own".to_string()]));
        assert_eq!(reads("SELECT * FROM tables").lists, Lists::Nothing);
        assert_eq!(reads("SHOW ALL"), Reads { are_tables: true, ..Reads::default() });
    }

    #[test]
    fn words_of_a_statement_that_is_too_long_are_names() {
        let terms = vec!["x = 1"; 40_000].join(" OR ");
        let reads = reads(&format!("SELECT \"X\" FROM Trips WHERE {terms}"));
        assert!(!reads.are_tables && reads.names.contains(&"trips".to_string()), "{:?}", reads.names);
    }

    #[test]
    fn words_of_a_deep_statement_are_names() {
        let (open, closed) = ("Nullable(".repeat(20_000), ")".repeat(20_000));
        let reads = reads(&format!("SELECT CAST(NULL AS {open}INT{closed}) FROM trips"));
        assert!(!reads.are_tables && reads.names.contains(&"trips".to_string()));
    }
}
