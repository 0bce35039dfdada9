//! Clauses that are taken out of the tokens of a statement: `WITH (key = value, …)` and `EMIT …`.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::Emission;
use super::tokens::{Piece, bare, is_blank, join, words};

/// Values of options by their key.
pub(super) type Values = BTreeMap<String, String>;

/// Takes the last `WITH (key = value, …)` out of the pieces.
pub(super) fn take_options(pieces: Vec<Piece<'_>>) -> Result<(Vec<Piece<'_>>, Option<Values>)> {
    let mut depth = 0;
    let mut start = None;
    for (index, piece) in pieces.iter().enumerate() {
        match &piece.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && word.value.eq_ignore_ascii_case("with") => {
                let next = pieces[index + 1..].iter().find(|piece| !is_blank(piece));
                if next.is_some_and(|piece| piece.token == Token::LParen) {
                    start = Some(index);
                }
            }
            _ => {}
        }
    }
    let Some(start) = start else { return Ok((pieces, None)) };
    let mut options = BTreeMap::new();
    let (mut depth, mut entry, mut end) = (0, Vec::new(), pieces.len());
    let mut entries = Vec::new();
    for (index, piece) in pieces.iter().enumerate().skip(start + 1) {
        match piece.token {
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
        if depth > 0 && !is_blank(piece) {
            entry.push(piece.clone());
        }
    }
    entries.push(entry);
    for entry in entries.into_iter().filter(|entry| !entry.is_empty()) {
        let at = entry.iter().position(|piece| piece.token == Token::Eq);
        let Some(at) = at else {
            return Err(QueryError::invalid(format!("option `{}` of WITH has no value", join(&entry))));
        };
        let key: String = entry[..at].iter().map(bare).collect();
        let value: String = entry[at + 1..].iter().map(bare).collect();
        // The last value would win silently, and keys without quotes are those in lower case.
        if options.insert(key.to_lowercase(), value).is_some() {
            return Err(QueryError::invalid(format!(
                "option `{}` of WITH is given twice; remove one of them",
                key.to_lowercase()
            )));
        }
    }
    let mut rest = pieces[..start].to_vec();
    rest.extend_from_slice(&pieces[end..]);
    Ok((rest, Some(options)))
}

/// Removes `EMIT ON WINDOW CLOSE` and `EMIT CHANGES`.
pub(super) fn take_emit(pieces: &mut Vec<Piece<'_>>) -> Emission {
    let upper = |piece: &Piece<'_>| match &piece.token {
        Token::Word(word) => word.value.to_uppercase(),
        _ => String::new(),
    };
    let Some(at) = pieces.iter().rposition(|piece| upper(piece) == "EMIT") else { return Emission::Default };
    let tail = words(&pieces[at..], usize::MAX);
    let (last, emission) = match tail.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["EMIT", "ON", "WINDOW", "CLOSE", ..] => ("CLOSE", Emission::OnClose),
        ["EMIT", "CHANGES", ..] => ("CHANGES", Emission::Changes),
        // A column named emit.
        _ => return Emission::Default,
    };
    let end = pieces[at..].iter().position(|piece| upper(piece) == last).unwrap_or_default() + at;
    pieces.drain(at..=end);
    emission
}
