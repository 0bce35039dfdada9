//! `CREATE TABLE`, `CREATE SOURCE` and `CREATE SINK` with their options, watermarks and generated columns.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{ColumnDef, Ident, Statement};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Whitespace};

use super::options::take_options;
use super::relations::windows;
use super::tokens::{is_blank, join, join_spaced, normal, parse, shorten, words};
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

impl Script {
    /// `CREATE SINK s AS SELECT … WITH (…)` and `CREATE SINK s FROM t WITH (…)`.
    pub(super) fn create_sink(&mut self, tokens: &[Token], on_close: bool) -> Result<()> {
        let significant: Vec<Token> = tokens.iter().filter(|token| !is_blank(token)).cloned().collect();
        let mut rest = &significant[2..];
        if words(rest, 3) == ["IF", "NOT", "EXISTS"] {
            rest = &rest[3..];
        }
        let bad = || {
            QueryError::invalid("CREATE SINK requires a name, AS SELECT … or FROM table, and WITH (connector = '…', …)")
        };
        let [Token::Word(name), rest @ ..] = rest else { return Err(bad()) };
        let name = normal(&Ident { value: name.value.clone(), quote_style: name.quote_style, span: Span::empty() });
        let (rest, options) = take_options(rest.to_vec())?;
        let options = options.ok_or_else(bad)?;
        let mut statement = match words(&rest, 1).first().map(String::as_str) {
            Some("AS") => join_spaced(&rest[1..]),
            Some("FROM") => format!("SELECT * FROM {}", join_spaced(&rest[1..])),
            _ => return Err(bad()),
        };
        if let Some(at) = statement.to_uppercase().rfind(" FORMAT PLAIN") {
            statement.truncate(at);
        }
        let Statement::Query(query) = parse(&statement)? else { return Err(bad()) };
        let mut options = options;
        options.insert("type".to_string(), "sink".to_string());
        self.tables.push(TableDefinition { name: name.clone(), options, ..TableDefinition::default() });
        self.statements.push(Output { into: Some(name), columns: Vec::new(), query: windows(query)?, on_close });
        Ok(())
    }

    pub(super) fn create_table(&mut self, tokens: Vec<Token>) -> Result<()> {
        let is_source = words(&tokens, 2).get(1).is_some_and(|word| word == "SOURCE");
        let (tokens, options) = take_options(tokens)?;
        let mut definition = TableDefinition { options: options.unwrap_or_default(), ..TableDefinition::default() };
        if is_source {
            definition.options.entry("type".to_string()).or_insert_with(|| "source".to_string());
        }
        let Parts { head, elements, tail } = Parts::of(tokens)?;
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
        let head = join(&head);
        let head = head.trim();
        let head = match head.to_uppercase().find("SOURCE") {
            Some(at) if is_source => format!("CREATE TABLE{}", head.get(at + "SOURCE".len()..).unwrap_or_default()),
            _ => head.to_string(),
        };
        let Statement::CreateTable(table) = parse(&format!("{head} ({placeholder})"))? else {
            return Err(QueryError::invalid(format!("`{}` is not understood as CREATE TABLE", shorten(&head))));
        };
        definition.name = table.name.0.last().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
        if !columns.is_empty() {
            definition.columns = table.columns;
        }
        self.tables.push(definition);
        Ok(())
    }
}

/// The tokens of CREATE TABLE: before, inside and after the parentheses of the columns.
struct Parts {
    head: Vec<Token>,
    /// The tokens between two commas.
    elements: Vec<Vec<Token>>,
    tail: Vec<Token>,
}

impl Parts {
    fn of(tokens: Vec<Token>) -> Result<Self> {
        let mut parts = Self { head: Vec::new(), elements: Vec::new(), tail: Vec::new() };
        let mut depth = 0;
        for token in tokens {
            match &token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            let before = parts.elements.is_empty() && parts.tail.is_empty();
            match (depth, &token, parts.elements.last_mut()) {
                (0, Token::RParen, _) => parts.tail.push(Token::Whitespace(Whitespace::Space)),
                (0, _, _) if before => parts.head.push(token),
                (0, _, _) => parts.tail.push(token),
                (1, Token::LParen, None) if before => parts.elements.push(Vec::new()),
                (1, Token::Comma, _) => parts.elements.push(Vec::new()),
                (1.., _, Some(element)) => element.push(token),
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
fn watermark(element: &[Token]) -> Result<(String, Option<String>)> {
    let tokens: Vec<&Token> = element.iter().filter(|token| !is_blank(token)).collect();
    let [_, _, Token::Word(column), rest @ ..] = tokens.as_slice() else {
        return Err(QueryError::invalid(
            "WATERMARK FOR requires a column, as in WATERMARK FOR ts AS ts - INTERVAL '5 seconds'",
        ));
    };
    let name = match column.quote_style {
        Some(_) => column.value.clone(),
        None => column.value.to_lowercase(),
    };
    match rest {
        [] => Ok((name, None)),
        [Token::Word(word), expression @ ..] if word.value.eq_ignore_ascii_case("as") && !expression.is_empty() => {
            let expression: Vec<Token> = expression.iter().map(|token| (*token).clone()).collect();
            Ok((name, Some(join_spaced(&expression))))
        }
        _ => Err(QueryError::invalid(format!(
            "WATERMARK FOR {name} is followed by something other than AS: `{}`",
            join(element)
        ))),
    }
}

/// Takes the expression out of `name TYPE GENERATED ALWAYS AS (expression) STORED` and of `name TYPE AS expression`.
fn generated(element: Vec<Token>, found: &mut BTreeMap<String, String>) -> Result<String> {
    let mut depth = 0;
    let mut at = None;
    for (index, token) in element.iter().enumerate() {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && at.is_none() && word.value.eq_ignore_ascii_case("as") => {
                at = Some(index)
            }
            _ => {}
        }
    }
    let Some(at) = at else { return Ok(join(&element)) };
    let Some(Token::Word(name)) = element.iter().find(|token| matches!(token, Token::Word(_))) else {
        return Err(QueryError::invalid(format!("column `{}` has no name", join(&element))));
    };
    let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
    let mut expression: Vec<Token> = element[at + 1..].to_vec();
    while let Some(last) = expression.iter().rposition(|token| !is_blank(token))
        && matches!(&expression[last], Token::Word(word) if ["STORED", "VIRTUAL", "PERSISTED"].contains(&word.value.to_uppercase().as_str()))
    {
        expression.truncate(last);
    }
    found.insert(name, join(&expression));
    let mut declaration = element[..at].to_vec();
    while let Some(last) = declaration.iter().rposition(|token| !is_blank(token))
        && matches!(&declaration[last], Token::Word(word) if ["GENERATED", "ALWAYS"].contains(&word.value.to_uppercase().as_str()))
    {
        declaration.truncate(last);
    }
    Ok(join(&declaration))
}
