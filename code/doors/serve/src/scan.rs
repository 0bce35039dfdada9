//! Divides SQL text into tokens with their places, without parsing it: to split statements, to find the first words of one,
//! and to replace single tokens while the rest of the text stays as it was written.

use std::ops::Range;

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or keyword without quotes.
    Word,
    /// An identifier in double quotes.
    Quoted,
    /// A string: `'…'`, `E'…'` or `$tag$…$tag$`.
    Text,
    /// A number.
    Number,
    /// A parameter such as `$1`.
    Parameter,
    /// Any other character.
    Symbol,
}

/// A token and its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The kind.
    pub(crate) kind: Kind,
    /// Bytes of the text.
    pub(crate) at: Range<usize>,
}

impl Token {
    /// Returns the text of the token.
    pub(crate) fn text<'a>(&self, sql: &'a str) -> &'a str {
        &sql[self.at.clone()]
    }

    /// Checks if the token is the keyword `word`, in any case.
    pub(crate) fn is_word(&self, sql: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(word)
    }

    /// Checks if the token is the character `symbol`.
    pub(crate) fn is_symbol(&self, sql: &str, symbol: char) -> bool {
        self.kind == Kind::Symbol && self.text(sql).starts_with(symbol)
    }

    /// Returns the name that an identifier stands for: without quotes, or in lower case.
    pub(crate) fn name(&self, sql: &str) -> String {
        let text = self.text(sql);
        match self.kind {
            Kind::Quoted => text.trim_matches('"').replace("\"\"", "\""),
            _ => text.to_lowercase(),
        }
    }

    /// Returns the value of a string without its quotes, of which the last may be missing; any other token as it is written.
    pub(crate) fn value(&self, sql: &str) -> String {
        let text = self.text(sql);
        let inside = |start: usize| text[start..].strip_suffix('\'').unwrap_or(&text[start..]);
        match self.kind {
            Kind::Text if text.starts_with('\'') => inside(1).replace("''", "'"),
            Kind::Text if text.starts_with(['e', 'E']) => unescaped(inside(2)),
            Kind::Quoted => self.name(sql),
            _ => text.to_string(),
        }
    }
}

/// Returns the value of the text inside `E'…'`.
fn unescaped(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(other) => value.push(other),
                None => value.push('\\'),
            },
            '\'' => {
                characters.next_if_eq(&'\'');
                value.push('\'');
            }
            other => value.push(other),
        }
    }
    value
}

/// Returns the tokens of `sql`, without white space and comments. An unfinished string or comment extends to the end.
pub(crate) fn tokens(sql: &str) -> Vec<Token> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at = sql[at..].find('\n').map_or(bytes.len(), |end| at + end + 1);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = comment_end(bytes, at);
                continue;
            }
            b'\'' => {
                at = quoted_end(bytes, at, b'\'', false);
                Kind::Text
            }
            b'"' => {
                at = quoted_end(bytes, at, b'"', false);
                Kind::Quoted
            }
            b'e' | b'E' if bytes.get(at + 1) == Some(&b'\'') => {
                at = quoted_end(bytes, at + 1, b'\'', true);
                Kind::Text
            }
            b'$' => dollar(sql, &mut at),
            byte if byte.is_ascii_digit() => {
                at = end_of(bytes, at, |byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
                Kind::Number
            }
            byte if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 => {
                at = end_of(bytes, at, |byte| byte.is_ascii_alphanumeric() || b"_$".contains(&byte) || byte >= 0x80);
                Kind::Word
            }
            _ => {
                at += 1;
                Kind::Symbol
            }
        };
        tokens.push(Token { kind, at: start..at });
    }
    tokens
}

/// Moves `at`, which is at a `$`, behind the parameter or the string that begins there.
fn dollar(sql: &str, at: &mut usize) -> Kind {
    let bytes = sql.as_bytes();
    let digits = end_of(bytes, *at + 1, |byte| byte.is_ascii_digit());
    if digits > *at + 1 {
        *at = digits;
        return Kind::Parameter;
    }
    let tag = end_of(bytes, *at + 1, |byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80);
    if bytes.get(tag) == Some(&b'$') {
        let mark = &sql[*at..=tag];
        *at = sql[tag + 1..].find(mark).map_or(bytes.len(), |end| tag + 1 + end + mark.len());
        return Kind::Text;
    }
    // A parameter by name, such as `$name`.
    let kind = if tag > *at + 1 { Kind::Parameter } else { Kind::Symbol };
    *at = tag.max(*at + 1);
    kind
}

fn end_of(bytes: &[u8], start: usize, belongs: impl Fn(u8) -> bool) -> usize {
    bytes[start..].iter().position(|byte| !belongs(*byte)).map_or(bytes.len(), |length| start + length)
}

/// Returns the end of the quoted text that begins at `start`.
fn quoted_end(bytes: &[u8], start: usize, quote: u8, escapes: bool) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 2;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// Returns the end of the comment that begins at `start`. Comments can contain comments.
fn comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Splits `sql` at its semicolons. Returns the statements without those that are empty.
pub(crate) fn statements(sql: &str) -> Vec<&str> {
    let tokens = tokens(sql);
    let mut found = Vec::new();
    for part in tokens.split(|token| token.is_symbol(sql, ';')) {
        if let (Some(first), Some(last)) = (part.first(), part.last()) {
            found.push(&sql[first.at.start..last.at.end]);
        }
    }
    found
}

/// Returns `sql` with each token replaced for which `change` returns a text. `change` gets the number of the token.
pub(crate) fn replaced(sql: &str, mut change: impl FnMut(usize, &Token) -> Option<String>) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut copied = 0;
    for (number, token) in tokens(sql).iter().enumerate() {
        if let Some(new) = change(number, token) {
            text.push_str(&sql[copied..token.at.start]);
            text.push_str(&new);
            copied = token.at.end;
        }
    }
    text.push_str(&sql[copied..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_strings_and_comments_do_not_split() {
        let sql = "SELECT ';' ; -- a; b\n SELECT \"a;b\" /* ; /* ; */ ; */ + 1;; SELECT $x$;$x$, E'\\';'";
        assert_eq!(statements(sql), ["SELECT ';'", "SELECT \"a;b\" /* ; /* ; */ ; */ + 1", "SELECT $x$;$x$, E'\\';'"]);
        assert!(statements(" ; -- nothing\n ;").is_empty());
    }

    #[test]
    fn parameters_outside_strings_are_replaced() {
        let sql = "SELECT '$1', $1, $10 -- $1";
        let text = replaced(sql, |_, token| (token.kind == Kind::Parameter).then(|| format!("<{}>", token.text(sql))));
        assert_eq!(text, "SELECT '$1', <$1>, <$10> -- $1");
    }

    #[test]
    fn unfinished_texts_reach_the_end() {
        for sql in ["'", "\"a", "/*", "/* /* */", "$a$ b", "E'", "E'\\", "$", "é'é", "E'é"] {
            let tokens = tokens(sql);
            assert!(tokens.iter().all(|token| token.at.end <= sql.len() && !token.text(sql).is_empty()), "{sql}");
            tokens.iter().for_each(|token| drop(token.value(sql)));
        }
    }
}
