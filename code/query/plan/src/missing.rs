//! Errors for tables that do not exist.

use buzz_protocol::query::name_help;
use buzz_protocol::{ErrorKind, QueryError};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Endings of files that are tables.
const ENDINGS: [&str; 9] = ["parquet", "csv", "tsv", "json", "jsonl", "ndjson", "gz", "zst", "txt"];

/// Functions of other engines that read files.
const READERS: [&str; 6] = ["parquet_scan", "delta_scan", "iceberg_scan", "csv_scan", "json_scan", "sniff_csv"];

/// Returns the error for a table that is none of `names`.
pub(crate) fn missing_table<'a>(reference: &TableReference, names: impl Iterator<Item = &'a str>) -> QueryError {
    let name = reference.table();
    let written = match reference.schema() {
        Some(schema) => format!("{schema}.{name}"),
        None => name.to_string(),
    };
    if name.starts_with("read_") || READERS.contains(&name) {
        return QueryError::invalid(format!(
            "function `{name}` does not exist; name the file with --table t=PLACE, or in `catalogs` of a query file, and \
             write FROM t"
        ));
    }
    if is_file(&written) {
        return QueryError::invalid(format!(
            "table `{written}` does not exist; a file becomes a table with --table t={written}, or in `catalogs` of a query \
             file, and FROM t"
        ));
    }
    QueryError::invalid(format!("table `{name}` does not exist{}", name_help(name, names)))
}

/// Windows of streams, which batch statements do not have.
const WINDOWS: [&str; 3] = ["TUMBLE", "HOP", "SESSION"];

/// Adds a hint to an error of planning `sql`, if the statement calls a window of a stream.
pub(crate) fn with_hint_for_streams(error: QueryError, sql: &str) -> QueryError {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap_or_default();
    let tokens: Vec<&Token> = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let window = tokens.windows(2).find_map(|pair| match pair {
        [Token::Word(word), Token::LParen] => WINDOWS.into_iter().find(|name| word.value.eq_ignore_ascii_case(name)),
        _ => None,
    });
    match window {
        Some(name) if error.kind == ErrorKind::Invalid => QueryError {
            message: format!("{}; {name} is a window of a stream, and `buzz stream run` runs it", error.message),
            ..error
        },
        _ => error,
    }
}

fn is_file(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_lowercase());
    name.contains('/') || ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}
