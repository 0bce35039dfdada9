//! Names as SQL writes them.

/// Keywords that cannot be the name of a column without quotes.
const RESERVED: [&str; 40] = [
    "all",
    "and",
    "anti",
    "as",
    "case",
    "cast",
    "cross",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "false",
    "fetch",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "intersect",
    "interval",
    "is",
    "join",
    "left",
    "limit",
    "natural",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "right",
    "select",
    "then",
    "true",
    "union",
    "when",
    "where",
];

/// Returns `name` as SQL must write it: in double quotes unless it is a lowercase word.
pub fn identifier(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
        && !RESERVED.contains(&name);
    if plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::identifier;

    #[test]
    fn only_lowercase_words_need_no_quotes() {
        assert_eq!(identifier("user_id2"), "user_id2");
        assert_eq!(identifier("userId"), "\"userId\"");
        assert_eq!(identifier("order"), "\"order\"");
        assert_eq!(identifier("2x"), "\"2x\"");
        assert_eq!(identifier("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
