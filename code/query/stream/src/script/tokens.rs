//! Pieces of a script, which are tokens with the text that they were read from, and small functions over them.

use buzz_plan::dialect::check_length;
use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{Ident, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

/// A token with the text that it was read from. A statement is joined from texts, because a token has its value without
/// escapes: that of `'it''s'` is `it's`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece<'a> {
    pub(super) token: Token,
    pub(super) text: &'a str,
}

/// Divides a script into pieces. Their texts are the whole script.
///
/// # Errors
/// `Invalid` if a literal or a comment has no end.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>> {
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location()
        .map_err(|error| QueryError::invalid(format!("the script cannot be read: {error}")))?;
    // The tokenizer reads the content of these comments as SQL, and gives it wrong places.
    let hint = || QueryError::invalid("a comment that begins with `/*!` is not supported; remove the exclamation mark");
    let mut pieces = Vec::with_capacity(tokens.len());
    let (mut place, mut from) = (Location::new(1, 1), 0);
    for TokenWithSpan { token, span } in tokens {
        if place != span.start {
            return Err(hint());
        }
        let mut until = from;
        while place < span.end
            && let Some(character) = text[until..].chars().next()
        {
            until += character.len_utf8();
            place = match character {
                '\n' => Location::new(place.line + 1, 1),
                _ => Location::new(place.line, place.column + 1),
            };
        }
        pieces.push(Piece { token, text: &text[from..until] });
        from = until;
    }
    if from < text.len() { Err(hint()) } else { Ok(pieces) }
}

/// Parses one statement.
///
/// # Errors
/// `Invalid` if it is none or several, `Limit` if it is too long to be parsed.
pub(super) fn parse(text: &str) -> Result<Statement> {
    check_length(text)?;
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
pub(super) fn is_blank(piece: &Piece<'_>) -> bool {
    matches!(piece.token, Token::Whitespace(_))
}

/// Returns the first words of the pieces, in upper case. Anything but a word ends the list.
pub(super) fn words(pieces: &[Piece<'_>], count: usize) -> Vec<String> {
    let significant = pieces.iter().filter(|piece| !is_blank(piece));
    significant
        .map_while(|piece| match &piece.token {
            Token::Word(word) => Some(word.value.to_uppercase()),
            _ => None,
        })
        .take(count)
        .collect()
}

/// Returns the pieces behind the first `count` that are not blank. The first of them is not blank.
pub(super) fn after<'p, 'a>(pieces: &'p [Piece<'a>], count: usize) -> &'p [Piece<'a>] {
    match pieces.iter().enumerate().filter(|(_, piece)| !is_blank(piece)).nth(count) {
        Some((index, _)) => &pieces[index..],
        None => &[],
    }
}

/// Returns the value of a word or a literal, without quotes and escapes.
pub(super) fn bare(piece: &Piece<'_>) -> String {
    match &piece.token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text.clone(),
        _ => piece.text.to_string(),
    }
}

/// Returns the text of the pieces.
pub(super) fn join(pieces: &[Piece<'_>]) -> String {
    pieces.iter().map(|piece| piece.text).collect()
}

/// Replaces comments by line breaks.
pub(super) fn without_comments<'a>(pieces: &[Piece<'a>]) -> Vec<Piece<'a>> {
    let blank = |piece: &Piece<'a>| match piece.token {
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
            Piece { token: Token::Whitespace(Whitespace::Newline), text: "\n" }
        }
        _ => piece.clone(),
    };
    pieces.iter().map(blank).collect()
}

/// Returns a statement with one space between its tokens.
pub(super) fn canonical(pieces: &[Piece<'_>]) -> String {
    // Both spellings are one operator.
    let words = pieces.iter().filter(|piece| !is_blank(piece));
    let texts: Vec<&str> = words.map(|piece| if piece.token == Token::Neq { "<>" } else { piece.text }).collect();
    format!("{};\n", texts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_the_text_of_the_script() {
        let text =
            "SELECT 'it''s', \"a\"\"b\" AS é, $$d$$, 1e3\r\nFROM t -- Ünd\n/* two\nlines */ WHERE 'x\ny' <> ''''";
        let pieces = pieces(text).expect("all literals end");
        assert_eq!(join(&pieces), text);
        let literals: Vec<&str> = pieces
            .iter()
            .filter(|piece| matches!(piece.token, Token::SingleQuotedString(_)))
            .map(|piece| piece.text)
            .collect();
        assert_eq!(literals, ["'it''s'", "'x\ny'", "''''"]);
    }

    #[test]
    fn comment_that_is_read_as_sql_is_refused() {
        for text in ["SELECT 1 /*!50110 + 1*/", "SELECT /*! 1, */ 2", "SELECT 1 /*!*/", "SELECT 1 /*!\n+ 1\n*/ + 2"] {
            let error = pieces(text).expect_err("the comment is a hint").to_string();
            assert!(error.contains("`/*!`"), "{text}: {error}");
        }
    }

    #[test]
    fn escapes_differ_in_the_canonical_text() {
        let canonical = |text| canonical(&pieces(text).expect("all literals end"));
        assert_ne!(canonical("SELECT 'x'' AND k <> ''a'"), canonical("SELECT 'x' AND k <> 'a'"));
        assert_eq!(canonical("SELECT  1 -- one"), canonical("SELECT 1"));
    }
}
