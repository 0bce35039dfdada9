//! Divides text into statements.

/// A piece of a script, without what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A statement, without its semicolon.
    Statement(&'a str),
    /// A statement without a semicolon, at the end of the text.
    Open(&'a str),
}

/// Divides `text` at each semicolon that is not within a text, a quoted name or a comment. Pieces without a word, such as
/// comments, are left out.
pub(super) fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut has_words) = (0, false);
    let mut rest = Scanner { text, at: 0 };
    while let Some(token) = rest.next_token() {
        match token {
            Token::Semicolon => {
                if has_words {
                    pieces.push(Piece::Statement(text[start..rest.at - 1].trim()));
                }
                (start, has_words) = (rest.at, false);
            }
            Token::Word => has_words = true,
            Token::Unclosed => {
                has_words = true;
                break;
            }
            Token::Blank => {}
        }
    }
    if has_words {
        pieces.push(Piece::Open(text[start..].trim()));
    }
    pieces
}

enum Token {
    Semicolon,
    /// Part of a statement.
    Word,
    /// A blank or a comment.
    Blank,
    /// A text, a quoted name or a comment that has no end.
    Unclosed,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn next_token(&mut self) -> Option<Token> {
        let rest = &self.text[self.at..];
        let first = rest.chars().next()?;
        let (length, token) = match first {
            ';' => (1, Token::Semicolon),
            '\'' | '"' | '`' => closed(rest, 1, &first.to_string(), Token::Word),
            '-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), Token::Blank),
            '/' if rest.starts_with("/*") => comment(rest),
            '$' => match dollar_quote(rest) {
                Some(quote) => closed(rest, quote.len(), quote, Token::Word),
                None => (1, Token::Word),
            },
            blank if blank.is_whitespace() || blank == '\u{feff}' => (blank.len_utf8(), Token::Blank),
            other => (other.len_utf8(), Token::Word),
        };
        self.at += length;
        Some(token)
    }
}

/// Returns the length of what ends with `end`, which is searched from `from`.
fn closed(text: &str, from: usize, end: &str, token: Token) -> (usize, Token) {
    match text[from..].find(end) {
        Some(at) => (from + at + end.len(), token),
        None => (text.len(), Token::Unclosed),
    }
}

/// Returns the length of a comment, which may have comments within.
fn comment(text: &str) -> (usize, Token) {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return (at, Token::Blank);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    (text.len(), Token::Unclosed)
}

/// Returns `$$` or `$name$`, if `text` begins with it.
fn dollar_quote(text: &str) -> Option<&str> {
    let end = 1 + text[1..].find('$')?;
    let name = &text[1..end];
    let is_name = name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    (is_name && !name.starts_with(|first: char| first.is_ascii_digit())).then_some(&text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_texts_names_and_comments_end_nothing() {
        let first = "SELECT ';', 'it''s;', \";\", $$;$$, $a$;$a$ -- ;\n/* ; /* ; */ ; */ FROM t";
        let text = format!("{first};\n-- x;\n ; SELECT $1, $b");
        assert_eq!(split(&text), [Piece::Statement(first), Piece::Open("SELECT $1, $b")]);
    }

    #[test]
    fn unclosed_text_is_an_open_statement() {
        for text in ["SELECT 'a;", "SELECT \"a;", "SELECT /* a;", "SELECT $$ a;"] {
            assert_eq!(split(text), [Piece::Open(text)]);
        }
        assert_eq!(split(" -- only a comment\n"), []);
        assert_eq!(split("SELECT 1; SELECT 2;"), [Piece::Statement("SELECT 1"), Piece::Statement("SELECT 2")]);
    }
}
