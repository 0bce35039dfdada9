//! Functions that translate patterns to the ones that DataFusion evaluates: `buzz_similar_pattern(pattern, escape)` and
//! `buzz_like_pattern(pattern, escape)`.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::internal_err;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::scalar::ScalarValue;

/// Returns the function that translates a pattern of `SIMILAR TO` to a regular expression that matches the whole text.
pub fn similar_pattern() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function("buzz_similar_pattern", regex_of_similar));
    Arc::clone(&FUNCTION)
}

/// Returns the function that translates a pattern of `LIKE` with another escape character to one with a backslash.
pub fn like_pattern() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function("buzz_like_pattern", with_backslash));
    Arc::clone(&FUNCTION)
}

fn function(name: &str, translate: fn(&str, char) -> String) -> Arc<ScalarUDF> {
    let call = move |args: &[ColumnarValue]| {
        let [pattern, ColumnarValue::Scalar(ScalarValue::Utf8(escape))] = args else {
            return internal_err!("a translated pattern has an escape character");
        };
        let escape = escape.as_deref().and_then(|escape| escape.chars().next()).unwrap_or('\\');
        let one = |pattern: &str| translate(pattern, escape);
        Ok(match pattern {
            ColumnarValue::Scalar(ScalarValue::Utf8(pattern)) => {
                ColumnarValue::Scalar(ScalarValue::Utf8(pattern.as_deref().map(one)))
            }
            ColumnarValue::Scalar(_) => return internal_err!("a pattern is a text"),
            ColumnarValue::Array(patterns) => {
                let patterns: StringArray =
                    patterns.as_string::<i32>().iter().map(|pattern| pattern.map(one)).collect();
                ColumnarValue::Array(Arc::new(patterns) as ArrayRef)
            }
        })
    };
    let types = vec![DataType::Utf8, DataType::Utf8];
    Arc::new(create_udf(name, types, DataType::Utf8, Volatility::Immutable, Arc::new(call) as _))
}

/// Translates a pattern of `SIMILAR TO`. In it `%` is any text and `_` any character; `| * + ? { } ( ) [ ]` mean the same
/// as in a regular expression, and every other character is itself.
fn regex_of_similar(pattern: &str, escape: char) -> String {
    let mut regex = String::from("(?s)^(?:");
    let (mut within_brackets, mut within_braces) = (false, false);
    let mut chars = pattern.chars().peekable();
    while let Some(next) = chars.next() {
        match next {
            _ if next == escape => push_literal(&mut regex, chars.next().unwrap_or(escape)),
            '[' if within_brackets && chars.peek() == Some(&':') => {
                // A class such as `[:alpha:]`.
                regex.push('[');
                while let Some(next) = chars.next() {
                    regex.push(next.to_ascii_lowercase());
                    if next == ':' && chars.peek() == Some(&']') {
                        regex.extend(chars.next());
                        break;
                    }
                }
            }
            ']' if within_brackets => {
                within_brackets = false;
                regex.push(']');
            }
            '^' | '-' if within_brackets => regex.push(next),
            _ if within_brackets => push_literal(&mut regex, next),
            '[' => {
                within_brackets = true;
                regex.push('[');
            }
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            ',' if within_braces => regex.push(','),
            '|' | '*' | '+' | '?' | '{' | '}' | '(' | ')' => {
                within_braces = next == '{' || (within_braces && next != '}');
                regex.push(next);
            }
            _ => push_literal(&mut regex, next),
        }
    }
    regex.push_str(")$");
    regex
}

/// Appends `literal` so that it has no other meaning, also within brackets.
fn push_literal(regex: &mut String, literal: char) {
    if literal.is_ascii_punctuation() {
        regex.push('\\');
    }
    regex.push(literal);
}

fn with_backslash(pattern: &str, escape: char) -> String {
    let mut like = String::new();
    let mut chars = pattern.chars();
    while let Some(next) = chars.next() {
        let (literal, escaped) =
            if next == escape { (chars.next().unwrap_or(escape), true) } else { (next, next == '\\') };
        if escaped && matches!(literal, '%' | '_' | '\\') {
            like.push('\\');
        }
        like.push(literal);
    }
    like
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_pattern_becomes_a_regular_expression() {
        for (pattern, expected) in [
            ("hel%", "hel.*"),
            ("a_c", "a.c"),
            ("(b|c)+%", "(b|c)+.*"),
            ("a.c$", r"a\.c\$"),
            (r"50\%", r"50\%"),
            ("[a-f%]_", r"[a-f\%]."),
            ("[^0-9&]{2,3}", r"[^0-9\&]{2,3}"),
            ("[[:ALPHA:]_]%", r"[[:alpha:]\_].*"),
            (r"a\", r"a\\"),
        ] {
            assert_eq!(regex_of_similar(pattern, '\\'), format!("(?s)^(?:{expected})$"), "{pattern}");
        }
        assert_eq!(regex_of_similar(r"50#%\", '#'), r"(?s)^(?:50\%\\)$");
    }

    #[test]
    fn like_pattern_gets_a_backslash() {
        for (pattern, expected) in [("50!%%", r"50\%%"), (r"a\b!!", r"a\\b!"), ("x!", "x!"), ("!_!%", r"\_\%")] {
            assert_eq!(with_backslash(pattern, '!'), expected, "{pattern}");
        }
    }
}
