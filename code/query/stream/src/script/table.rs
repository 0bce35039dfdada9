//! `CREATE TABLE`, `CREATE SOURCE` and `CREATE SINK` with their options, watermarks and generated columns.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{ColumnDef, CreateTable, Ident, Statement};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Whitespace};

use super::options::take_options;
use super::relations::windows;
use super::tokens::{Piece, after, is_blank, join, normal, parse, shorten, words};
use super::{Output, Script};

/// A table: a source, a sink, or a name for the rows of an INSERT.
#[derive(Debug, Clone, Default)]
pub struct TableDefinition {
    /// Its name, in lower case unless quoted.
    pub name: String,
    /// Its columns; empty if the connector defines them.
    pub columns: Vec<ColumnDef>,
    /// Expressions of generated columns, by name.
    pub generated: BTreeMap<String, String>,
    /// The column of `WATERMARK FOR` and its expression, if one is given.
    pub watermark: Option<(String, Option<String>)>,
    /// The options of `WITH`, with keys in lower case.
    pub options: BTreeMap<String, String>,
}

impl TableDefinition {
    /// Returns the value of an option.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }
}

/// The connector of materialized views.
pub const MATERIALIZED_VIEW: &str = "materialized_view";

impl Script {
    /// Adds the table with the rows of view `name`, and the statement that inserts them.
    pub(super) fn materialized_view(&mut self, name: &str, emission: super::Emission) -> Result<()> {
        let quoted = Ident::with_quote('"', name);
        let Statement::Query(query) = parse(&format!("SELECT * FROM {quoted}"))? else {
            return Err(QueryError::internal("a SELECT is no query"));
        };
        let options = [("connector", MATERIALIZED_VIEW), ("type", "sink")];
        let options = options.map(|(key, value)| (key.to_string(), value.to_string())).into();
        self.tables.push(TableDefinition { name: name.to_string(), options, ..TableDefinition::default() });
        self.statements.push(Output { into: Some(name.to_string()), columns: Vec::new(), query, emission });
        Ok(())
    }

    /// `CREATE SINK s AS SELECT … WITH (…)` and `CREATE SINK s FROM t WITH (…)`.
    pub(super) fn create_sink(&mut self, pieces: Vec<Piece<'_>>, emission: super::Emission) -> Result<()> {
        let bad = || {
            QueryError::invalid("CREATE SINK requires a name, AS SELECT … or FROM table, and WITH (connector = '…', …)")
        };
        let (pieces, options) = take_options(pieces)?;
        let mut options = options.ok_or_else(bad)?;
        let mut rest = after(&pieces, 2);
        if words(rest, 3) == ["IF", "NOT", "EXISTS"] {
            rest = after(rest, 3);
        }
        let [Piece { token: Token::Word(name), .. }, ..] = rest else { return Err(bad()) };
        let name = normal(&Ident { value: name.value.clone(), quote_style: name.quote_style, span: Span::empty() });
        let rest = after(rest, 1);
        let query = without_format(after(rest, 1));
        let statement = match words(rest, 1).first().map(String::as_str) {
            Some("AS") => join(query),
            Some("FROM") => format!("SELECT * FROM {}", join(query)),
            _ => return Err(bad()),
        };
        let Statement::Query(query) = parse(&statement)? else { return Err(bad()) };
        options.insert("type".to_string(), "sink".to_string());
        self.tables.push(TableDefinition { name: name.clone(), options, ..TableDefinition::default() });
        self.statements.push(Output { into: Some(name), columns: Vec::new(), query: windows(query)?, emission });
        Ok(())
    }

