//! Small functions over the tokens of a statement.

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{Ident, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Whitespace};

pub(super) fn parse(text: &str) -> Result<Statement> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, text)
        .map_err(|error| QueryError::invalid(format!("`{}` is not understood: {error}", shorten(text))))?;
    if statements.len() != 1 {
        return Err(QueryError::invalid(format!("`{}` is not one statement", shorten(text))));
    }
    Ok(statements.remove(0))
}

pub(super) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

pub(super) fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// Returns true for whitespace and comments.
pub(super) fn is_blank(token: &Token) -> bool {
    matches!(token, Token::Whitespace(_))
}

/// Returns the first words of the tokens, in upper case. Anything but a word ends the list.
pub(super) fn words(tokens: &[Token], count: usize) -> Vec<String> {
    let significant = tokens.iter().filter(|token| !is_blank(token));
    significant
        .map_while(|token| match token {
            Token::Word(word) => Some(word.value.to_uppercase()),
            _ => None,
        })
        .take(count)
        .collect()
}

pub(super) fn bare(token: &Token) -> String {
    match token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn join(tokens: &[Token]) -> String {
    tokens.iter().map(ToString::to_string).collect()
}

/// Joins tokens whose whitespace was dropped.
pub(super) fn join_spaced(tokens: &[Token]) -> String {
    let texts: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    texts.join(" ").replace(" . ", ".").replace(" ( ", "(").replace(" :: ", "::")
}

pub(super) fn split(tokens: Vec<Token>, separator: &Token) -> Vec<Vec<Token>> {
    tokens.split(|token| token == separator).map(<[Token]>::to_vec).collect()
}

pub(super) fn without_comments(tokens: Vec<Token>) -> Vec<Token> {
    let blank = |token| match token {
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
            Token::Whitespace(Whitespace::Newline)
        }
        other => other,
    };
    tokens.into_iter().map(blank).filter(|token| *token != Token::EOF).collect()
}

/// Returns a statement with one space between its tokens.
pub(super) fn canonical(tokens: &[Token]) -> String {
    let texts: Vec<String> = tokens.iter().filter(|token| !is_blank(token)).map(ToString::to_string).collect();
    format!("{};\n", texts.join(" "))
}
