//! Clauses that are taken out of the tokens of a statement: `WITH (key = value, …)` and `EMIT ON WINDOW CLOSE`.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens::{bare, is_blank, join, words};

/// Values of options by their key.
pub(super) type Values = BTreeMap<String, String>;

/// Takes the last `WITH (key = value, …)` out of the tokens.
pub(super) fn take_options(tokens: Vec<Token>) -> Result<(Vec<Token>, Option<Values>)> {
    let mut depth = 0;
    let mut start = None;
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && word.value.eq_ignore_ascii_case("with") => {
                let next = tokens[index + 1..].iter().find(|token| !is_blank(token));
                if next == Some(&Token::LParen) {
                    start = Some(index);
                }
            }
            _ => {}
        }
    }
    let Some(start) = start else { return Ok((tokens, None)) };
    let mut options = BTreeMap::new();
    let (mut depth, mut entry, mut end) = (0, Vec::new(), tokens.len());
    let mut entries = Vec::new();
    for (index, token) in tokens.iter().enumerate().skip(start + 1) {
        match token {
            Token::LParen => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
            }
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    end = index + 1;
                    break;
                }
            }
            Token::Comma if depth == 1 => {
                entries.push(std::mem::take(&mut entry));
                continue;
            }
            _ => {}
        }
        if depth > 0 && !is_blank(token) {
            entry.push(token.clone());
        }
    }
    entries.push(entry);
    for entry in entries.into_iter().filter(|entry| !entry.is_empty()) {
        let at = entry.iter().position(|token| *token == Token::Eq);
        let Some(at) = at else {
            return Err(QueryError::invalid(format!("option `{}` of WITH has no value", join(&entry))));
        };
        let key: String = entry[..at].iter().map(bare).collect();
        let value: String = entry[at + 1..].iter().map(bare).collect();
        options.insert(key.to_lowercase(), value);
    }
    let mut rest = tokens[..start].to_vec();
    rest.extend_from_slice(&tokens[end..]);
    Ok((rest, Some(options)))
}

/// Removes `EMIT ON WINDOW CLOSE`.
pub(super) fn take_emit(tokens: &mut Vec<Token>) -> Result<bool> {
    let upper = |token: &Token| match token {
        Token::Word(word) => word.value.to_uppercase(),
        _ => String::new(),
    };
    let Some(at) = tokens.iter().rposition(|token| upper(token) == "EMIT") else { return Ok(false) };
    let tail = words(&tokens[at..], usize::MAX);
    match tail.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["EMIT", "ON", "WINDOW", "CLOSE", ..] => {
            let close = tokens[at..].iter().position(|token| upper(token) == "CLOSE").unwrap_or_default() + at;
            tokens.drain(at..=close);
            Ok(true)
        }
        ["EMIT", "CHANGES", ..] => Err(QueryError::invalid(
            "EMIT CHANGES is not supported: rows are emitted when their window closes; remove it",
        )),
        // A column named emit.
        _ => Ok(false),
    }
}