    pub(super) fn create_table(&mut self, pieces: Vec<Piece<'_>>) -> Result<()> {
        let is_source = words(&pieces, 2).get(1).is_some_and(|word| word == "SOURCE");
        let (pieces, options) = take_options(pieces)?;
        let mut definition = TableDefinition { options: options.unwrap_or_default(), ..TableDefinition::default() };
        if is_source {
            definition.options.entry("type".to_string()).or_insert_with(|| "source".to_string());
        }
        let Parts { head, elements, tail } = Parts::of(pieces)?;
        for word in words(&tail, usize::MAX) {
            match word.as_str() {
                "APPEND" | "ONLY" | "FORMAT" | "PLAIN" | "ENCODE" => {}
                "JSON" | "CSV" | "PARQUET" => {
                    definition.options.entry("format".to_string()).or_insert_with(|| word.to_lowercase());
                }
                other => {
                    return Err(QueryError::invalid(format!(
                        "`{other}` after the columns of CREATE TABLE is not understood; use WITH (…) for options"
                    )));
                }
            }
        }
        let mut columns = Vec::new();
        for element in elements.into_iter().filter(|element| !element.iter().all(is_blank)) {
            match words(&element, 2).as_slice() {
                [first, second] if first == "WATERMARK" && second == "FOR" => {
                    definition.watermark = Some(watermark(&element)?);
                }
                [first, _] if first == "PRIMARY" => {}
                _ => columns.push(generated(element, &mut definition.generated)?),
            }
        }
        // The parser requires a column.
        let placeholder = if columns.is_empty() { "__none INT".to_string() } else { columns.join(", ") };
        let head = match is_source {
            true => format!("CREATE TABLE {}", join(after(&head, 2))),
            false => join(&head),
        };
        let Statement::CreateTable(table) = parse(&format!("{head} ({placeholder})"))? else {
            return Err(QueryError::invalid(format!("`{}` is not understood as CREATE TABLE", shorten(&head))));
        };
        definition.name = table.name.0.last().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
        check_clauses(&definition.name, &table)?;
        if !columns.is_empty() {
            definition.columns = table.columns;
        }
        self.tables.push(definition);
        Ok(())
    }
}

/// Clauses of a column that ask for nothing: a key of a table whose rows are never changed, and what is nullable.
const CLAUSES: [&str; 4] = ["NULL", "NOT NULL", "PRIMARY KEY", "COMMENT"];

/// Checks that the columns of `table` have no clause that would be ignored, such as DEFAULT.
///
/// # Errors
/// `Invalid`, naming the clause.
fn check_clauses(name: &str, table: &CreateTable) -> Result<()> {
    for column in &table.columns {
        let mut clauses = column.options.iter().map(|option| option.option.to_string());
        if let Some(clause) = clauses.find(|clause| !CLAUSES.iter().any(|known| clause.starts_with(known))) {
            return Err(QueryError::invalid(format!(
                "`{clause}` of column `{}` of table `{name}` is not supported: values are read as they are; remove it, or \
                 compute the value in a view, as in coalesce({}, 0)",
                column.name, column.name
            )));
        }
    }
    match table.constraints.first() {
        Some(constraint) => Err(QueryError::invalid(format!(
            "`{constraint}` of table `{name}` is not supported: rows are not checked; remove it, or leave rows out by WHERE"
        ))),
        None => Ok(()),
    }
}

/// Returns a query without `FORMAT PLAIN [ENCODE …]` at its end.
fn without_format<'p, 'a>(pieces: &'p [Piece<'a>]) -> &'p [Piece<'a>] {
    let begins = |index: &usize| {
        let is_word = matches!(&pieces[*index].token, Token::Word(word) if word.quote_style.is_none());
        let clause = words(&pieces[*index..], 3);
        is_word
            && clause.starts_with(&["FORMAT".to_string(), "PLAIN".to_string()])
            && (clause.get(2).is_some_and(|word| word == "ENCODE") || after(&pieces[*index..], 2).is_empty())
    };
    let end = (0..pieces.len()).rev().find(begins);
    &pieces[..end.unwrap_or(pieces.len())]
}

