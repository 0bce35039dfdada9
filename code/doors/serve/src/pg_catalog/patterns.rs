//! Patterns of LIKE that are escaped with another character than the backslash, the only one that DataFusion has.

use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan};

/// Writes the texts of `pattern` with backslashes instead of the character of ESCAPE, and removes ESCAPE.
pub(super) fn escape_with_backslashes(pattern: &mut Expr, escape_char: &mut Option<ValueWithSpan>) {
    if let Some(escape) = escape_character(escape_char.as_ref())
        && is_text(pattern)
    {
        with_backslashes(pattern, escape);
        *escape_char = None;
    }
}

/// Returns the character of ESCAPE, if it is one and no backslash.
fn escape_character(escape: Option<&ValueWithSpan>) -> Option<char> {
    let Value::SingleQuotedString(text) = &escape?.value else { return None };
    let mut characters = text.chars();
    characters.next().filter(|character| *character != '\\' && characters.next().is_none())
}

/// Writes the texts of a pattern with backslashes instead of `escape`.
fn with_backslashes(pattern: &mut Expr, escape: char) {
    match pattern {
        Expr::BinaryOp { left, right, .. } => {
            with_backslashes(left, escape);
            with_backslashes(right, escape);
        }
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => with_backslashes(inner, escape),
        Expr::Value(value) => {
            if let Value::SingleQuotedString(text) = &mut value.value {
                let mut written = String::new();
                let mut characters = text.chars();
                while let Some(character) = characters.next() {
                    match character {
                        '\\' => written.push_str("\\\\"),
                        character if character == escape => {
                            let next = characters.next();
                            written.extend(next.filter(|next| ['%', '_', '\\'].contains(next)).map(|_| '\\'));
                            written.extend(next);
                        }
                        character => written.push(character),
                    }
                }
                *text = written;
            }
        }
        _ => {}
    }
}

/// Checks if a pattern is made of texts only.
fn is_text(pattern: &Expr) -> bool {
    match pattern {
        Expr::BinaryOp { left, right, .. } => is_text(left) && is_text(right),
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => is_text(inner),
        Expr::Value(value) => matches!(&value.value, Value::SingleQuotedString(_) | Value::Null),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn patterns_are_written_with_backslashes() {
        for (sql, expected) in [
            ("a LIKE 'pg/_' || '%' ESCAPE '/'", "a LIKE 'pg\\_' || '%'"),
            ("a NOT LIKE 'x//y\\z/%' ESCAPE '/'", "a NOT LIKE 'x/y\\\\z\\%'"),
            ("a LIKE 'pg\\_%' ESCAPE '\\'", "a LIKE 'pg\\_%' ESCAPE '\\'"),
            ("a LIKE 'pg\\_%'", "a LIKE 'pg\\_%'"),
        ] {
            let mut parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap();
            if let Expr::Like { pattern, escape_char, .. } = &mut parsed {
                escape_with_backslashes(pattern, escape_char);
            }
            assert_eq!(parsed.to_string(), expected);
        }
    }
}
