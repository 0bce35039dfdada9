//! Functions of PostgreSQL that make and take apart texts: `format`, `quote_literal` and `parse_ident`.

use arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;

use crate::pg_catalog::functions::{Functions, quoted, text, text_of};

/// Adds the functions.
pub(super) fn add(functions: &mut Functions) {
    functions.add("format", DataType::Utf8, |args| text(formatted(args)));
    functions
        .add("quote_literal", DataType::Utf8, |args| text(args.first().and_then(shown).map(|text| literal(&text))));
    let names = ScalarValue::List(ScalarValue::new_list_nullable(&[], &DataType::Utf8)).data_type();
    functions.add("parse_ident", names, |args| {
        let parts = text_of(args.first()).map(|name| parts(&name)).unwrap_or_default();
        let parts: Vec<ScalarValue> = parts.into_iter().map(|part| ScalarValue::Utf8(Some(part))).collect();
        ScalarValue::List(ScalarValue::new_list_nullable(&parts, &DataType::Utf8))
    });
}

/// Returns a value as text; None if it is null.
fn shown(value: &ScalarValue) -> Option<String> {
    text_of(Some(&value.cast_to(&DataType::Utf8).ok()?))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns the first of `args` in which `%s`, `%I` and `%L` are replaced by the next ones: as they are, as names, and as literals.
fn formatted(args: &[ScalarValue]) -> Option<String> {
    let pattern = text_of(args.first())?;
    let mut values = args.iter().skip(1).map(shown);
    let mut result = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        match characters.next() {
            Some('s') => result.push_str(&values.next().flatten().unwrap_or_default()),
            Some('I') => result.push_str(&values.next().flatten().map(|name| quoted(&name)).unwrap_or_default()),
            Some('L') => {
                let value = values.next().flatten();
                result.push_str(&value.map_or_else(|| "NULL".to_string(), |value| literal(&value)));
            }
            Some('%') => result.push('%'),
            other => result.extend(['%'].into_iter().chain(other)),
        }
    }
    Some(result)
}

/// Returns the parts of a name, which are separated by dots outside of quotes. Those without quotes are in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = name.trim().chars().peekable();
    while let Some(character) = characters.next() {
        let part = parts.last_mut().expect("there is always a part");
        match character {
            '"' if is_quoted && characters.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => parts.push(String::new()),
            other if is_quoted => part.push(other),
            other => part.extend(other.to_lowercase()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_filled() {
        let of = |values: &[Option<&str>]| {
            let values: Vec<ScalarValue> =
                values.iter().map(|value| ScalarValue::Utf8(value.map(str::to_string))).collect();
            formatted(&values)
        };
        assert_eq!(of(&[Some("%I.%I"), Some("public"), Some("Numbers")]).as_deref(), Some("public.\"Numbers\""));
        assert_eq!(
            of(&[Some("100%% %s|%L|%L|%x|%"), None, Some("o'c"), None]).as_deref(),
            Some("100% |'o''c'|NULL|%x|%")
        );
        assert_eq!(of(&[None, Some("a")]), None);
        assert_eq!(formatted(&[ScalarValue::from("%s"), ScalarValue::from(7_i64)]).as_deref(), Some("7"));
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(parts("public.Trips"), ["public", "trips"]);
        assert_eq!(parts("\"a.\"\"B\".c"), ["a.\"B", "c"]);
    }
}