/// The pieces of CREATE TABLE: before, inside and after the parentheses of the columns.
struct Parts<'a> {
    head: Vec<Piece<'a>>,
    /// The pieces between two commas.
    elements: Vec<Vec<Piece<'a>>>,
    tail: Vec<Piece<'a>>,
}

impl<'a> Parts<'a> {
    fn of(pieces: Vec<Piece<'a>>) -> Result<Self> {
        let mut parts = Self { head: Vec::new(), elements: Vec::new(), tail: Vec::new() };
        let mut depth = 0;
        for piece in pieces {
            match piece.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            let before = parts.elements.is_empty() && parts.tail.is_empty();
            match (depth, &piece.token, parts.elements.last_mut()) {
                (0, Token::RParen, _) => {
                    parts.tail.push(Piece { token: Token::Whitespace(Whitespace::Space), text: " " });
                }
                (0, _, _) if before => parts.head.push(piece),
                (0, _, _) => parts.tail.push(piece),
                (1, Token::LParen, None) if before => parts.elements.push(Vec::new()),
                (1, Token::Comma, _) => parts.elements.push(Vec::new()),
                (1.., _, Some(element)) => element.push(piece),
                _ => {
                    return Err(QueryError::invalid(
                        "a parenthesis of CREATE TABLE has no partner; check the columns and the options",
                    ));
                }
            }
        }
        Ok(parts)
    }
}

/// Reads `WATERMARK FOR column [AS expression]`.
fn watermark(element: &[Piece<'_>]) -> Result<(String, Option<String>)> {
    let rest = after(element, 2);
    let [Piece { token: Token::Word(column), .. }, ..] = rest else {
        return Err(QueryError::invalid(
            "WATERMARK FOR requires a column, as in WATERMARK FOR ts AS ts - INTERVAL '5 seconds'",
        ));
    };
    let name = match column.quote_style {
        Some(_) => column.value.clone(),
        None => column.value.to_lowercase(),
    };
    let rest = after(rest, 1);
    let expression = after(rest, 1);
    if rest.is_empty() {
        return Ok((name, None));
    }
    if words(rest, 1) == ["AS"] && !expression.is_empty() {
        return Ok((name, Some(join(expression).trim_end().to_string())));
    }
    Err(QueryError::invalid(format!(
        "WATERMARK FOR {name} is followed by something other than AS: `{}`",
        join(element)
    )))
}

/// Takes the expression out of `name TYPE GENERATED ALWAYS AS (expression) STORED` and of `name TYPE AS expression`.
fn generated(element: Vec<Piece<'_>>, found: &mut BTreeMap<String, String>) -> Result<String> {
    let mut depth = 0;
    let mut at = None;
    for (index, piece) in element.iter().enumerate() {
        match &piece.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && at.is_none() && word.value.eq_ignore_ascii_case("as") => {
                at = Some(index)
            }
            _ => {}
        }
    }
    let Some(at) = at else { return Ok(join(&element)) };
    let Some(name) = element.iter().find_map(|piece| match &piece.token {
        Token::Word(word) => Some(word),
        _ => None,
    }) else {
        return Err(QueryError::invalid(format!("column `{}` has no name", join(&element))));
    };
    let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
    let expression = without_words(&element[at + 1..], &["STORED", "VIRTUAL", "PERSISTED"]);
    found.insert(name, join(expression).trim().to_string());
    Ok(join(without_words(&element[..at], &["GENERATED", "ALWAYS"])))
}

/// Returns the pieces before `left_out`, words that may stand at the end.
fn without_words<'p, 'a>(mut pieces: &'p [Piece<'a>], left_out: &[&str]) -> &'p [Piece<'a>] {
    while let Some(last) = pieces.iter().rposition(|piece| !is_blank(piece))
        && matches!(&pieces[last].token, Token::Word(word) if left_out.contains(&word.value.to_uppercase().as_str()))
    {
        pieces = &pieces[..last];
    }
    pieces
}
