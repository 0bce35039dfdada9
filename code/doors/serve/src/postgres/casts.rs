//! Types of parameters that a statement casts, as in `$1::date` or `CAST($1 AS bigint[])`: PostgreSQL takes them from the cast.

use crate::postgres::types;
use crate::scan::{self, Kind, Token};

/// Sets the types of those parameters of `sql` that are not given and stand in a cast.
pub(super) fn set_types(sql: &str, oids: &mut [u32]) {
    let tokens = scan::tokens(sql);
    for (at, token) in tokens.iter().enumerate() {
        let number = (token.kind == Kind::Parameter).then(|| token.text(sql)[1..].parse::<usize>());
        let Some(Ok(number)) = number else { continue };
        let Some(oid) = number.checked_sub(1).and_then(|index| oids.get_mut(index)).filter(|oid| **oid == 0) else {
            continue;
        };
        let symbol = |at: usize, symbol| tokens.get(at).is_some_and(|token: &Token| token.is_symbol(sql, symbol));
        let word = |at: usize, word| tokens.get(at).is_some_and(|token: &Token| token.is_word(sql, word));
        let rest = if symbol(at + 1, ':') && symbol(at + 2, ':') {
            at + 3
        } else if at >= 2 && word(at - 2, "cast") && symbol(at - 1, '(') && word(at + 1, "as") {
            at + 2
        } else {
            continue;
        };
        if let Some(found) = of_type(sql, &tokens[rest.min(tokens.len())..]) {
            *oid = found;
        }
    }
}

/// Returns the OID of the type that `tokens` begin with.
fn of_type(sql: &str, tokens: &[Token]) -> Option<u32> {
    let mut words = Vec::new();
    let mut rest = tokens;
    while let [token, after @ ..] = rest
        && token.kind == Kind::Word
        && words.len() < 4
        && (words.is_empty() || CONTINUED.iter().any(|word| token.is_word(sql, word)))
    {
        words.push(token.text(sql).to_ascii_lowercase());
        rest = after;
    }
    // Digits, as in `varchar(10)`. A number with digits is rounded by the cast itself.
    if let [open, inside @ ..] = rest
        && open.is_symbol(sql, '(')
    {
        let close = inside.iter().position(|token| token.is_symbol(sql, ')'))?;
        rest = &inside[close + 1..];
        while let [token, after @ ..] = rest
            && CONTINUED.iter().any(|word| token.is_word(sql, word))
        {
            words.push(token.text(sql).to_ascii_lowercase());
            rest = after;
        }
    }
    let name = match words.join(" ").as_str() {
        "string" | "varchar" | "char" | "character varying" | "character" => "text".to_string(),
        "decimal" => "numeric".to_string(),
        "int" => "integer".to_string(),
        "float" | "double" => "double precision".to_string(),
        "time" => "time without time zone".to_string(),
        "timestamp" => "timestamp without time zone".to_string(),
        name => name.to_string(),
    };
    let is_array = matches!(rest, [open, close, ..] if open.is_symbol(sql, '[') && close.is_symbol(sql, ']'));
    types::oid_of(&if is_array { format!("{name}[]") } else { name })
}

/// Words that continue the name of a type.
const CONTINUED: [&str; 6] = ["precision", "varying", "with", "without", "time", "zone"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_the_casts() {
        let mut types = [0; 9];
        types[2] = 25;
        let sql = "SELECT $1, $2::OID[], $3::oid[], $4::date, CAST($5 AS timestamp with time zone), $6::numeric(10, 2), \
                   $7::varchar(3)[], cast ( $8 as double precision), $9::nothing, $10::int, $0::int";
        set_types(sql, &mut types);
        assert_eq!(types, [0, 1028, 25, 1082, 1184, 1700, 1009, 701, 0]);
        let mut one = [0];
        set_types("SELECT $1 ::", &mut one);
        set_types("SELECT $1 :: int2", &mut one);
        assert_eq!(one, [21]);
    }
}
